"""A made-up network of 30 layers whose front is known exactly: what a search over ratios and bits can be held against.

Whatever two decisions do together happens inside a residual block of two layers, so that damage, size and operations
are sums over 15 blocks, each of any function of its block's 900 settings. Size and operations are whole numbers.
The least damage within every size and every number of operations is then found block by block, exactly.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from paretune.pareto import Array
from paretune.spaces.leaf import Choice, Fixed, Range
from paretune.spaces.mixing import Mixing
from paretune.spaces.question import Question
from paretune.spaces.sections import section
from paretune.spaces.space import Space

Whole = NDArray[np.int64]

BLOCKS = tuple(f"layer{stage}.{place}" for stage in (1, 2, 3) for place in range(5))
LAYERS = tuple(f"{block}.conv{place}" for block in BLOCKS for place in (1, 2))
STEP, RATIOS, BITS = 0.15, 6, (2, 3, 4, 6, 8)
SHAPE = (RATIOS, len(BITS)) * 2  # the settings of a block: ratio and bits of its first layer, then of its second
UNITS = 1000  # the uncompressed network's size and operations, nearly; at 8 bits
BASE, WORST = 0.08, 0.9  # error when nothing is compressed, and when everything is broken


@dataclass(frozen=True, kw_only=True, eq=False)
class Layered:
    """`damage`, `size` and `ops` (blocks, settings of a block): what each setting of each block adds."""

    damage: Array
    size: Whole
    ops: Whole

    def values(self, settings: Whole) -> Array:
        """Error, size and operations of plans, one row each; `settings` (plans, blocks) picks each block's."""
        rows = np.arange(len(self.damage))
        costs = (self.size[rows, settings].sum(axis=1), self.ops[rows, settings].sum(axis=1))
        return np.column_stack([error_of(self.damage[rows, settings].sum(axis=1)), *costs]).astype(float)

    @cached_property
    def dearest(self) -> tuple[int, int]:
        """The largest size and the most operations that a plan can have."""
        return int(self.size.max(axis=1).sum()), int(self.ops.max(axis=1).sum())

    @cached_property
    def least(self) -> Array:
        """The least error of all plans within size s and o operations, at [s, o]; infinite where there is none.

        Dynamic programming over the blocks: what k blocks cost at least in damage at exactly [s, o] is the least over
        the k-th block's settings of what k - 1 blocks do at the rest. The error rises with the damage, so it comes
        last.
        """
        table = np.zeros((1, 1))
        for damage, size, ops in zip(self.damage, self.size, self.ops, strict=True):
            table = _joined(table, damage, size, ops)
        within = np.minimum.accumulate(np.minimum.accumulate(table, axis=0), axis=1)
        return np.where(np.isinf(within), np.inf, error_of(within))

    def volume(self, error: float) -> float:
        """The exact hypervolume of the front, as a share of the box from nothing to `error` and `dearest`."""
        # Both costs are whole, so the least error within real budgets is constant between whole ones.
        inner = self.least[:-1, :-1]
        return float(np.clip(1 - inner / error, 0, None).mean())


def error_of(damage: Array) -> Array:
    """The error of a total damage: it rises with it, and levels off."""
    return BASE + (WORST - BASE) * -np.expm1(-damage)


def _joined(table: Array, damage: Array, size: Whole, ops: Whole) -> Array:
    """The least damage at every exact cost of the blocks in `table` and one more."""
    height, width = table.shape
    found = np.full((height + int(size.max()), width + int(ops.max())), np.inf)
    for setting in np.flatnonzero(_undominated(damage, size, ops)):
        window = found[size[setting] : size[setting] + height, ops[setting] : ops[setting] + width]
        np.minimum(window, table + damage[setting], out=window)
    return found


def _undominated(damage: Array, size: Whole, ops: Whole) -> NDArray[np.bool_]:
    """Settings that no other beats or equals in all three; of equal ones the first."""
    points = np.column_stack([damage, size, ops])
    as_good: NDArray[np.bool_] = np.all(points[None] <= points[:, None], axis=2)
    first = np.tri(len(points), k=-1, dtype=np.bool_)  # rows before
    beaten = as_good & (~as_good.T | first)
    return np.asarray(~np.any(beaten, axis=1), dtype=np.bool_)


