"""Rows of a profile, an energy table and an array written down by hand, for tests of what hardware pays."""

from paretune.costs.hardware import Energy, Hardware
from paretune.profile import Row

TABLE = Energy(
    name="mine", unit="pJ", source="made up", multiply=(0.5, 0.25), add=0.125, float_multiply=100.0, float_add=10.0,
    register=1.0, buffer=((1024, 2.0), (4096, 3.0)), dram=1000.0,
)  # fmt: skip

ARRAY = Hardware(name="array", engine="systolic", energy=TABLE, relative_energy=TABLE, rows=2, columns=2,
                 accumulator_bits=16, buffer_bytes=1024)  # fmt: skip


def linear(
    positions: int, inner: int, filters: int, *, bits: int = 8, kept: int | None = None, pattern: str = "",
    block: int = 0, parts: int = 1, index_bytes: int = 0,
) -> Row:  # fmt: skip
    """A linear layer without bias on so many vectors."""
    weights = inner * filters
    kept = weights if kept is None else kept
    return Row(
        name="layer", kind="linear", weight_shape=(filters, inner), channels=filters, macs=positions * weights,
        params=weights, weights=weights, weight_bits=bits, activation_bits=bits, scales=0, floats=0, nonzeros=kept,
        kept=kept, pattern=pattern, index_bytes=index_bytes, parts=parts, block=block, dense_macs=positions * weights,
        positions=positions, inner=inner, inputs=positions * inner, outputs=positions * filters,
    )  # fmt: skip
