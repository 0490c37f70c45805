"""Every preset runs: four trials of the search and four of its rival, cheaper in epochs than the real thing."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from paretune.compress.narrow import narrow
from paretune.compress.patterns import mask_of
from paretune.costs.storage import stored_bytes
from paretune.findings import Findings
from paretune.plan import Plan
from paretune.profile import profile
from paretune.search.door import main
from paretune.search.read import read_findings

ROOT = Path(__file__).parent.parent.parent
# What makes a preset cheap enough for the default suite; what it does stays the same.
CHEAP: dict[str, Sequence[str]] = {
    "flipout": ["space.mask.epochs=9"],
    "extreme_sparsity": ["space.mask.epochs=3", "space.mask.rounds=3", "space.recover.epochs=1"],
    "combine_net": ["space.recover.epochs=1"],
    "partition": ["space.recover.epochs=1", "space.mask.restarts=1"],
    **dict.fromkeys(("blend", "blend_net", "blend_stage"), ("finish.epochs=1",)),
    "compensation": ["space.rate.binary.passes=1"],
    **dict.fromkeys(("mixed_bits", "codebook"), ("space.recover.epochs=1",)),
    **dict.fromkeys(("prune_ternary", "pe_ternary"), ("space.mask.epochs=2", "space.recover.epochs=1")),
    **{
        key: ["space.joint.epochs=2", "space.recover.epochs=1", "rival.space.recover.epochs=1"]
        for key in ("djpq", "djpq_restricted")
    },
}
IMAGES = ("cifar", "imagenet")  # these need data: test_image_presets.py
PRESETS = sorted(
    path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml") if not path.stem.startswith(IMAGES)
)


def run(name: str, folder: Path) -> Findings:
    words = [f"experiment={name}", "study.trials=4", f"results_dir={folder}", *CHEAP.get(name, [])]
    with pytest.raises(SystemExit, match=r"0") as end:
        main(["study", *words])
    assert end.value.code == 0
    return read_findings(folder / name)


def plans(findings: Findings) -> list[Plan]:
    return [trial.plan for trial in findings.trials if trial.plan is not None and trial.label != "dense"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_runs_and_its_method_is_in_what_it_found(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = run(name, tmp_path)
    assert [trial.status for trial in findings.trials if trial.kind not in ("finish", "repeat")] == ["done"] * 4, [
        trial.reason for trial in findings.trials
    ]
    assert (tmp_path / name / "report.html").stat().st_size > 1_000_000
    CHECKS[name](findings)
    if name != "digits":
        assert findings.rival is not None
        assert [trial.status for trial in findings.rival.trials] == ["done"] * len(findings.rival.trials)
        searched, rivals = (sum(trial.kind == "search" for trial in one.trials) for one in (findings, findings.rival))
        assert searched == rivals > 0
        assert findings.rival.name in capsys.readouterr().out


def check_digits(findings: Findings) -> None:
    assert findings.rival is None


def check_combine_net(findings: Findings) -> None:
    """Rates come off the curves: every group has one, and no group is at chance level."""
    assert {curve.group for curve in findings.curves} == set(findings.inventory.group)
    curves = {curve.group: curve for curve in findings.curves}
    for knee in findings.knees:
        curve = curves[knee.group]
        halfway = (curve.errors[0] + curve.chance) / 2
        assert max(e for r, e in zip(curve.ratios, curve.errors, strict=True) if r <= knee.ratio) < halfway
    assert all(plan.recovery.distill == "logits" for plan in plans(findings))


def check_flipout(findings: Findings) -> None:
    """Masks found in training from new weights, with exactly the sparsity asked for over the whole net."""
    for plan in plans(findings):
        assert plan.pruning is not None
        assert (plan.pruning.schedule, plan.recovery.start, plan.recovery.epochs) == ("flipout", "scratch", 0)
        assert not plan.open
        rows = [row for row in profile(findings.inventory, plan) if row.weights]
        asked = next(iter(plan.pruning.wanted.values())).sparsity
        assert sum(row.nonzeros for row in rows) == round(sum(row.weights for row in rows) * (1 - asked))


def check_extreme_sparsity(findings: Findings) -> None:
    """Both stages: masks from a Taylor score, then bits."""
    for plan in plans(findings):
        assert plan.pruning is not None
        assert plan.pruning.schedule in ("cubic", "geometric")
        assert {criterion[:6] for blend in plan.pruning.blends.values() for criterion in blend.criteria} == {"taylor"}
        assert all(layer.weight_bits <= 8 and layer.pattern is not None for layer in plan.layers)
        rows = [row for row in profile(findings.inventory, plan) if row.weights]
        assert sum(row.nonzeros for row in rows) < 0.15 * sum(row.weights for row in rows)


def check_partition(findings: Findings) -> None:
    """The hidden layers are block-diagonal but for the order of their neurons."""
    for plan in plans(findings):
        masked = {layer.layer: layer.pattern for layer in plan.layers if layer.pattern is not None}
        assert set(masked) == {"hidden1", "hidden2"}
        for name, pattern in masked.items():
            shape = narrow(findings.inventory, plan.kept).layer[name].weight_shape
            mask = mask_of(pattern, shape)
            assert pattern.kind == "partition"
            assert len({row.tobytes() for row in mask}) == pattern.parts
            assert mask.sum() * pattern.parts == mask.size


def check_blend(findings: Findings) -> None:
    """Every candidate at half the MACs, never trained; the best one trained when the search is over."""
    dense = findings.reference["macs"]
    searched = [trial for trial in findings.trials if trial.kind == "search"]
    assert all(abs(trial.values["macs"] / dense - 0.5) <= 0.01 for trial in searched)
    assert all(trial.plan is not None and trial.plan.recovery.epochs == 0 for trial in searched)
    (finish,) = [trial for trial in findings.trials if trial.kind == "finish"]
    best = min(trial.values["top1_error"] for trial in searched)
    assert finish.values["top1_error"] <= best
    assert any("pick" in name for name in searched[0].params)
    assert findings.alike is not None
    for place, row in enumerate(findings.alike.correlations):
        assert row[place] == pytest.approx(1.0)
        assert all(-1 <= value <= 1 + 1e-9 for value in row)


def check_blend_net(findings: Findings) -> None:
    check_blend(findings)
    picks = [name for name in findings.trials[-2].params if "pick" in name]
    assert picks == ["blend/net/pick0", "blend/net/pick1", "blend/net/pick2"]


def check_blend_stage(findings: Findings) -> None:
    check_blend(findings)
    picks = [name for name in findings.trials[-2].params if "pick0" in name]
    assert picks == ["blend/8x8/pick0", "blend/4x4/pick0", "blend/2x2/pick0"]


def check_compensation(findings: Findings) -> None:
    for plan in plans(findings):
        assert (plan.recovery.compensate, plan.recovery.epochs, plan.recovery.images) == ("linear", 0, 256)
        assert plan.groups, "a bisection that removes nothing has found nothing"


def check_mixed_bits(findings: Findings) -> None:
    """Layers of one network have different bits."""
    searched = [trial.plan for trial in findings.trials if trial.kind == "search" and trial.plan]
    assert all(len({layer.weight_bits for layer in plan.layers}) > 1 for plan in searched)
    assert findings.rival is not None
    rivals = [trial.plan for trial in findings.rival.trials if trial.kind == "search" and trial.plan]
    assert all(len({layer.weight_bits for layer in plan.layers}) == 1 for plan in rivals)


def check_codebook(findings: Findings) -> None:
    for plan in plans(findings):
        first, *others = plan.layers
        assert (first.weight_bits, first.weight_quantizer) == (8, "lsq")
        assert {layer.weight_quantizer for layer in others} in ({"codebook"}, {"inq"})


def check_prune_ternary(findings: Findings) -> None:
    """Every weight that a mask leaves is a sign, and the file is smaller than two bits a weight."""
    for plan in plans(findings):
        inner = [row for row in profile(findings.inventory, plan) if row.quantizer == "prune_ternary"]
        assert len(inner) == len(findings.inventory.weighted) - 2
        assert all(row.nonzeros == row.kept < row.weights for row in inner)
        assert sum(stored_bytes(row) for row in inner) < sum(row.weights for row in inner) / 4


def check_pe_ternary(findings: Findings) -> None:
    """Whole blocks are gone, the same share in every masked layer at least; what stays is ternary."""
    for plan in plans(findings):
        assert plan.pruning is not None
        assert (plan.pruning.schedule, plan.pruning.penalty is None) == ("clipped_lasso", False)
        masked = [layer for layer in plan.layers if layer.pattern is not None]
        assert len(masked) == len(plan.layers) - 2
        assert {(layer.pattern.kind, layer.weight_quantizer) for layer in masked if layer.pattern} == {
            ("pe_block", "ternary")
        }


def check_djpq(findings: Findings) -> None:
    """One training has found bits of every layer's own, and they are in the plan."""
    for plan in plans(findings):
        assert plan.joint is not None
        assert plan.joint.done
        assert all(2 <= layer.weight_bits <= 8 and 2 <= layer.activation_bits <= 8 for layer in plan.layers)
        assert plan.asked.groups == ()
    assert any(len({layer.weight_bits for layer in plan.layers}) > 1 for plan in plans(findings))


def check_djpq_restricted(findings: Findings) -> None:
    for plan in plans(findings):
        bits = {bits for layer in plan.layers for bits in (layer.weight_bits, layer.activation_bits)}
        assert bits <= {2, 4, 8}


CHECKS = {
    "mixed_bits": check_mixed_bits, "codebook": check_codebook, "prune_ternary": check_prune_ternary,
    "pe_ternary": check_pe_ternary, "djpq": check_djpq, "djpq_restricted": check_djpq_restricted,
    "digits": check_digits, "combine_net": check_combine_net, "flipout": check_flipout,
    "extreme_sparsity": check_extreme_sparsity, "partition": check_partition, "blend": check_blend,
    "compensation": check_compensation, "blend_net": check_blend_net, "blend_stage": check_blend_stage,
}  # fmt: skip
