"""Mistakes in what a pruning method or the search is told: one line that says what works, and nothing written."""

import sys
from functools import cache
from types import SimpleNamespace

import pytest
import tiny_task

from paretune.search.door import main

STUDY = ("study", "--config-dir", "my_conf", "task=tiny", "study.trials=2", "space.recover.epochs=0")
PLAIN = "space.criterion=l1"


@cache
def task():
    """The tiny task, trained once."""
    return tiny_task.tiny_task()


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run a study of the tiny task in an empty folder; gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "kept_task", SimpleNamespace(make=task))
    conf = tmp_path / "my_conf" / "task"
    conf.mkdir(parents=True)
    (conf / "tiny.yaml").write_text("_target_: kept_task.make\nname: tiny\n")

    def run(*words):
        with pytest.raises(SystemExit, match=r"\d") as left:
            main([*STUDY, *words])
        printed = capsys.readouterr()
        return left.value.code, printed.out, printed.err

    return run


def layers(text):
    return f"space.layers=[{{match: '*', {text}}}]"


def dense_last(text):
    return f"space.layers=[{{match: 'conv*', weight_bits: 8}}, {{match: '*', {text}}}]"


def mixing(text):
    """A table where the packaged space has a list."""
    return "~space.criterion", f"+space.criterion={text}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        # Patterns.
        ([PLAIN, layers("pattern: '4:2'")], "pattern '4:2' keeps 4 of 2 neighbours; write N:M, N from 1 to M"),
        ([PLAIN, layers("pattern: 'n:m'")], "pattern 'n:m' is written in numbers, such as '2:4'"),
        ([layers("pattern: '4:2'")], "pattern '4:2' keeps 4 of 2"),  # whatever the criterion
        ([PLAIN, layers("pattern: unstructred")], "no pattern is called 'unstructred'. Did you mean 'unstructured'?"),
        ([PLAIN, layers("pattern: unstructured, sparsity: 1.0")], "space.layers.sparsity: a sparsity is the share of"),
        # Partitions.
        ([PLAIN, layers("pattern: partition")], "'conv1' (8×1×3×3) cannot be partitioned into 4: that takes a linear"),
        ([PLAIN, layers("pattern: partition"), "+space.mask={parts: [2, 4]}"], "'conv1' (8×1×3×3) cannot be partition"),
        ([PLAIN, dense_last("pattern: partition"), "+space.mask={parts: 3}"], "'head' (3×8) cannot be partitioned int"),
        ([PLAIN, dense_last("pattern: partition"), "+space.mask={parts: [2, 4]}"], "outputs are those of the model; g"),
        # Schedules.
        (["+space.mask={schedule: cubik}"], "space.mask.schedule: schedule is one of one_shot, geometric, cubic, flip"),
        (
            [PLAIN, layers("pattern: '2:4'"), "+space.mask={schedule: flipout}"],
            "space.mask.schedule: flipout finds unstructured zeros only, and 'conv1' may be '2:4'; use one_shot, geom",
        ),
        (
            [PLAIN, layers("pattern: unstructured, sparsity: 0.5"), "+space.mask={schedule: cubic, rounds: 0}"],
            "space.mask.rounds: cubic needs 1 or more, got 0",
        ),
        # Criteria and blends.
        (
            ["space.criterion=apoz", layers("pattern: unstructured, sparsity: 0.5")],
            "space.criterion: 'apoz' scores channels, not weights; with patterns use one of l1, l2, taylor",
        ),
        ([*mixing("{blend: [l1, l2], weights: {l1: 0, l2: 0}}")], "space.criterion.weights are all zero"),
        ([*mixing("{blend: [l1, l2], weights: {l1: 1}}")], "space.criterion.weights is simplex or a table with l1, l2"),
        ([*mixing("{blend: [l1]}")], "space.criterion.blend needs two or more different criteria, got ['l1']"),
        ([*mixing("{blend: [l1, tailor]}")], "no criterion is called 'tailor'. Did you mean 'taylor'?"),
        (
            ["space.criterion={blend: [l1, l2]}"],
            "space.criterion: a list and a table cannot replace each other; write '~space.criterion' '+space.criterion",
        ),
        # Rates.
        (["+space.rate={rule: unifrom}"], "no rate rule is called 'unifrom'. Did you mean 'uniform'?"),
        (["+space.rate=nee"], "no rate rule is called 'nee'. Did you mean 'knee'?"),
        (["+space.rate={rule: target, target: {cost: mac}}"], "no cost is called 'mac'. Did you mean 'macs'?"),
        (["+space.rate={rule: target, target: {of: target}}"], "space.rate.target.of: a target scales another rule"),
        (["+space.rate={rule: target, target: {share: 0}}"], "space.rate.target.share: a target is a share in (0, 1]"),
        (["+space.rate={rule: knee, knee: {by: tailor}}"], "no criterion is called 'tailor'. Did you mean 'taylor'?"),
        # Quantizers, encodings, joint training.
        ([layers("weight_bits: 8, weight_quantizer: codebok")], "called 'codebok'. Did you mean 'codebook'?"),
        ([layers("weight_bits: 8, encoding: ternary")], "space.layers: layer 'conv1' cannot be stored as 'ternary'; w"),
        ([layers("weight_bits: 8"), "+space.quantize={steps: 2}"], "space.quantize.steps is read by inq only"),
        ([layers("weight_bits: 8"), "+space.quantize={of: men}"], "space.quantize.of: of is one of max, mean, got"),
        (["+space.joint={method: djqp}"], "space.joint.method: method is one of none, djpq, got 'djqp'"),
        (["+space.joint={method: djpq}"], "space.joint.method: djpq learns the bits of layers whose quantizer is djpq"),
        # What stays, and what is won back.
        (["+space.keep={minimum: 0}"], "space.keep.minimum: the minimum is a whole number, 1 or more, got 0"),
        # The rival and the finish.
        (["finish.epochs=-1"], "finish needs epochs of 0 or more and an lr above 0, got -1"),
        (["rival={name: x}"], "the config key 'rival.space' is missing"),
        (["rival={name: x, space: {criterion: tailor}}"], "no criterion is called 'tailor'. Did you mean 'taylor'?"),
        (["rival={name: x, space: {rate: {rule: unifrom}}}"], "no rate rule is called 'unifrom'. Did you mean 'unifor"),
        # Seeds, rungs, the sampler, when to stop.
        (["seeds=24"], "seeds must be a table of keys, got 24; set its keys: seeds.count, seeds.images"),
        (["seeds.count=-1"], "seeds.count must be 0 or more, got -1"),
        (["rungs=null"], "rungs must be a table of keys, got None; for none write rungs.epochs=[]"),
        (["rungs.epoch=[1]"], "no config key is called 'rungs.epoch'. Did you mean 'rungs.epochs'?"),
        (["rungs.epochs=[3,1]"], "rungs.epochs must rise from 0 or more, such as [0, 1, 3], got [3, 1]"),
        (["rungs.epochs=3"], "rungs.epochs must be a list, got 3; write rungs.epochs=[3]"),
        (["sampler=layerwize"], "no sampler is called 'layerwize'. Did you mean 'layerwise'?"),
        (["study.plateau=0"], "study.plateau must be 1 or more, or null, got 0"),
        (["study.repeats=-1"], "study.repeats must be 0 or more, got -1"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_nothing_is_written(call, tmp_path, words, message):
    before = set(tmp_path.rglob("*"))
    code, out, error = call(*words)
    assert message in error
    assert code == 2
    assert out == ""
    assert error.startswith("paretune: ")
    assert error.count("\n") == 1
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("words", [mixing("{blend: [l1, l2], share: layer}"), ("+space.rate=uniform",)])
def test_what_the_messages_recommend_works(call, words):
    code, out, error = call(*words, "study.trials=1")
    assert code == 0, error
    assert "results/tiny/report.html" in out
