"""Where a group's curve bends: the most it can lose before quality falls away."""

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from paretune.compress.rates import Array, Kept, choose_units, kept_count
from paretune.curve import Curve, Knee
from paretune.errors import ImpossiblePlan
from paretune.inventory import Inventory

GRID = tuple(step / 20 for step in range(20))  # 0, 0.05 ... 0.95
NOISE = 1e-9  # of sums of shares in binary


def measure(
    inventory: Inventory,
    units: Mapping[str, Array],
    judge: Callable[[Kept], float],
    chance: float,
    criterion: str,
    ratios: Sequence[float] = GRID,
) -> dict[str, Curve]:
    """For every group the error when only that group loses each of `ratios` of its units; the best-scored stay.

    `units` are scores by `criterion`, `judge` answers for the units kept and is called once for equal ones, and
    `chance` is the error of guessing.
    """
    known: dict[tuple[str, int], float] = {}

    def error(group: str, channels: int, ratio: float) -> float:
        count = kept_count(channels, ratio)
        whole = count == channels
        key = ("", 0) if whole else (group, count)
        if key not in known:
            known[key] = judge({} if whole else {group: choose_units(units[group], count)})
        return known[key]

    return {
        group.name: Curve(
            group=group.name,
            criterion=criterion,
            ratios=tuple(ratios),
            errors=tuple(error(group.name, group.channels, ratio) for ratio in ratios),
            chance=chance,
        )
        for group in inventory.groups
    }


def knee_of(curve: Curve, sensitivity: float, scale: float, drop: float) -> Knee:
    """The share of a group to remove: `scale` × the knee of its curve, never more than the guard allows.

    Errors of a measured curve are noisy, so each counts as the largest up to its ratio: removing more is never
    taken to be better. Kneedle then sees the curve up to the first point past halfway to chance: shown the plateau
    after it, it picks a rate from the plateau. The guard: the error at the chosen ratio (at the next measured one, if
    it lies between two) must be at most `drop` above the error at 0 and not past halfway to chance. Else, and where
    there is no knee, the ratio is the largest measured one that passes. So it always passes.

    The rule follows Combine-Net (Wang, Li, Zhang 2021, https://doi.org/10.3390/info12070264); the cut at halfway
    and the guard are ours.

    Raises:
        ImpossiblePlan: the model is no better than chance before anything is removed.
    """
    errors = rising(curve)
    limit = min(errors[0] + drop, _halfway(curve, errors)) + NOISE
    guard = curve.ratios[int(np.searchsorted(errors, limit, side="right")) - 1]
    found, note = None, f"no knee on the curve of '{curve.group}': guard {guard:.2f}"
    try:
        found = kneedle(curve, sensitivity)
    except ImpossiblePlan as flat:
        note = f"{flat}: guard {guard:.2f}"
    if found is None:
        return Knee(group=curve.group, ratio=guard, found=None, note=note)
    ratio = float(np.clip(found * scale, 0.0, curve.ratios[-1]))
    error = errors[np.searchsorted(curve.ratios, ratio - NOISE)]
    if error <= limit:
        return Knee(group=curve.group, ratio=ratio, found=found, note="")
    scaled = f" × {scale:g}" if scale != 1 else ""
    note = f"knee {found:.2f}{scaled} of '{curve.group}' costs {error - errors[0]:.2f}: guard {guard:.2f}"
    return Knee(group=curve.group, ratio=guard, found=found, note=note)


def kneedle(curve: Curve, sensitivity: float) -> float | None:
    """The ratio at the knee of a curve without its chance plateau; None if Kneedle sees no knee.

    Kneedle: Satopää et al. 2011, Finding a "Kneedle" in a Haystack, https://doi.org/10.1109/ICDCSW.2011.20;
    a larger `sensitivity` (its S) asks for a longer fall after the knee.

    Raises:
        ImpossiblePlan: the curve is flat, or at chance from the start.
    """
    from kneed import KneeLocator  # takes a second, and only this rule needs it

    errors = rising(curve)
    if is_flat(curve):
        raise ImpossiblePlan(f"the curve of group '{curve.group}' is flat: it has no knee")
    end = int(np.searchsorted(errors, _halfway(curve, errors), side="right")) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions warn where they return None
        found = KneeLocator(
            curve.ratios[:end], 1 - errors[:end], S=sensitivity, curve="concave", direction="decreasing"
        ).knee
    return None if found is None else float(found)


def is_flat(curve: Curve) -> bool:
    """True if removing more never makes the error larger than it is with nothing removed.

    Raises:
        ImpossiblePlan: the model is no better than chance before anything is removed.
    """
    errors = rising(curve)
    return bool(errors[-1] <= errors[0] + NOISE)


def rising(curve: Curve) -> NDArray[np.float64]:
    """The errors, each raised to the largest before it; one that is not finite counts as chance.

    Raises:
        ImpossiblePlan: the first one is not below chance.
    """
    errors = np.maximum.accumulate(np.nan_to_num(curve.errors, nan=curve.chance, posinf=curve.chance))
    if errors[0] >= curve.chance:
        raise ImpossiblePlan(
            f"the model's error of {errors[0]:.3g} is no better than chance ({curve.chance:.3g}) before group "
            f"'{curve.group}' is cut: a knee needs a trained model, or use another rate.rule"
        )
    return errors


def _halfway(curve: Curve, errors: NDArray[np.float64]) -> float:
    return float(errors[0] + curve.chance) / 2
