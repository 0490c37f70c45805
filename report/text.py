"""Numbers and names as people say them."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

from paretune.errors import ParetuneError
from paretune.findings import Findings, Trial

LABELS = {
    "top1_error": "top-1 error",
    "size_bytes": "size",
    "bops": "bit-operations",
    "macs": "MACs",
    "params": "parameters",
    "activation_bytes": "peak activations",
    "relative_bops": "relative bit-operations",
    "energy_pj": "energy",
    "energy_relative": "energy in 16-bit MACs",
    "latency_ms": "latency",
    "luts": "LUTs",
    "dsps": "DSPs",
    "brams": "BRAMs",
}
LESS = {"bytes": ("smaller", "larger"), "share": ("lower", "higher")}
ENDS = {"done": "done", "stopped": "stopped early", "over_budget": "over budget", "failed": "failed"}
PREFIXES = ("", "k", "M", "G", "T", "P", "E")
JOULES = ("pJ", "nJ", "µJ", "mJ", "J")


def label(name: str) -> str:
    """A metric's name in words."""
    return LABELS.get(name, name.replace("_", " "))


def human(value: float, unit: str) -> str:
    """`value` with few digits: "1.9 %" for a share, "12.4 kB" for bytes, "3.1 µJ" for picojoules, "3.1 M" for anything
    counted.
    """
    if not math.isfinite(value):
        return "–"
    if unit == "share":
        digits = 2 if 0 < abs(value) < 0.00995 else 1
        return f"{100 * value:.{digits}f} %"
    if unit == "pJ":
        return _joules(value)
    text = scaled(value)
    return f"{text}{'' if text[-1].isalpha() else ' '}B" if unit == "bytes" else text


def _joules(pico: float) -> str:
    power = 0
    while abs(pico) >= 999.5 and power < len(JOULES) - 1:
        pico, power = pico / 1000, power + 1
    return f"{pico:.3g} {JOULES[power]}"


def tick(value: float, unit: str) -> str:
    """`value` as it stands beside an axis, where round numbers need no digits: "10 kB", "2 %"."""
    exact = f"{100 * value:.6g} %" if unit == "share" else human(value, unit)
    return exact.replace(".0 ", " ")


def scaled(value: float) -> str:
    """`value` with a decimal prefix: "950", "12.4 k", "3.1 M"."""
    power = 0
    # 999.95 would print as "1000.0", so it already belongs to the next prefix.
    while abs(value) >= (999.5 if power == 0 else 999.95) and power < len(PREFIXES) - 1:
        value, power = value / 1000, power + 1
    if power == 0:
        return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"
    return f"{value:.1f} {PREFIXES[power]}"


def spread(values: Sequence[float], unit: str) -> str:
    """The mean, and ± the sample standard deviation if there are several: "2.20 ± 0.10 %"."""
    if not values:
        return "–"
    middle, apart = mean(values), stdev(values) if len(values) > 1 else 0.0
    if unit != "share":
        return human(middle, unit) + (f" ± {human(apart, unit)}" if len(values) > 1 else "")
    return f"{100 * middle:.2f}" + (f" ± {100 * apart:.2f} %" if len(values) > 1 else " %")


def change(dense: float, value: float, unit: str) -> str:
    """What became of `dense`: "12.3× smaller", "4.0× fewer", or "+0.3 points" for a share."""
    if unit == "share":
        points = round(100 * (value - dense), 2)
        return f"{points:+.2f} points" if 0 < abs(points) < 0.995 else f"{points:+.1f} points"
    if not (value > 0 and dense > 0):
        return "–"
    less, more = LESS.get(unit, ("fewer", "more"))
    ratio = dense / value
    if f"{max(ratio, 1 / ratio):.2f}" == "1.00":
        return "the same"
    return f"{times(ratio)} {less}" if ratio > 1 else f"{times(1 / ratio)} {more}"


def times(ratio: float) -> str:
    """A factor with three digits at most: "1.25×", "12.3×", "155×"."""
    return f"{ratio:.{2 if ratio < 9.995 else 1 if ratio < 99.95 else 0}f}×"


def duration(seconds: float) -> str:
    """Seconds as "0.02 s", "42 s", "12 min 5 s" or "3 h 20 min"."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(number: int, noun: str) -> str:
    """ "1 trial", "2 trials", "2 finishes", "2 copies" """
    if number == 1:
        return f"1 {noun}"
    return (
        f"{number} {noun[:-1]}ies" if noun.endswith("py") else f"{number} {noun}{'es' if noun.endswith('sh') else 's'}"
    )


def measured(findings: Findings, trial: Trial) -> str:
    """A trial's objective values in one line: "top-1 error 2.2 %, size 12.4 kB"."""
    quality, *costs = findings.objectives
    said = [f"{label(cost.name)} {human(trial.values.get(cost.name, math.nan), cost.unit)}" for cost in costs]
    return ", ".join([f"{label(quality.name)} {scored(findings, trial)}", *said])


def scored(findings: Findings, trial: Trial) -> str:
    """A trial's quality: "9.1 %" under one seed, "9.10 ± 0.30 % (mean of 3 random seeds)" under several."""
    quality = findings.objectives[0]
    if quality.name not in trial.values:
        return "–"
    scores = findings.scores(trial)
    if len(scores) == 1:
        return human(scores[0], quality.unit)
    return f"{spread(scores, quality.unit)} (mean of {len(scores)} random seeds)"


def error_text(error: ParetuneError) -> str:
    """A message as a sentence's end: without a trailing full stop."""
    return str(error).rstrip(".")


def finished(findings: Findings) -> str:
    """What a trial must be to count: "finished within the budget", or "finished" where no budget is set."""
    return f"finished{' within the budget' if findings.budget else ''}"


def counted(findings: Findings) -> str:
    """How the trials ended: "64 trials: 40 done, 18 stopped early, 2 over budget, 1 failed, 2 copies, 1 finish".

    Copies have the plan of an earlier trial, re-evaluations have it under another seed. A finish or re-evaluation that
    failed is among the failed.
    """
    fresh = [trial for trial in findings.trials if trial.same_as is None]
    later = {
        kind: sum(trial.kind == kind and trial.status == "done" for trial in fresh) for kind in ("repeat", "finish")
    }
    parts = {status: sum(trial.status == status for trial in fresh) for status in ENDS}
    parts["done"] -= sum(later.values())
    copies = (len(findings.trials) - len(fresh), "copy")
    texts = [f"{number} {ENDS[status]}" for status, number in parts.items() if number]
    nouns = (copies, (later["repeat"], "re-evaluation"), (later["finish"], "finish"))
    texts += [count(number, noun) for number, noun in nouns if number]
    return f"{count(len(findings.trials), 'trial')}{': ' if texts else ''}{', '.join(texts)}"
