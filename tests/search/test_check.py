"""What can be told before a search."""

from dataclasses import replace

import pytest
import torch
from tiny_task import TinyNet, tiny_task
from torch import nn

from paretune.conf.settings import Settings, StudySettings
from paretune.errors import ParetuneError
from paretune.frozen import HEADER_BYTES
from paretune.search.bench import lay_out
from paretune.search.check import check_reach, identity_of, warn_if_stuck_here
from paretune.spaces.language import parse_space
from paretune.tasks.own import from_loaders

SETTINGS = Settings(task={}, space={}, objectives=("top1_error", "params"), study=StudySettings(name="mine"))


def test_a_classification_study_is_not_resumed_with_another_augmentation_but_elsewhere():
    space = parse_space({}, lay_out(tiny_task()).inventory)

    def identity(**data):
        origin = {"name": "classification", "model": {"source": "cifar"}, "data": {"flip": True, **data}}
        return identity_of(SETTINGS, replace(tiny_task(), name="classification", origin=origin), space)

    assert identity(path="here.npz") == identity(path="there.npz", workers=2)
    assert identity() != identity(flip=False)


class Sorted(TinyNet):
    """Branches on its input, which no exporter can follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if float(x.sum()) > 0 else -x)


def test_a_model_that_can_be_exported_is_not_talked_about(capsys):
    warn_if_stuck_here(lay_out(tiny_task()))
    assert capsys.readouterr().err == ""


def test_a_model_that_cannot_be_exported_is_named_before_the_search(capsys):
    rows = [(torch.randn(8, 1, 6, 6), torch.zeros(8, dtype=torch.long))]
    warn_if_stuck_here(lay_out(from_loaders(Sorted(), rows, rows, rows)))
    said = capsys.readouterr().err
    assert said.startswith("paretune: warning: this model can be searched, but not be exported yet: ")
    assert said.count("\n") == 1
    assert "Next steps" not in said


def test_a_regression_is_refused():
    rows = [(torch.randn(8, 5), torch.zeros(8))]
    with pytest.raises(ParetuneError, match="only classifiers"):
        from_loaders(nn.Linear(5, 1), rows, rows, rows)


@pytest.fixture(scope="module")
def bench():
    return lay_out(tiny_task())


def budget(**limits):
    return Settings(task={}, space={}, objectives=(), study=StudySettings(name="tiny"), budget=limits)


def reach(bench, row, least):
    """A budget of `least` bytes is one that the space may keep, one byte less is refused."""
    space = parse_space({"layers": [{"match": "*", **row}]}, bench.inventory)
    check_reach(budget(size_bytes=least), space, bench)
    with pytest.raises(ParetuneError, match=f"={least - 1} cannot be met: .* reaches {least} at least"):
        check_reach(budget(size_bytes=least - 1), space, bench)


BIASES, WEIGHTS = 8 + 8 + 3, 72 + 576 + 24


@pytest.mark.parametrize("encoding", ["cheapest", "dense"])
def test_float_weights_have_a_smallest_size(bench, encoding):
    reach(bench, {"weight_bits": 32, "encoding": encoding}, HEADER_BYTES + 4 * (BIASES + WEIGHTS))


@pytest.mark.parametrize("row", [
    {"weight_bits": 8}, {"weight_bits": "ternary", "encoding": "entropy"},
    {"weight_bits": [2, 8], "encoding": "ternary"}, {"weight_bits": [8, 2], "encoding": ["ternary", "huffman"]},
])  # fmt: skip
def test_codes_may_get_as_small_as_they_like_but_scales_stay(bench, row):
    """How many bytes codes take is known after training, so a budget is refused only if the rest is above it."""
    scales = 8 + 8 + 3
    reach(bench, row, HEADER_BYTES + 4 * (BIASES + scales))


def test_a_pattern_that_its_encoding_needs_is_no_obstacle(bench):
    """The smallest plan has no masks, and so could not be stored by its pattern."""
    row = {"match": "*", "weight_bits": 8, "pattern": "2:4", "encoding": "n:m"}
    space = parse_space({"layers": [row]}, bench.inventory)
    check_reach(budget(size_bytes=600), space, bench)
    with pytest.raises(ParetuneError, match="macs=10 cannot be met"):
        check_reach(budget(macs=10), space, bench)


def test_what_a_joint_training_finds_is_not_foreseen(bench):
    spec = {"layers": [{"match": "*", "weight_bits": 8, "activation_bits": 8}], "joint": {"method": "djpq"},
            "quantize": {"weights": "djpq", "activations": "djpq"}}  # fmt: skip
    check_reach(budget(bops=10), parse_space(spec, bench.inventory), bench)
    with pytest.raises(ParetuneError, match="bops=10 cannot be met"):
        check_reach(budget(bops=10), parse_space({"layers": spec["layers"]}, bench.inventory), bench)
