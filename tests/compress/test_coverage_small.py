"""The check of the coverage benchmark on a few small published networks, and that it can fail."""

import importlib
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from paretune.errors import ParetuneError
from paretune.tasks.timm_models import timm_library
from paretune.tasks.torchvision_models import torchvision_models

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TORCHVISION = ["mobilenet_v3_small", "shufflenet_v2_x0_5", "ssdlite320_mobilenet_v3_large"]
TIMM = ["convnext_zepto_rms", "ese_vovnet19b_slim_dw", "mobilenetv3_small_050"]


@pytest.fixture(scope="module")
def coverage() -> Any:
    """The check and the networks of the benchmark; skipped without torchvision."""
    try:
        torchvision_models()
    except ParetuneError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module("coverage_check")


@pytest.fixture(scope="module")
def timm() -> Any:
    """timm; the tests are skipped where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return timm_library()
        except ParetuneError as error:
            pytest.skip(str(error))


def checked(coverage: Any, name: str) -> Any:
    models = sys.modules["coverage_models"]
    case = next(case for case in models.cases() if case.name == name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return coverage.check(*models.made(case))


def assert_right(found: Any) -> None:
    assert found.wrong == {}
    assert found.groups > 0
    assert 0.3 < found.macs_left < 0.9


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_network_of_torchvision_can_be_pruned(coverage: Any, name: str) -> None:
    assert_right(checked(coverage, name))


@pytest.mark.parametrize("name", TIMM)
def test_a_network_of_timm_can_be_pruned(coverage: Any, timm: Any, name: str) -> None:
    assert_right(checked(coverage, name))


def net() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU())
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()


def test_what_is_told_of_a_small_network_is_right(coverage: Any) -> None:
    """Two groups of 8 and 6 keep 6 and 4. At 8² pixels the MACs are 36 × 9 × 3 × 8, 16 × 9 × 8 × 6 and 6 × 4."""
    found = coverage.check(net(), torch.randn(1, 3, 8, 8))
    assert found.wrong == {}
    assert (found.layers, found.groups, found.shrink) == (3, 2, 1.0)
    dense = 36 * 9 * 3 * 8 + 16 * 9 * 8 * 6 + 6 * 4
    assert found.macs_left == pytest.approx((36 * 9 * 3 * 6 + 16 * 9 * 6 * 4 + 4 * 4) / dense)
    assert found.whole == {"its channels are the model's output": 1}


def first_units(cut: Any) -> Any:
    """A cut of as many units, but always the last ones."""

    def wrong(model: nn.Module, inventory: Any, kept: Mapping[str, tuple[int, ...]]) -> nn.Module:
        small: nn.Module = cut(model, inventory, {name: tuple(range(len(units))) for name, units in kept.items()})
        return small

    return wrong


@pytest.mark.parametrize(
    ("name", "stage"), [("cut", "equal"), ("macs", "recount"), ("params", "recount"), ("trained", "backward")]
)
def test_the_check_can_fail(coverage: Any, monkeypatch: pytest.MonkeyPatch, name: str, stage: str) -> None:
    true = getattr(coverage, name)
    false = {
        "cut": first_units(true),
        "macs": lambda rows: true(rows) + 1,
        "params": lambda rows: true(rows) + 1,
        "trained": lambda net, example: (3, 1),
    }
    monkeypatch.setattr(coverage, name, false[name])
    assert set(coverage.check(net(), torch.randn(1, 3, 8, 8)).wrong) == {stage}
