"""Spaces that parse but make no sense are refused, and what the message recommends is not."""

from dataclasses import replace
from typing import Any

import pytest
from tiny_task import tiny_task

from paretune.errors import ParetuneError
from paretune.findings import Objective
from paretune.search.bench import Bench, lay_out
from paretune.search.sense import check_sense
from paretune.spaces.language import parse_space

SPARSE = {"match": "*", "pattern": "unstructured", "sparsity": 0.5}
BLEND = {"blend": ["l1", "taylor"]}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return lay_out(tiny_task())


def check(spec: dict[str, Any], bench: Bench) -> None:
    check_sense(parse_space(spec, bench.inventory), bench)


@pytest.mark.parametrize(
    ("wrong", "match", "right"),
    [
        ({"layers": [{"match": "*", "sparsity": 0.5}]}, "'conv1' has a sparsity, which only the patterns unst",
         {"layers": [SPARSE]}),
        ({"layers": [SPARSE | {"pattern": "2:4"}]}, "has a sparsity, which only", {"layers": [SPARSE]}),
        ({"layers": [{"match": "*", "pattern": "pe_block"}]}, "pattern pe_block and no sparsity, so it masks noth",
         {"layers": [SPARSE | {"pattern": "pe_block"}]}),
        ({"mask": {"schedule": "cubic"}}, "no layer has a pattern to find",
         {"layers": [SPARSE], "mask": {"schedule": "cubic"}}),
        ({"layers": [SPARSE], "mask": {"schedule": "flipout"}}, "rank over all layers; set scope: global",
         {"layers": [SPARSE], "mask": {"schedule": "flipout", "scope": "global"}}),
        ({"layers": [SPARSE], "mask": {"schedule": "cubic", "rounds": 0}}, "cubic needs 1 or more, got 0",
         {"layers": [SPARSE], "mask": {"schedule": "cubic", "rounds": 1}}),
        ({"recover": {"mode": "ste_mask"}}, "ste_mask lets weights come back between rounds",
         {"recover": {"mode": "ste_mask"}, "layers": [SPARSE], "mask": {"schedule": "geometric"}}),
        ({"layers": [SPARSE], "recover": {"mode": ["ste_mask+bn_frozen", "bn_frozen"]}}, "come back between rounds",
         {"layers": [SPARSE], "recover": {"mode": "bn_frozen"}}),
        ({"recover": {"images": 5000}}, "images: at most 1024 are drawn, got 5000", {"recover": {"images": 1024}}),
        ({"criterion": BLEND, "rate": "knee"}, "a blend has no sensitivity curves of its own",
         {"criterion": BLEND, "rate": {"rule": "knee", "knee": {"by": "l1"}}}),
        ({"layers": [SPARSE], "rate": {"rule": "target", "target": {"cost": "nonzeros"}}}, "'nonzeros' depends",
         {"layers": [SPARSE], "rate": {"rule": "target", "target": {"cost": "macs"}}}),
        ({"criterion": ["l1", "apoz"], "layers": [SPARSE]}, "'apoz' scores channels, not weights",
         {"criterion": ["l1", "taylor"], "layers": [SPARSE]}),
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_its_mend_is_not(
    wrong: dict[str, Any], match: str, right: dict[str, Any], bench: Bench
) -> None:
    with pytest.raises(ParetuneError, match=match) as refused:
        check(wrong, bench)
    assert "\n" not in str(refused.value)
    check(right, bench)


def test_a_knee_needs_a_quality_whose_chance_level_is_known(bench: Bench) -> None:
    other = replace(bench, task=replace(bench.task, quality=Objective(name="loss", unit="share", definition="")))
    with pytest.raises(ParetuneError, match="knows the chance level of top1_error only, not of 'loss'"):
        check({"rate": "knee"}, other)
    check({"rate": "knee"}, bench)
