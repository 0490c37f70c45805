"""What the sampler chose: a handful of names and numbers, before any tensor is touched."""

from dataclasses import dataclass, field

DISTILL = ("none", "logits", "hints", "logits+hints")
MODES = ("frozen_mask", "ste_mask", "bn_frozen", "ste_mask+bn_frozen")
COMPENSATE = ("none", "linear")
STARTS = ("trained", "scratch")
NORMALISE = ("rank", "min_max")
REDUCE = ("mean", "sum", "max")
SCOPES = ("layer", "global")
LAYOUTS = ("channel_group", "filter")
SPARSE = ("unstructured", "pe_block")  # patterns that read a sparsity; the others remove a fixed share
SCHEDULES = ("one_shot", "geometric", "cubic", "flipout", "magnitude", "clipped_lasso", "group_lasso", "normalised")
LASSO = ("clipped_lasso", "group_lasso")  # schedules under a penalty
CLIPS = ("mean", "rank", "mix", "global")  # where the penalty of a group is clipped
TERNARY = 1.6  # bits asked for by "ternary": five of -1, 0, 1 fit into eight bits
GRADIENTS = ("tangent", "plain")
BIT_SETS = ("free", "power_of_two")


@dataclass(frozen=True, kw_only=True, slots=True)
class Blend:
    """Which criteria rank the channels of a group, and how they are mixed: Σ weight × normalised score.

    With `clusters` 0 every criterion has its own weight. Otherwise the criteria are clustered by how alike they rank,
    `picks[k]` names the member of cluster k (counted modulo its size) and `weights[k]` is that cluster's weight.
    He et al. 2021, Blending Pruning Criteria, https://arxiv.org/abs/2107.05033.
    """

    criteria: tuple[str, ...]
    weights: tuple[float, ...] = (1.0,)
    clusters: int = 0
    picks: tuple[int, ...] = ()
    normalise: str = "rank"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """How much of every group is removed: a rule of the table `paretune.compress.rates.RATES` and what it needs.

    `ratio` is the share of channels removed under `uniform` and `global`, and `cost_power` divides a unit's score by its
    MACs to that power under `global`. `sensitivity` (Kneedle's S), `scale` (times the knee), `drop` (the most quality
    a single group may cost, in the metric's unit) and `by` (the criterion that ranks while curves are measured; "same"
    as the one that chooses the channels) belong to `knee`; `tolerance` (quality lost per pass), `step` (the most a group shrinks per pass) and `passes` to `binary`;
    `cost`, `share` (of the dense model's cost, in (0, 1]) and `of` (the rule whose ratios are scaled) to `target`.
    """

    rule: str = "per_layer"
    ratio: float = 0.5
    cost_power: float = 0.0
    sensitivity: float = 1.0
    scale: float = 1.0
    drop: float = 0.1
    by: str = "same"
    tolerance: float = 0.005
    step: float = 0.2
    passes: int = 3
    cost: str = "macs"
    share: float = 0.5
    of: str = "uniform"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The zeros asked for in one layer's weight: a pattern of `paretune.compress.patterns.PATTERNS` and its numbers.

    `kind` is "channel" (no mask: whole channels leave through their group), "unstructured", "pe_block", "partition" or
    "n:m" written with numbers, such as "2:4" (2 of 4 neighbours stay). `sparsity` is the share of weights removed, in [0, 1), for unstructured
    and pe_block; `block` and `layout` belong to pe_block, `parts` and `restarts` to partition.
    """

    kind: str = "channel"
    sparsity: float = 0.0
    block: int = 16
    layout: str = "channel_group"
    parts: int = 4
    restarts: int = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Penalty:
    """A group lasso over blocks of weights, whose pull may end where a block is large.

    Added to the loss: `strength` × Σ min(‖block‖₂, δ) over the blocks of all masked layers. δ is `ratio` × the mean norm of the
    layer's blocks ("mean"), the norm below which the share `ratio` of them lies ("rank") or the smaller of that and the mean
    norm ("mix"). With "global" the share `ratio` of all blocks with the smallest mean |w| is pulled, the others are not.
    `detached` 1: δ has no gradient, so that large blocks feel no pull; 0: it has.
    """

    strength: float = 1e-3
    ratio: float = 0.5
    clip: str = "mean"
    detached: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruning:
    """Masks that are found while the network trains, not before.

    "geometric" and "cubic" score, mask and tune in rounds; "flipout" counts sign changes in one training, "magnitude" is its
    control: the same training and times of pruning, ranked by |w|. "clipped_lasso" trains quantized weights under `penalty` and masks the
    blocks that end as zeros; "group_lasso" is its control, without clipping. "normalised" masks small weights of filters of unit norm.

    `schedule` is one of `SCHEDULES` but "one_shot": the sparsity rises in `rounds` steps over `epochs` of training in float at peak
    learning rate `lr`. `wanted` and `blends` (how weights are ranked; unused by flipout) go by layer. `scope` "global" uses one threshold
    over all layers. `noise` and `power` belong to flipout. At least `minimum` weights of a layer stay.
    """

    schedule: str
    rounds: int
    epochs: int
    lr: float
    wanted: dict[str, Wanted]
    blends: dict[str, Blend]
    scope: str = "layer"
    noise: float = 1.0
    power: float = 2.0
    minimum: int = 1
    penalty: Penalty | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantizing:
    """What the quantizers of all layers share; see the tables in `paretune.compress.quantizers`.

    `threshold` times the largest (`of` "max") or mean ("mean") |w| of a layer is where ternary weights become zero. INQ freezes its
    weights in `steps`. `pull`, `gradient` and `freeze` (the last share of training in which signs stay) belong to prune_ternary,
    `decay` (L2 on the clipping value) to PACT.
    """

    threshold: float = 0.05
    of: str = "max"
    steps: int = 4
    pull: float = 1e-4
    gradient: str = "tangent"
    freeze: float = 0.1
    decay: float = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Joint:
    """Channels and bits that one training finds together (DJPQ; Wang et al. 2020, https://arxiv.org/abs/2007.10463).

    `epochs` at peak learning rate `lr`, `rate` for gates and quantizers. The loss is the task's + `gamma` × the information that passes
    the gates + `beta` × bit operations relative to 32 × 32 bits. A channel leaves when its gate's μ²/σ² is below `threshold`; `softness` blurs
    that step, on the logarithm, for the gradient. Bits stay within `least` and 8, "free" or rounded to a `bits` "power_of_two"; `exponent` 1 learns
    the quantizers' exponents, 0 keeps them at 1. `weight_bits` and `activation_bits` are the start, by layer. At least
    `minimum` channels of a group stay. `done` says that a plan holds what was found.
    """

    epochs: int
    lr: float
    weight_bits: dict[str, int]
    activation_bits: dict[str, int]
    rate: float = 0.02
    gamma: float = 3e-4
    beta: float = 1.0
    threshold: float = 1.0
    softness: float = 1.0
    least: int = 2
    bits: str = "free"
    exponent: int = 1
    minimum: int = 1
    done: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """How the loss is won back.

    `start` "scratch" draws new weights first. `compensate` "linear" repairs what reads a removed channel in closed form,
    with a `ridge` relative to the mean variance. `images` of the training split measure batch-norm statistics and compensation.
    Then `epochs` of fine-tuning at peak learning rate `lr`, in one of the `MODES`, with `distill`: "logits" (softened by
    `temperature`, `alpha` of the loss; Hinton et al. 2015, https://arxiv.org/abs/1503.02531), "hints" (`hint` times the
    squared distance of the last features; Romero et al. 2015, FitNets, https://arxiv.org/abs/1412.6550) or both.
    """

    epochs: int
    lr: float
    distill: str = "none"
    temperature: float = 4.0
    alpha: float = 0.7
    hint: float = 0.1
    mode: str = "frozen_mask"
    compensate: str = "none"
    ridge: float = 1e-4
    images: int = 1024
    start: str = "trained"


@dataclass(frozen=True, kw_only=True, slots=True)
class Masking:
    """What the masks of all layers share; see `Wanted` and `Pruning`."""

    scope: str = "layer"
    schedule: str = "one_shot"
    rounds: int = 5
    epochs: int = 5
    lr: float = 0.02
    noise: float = 1.0
    power: float = 2.0
    penalty: Penalty = field(default_factory=Penalty)


@dataclass(frozen=True, kw_only=True, slots=True)
class Keep:
    """What may not be removed: at least `minimum` channels of a group (and weights of a masked layer), in multiples of `multiple`."""

    minimum: int = 1
    multiple: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One answer of a space.

    `blends` say by group and by layer how units are ranked, `reduce` how the layers of a group are combined.
    `ratios` maps groups to the share of channels *removed*, in [0, 1); `wanted` maps layers to the zeros asked for;
    `weight_bits` and `activation_bits` map layers to bits (32 leaves them in float), `weight_quantizers` and `activation_quantizers`
    to who rounds them (none named: "lsq"), `encodings` to how they are stored (none named: "cheapest"). `joint` is None unless one training
    finds channels and bits.
    """

    blends: dict[str, Blend]
    ratios: dict[str, float]
    weight_bits: dict[str, int]
    activation_bits: dict[str, int]
    recovery: Recovery
    reduce: str = "mean"
    rate: Rate = field(default_factory=Rate)
    keep: Keep = field(default_factory=Keep)
    wanted: dict[str, Wanted] = field(default_factory=dict)
    masking: Masking = field(default_factory=Masking)
    weight_quantizers: dict[str, str] = field(default_factory=dict)
    activation_quantizers: dict[str, str] = field(default_factory=dict)
    encodings: dict[str, str] = field(default_factory=dict)
    quantizing: Quantizing = field(default_factory=Quantizing)
    joint: Joint | None = None
