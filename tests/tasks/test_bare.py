"""Bare models: what they are made of, and a message for everything that is none."""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from paretune.errors import ParetuneError
from paretune.tasks import timm_models, torchvision_models
from paretune.tasks.bare import BARE, Bare, make_bare
from paretune.tasks.table import make_task
from paretune.tasks.torchvision_models import torchvision_names


def made(device: str = "meta", **config: Any) -> Bare:
    found = make_bare(config, device=device)
    assert found is not None
    return found


def counted(bare: Bare) -> int:
    return sum(parameter.numel() for parameter in bare.model.parameters())


def reader(channels: int = 3, width: int = 4) -> nn.Module:
    """A user's network whose width is computed with tensors."""
    return nn.Sequential(nn.Conv2d(channels, int(torch.linspace(0, width, 2)[-1]), 1), nn.BatchNorm2d(width))


def broken() -> nn.Module:
    raise ValueError("a bug of the user's")


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's that can be imported as `own_nets`."""
    module = ModuleType("own_nets")
    module.__dict__.update(reader=reader, broken=broken, number=lambda: 3, Net=nn.Flatten, constant=1)
    monkeypatch.setitem(sys.modules, "own_nets", module)


def test_a_network_of_torchvision() -> None:
    bare = made(name="torchvision", model="resnet18")
    assert (bare.name, bare.example.shape, counted(bare)) == ("resnet18", (1, 3, 224, 224), 11_689_512)
    assert not bare.model.training
    assert made(name="torchvision").name == "resnet18"


@pytest.mark.parametrize(
    ("model", "side"),
    [("resnet18", 224), ("inception_v3", 299), ("vit_h_14", 518), ("regnet_x_400mf", 224), ("fcn_resnet50", 520)],
)
def test_the_input_is_as_large_as_the_published_networks_is(model: str, side: int) -> None:
    assert made(name="torchvision", model=model).example.shape == (1, 3, side, side)


def test_arguments_go_to_torchvisions_builder() -> None:
    bare = made(name="torchvision", model="vit_b_32", arguments={"image_size": 384, "num_classes": 7})
    assert bare.example.shape == (1, 3, 384, 384)
    assert bare.model(bare.example).shape == (1, 7)
    small = made(name="torchvision", model="resnet18", input_shape=[3, 32, 64])
    assert small.example.shape == (1, 3, 32, 64)


def test_classification_and_segmentation_are_known_and_detection_is_not() -> None:
    assert {"resnet18", "vit_b_16", "lraspp_mobilenet_v3_large"} <= set(torchvision_names())
    assert not {"retinanet_resnet50_fpn", "raft_small", "r3d_18", "quantized_resnet18"} & set(torchvision_names())


def test_nothing_is_allocated_on_the_meta_device() -> None:
    bare = made(name="torchvision", model="regnet_x_400mf")  # computes its widths with tensors
    tensors = [*bare.model.parameters(), *bare.model.buffers(), bare.example]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_on_the_cpu_the_numbers_are_the_same_at_every_call_and_the_callers_are_left_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first = made("cpu", name="cifar", model="resnet20")
    assert torch.equal(torch.rand(1), wanted)
    second = made("cpu", name="cifar", model="resnet20")  # from another state of the caller's
    assert torch.equal(first.example, second.example)
    assert torch.equal(first.model(first.example), second.model(second.example))
    assert first.example.std() > 0.9, "an example of zeros would hide what a layer does"


def test_another_seed_draws_other_weights() -> None:
    config = {"name": "cifar", "model": "resnet20"}
    nets = [make_bare(config, seed=seed) for seed in (0, 1, 0)]
    first, other, again = (net.model.state_dict()["conv1.weight"] for net in nets if net is not None)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_module_of_the_users() -> None:
    config = {"name": "module", "target": "own_nets.reader", "input_shape": [2, 8, 8], "arguments": {"channels": 2}}
    for device in ("cpu", "meta"):
        bare = made(device, **config)
        assert (bare.name, bare.example.device.type) == ("own_nets.reader", device)
        assert bare.model(bare.example).shape == (1, 4, 8, 8)
    assert made(name="module", target="own_nets.Net", input_shape=(7,)).example.shape == (1, 7)


def test_a_bug_in_the_users_module_keeps_its_traceback() -> None:
    with pytest.raises(ValueError, match="a bug of the user's"):
        made(name="module", target="own_nets.broken", input_shape=[3])


def test_what_has_data_is_no_bare_model() -> None:
    assert make_bare({"name": "digits", "seed": 0}) is None
    assert make_bare({"_target_": "my_module.my_task", "name": "cifar"}) is None
    assert make_bare({}) is None


