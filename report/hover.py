"""Everything about one trial, in the few lines that fit beside the mouse."""

from collections.abc import Iterable, Mapping
from html import escape
from textwrap import wrap

from paretune.findings import Findings, Trial
from paretune.inventory import Inventory
from paretune.plan import FLOAT, Plan
from paretune.report.masked import masked
from paretune.report.text import human, label, scored

WIDTH, LINES = 64, 14
KINDS = {"search": "searched", "control": "control", "seed": "seed", "finish": "finish", "repeat": "re-evaluation"}


def hover(findings: Findings, trial: Trial) -> tuple[str, ...]:
    """Lines of plain text: trial, objective values, plan. At most `LINES` + 1 of them."""
    lines = [f"trial {trial.number} ({kind_text(trial)})"]
    quality = findings.names[0]
    for objective in findings.objectives:
        if objective.name in trial.values:
            lines.append(f"{label(objective.name)}: {human(trial.values[objective.name], objective.unit)}")
        if objective.name == quality and len(findings.scores(trial) if quality in trial.values else ()) > 1:
            lines.append(f"with further seeds: {scored(findings, trial)}")
    if trial.plan is not None:
        lines += plan_lines(findings.inventory, trial.plan)
    more = len(lines) - LINES
    return tuple(lines if more <= 0 else [*lines[:LINES], f"… {more} more lines"])


def kind_text(trial: Trial) -> str:
    """What kind of trial it is; a control goes by its name."""
    if trial.kind == "control":
        return trial.label or KINDS["control"]
    return f"{KINDS[trial.kind]}: {trial.label}" if trial.label else KINDS[trial.kind]


def plan_lines(inventory: Inventory, plan: Plan) -> list[str]:
    """A plan, compactly: kept/whole channels per group, masks and weight/activation bits per layer, recovery."""
    kept = {
        group.name: f"{len(plan.kept.get(group.name, range(group.channels)))}/{group.channels}"
        for group in inventory.groups
        if len(plan.kept.get(group.name, range(group.channels))) < group.channels
    }
    bits = {}
    for layer in inventory.weighted:
        row = plan.bits.get(layer.name)
        widths = (row.weight_bits, row.activation_bits) if row else (FLOAT, FLOAT)
        bits[layer.name] = "/".join("float" if width == FLOAT else str(width) for width in widths)
    recovery = plan.recovery
    distill = "" if recovery.distill == "none" else f", distilled from {recovery.distill}"
    return [
        *_wrapped("kept", (f"{name} {share}" for name, share in kept.items()) if kept else ["all channels"]),
        *_masks(inventory, plan),
        *_wrapped("bits (weights/activations)", _by_value(bits, len(inventory.weighted))),
        f"recovery: {recovery.epochs} epochs at lr {recovery.lr:.3g}{distill}" if recovery.epochs else "no recovery",
    ]


def markup(lines: Iterable[str]) -> str:
    """`lines` as the small HTML that Plotly understands, escaped."""
    return "<br>".join(escape(line, quote=False) for line in lines)


def _masks(inventory: Inventory, plan: Plan) -> list[str]:
    """The pattern of every masked layer and the share of its weights that stays."""
    masks = {name: f"{kind} {human(share, 'share')}" for name, (kind, share) in masked(inventory, plan).items()}
    return _wrapped("masks (weights kept)", _by_value(masks, len(inventory.weighted))) if masks else []


def _by_value(values: Mapping[str, str], whole: int) -> list[str]:
    """Layers that share a value are named together; `whole` is how many layers there are."""
    shared: dict[str, list[str]] = {}
    for name, value in values.items():
        shared.setdefault(value, []).append(name)
    if len(shared) == 1 and len(values) == whole > 1:
        return [f"{next(iter(shared))} everywhere"]
    return [f"{value}: {' '.join(names)}" for value, names in shared.items()]


def _wrapped(title: str, parts: Iterable[str]) -> list[str]:
    return wrap(f"{title}: {', '.join(parts)}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
