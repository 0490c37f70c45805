"""What partitioned layers gain: K blocks on K accelerators, next to the dense layer on one.

Partition Pruning (Shahhosseini et al. 2019, https://arxiv.org/abs/1901.11391). Which accelerator runs which block, and
the two gains told apart, are our reading; the paper's own accounting was not readable.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from paretune.costs.hardware import Hardware, Work
from paretune.profile import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """One partitioned layer three ways: dense on one accelerator, its blocks one after the other on one, and dealt out.

    `parallel_cycles` are those of the slowest of `accelerators`. Energies are in the unit of what was passed in; they
    are the same on one accelerator as on several, because blocks exchange nothing; static energy is left out.
    """

    name: str
    parts: int
    accelerators: int
    dense_cycles: int
    serial_cycles: int
    parallel_cycles: int
    dense_energy: float
    blocks_energy: float

    @property
    def pruning_speedup(self) -> float:
        """How much faster one accelerator is with the blocks than with the dense layer: what pruning gives."""
        return self.dense_cycles / self.serial_cycles

    @property
    def parallel_speedup(self) -> float:
        """How much faster several accelerators are than one, both with the blocks: what parallelism gives."""
        return self.serial_cycles / self.parallel_cycles

    @property
    def speedup(self) -> float:
        """The product of both: several accelerators with the blocks against one with the dense layer."""
        return self.dense_cycles / self.parallel_cycles

    @property
    def energy_gain(self) -> float:
        """How many times the energy of the blocks the dense layer takes."""
        return self.dense_energy / self.blocks_energy


def partitioned(
    rows: Iterable[Row], hardware: Hardware, work: Callable[[Row], Work], spent: Callable[[Row, Work], float]
) -> tuple[Split, ...]:
    """One split per layer that is cut into more than one part.

    `work` says what one accelerator does for a row, `spent` the energy of that; both see plain unmasked rows.
    """
    return tuple(_split(row, hardware, work, spent) for row in rows if _cut(row))


def parallel_cycles(rows: Iterable[Row], hardware: Hardware, work: Callable[[Row], Work]) -> int:
    """Cycles of one sample, layer after layer: one accelerator runs each, but several share a partitioned one.

    Sending the input of a partitioned layer round, and fetching its output, is left out.
    """
    return sum(
        _turns(row.parts, hardware) * work(block_row(row)).cycles if _cut(row) else work(row).cycles for row in rows
    )


def dense_row(row: Row) -> Row:
    """The partitioned layer as it was before: every weight is there and nothing is known of them (no `codes`)."""
    return _unmasked(row, row.inner, row.channels)


def block_row(row: Row) -> Row:
    """One of the equal blocks of a partitioned layer as a dense layer of its own."""
    return _unmasked(row, row.inner // row.parts, row.channels // row.parts)


def _cut(row: Row) -> bool:
    return row.pattern == "partition" and row.parts > 1


def _split(row: Row, hardware: Hardware, work: Callable[[Row], Work], spent: Callable[[Row, Work], float]) -> Split:
    dense, block = dense_row(row), block_row(row)
    done, one = work(dense), work(block)
    return Split(
        name=row.name,
        parts=row.parts,
        accelerators=_sharing(row.parts, hardware),
        dense_cycles=done.cycles,
        serial_cycles=row.parts * one.cycles,
        parallel_cycles=_turns(row.parts, hardware) * one.cycles,
        dense_energy=spent(dense, done),
        blocks_energy=row.parts * spent(block, one),
    )


def _sharing(parts: int, hardware: Hardware) -> int:
    """How many accelerators have something to do."""
    return min(parts, hardware.accelerators or parts)


def _turns(parts: int, hardware: Hardware) -> int:
    """How many blocks, one after the other, the busiest accelerator runs."""
    return -(-parts // _sharing(parts, hardware))


def _unmasked(row: Row, inner: int, channels: int) -> Row:
    """A linear layer of this size in the row's bits, no mask; what it has per output in proportion."""
    weights = inner * channels
    return replace(
        row,
        weight_shape=(channels, inner), channels=channels, inner=inner, groups=1, parts=1, pattern="", block=0,
        index_bytes=0, encoding="cheapest", codes=None, weights=weights, kept=weights, nonzeros=weights,
        macs=weights * row.positions, inputs=inner * row.positions, outputs=channels * row.positions,
        params=weights + (row.params - row.weights) * channels // row.channels,
        scales=row.scales * channels // row.channels, floats=row.floats * channels // row.channels,
    )  # fmt: skip
