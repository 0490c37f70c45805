"""Energy of a row: operations, and traffic at each level of memory."""

from dataclasses import dataclass
from math import log

from paretune.costs.hardware import Energy, Hardware, Work
from paretune.costs.skipping import filter_lanes, run_macs
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

    operations: MACs carried out (masked ones too, unless `hardware` skips them), each as in `mac_energy`. register:
    each of them reads a weight, an activation and a partial sum and writes the sum back. buffer: the traffic in
    `work`, of outputs at the width of the accumulator, because what the next layer reads them in is not known here.
    dram: `weight_bits_stored`, once; and the activations, read and written once at the row's activation bits, where
    more of them are alive than the buffer holds. A row without MACs has only the DRAM traffic of its floats.

    All of it is known before training. The levels are those of Eyeriss (Chen et al. 2017,
    https://doi.org/10.1109/JSSC.2016.2616357), the accesses that are counted at each are our reading. Not counted:
    control, the network between processing elements, leakage, activation functions, pooling and sums of branches.

    Raises:
        ParetuneError: the table has no memory as large as the buffer.
    """
    done, bits = run_macs(row, hardware, filter_lanes(hardware)), _accumulator_bits(row, hardware)
    access = row.weight_bits + row.activation_bits + 2 * bits
    moved = work.weights_read * row.weight_bits + work.inputs_read * row.activation_bits + work.outputs_moved * bits
    spilled = (row.inputs + row.outputs) * row.activation_bits if row.alive_bytes > hardware.buffer_bytes else 0
    return Spent(
        operations=done * mac_energy(row, hardware, table),
        register=done * access * table.register,
        buffer=moved * per_buffer_bit(table, hardware.buffer_bytes),
        dram=(weight_bits_stored(row) + spilled) * table.dram,
    )


def mac_energy(row: Row, hardware: Hardware, table: Energy) -> float:
    """Energy of one multiply-accumulate; float if either side is, and only the addition where `ternary_adds` saves the
    multiplication.
    """
    floats = _is_float(row)
    add = table.float_add if floats else table.add * hardware.accumulator_bits
    if hardware.ternary_adds and row.weight_bits <= 2:
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


def _is_float(row: Row) -> bool:
    return max(row.weight_bits, row.activation_bits) >= FLOAT


def _accumulator_bits(row: Row, hardware: Hardware) -> int:
    return FLOAT if _is_float(row) else hardware.accumulator_bits