def layered(seed: int) -> Layered:
    """One such network, drawn with `seed`.

    Early layers have many operations and few weights, late ones the reverse. A first layer's ratio takes inputs from
    the second, so that costs are products inside a block. How much a layer minds is log-normal, for channels and for
    bits separately; the harm of channels rises as a power of the share, that of bits falls fourfold per bit. What two
    layers of a block cost together is more or less than the sum, by a share of the geometric mean of both.
    """
    draw = np.random.default_rng(seed)
    place = np.linspace(0, 1, len(LAYERS))
    weights, macs = _shares(16**place), _shares(4 ** (1 - place))
    ratio: Array = STEP * np.arange(RATIOS, dtype=np.float64)
    bits = np.array(BITS, dtype=float)
    minds = 0.005 * draw.lognormal(0, 1, (len(LAYERS), 2)) / np.array([1.0, 1.5])
    power = draw.uniform(1.5, 3.0, len(LAYERS))
    prune = minds[:, :1] * (ratio / (1 - ratio)) ** power[:, None]
    coarse = minds[:, 1:] * (4.0 ** (3 - bits) - 4.0 ** (3 - bits[-1]))
    harm = (prune[:, :, None] + coarse[:, None, :]).reshape(len(BLOCKS), 2, -1)
    together = draw.uniform(-0.7, 1.3, len(BLOCKS))
    first, second = harm[:, 0, :, None], harm[:, 1, None, :]
    damage = first + second + together[:, None, None] * np.sqrt(first * second)
    return Layered(
        damage=damage.reshape(len(BLOCKS), -1), size=_block_costs(weights, ratio, bits),
        ops=_block_costs(macs, ratio, bits),
    )  # fmt: skip


def _shares(sizes: Array) -> Array:
    shares: Array = (sizes / sizes.sum()).reshape(len(BLOCKS), 2)
    return shares


def _block_costs(shares: Array, ratio: Array, bits: Array) -> Whole:
    """Whole units (blocks, settings) of layers that hold `shares` (blocks, 2) of the network."""
    kept, depth = 1 - ratio, bits / bits[-1]
    own = np.einsum("i,j->ij", kept, depth).ravel()  # of the first layer, by ratio and bits
    read = np.einsum("i,j->ij", kept, np.ones_like(depth)).ravel()
    first = np.rint(UNITS * shares[:, :1] * own).clip(1)
    second = np.rint(UNITS * shares[:, 1, None, None] * read[:, None] * own[None, :]).clip(1)
    both: Whole = (first[:, :, None] + second).reshape(len(shares), -1).astype(np.int64)
    return both


def layered_space() -> Space:
    """The space of such a network: six ratios and five bit-widths for each of its layers."""
    keys = ("rate", "mask", "quantize", "joint", "keep", "blend", "")
    return Space(
        ratios=tuple(
            Question(name=f"ratio/{n}", leaf=Range(low=0.0, high=0.75, step=STEP), targets=(n,)) for n in LAYERS
        ),
        weight_bits=tuple(Question(name=f"weight_bits/{n}", leaf=Choice(options=BITS), targets=(n,)) for n in LAYERS),
        activation_bits=(Question(name="activation_bits", leaf=Fixed(value=8), targets=LAYERS),),
        mixing=Mixing(
            criteria=("l2",), names=LAYERS, plain=Question(name="criterion", leaf=Fixed(value="l2")),
        ),
        shared=(
            *section("recover", {"epochs": 3, "lr": 0.01}),
            *(question for key in keys for question in section(key, {})),
        ),
    )  # fmt: skip


def settings_of(places: Whole) -> Whole:
    """The setting of every block (plans, blocks) of plans given by their places (plans, axes) in `layered_space`."""
    ratios, bits = np.split(places.reshape(len(places), 2, len(BLOCKS), 2), 2, axis=1)
    parts = (ratios[:, 0, :, 0], bits[:, 0, :, 0], ratios[:, 0, :, 1], bits[:, 0, :, 1])
    found: Whole = np.ravel_multi_index(parts, SHAPE)
    return found
