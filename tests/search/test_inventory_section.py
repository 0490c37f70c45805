"""The config's inventory section: from the command line to the export of a study with groups by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from door_call import calling
from tiny_task import TinyNet, tiny_task
from torch import Tensor, nn
from torch.nn import functional as F

from paretune.conf.settings import InventorySettings, parse_settings
from paretune.errors import ParetuneError, UnknownName
from paretune.plan import Plan
from paretune.search import bench as bench_module
from paretune.search.bench import inventory_of, lay_out
from paretune.search.check import identity_of
from paretune.search.study import Study, run_study
from paretune.spaces.language import parse_space
from paretune.tasks.task import Task

Call = Callable[..., tuple[int, str, str]]

SPACE = {
    "groups": [{"match": "*", "ratio": 0.5}], "layers": [{"match": "*", "weight_bits": [4, 8]}],
    "activation_bits": 8, "criterion": "l2", "recover": {"epochs": 1, "lr": 0.02},
}  # fmt: skip
ROWS = [
    {"name": "first", "out": ["conv1", "norm1"], "in": ["conv2"]},
    {"name": "second", "out": ["conv2", "norm2"], "in": ["head"]},
]
PLAIN: dict[str, Any] = {
    "task": {"name": "tiny"}, "space": SPACE, "objectives": ["top1_error", "size_bytes"], "study": {"name": "x"},
}  # fmt: skip


class PickyNet(TinyNet):
    """Picks its channels by an index that is made on the way, which is hard to follow."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x.index_select(1, torch.arange(x.shape[1])))))
        return self.head(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def picky_task() -> Task:
    task = tiny_task()
    net = PickyNet()
    net.load_state_dict(task.model.state_dict())
    return replace(task, model=net.eval())


def asked(**section: Any) -> InventorySettings:
    return parse_settings({**PLAIN, "inventory": section}).inventory


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    out = tmp_path_factory.mktemp("results") / "picky"
    return run_study(picky_task(), space=SPACE, trials=4, population=2, out=out, inventory={"groups": ROWS})


def cut_groups(plan: Plan | None) -> set[str]:
    return set(plan.kept) if plan else set()


def test_a_study_cuts_the_groups_that_were_given_by_hand(study: Study) -> None:
    findings = study.findings()
    assert [trial.status for trial in findings.trials] == ["done"] * 4
    assert [group.name for group in findings.inventory.groups] == ["first", "second"]
    found = [trial for trial in findings.trials if trial.kind == "search"] or list(findings.trials[-1:])
    assert findings.dense is not None
    for trial in found:
        assert cut_groups(trial.plan) == {"first", "second"}
        assert trial.values["macs"] < findings.dense.values["macs"] / 2


def test_its_export_verifies(study: Study, tmp_path: Path) -> None:
    cut = next(trial for trial in study.findings().trials if cut_groups(trial.plan))
    verdict = study.export(f"trial={cut.number}", tmp_path / "model", latency=False)
    assert verdict.ok, verdict.message


def test_it_goes_on_with_the_same_groups_only(study: Study) -> None:
    more: dict[str, Any] = {"space": SPACE, "trials": 4, "population": 2, "out": study.folder}
    again = run_study(picky_task(), inventory={"groups": ROWS, "seconds": 5}, **more)
    assert len(again.findings().trials) == 4
    with pytest.raises(ParetuneError, match=r"holds a study with another inventory\.groups"):
        run_study(picky_task(), inventory={"groups": [{**ROWS[0], "units": 4}, ROWS[1]]}, **more)


def test_a_study_without_the_section_is_the_study_it_was() -> None:
    task = tiny_task()
    space = parse_space(SPACE, lay_out(task).inventory)

    def identity(**section: Any) -> dict[str, Any]:
        return identity_of(parse_settings({**PLAIN, "inventory": section}), task, space)

    assert identity() == identity(seconds=5) == identity_of(parse_settings(PLAIN), task, space)
    assert "inventory" not in identity()
    assert identity(exclude=["head"])["inventory"] == {"exclude": ["head"], "groups": None}
    assert identity(groups=[])["inventory"] == {"exclude": [], "groups": []}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"second": 3}, r"no config key is called 'inventory\.second'\. Did you mean 'inventory\.seconds'"),
        ({"seconds": 0}, r"inventory\.seconds must be above 0 and at most 86400, got 0"),
        ({"seconds": float("inf")}, r"inventory\.seconds must be above 0 and at most 86400, got inf"),
        ({"seconds": "long"}, r"inventory\.seconds must be a number, got 'long'"),
        ({"exclude": "head*"}, r"inventory\.exclude must be a list, got 'head\*'"),
        ({"exclude": [3]}, r"inventory\.exclude must be a word, got 3"),
        ({"groups": {"name": "a"}}, r"inventory\.groups must be a list, got"),
        ({"groups": ["conv1"]}, r"inventory\.groups must be a table of keys, got 'conv1'"),
        ({"groups": [], "exclude": ["head"]}, r"inventory\.groups by hand leave nothing to exclude; drop"),
    ],
)
def test_a_section_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ParetuneError, match=message):
        asked(**section)