OWN = {"name": "module", "target": "own_nets.reader"}


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (
            {"name": "torchvision", "model": "resnet19"},
            r"no torchvision model is called 'resnet19'\. Did you mean 'res",
        ),
        ({"name": "torchvision", "model": None}, r"no torchvision model is called 'None'"),
        ({"name": "torchvision", "modell": "x"}, r"task has no setting 'modell'\. Did you mean 'model'\?"),
        (
            {"name": "torchvision", "arguments": {"colours": 3}},
            r"torchvision's resnet18 cannot be made with \{'colours': 3\} \(.*unexpected keyword argument 'colours'",
        ),
        (
            {"name": "cifar", "model": "resnet21"},
            r"no CIFAR model is called 'resnet21'\. Did you mean 'resnet32'\? Known: resnet20, resnet32",
        ),
        ({"name": "cifar", "input_shape": [3, 0, 32]}, r"must be \[channels, height, width\], in .* got \[3, 0, 32\]"),
        ({"name": "torchvision", "input_shape": [224, 224]}, r"must be \[channels, height, width\].* got \[224, 224\]"),
        ({"name": "torchvision", "input_shape": 224}, r"task.input_shape must be \[channels, .* got 224"),
        ({**OWN, "input_shape": [3, 2.5]}, r"must be a list such as \[3, 224, 224\], without .* got \[3, 2\.5\]"),
        ({**OWN, "input_shape": [True]}, r"task.input_shape must be a list .* got \[True\]"),
        ({**OWN, "input_shape": []}, r"task.input_shape must be a list .* got \[\]"),
        (OWN, r"task.input_shape must be a list .* got None"),
        ({**OWN, "arguments": {"sides": 2}}, r"task: got an unexpected keyword argument 'sides'"),
        ({"name": "module"}, r"task.target names what makes the network, such as my_package.* got None"),
        ({"name": "module", "target": "nowhere.net"}, r"target 'nowhere.net' cannot be imported \(No module named"),
        (
            {"name": "module", "target": "own_nets.nett"},
            r"target 'own_nets.nett' cannot be imported \(module 'own_nets'",
        ),
        ({"name": "module", "target": "own_nets.constant"}, r"target 'own_nets.constant' is not callable"),
        ({"name": "module", "target": "own_nets.number"}, r"own_nets.number must return a torch.nn.Module, not a int"),
    ],
)
def test_what_is_no_bare_model_is_refused(config: dict[str, Any], match: str) -> None:
    with pytest.raises(ParetuneError, match=match):
        make_bare(config, device="meta")


def test_a_device_that_it_is_not_made_on_is_refused() -> None:
    with pytest.raises(ParetuneError, match=r"a bare model is made on cpu or meta, got 'cuda'"):
        make_bare({"name": "cifar"}, device="cuda")


@pytest.mark.parametrize("name", BARE)
def test_a_bare_model_cannot_be_searched(name: str) -> None:
    told = rf"task '{name}' has a model but neither data nor trained weights: it can be inspected, not searched"
    with pytest.raises(ParetuneError, match=told):
        make_task({"name": name})


def test_an_unknown_task_is_told_of_bare_ones_too() -> None:
    with pytest.raises(ParetuneError, match=r"no task is called 'torchvison'\. Did you mean 'torchvision'\?"):
        make_task({"name": "torchvison"})


def test_a_torchvision_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_models.importlib.util, "find_spec", lambda name: None)
    torchvision_models.torchvision_models.cache_clear()
    with pytest.raises(ParetuneError, match=r"torchvision is not installed; pip install torchvision"):
        made(name="torchvision")


def test_a_network_of_timm() -> None:
    pytest.importorskip("timm")
    bare = made(name="timm", model="resnet18", classes=7)
    assert (bare.name, bare.example.shape, counted(bare)) == ("resnet18", (1, 3, 224, 224), 11_180_103)
    assert {tensor.device.type for tensor in bare.model.parameters()} == {"meta"}
    small = made("cpu", name="timm", model="resnet18", classes=7, arguments={"in_chans": 1}, input_shape=[1, 32, 32])
    assert small.model(small.example).shape == (1, 7)


def test_timms_input_is_as_large_as_its_configuration_or_its_arguments_say() -> None:
    pytest.importorskip("timm")
    assert made(name="timm", model="inception_v3").example.shape == (1, 3, 299, 299)
    arguments = {"img_size": 96, "in_chans": 1}
    assert made(name="timm", model="vit_tiny_patch16_224", arguments=arguments).example.shape == (1, 1, 96, 96)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"model": "resnet19"}, r"no timm model is called 'resnet19'\. Did you mean resnet18, .*\? timm\.list_models"),
        ({"model": "resnet18.a1"}, r"timm's resnet18 has no weights 'a1'\. Known: a1_in1k, "),
        ({"arguments": {"colours": 3}}, r"timm's resnet18 cannot be made with \{'colours': 3\} \(.*'colours'"),
        ({"classes": 0}, r"task\.classes must be a whole number, 1 or more, or null, got 0"),
        ({"classes": 2, "arguments": {"num_classes": 2}}, r"task\.classes and task\.arguments\.num_classes say the"),
    ],
)
def test_what_timm_cannot_make_is_refused(config: dict[str, Any], match: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ParetuneError, match=match):
        made(name="timm", **config)


@pytest.fixture
def no_timm(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """timm is not looked up, whether or not it is installed."""
    timm_models.timm_library.cache_clear()
    yield monkeypatch
    timm_models.timm_library.cache_clear()


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("timm", r"^timm is not installed; pip install 'paretune\[timm\]'$"),
        ("hub", r"^timm cannot be imported: No module named 'hub'; pip install 'paretune\[timm\]'$"),
    ],
)
def test_a_timm_that_is_not_there_is_told_in_one_line(no_timm: pytest.MonkeyPatch, missing: str, told: str) -> None:
    class Absent:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "timm":
                raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)

    no_timm.delitem(sys.modules, "timm", raising=False)
    no_timm.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(ParetuneError, match=told):
        made(name="timm")


def test_a_torchvision_without_its_compiled_part_is_imported_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str) -> None:
        raise OSError(path)

    monkeypatch.setattr(torch.ops, "load_library", missing)
    torchvision_models.torchvision_models.cache_clear()
    assert callable(torchvision_models.torchvision_models().resnet18)
    assert all(hasattr(torch.ops.torchvision, name) for name in torchvision_models.OPERATORS)
