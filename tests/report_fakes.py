"""A made-up study that looks like a real one: eight layers, controls, failures and duplicates."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from hand_made_rows import ARRAY
from report_fakes_search import with_effects, with_repeats, with_rungs, with_seeds, with_stopped

from paretune.alike import Alike
from paretune.costs.counts import size_bytes
from paretune.costs.hardware import Hardware
from paretune.curve import Curve, Knee
from paretune.findings import Confirmation, Findings, Objective, Trial
from paretune.frozen import top_code
from paretune.inventory import Buffer, Group, Inventory, Layer, Member, Size
from paretune.outcome import Rung
from paretune.plan import DENSE, Codes, GroupPlan, LayerPlan, Pattern, Plan
from paretune.profile import Row, profile
from paretune.recipe import Joint, Recovery
from paretune.records import to_plain

OBJECTIVES = (
    Objective(name="top1_error", unit="share", definition="share of val images whose best class is wrong"),
    Objective(name="size_bytes", unit="bytes", definition="bytes of the packed weights file"),
    Objective(name="bops", unit="bit-operations", definition="MACs times weight bits times activation bits"),
)
WIDTHS = (("stem", 16, 784), ("b1.a", 16, 784), ("b1.b", 32, 196), ("b2.a", 32, 196),
          ("b2.b", 48, 49), ("b3.a", 64, 49), ("b3.b", 64, 16))  # fmt: skip
HARM = {"stem": 0.08, "b1.a": 0.04, "b1.b": 0.02, "b2.a": 0.004, "b2.b": 0.003, "b3.a": 0.02, "b3.b": 0.002}
UNIFORM = {"uniform 8 bit": (1.0, 8), "uniform 4 bit": (1.0, 4), "uniform 25 % 8 bit": (0.75, 8),
           "uniform 50 % 8 bit": (0.5, 8), "uniform 50 % 4 bit": (0.5, 4)}  # fmt: skip


def fake_inventory() -> Inventory:
    """Seven convolutions with batch norms, each one group, and a linear head."""
    layers: list[Layer] = []
    groups: list[Group] = []
    width_in = 3
    for i, (name, width, positions) in enumerate(WIDTHS):
        layers.append(Layer(name=name, kind="conv", weight_shape=(width, width_in, 3, 3), bias=False,
                            positions=positions, norm=f"{name}.bn"))  # fmt: skip
        layers.append(Layer(name=f"{name}.bn", kind="norm", weight_shape=(width,), bias=True))
        units = tuple((unit,) for unit in range(width))
        reader = WIDTHS[i + 1][0] if i + 1 < len(WIDTHS) else "head"
        members = (Member(layer=name, axis="out", units=units), Member(layer=f"{name}.bn", axis="out", units=units),
                   Member(layer=reader, axis="in", units=units))  # fmt: skip
        groups.append(Group(name=name, channels=width, members=members))
        width_in = width
    layers.append(Layer(name="head", kind="linear", weight_shape=(10, width_in), bias=True))
    return Inventory(layers=tuple(layers), groups=tuple(groups), input_shape=(3, 28, 28), whole={"head": "output"})


def fake_plan(kept: dict[str, float], bits: dict[str, tuple[int, int]], epochs: int = 2, lr: float = 0.01) -> Plan:
    """A plan that keeps the first units of every group."""
    widths = {name: width for name, width, _ in WIDTHS}
    groups = (GroupPlan(group=g, kept=tuple(range(max(1, round(share * widths[g]))))) for g, share in kept.items())
    layers = (LayerPlan(layer=n, weight_bits=w, activation_bits=a) for n, (w, a) in bits.items())
    return Plan(groups=tuple(groups), layers=tuple(layers), recovery=Recovery(epochs=epochs, lr=lr, distill="logits"))


def fake_values(inventory: Inventory, plan: Plan, luck: float = 0.0) -> dict[str, float]:
    """Real costs of `plan` and an error that grows with what was taken away."""
    rows = profile(inventory, plan)
    harm = luck
    for name, _, _ in WIDTHS:
        weight_bits = plan.bits[name].weight_bits if name in plan.bits else 32
        gone = 1 - plan.kept_share(inventory, name)
        harm += HARM[name] * (gone**2 + (2 / weight_bits) ** 3)
    return {
        "top1_error": float(round(min(0.9, 0.019 + harm), 4)),
        "size_bytes": float(size_bytes(rows)),
        "bops": float(sum(r.macs * r.weight_bits * r.activation_bits for r in rows)),
        "macs": float(sum(r.macs for r in rows)),
        "params": float(sum(r.params for r in rows)),
    }


def _trial(number: int, plan: Plan | None, values: dict[str, float], **changes: object) -> Trial:
    trial = Trial(
        number=number, kind="search", label="", status="done", reason="", same_as=None, feasible=True, values=values,
        rungs=(Rung(epochs=0, score=min(0.9, 3 * values.get("top1_error", 0.3))),
               Rung(epochs=2, score=values.get("top1_error", 0.3))),
        seconds={"plan": 0.02, "build": 0.1, "recalibrate": 0.4, "recover": 6.0 + number % 5, "score": 0.8},
        params={}, plan=plan,
    )  # fmt: skip
    return replace(trial, **changes)


def _control(inventory: Inventory, number: int, label: str, share: float, bits: int, *, limit: float) -> Trial:
    plan = fake_plan({g.name: share for g in inventory.groups}, {x.name: (bits, 8) for x in inventory.weighted})
    values = fake_values(inventory, plan)
    return _trial(number, plan, values, kind="control", label=label, feasible=values["size_bytes"] <= limit)


def _searched(inventory: Inventory, number: int, rng: np.random.Generator, limit: float) -> Trial:
    names = [group.name for group in inventory.groups]
    care = rng.uniform(0, min(1.0, number / 30))  # later trials know better which layers to spare
    ratios = {n: round(0.05 * round(16 * float(rng.uniform()) * (1 - care * min(1, HARM[n] / 0.02))), 2) for n in names}
    bits = {x.name: int(rng.choice([3, 4, 6] if care > 0.4 else [2, 3, 4, 6, 8])) for x in inventory.weighted}
    lr = float(10 ** rng.uniform(-3, -1.5))
    plan = fake_plan({n: 1 - r for n, r in ratios.items()}, {n: (b, 8) for n, b in bits.items()}, lr=lr)
    values = fake_values(inventory, plan, luck=float(rng.uniform(0, 0.004)) + 0.002 * abs(np.log10(lr) + 2))
    params = {f"ratio:{n}": r for n, r in ratios.items()} | {f"weight_bits:{n}": b for n, b in bits.items()}
    params |= {"criterion": str(rng.choice(["l2", "taylor", "bn_scale"])), "lr": lr}
    if number % 17 == 3:
        reason = f"group b{number % 4}: 0 of 16 channels would stay, at least 1 must"
        return _trial(number, None, {}, status="failed", reason=reason, rungs=(), params=params, seconds={"plan": 0.02})
    if values["size_bytes"] > limit:
        reason = f"size_bytes {values['size_bytes']:.0f} > {limit:.0f}"
        del values["top1_error"]
        return _trial(number, plan, values, status="over_budget", reason=reason, feasible=False, rungs=(),
                      params=params, seconds={"plan": 0.02})  # fmt: skip
    return _trial(number, plan, values, params=params)


def fake_findings(objectives: int = 3, trials: int = 60, limit: float = 30_000.0) -> Findings:
    """A study of `trials` trials with the dense model, five uniform controls, failures and repeats."""
    rng, inventory = np.random.default_rng(0), fake_inventory()
    dense = _trial(0, DENSE, fake_values(inventory, DENSE), kind="control", label="dense")
    dense = replace(dense, feasible=dense.values["size_bytes"] <= limit)
    rows = [
        dense,
        *(_control(inventory, i + 1, name, *how, limit=limit) for i, (name, how) in enumerate(UNIFORM.items())),
    ]
    rows += [_searched(inventory, number, rng, limit) for number in range(len(rows), trials)]
    for number in range(24, trials, 13):
        twin = next(row for row in reversed(rows[:number]) if row.status == "done" and row.same_as is None)
        rows[number] = replace(twin, number=number, same_as=twin.number, seconds={"plan": 0.02})
    chosen = OBJECTIVES[:objectives]
    reference = {o.name: 1.0 if o.name == "top1_error" else dense.values[o.name] for o in chosen}
    return Findings(
        name="tiny-cnn", folder="results/tiny-cnn", objectives=chosen, budget={"size_bytes": limit},
        reference=reference, trials=tuple(rows[:trials]), inventory=inventory,
        provenance={
            "command": "paretune study task=tiny study.trials=60",
            "date": "2026-05-01", "commit": "0123abc", "device": "2 cores",
            "versions": {"python": "3.11.7", "torch": "2.13.0"},
            "seeds": {"study": 0}, "space_hash": "ab12cd34ef56ab78",
        },
    )  # fmt: skip


def confirmed(findings: Findings, trial: Trial) -> Findings:
    """`findings` with `trial` replayed under three seeds on the test split, and once from kept weights."""
    error, size = trial.values["top1_error"], int(trial.values["size_bytes"])
    full = Confirmation(
        trial=trial.number, picked_by="knee of the front", recover="full", found=error, size_bytes=size,
        validated=(error, error + 0.001, error - 0.001), confirmed=(error + 0.002, error + 0.004, error + 0.003),
        seeds=(1, 2, 3),
    )  # fmt: skip
    kept = replace(full, recover="kept", validated=(error,), confirmed=(error + 0.005,), seeds=(0,))
    return replace(findings, confirmations=(kept, full))


def with_finish(findings: Findings, epochs: int = 10, gain: float = 0.004) -> Findings:
    """`findings` whose best searched trial was trained further at the end, which took `gain` off its error."""
    best = next(trial for trial in findings.front if trial.kind == "search")
    values = best.values | {"top1_error": max(0.0, round(best.values["top1_error"] - gain, 4))}
    finish = replace(
        best, number=len(findings.trials), kind="finish", label=f"trial {best.number} after {epochs} epochs",
        values=values, params={}, seconds=best.seconds | {"recover": 600.0},
        rungs=(*best.rungs, Rung(epochs=epochs, score=values["top1_error"])),
    )  # fmt: skip
    return replace(findings, trials=(*findings.trials, finish))


def fake_curve(group: str, hurt: float, criterion: str = "l1") -> Curve:
    """An S-shaped curve from an error of 0.019 to chance (0.9), the steep part at the rate `hurt`."""
    ratios = tuple(round(0.05 * i, 2) for i in range(20))
    errors = tuple(round(0.019 + 0.881 / (1 + float(np.exp(-18 * (r - hurt)))), 4) for r in ratios)
    return Curve(group=group, criterion=criterion, ratios=ratios, errors=errors, chance=0.9)


def with_curves(findings: Findings, groups: int = 7, criteria: tuple[str, ...] = ("l1",)) -> Findings:
    """`findings` with curves of made-up groups; the guard moved every third knee, every fifth was not found."""
    curves, knees = [], []
    for i in range(groups):
        name = WIDTHS[i][0] if i < len(WIDTHS) else f"layer{i}.block.conv"
        for criterion in criteria:
            curves.append(fake_curve(name, 0.35 + 0.5 * ((3 * i) % groups) / groups, criterion))
        found = None if i % 5 == 4 else 0.7 if i % 3 == 0 else 0.45
        ratio = 0.45 if found == 0.45 else 0.3
        note = "" if found == ratio else f"knee {found} of '{name}' costs 0.31: guard {ratio:.2f}"
        knees += [Knee(group=name, ratio=ratio, found=found, note=note)] * len(criteria)
    return replace(findings, curves=tuple(curves), knees=tuple(knees))


def with_notes(findings: Findings) -> Findings:
    """`findings` in which a rule had its say in every searched trial."""
    notes = ("knee 0.85 of 'stem' costs 0.31: guard 0.60", "no knee in 'b2.a': 0.45")
    trials = (replace(trial, notes=notes if trial.kind == "search" else ()) for trial in findings.trials)
    return replace(findings, trials=tuple(trials))


def with_masks(findings: Findings) -> Findings:
    """`findings` whose searched trials mask two layers: every other weight of `b1.b` 2:4, 10 % of `b3.b` stay."""
    return replace(findings, trials=tuple(map(_masked(findings.inventory), findings.trials)))


def with_quantizers(findings: Findings) -> Findings:
    """`findings` whose searched trials have several quantizers, a 1-bit layer, activations of 4 and 8 bits and codes.

    The searched plan of the best quality came out of a joint training.
    """
    joint = next(trial for trial in findings.front if trial.kind == "search")

    def quantized(trial: Trial) -> Trial:
        if trial.plan is None or trial.kind != "search" or trial.status != "done":
            return trial
        found = joint.plan is not None and trial.plan.key == joint.plan.key
        plan = _trained(findings.inventory, _djpq(trial.plan) if found else _several(trial.plan))
        size = float(size_bytes(profile(findings.inventory, plan)))
        return replace(trial, plan=plan, values=trial.values | {"size_bytes": size})

    return replace(findings, trials=tuple(map(quantized, findings.trials)))


def with_rival(findings: Findings, harm: float = 0.004, name: str = "best single criterion") -> Findings:
    """`findings` beside a second search whose trials all have `harm` more error, without controls of its own."""
    trials = tuple(
        replace(t, values=t.values | {"top1_error": round(t.values["top1_error"] + harm, 4)})
        if "top1_error" in t.values else t
        for t in findings.trials if t.kind != "control"
    )  # fmt: skip
    return replace(findings, rival=replace(findings, name=name, trials=trials, rival=None))


def with_hardware(findings: Findings, hardware: Hardware) -> Findings:
    """`findings` counted for `hardware`, of a network whose forward was watched."""
    known = findings.provenance | {"hardware": to_plain(hardware)}
    return replace(findings, inventory=watched(findings.inventory), provenance=known)


def watched(inventory: Inventory) -> Inventory:
    """`inventory` with a chain of activations: each weighted layer reads one, writes the next."""
    layers = inventory.weighted
    sizes = [Size(dense=28 * 28 * 3)] + [
        Size(dense=x.weight_shape[0] * x.positions,
             per_unit=((x.name, x.positions),) if x.name in inventory.group else ())
        for x in layers
    ]  # fmt: skip
    readers = [(x.name,) for x in layers] + [()]
    buffers = (Buffer(numbers=size, born=max(0, i - 1), dies=min(i, len(layers) - 1), readers=reader)
               for i, (size, reader) in enumerate(zip(sizes, readers, strict=True)))  # fmt: skip
    return replace(inventory, steps=tuple(x.name for x in layers), buffers=tuple(buffers),
                   operations=(("relu", 7), ("mean", 1)))  # fmt: skip


def everything(findings: Findings) -> Findings:
    """`findings` with all that a study can have."""
    full = with_stopped(with_seeds(with_quantizers(with_masks(with_curves(findings)))))
    full = with_effects(with_rungs(with_repeats(with_rival(with_finish(with_notes(full))))))
    full = with_hardware(full, ARRAY)
    alike = Alike(criteria=("l1", "l2"), correlations=((1.0, 0.9), (0.9, 1.0)))
    return replace(confirmed(full, full.front[0]), alike=alike)


def _masked(inventory: Inventory) -> Callable[[Trial], Trial]:
    share = {"b1.b": ("2:4", 0.5), "b3.b": ("unstructured", 0.1)}

    def masks(trial: Trial) -> Trial:
        if trial.plan is None or trial.kind != "search":
            return trial
        weights = {row.name: row.weights for row in profile(inventory, trial.plan)}
        layers = tuple(
            replace(row, pattern=Pattern(kind=share[row.layer][0], stored="", index_bytes=0,
                                         nonzeros=round(share[row.layer][1] * weights[row.layer])))
            if row.layer in share else row
            for row in trial.plan.layers
        )  # fmt: skip
        return replace(trial, plan=replace(trial.plan, layers=layers))

    return masks


def _several(plan: Plan) -> Plan:
    """`plan` with quantizers in turn, 4-bit activations in every other layer and a 1-bit `b2.b`."""
    layers = []
    for i, row in enumerate(plan.layers):
        bits = 1 if row.layer == "b2.b" else row.weight_bits
        names = {1: ("dorefa",), 2: ("ternary",)}.get(bits, ("lsq_plus", "power_of_two", "codebook", "mse"))
        layers.append(replace(row, weight_bits=bits, weight_quantizer=names[i % len(names)],
                              activation_bits=(8, 4)[i % 2], activation_quantizer=("lsq", "pact")[i % 2]))  # fmt: skip
    return replace(plan, layers=tuple(layers))


def _djpq(plan: Plan) -> Plan:
    bits = {row.layer: 8 for row in plan.layers}
    layers = (replace(row, weight_quantizer="djpq", activation_quantizer="djpq") for row in plan.layers)
    joint = Joint(epochs=2, lr=0.01, weight_bits=bits, activation_bits=bits, done=True)
    return replace(plan, layers=tuple(layers), joint=joint)


def _trained(inventory: Inventory, plan: Plan) -> Plan:
    """`plan` with made-up codes: a third of the kept numbers is zero (none with 1 bit), the rest is coded well."""
    codes = {row.name: _codes(row) for row in profile(inventory, plan) if row.weights}
    return replace(plan, layers=tuple(replace(row, codes=codes[row.layer]) for row in plan.layers))


def _codes(row: Row) -> Codes:
    nonzeros = row.kept if row.weight_bits == 1 else max(1, 2 * row.kept // 3)
    coded = int(row.weights * min(row.weight_bits, 0.4 + 0.6 * row.weight_bits))
    return Codes(
        nonzeros=nonzeros, distinct=min(nonzeros, 2 * top_code(row.weight_bits)) + (nonzeros < row.weights),
        entropy_bits=coded, huffman_bits=coded + 400, gap_bits=3, entries=nonzeros + row.weights // 16,
    )  # fmt: skip


HOSTILE = "</script><script>alert(1)</script><b>&"


def hostile(findings: Findings) -> Findings:
    """`findings` in which every text a user can choose tries to break out of the page."""
    trials = tuple(
        replace(t, label=t.label and t.label if t.label == "dense" else HOSTILE, reason=t.reason and HOSTILE,
                params={HOSTILE + name: value for name, value in t.params.items()}, notes=(HOSTILE,) * len(t.notes))
        for t in findings.trials
    )  # fmt: skip
    provenance = {HOSTILE: HOSTILE, "command": HOSTILE}
    curves = tuple(replace(curve, group=HOSTILE, criterion=HOSTILE) for curve in findings.curves)
    knees = tuple(replace(knee, group=HOSTILE, note=HOSTILE) for knee in findings.knees)
    rival = hostile(findings.rival) if findings.rival else None
    effects = findings.effects
    if effects is not None:
        hurt = (replace(one, decision=f"{HOSTILE}{one.decision}") for one in effects.effects)
        pairs = (replace(pair, decisions=(HOSTILE, HOSTILE)) for pair in effects.pairs)
        effects = replace(effects, effects=tuple(hurt), pairs=tuple(pairs), note=HOSTILE)
    return replace(findings, name=HOSTILE, folder=HOSTILE, trials=trials, provenance=provenance, curves=curves,
                   knees=knees, rival=rival, effects=effects)  # fmt: skip