def test_an_empty_list_is_no_groups_and_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("traced")

    monkeypatch.setattr(bench_module, "discover", never)
    task = tiny_task()
    assert inventory_of(task.model, task.example(), asked(groups=[])).groups == ()


def test_a_wildcard_that_matches_no_layer_is_refused() -> None:
    task = tiny_task()
    with pytest.raises(UnknownName, match=r"inventory\.exclude: no layer matches 'hat\*'\. Did you mean 'head'"):
        inventory_of(task.model, task.example(), asked(exclude=["hat*"]))


def test_excluded_layers_keep_their_channels() -> None:
    task = tiny_task()
    found = inventory_of(task.model, task.example(), asked(exclude=["conv1"]))
    assert [group.name for group in found.groups] == ["conv2"]
    assert found.whole["conv1"] == "excluded by name"


def test_tracing_that_fails_names_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise ParetuneError("the model's channels cannot be followed: lost")

    monkeypatch.setattr(bench_module, "discover", lost)
    with pytest.raises(ParetuneError, match=r"followed: lost; .*inventory\.exclude.*inventory\.groups") as caught:
        lay_out(tiny_task())
    assert "\n" not in str(caught.value)


def test_tracing_that_takes_too_long_names_both_ways_out_once() -> None:
    task = tiny_task()
    with pytest.raises(ParetuneError, match=r"took longer than 1e-09 s") as caught:
        inventory_of(task.model, task.example(), asked(seconds=1e-9))
    assert [str(caught.value).count(key) for key in ("inventory.exclude", "inventory.groups")] == [1, 1]


def test_an_example_that_does_not_fit_is_not_blamed_on_the_tracer() -> None:
    with pytest.raises(ParetuneError, match=r"the model's forward fails on an example") as caught:
        inventory_of(nn.Linear(3, 2), torch.zeros(1, 4), asked())
    assert "inventory." not in str(caught.value)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in an empty folder with the tiny task at hand."""
    monkeypatch.chdir(tmp_path)
    conf = tmp_path / "my_conf" / "task"
    conf.mkdir(parents=True)
    (conf / "tiny.yaml").write_text("_target_: tiny_task.tiny_task\nname: tiny\n")
    return calling(capsys)


LOOK = ("inspect", "--config-dir", "my_conf", "task=tiny")
BY_HAND = "inventory.groups=[{name: mine, out: [conv1, norm1], in: [conv2]}]"


def test_inspect_shows_the_groups_by_hand(call: Call) -> None:
    code, out, err = call(*LOOK, BY_HAND, "plan.ratio=0.5")
    assert (code, err) == (0, "")
    assert "mine" in out
    assert "4 of 8" in out


def test_inspect_leaves_excluded_layers_whole(call: Call) -> None:
    code, out, err = call(*LOOK, "inventory.exclude=[conv1]", "inventory.seconds=20")
    assert (code, err) == (0, "looking for channel groups, 20 s at most\n")
    assert "excluded by name" in out


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("inventory.exclude=[hat*]", "inventory.exclude: no layer matches 'hat*'. Did you mean 'head'?"),
        ("inventory.seconds=-1", "inventory.seconds must be above 0"),
        ("inventory.groups=[{out: [conf1]}]", "inventory.groups: row 1: no layer is called 'conf1'. Did you mean 'con"),
        ("inventory.groups=[{name: a, uot: [conv1]}]", "inventory.groups: row 1 has no key 'uot'. Did you mean 'out'?"),
        ("inventory.groups=[{name: a, out: [conv1, head]}]", "group 'a': 'conv1' has 8 output channels and 'head' 3"),
        ("inventory.groups=[{name: a, out: [head]}]", "group 'a' cannot be cut: its channels are the model's output"),
        ("inventory.group=[]", "no config key is called 'inventory.group'. Did you mean 'inventory.groups'?"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(call: Call, word: str, message: str) -> None:
    code, out, err = call(*LOOK, word)
    said = err.removeprefix("looking for channel groups, 60 s at most\n")
    assert (code, out) == (2, "")
    assert said.startswith(f"paretune: {message}")
    assert said.count("\n") == 1
