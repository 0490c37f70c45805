"""Which rates Kneedle picks, raw and guarded: python benchmarks/knees.py [--write], three minutes."""

import warnings
from collections.abc import Iterator

from kneed import KneeLocator
from paper import publish

from paretune.compress.knee import knee_of
from paretune.curve import Curve, Knee
from paretune.search.bench import lay_out
from paretune.search.measured import Measured
from paretune.tasks.digits import digits

SEEDS = range(5)
SENSITIVITIES = (0.5, 1.0, 3.0, 10.0)
DROP = 0.1
ABOUT = (
    f"Digits, ResNet, one network per seed 0 to {len(SEEDS) - 1}, six groups each. A curve is the error on the 449"
    " validation images when one group alone loses 0, 5, …, 95 % of its channels by `l1`, batch norm "
    "recalibrated, no training. Raw: kneed on the whole curve. Ours: the chance plateau is cut off first, then "
    f"the guard allows at most {DROP:g} more error. Chance level: worse than halfway between the dense error and "
    "guessing."
)


def raw(curve: Curve, sensitivity: float) -> float | None:
    """What kneed says about the whole curve."""
    quality = [1 - error for error in curve.errors]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = KneeLocator(curve.ratios, quality, S=sensitivity, curve="concave", direction="decreasing").knee
    return None if found is None else float(found)


def hopeless(curve: Curve, ratio: float) -> bool:
    """True if the error at `ratio`, or at the next swept rate above it, is worse than halfway to chance."""
    at = next(place for place, swept in enumerate(curve.ratios) if swept >= ratio - 1e-9)
    return curve.errors[at] > (curve.errors[0] + curve.chance) / 2


def measure() -> Iterator[list[str]]:
    """One row per seed and sensitivity."""
    for seed in SEEDS:
        bench = lay_out(digits(seed=seed))
        curves = list(Measured(bench=bench, seed=seed).curves("l1").values())
        for sensitivity in SENSITIVITIES:
            plain = [raw(curve, sensitivity) for curve in curves]
            knees: list[Knee] = [knee_of(curve, sensitivity, 1.0, DROP) for curve in curves]
            bad = sum(r is not None and hopeless(c, r) for c, r in zip(curves, plain, strict=True))
            ours = sum(hopeless(c, k.ratio) for c, k in zip(curves, knees, strict=True))
            rates = [f"{knee.ratio:g}{'*' if knee.note else ''}" for knee in knees]
            found = ["none" if r is None else f"{r:g}" for r in plain]
            yield [str(seed), f"{sensitivity:g}", ", ".join(found), str(bad), ", ".join(rates), str(ours)]


COLUMNS = (
    "seed",
    "S",
    "raw rates by group",
    "of these at chance level",
    "our rates (* moved by the guard)",
    "at chance level",
)

if __name__ == "__main__":
    publish(__file__, "Rates from knees", ABOUT, COLUMNS, measure())
