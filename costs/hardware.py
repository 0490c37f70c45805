"""What a network runs on, as far as a cost model needs to know: an array or engine, memories, energy per operation."""

from dataclasses import dataclass

ENGINES = ("systolic", "finn")
DATAFLOWS = ("output", "weight", "input")
SKIPS = ("none", "blocks", "all")


@dataclass(frozen=True, kw_only=True, slots=True)
class Energy:
    """Energy of operations and of memory traffic, in `unit`.

    An integer multiplication of x × y bits takes multiply[0] (x + y) / 2 + multiply[1] x y, an addition of b bits add ×
    b; both in float32 are told apart. `register`, `buffer` and `dram` are per bit read or written; `buffer` has one
    entry per size of memory (bytes, per bit), ascending.
    """

    name: str
    unit: str
    source: str
    multiply: tuple[float, float]
    add: float
    float_multiply: float
    float_add: float
    register: float
    buffer: tuple[tuple[int, float], ...]
    dram: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """One accelerator.

    The engine "systolic" is an array of `rows` × `columns` multipliers with the `dataflow` "output", "weight" or
    "input" (what stays in place). "finn" has `pe` processing elements of `simd` lanes each, shared by all layers; with
    `target_cycles` every layer gets an engine of its own, folded so that it keeps to the target. `skips` says which
    masked weights cost no time and no energy: "none", "blocks" (patterns of whole blocks as wide as the array), or
    "all". With `ternary_adds`, weights of up to two bits need no multiplier. `accelerators` is how many of them share a
    partitioned layer; None means one per part.
    """

    name: str
    engine: str
    energy: Energy
    relative_energy: Energy
    rows: int = 1
    columns: int = 1
    dataflow: str = "output"
    pe: int = 1
    simd: int = 1
    target_cycles: int | None = None
    accumulator_bits: int = 32
    buffer_bytes: int = 131072
    skips: str = "none"
    ternary_adds: bool = False
    accelerators: int | None = None
    note: str = ""

    @property
    def lanes(self) -> int:
        """Multiply-accumulates in one cycle, at most."""
        return self.rows * self.columns if self.engine == "systolic" else self.pe * self.simd


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What one row of a profile keeps a piece of hardware busy with.

    `macs` are those that are carried out, masked ones too unless they are skipped, `passes` the tiles that run one
    after the other, `utilisation` the share of multiplier-cycles that do a MAC, in [0, 1]. `weights_read`,
    `inputs_read` and `outputs_moved` are numbers that cross between the buffer and the array, repeats included; partial
    sums that go out and come back count both ways.
    """

    cycles: int
    macs: int
    passes: int
    utilisation: float
    weights_read: int
    inputs_read: int
    outputs_moved: int


NO_WORK = Work(cycles=0, macs=0, passes=0, utilisation=0.0, weights_read=0, inputs_read=0, outputs_moved=0)
