"""What single decisions cost: measured before the search, read by the seeds and by the report."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """The network on `val` when one decision alone is set to `setting` and all others compress least.

    `decision` is a question of the space ("ratio/layer1.0.conv1"), `setting` what it is answered with (a share removed,
    bits). `loss` is the mean loss, `error` the quality metric, both after batch-norm recalibration, without training.
    `measured` is False where it was filled in between measured neighbours.
    """

    decision: str
    setting: float
    loss: float
    error: float
    measured: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """What two decisions of one block cost together beyond the sum of what each costs alone, each at its setting."""

    decisions: tuple[str, str]
    settings: tuple[float, float]
    loss: float


@dataclass(frozen=True, kw_only=True)
class Effects:
    """All single effects, decision by decision, with the point they start from: `loss` and `error` when every
    decision compresses least. `note` says what was left out and why; `images` of `val` were looked at.
    """

    loss: float
    error: float
    effects: tuple[Effect, ...]
    pairs: tuple[Pair, ...] = ()
    images: int
    note: str = ""
