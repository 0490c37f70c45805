"""Energy of a row: operations, and traffic at each level of memory."""

from dataclasses import dataclass
from math import log

from paretune.costs.folding import adds_only
from paretune.costs.hardware import Energy, Hardware, Work
from paretune.costs.skipping import in_float
from paretune.errors import ParetuneError
from paretune.plan import FLOAT
from paretune.profile import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """Energy of one sample by where it goes, in the unit of the table it was counted with."""

    operations: float
    register: float
    buffer: float
    dram: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.operations + self.register + self.buffer + self.dram


def energy_of(row: Row, work: Work, hardware: Hardware, table: Energy) -> Spent:
    """Energy of one sample through a row, in the unit of `table`.

    operations: `work.macs`, each as in `mac_energy`. register: each of them reads a weight, an activation and a partial
    sum and writes the sum back. buffer: the traffic in `work`, of outputs at the width of the accumulator. dram:
    `weight_bits_stored`, once, but not of a FINN-style engine, which keeps all weights on chip; and, where more
    activations are alive than the buffer holds, those it reads, at its activation bits, and those it writes, at the
    bits of whoever reads them. A row without MACs has only the DRAM traffic of its floats.

    All of it is known before training. The levels are those of Eyeriss (Chen et al. 2017,
    https://doi.org/10.1109/JSSC.2016.2616357), the accesses that are counted at each are our reading. Not counted:
    control, the network between processing elements, leakage, activation functions, pooling and sums of branches.

    Raises:
        ParetuneError: the table has no memory as large as the buffer.
    """
    done, bits = work.macs, _accumulator_bits(row, hardware)
    access = row.weight_bits + row.activation_bits + 2 * bits
    moved = work.weights_read * row.weight_bits + work.inputs_read * row.activation_bits + work.outputs_moved * bits
    written = row.outputs * (row.output_bits or row.activation_bits)
    spilled = row.inputs * row.activation_bits + written if row.alive_bytes > hardware.buffer_bytes else 0
    fetched = 0 if hardware.engine == "finn" and row.macs else weight_bits_stored(row)
    return Spent(
        operations=done * mac_energy(row, hardware, table),
        register=done * access * table.register,
        buffer=moved * per_buffer_bit(table, hardware.buffer_bytes),
        dram=(fetched + spilled) * table.dram,
    )


def mac_energy(row: Row, hardware: Hardware, table: Energy) -> float:
    """Energy of one multiply-accumulate; float if either side is, and only the addition where `ternary_adds` saves the
    multiplication.
    """
    floats = in_float(row)
    add = table.float_add if floats else table.add * hardware.accumulator_bits
    if adds_only(row, hardware):
        return add
    if floats:
        return table.float_multiply + add
    linear, square = table.multiply
    weight, activation = row.weight_bits, row.activation_bits
    return linear * (weight + activation) / 2 + square * weight * activation + add


def weight_bits_stored(row: Row) -> int:
    """Bits that a row's weights, mask and floats take uncoded: with the zeros of its mask left out, or all in place if
    that is less.

    The packed file's encodings are no part of it: they depend on what training finds, and hardware does not read them.
    """
    masked = row.kept * row.weight_bits + 8 * row.index_bytes
    return min(masked, row.weights * row.weight_bits) + FLOAT * (row.scales + row.floats)


def per_buffer_bit(table: Energy, size: int) -> float:
    """Energy per bit of a memory of `size` bytes: a power law between the table's two neighbours, below the smallest
    its own.

    Horowitz's three entries grow nearly with the square root of the size, so the step between two of them is smooth;
    the interpolation is ours.

    Raises:
        ParetuneError: the table's largest memory is smaller.
    """
    below: tuple[int, float] | None = None
    for capacity, energy in table.buffer:
        if capacity >= size:
            if below is None or min(below[1], energy) <= 0:
                return energy
            power = log(energy / below[1]) / log(capacity / below[0])
            return energy * float((size / capacity) ** power)
        below = (capacity, energy)
    largest = max(capacity for capacity, _ in table.buffer)
    raise ParetuneError(
        f"energy table '{table.name}' has no memory of {size} bytes; its largest is {largest} bytes: "
        "add an entry to its buffer, or lower hardware.buffer_bytes"
    )


def _accumulator_bits(row: Row, hardware: Hardware) -> int:
    return FLOAT if in_float(row) else hardware.accumulator_bits
