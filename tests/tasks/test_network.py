"""The network of a task: where its weights come from, and what is said where they do not fit."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paretune.errors import ParetuneError
from paretune.tasks import network as place
from paretune.tasks import timm_models
from paretune.tasks.classification import classification
from paretune.tasks.images import Images
from paretune.tasks.network import network, seen_by
from paretune.tasks.normalisation import check_normalisation, normalisation_hint
from paretune.tasks.table import make_task
from paretune.tasks.torchvision_models import is_name, published_state, torchvision_models


def small(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, classes))


MODEL = {"source": "module", "target": "small_nets.small", "input_shape": [1, 6, 6]}


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A module of the user's that can be imported as `small_nets`, and a cache folder of the test's."""
    module = ModuleType("small_nets")
    module.__dict__.update(small=small)
    monkeypatch.setitem(sys.modules, "small_nets", module)
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))


def images(count: int, seed: int = 0) -> Images:
    chance = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 6, 6), generator=chance, dtype=torch.uint8)
    return Images(pixels=pixels, targets=torch.arange(count) % 3, mean=(0.5,), std=(0.25,), batch=16)


def trained(**changes: Any) -> nn.Module:
    return network(
        {**MODEL, "weights": "train", "train": {"epochs": 1}, **changes}, train=images(48), val=images(9, 1), classes=3
    )


def stored(net: nn.Module, path: Path, **changes: Tensor) -> str:
    torch.save({**net.state_dict(), **changes}, path)
    return str(path)


def test_weights_from_a_file(tmp_path: Path) -> None:
    net = small()
    found = network({**MODEL, "weights": stored(net, tmp_path / "w.pth")})
    assert not found.training
    assert all(torch.equal(found.state_dict()[key], tensor) for key, tensor in net.state_dict().items())


def test_weights_that_are_trained_here_are_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = trained()
    assert len(list((tmp_path / "cache").glob("trained-small_nets-small-*.safetensors"))) == 1
    again = trained()
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in first.state_dict().items())
    trained(train={"epochs": 1, "seed": 3})
    trained(arguments={"classes": 3}, train={"epochs": 2})
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3


def test_the_seed_draws_the_first_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def look(net: nn.Module, *_: Any, **__: Any) -> None:
        seen.append(net.state_dict()["0.weight"].clone())

    monkeypatch.setattr(place, "train_once", look)
    for seed in (0, 0, 4):
        trained(train={"seed": seed})
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_weights_trained_here_have_seen_nothing_of_val_and_test() -> None:
    assert seen_by({"weights": "train"}) == "other"
    assert seen_by({"weights": "train", "trained_on": "other"}) == "other"
    assert seen_by({"weights": "file.pth", "trained_on": "train"}) == "train"
    assert seen_by({"weights": "file.pth"}) is None
    with pytest.raises(ParetuneError, match=r"task.model.trained_on=train: .* this is known already, .* leave it null"):
        seen_by({"weights": "train", "trained_on": "train"})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"arguments": {"classes": 4}}, r"the model has 4 classes and the data 3 classes; set what your target takes"),
        ({"train": {"epoch": 1}}, r"task.model.train has no setting 'epoch'"),
        ({"source": "cifar", "target": None, "input_shape": None}, r"the model's forward fails on \(2, 1, 6, 6\)"),
    ],
)
def test_what_cannot_be_trained_is_told_before_it_is(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ParetuneError, match=told):
        trained(**changes)


@pytest.mark.parametrize("val", ["auto", "test"])
def test_of_a_whole_task_the_training_reads_no_image_of_val_or_test(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, val: str
) -> None:
    chance = np.random.default_rng(0)
    arrays = {f"x_{part}": chance.integers(0, 256, (n, 6, 6, 1), np.uint8) for part, n in (("train", 60), ("test", 40))}
    np.savez(tmp_path / "data.npz", y_train=np.arange(60) % 3, y_test=np.arange(40) % 3, **arrays)
    read: set[bytes] = set()
    batches = Images.batches

    def recorded(split: Images, seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        if seed is not None:
            read.update(image.numpy().tobytes() for image in split.pixels)
        yield from batches(split, seed)

    monkeypatch.setattr(Images, "batches", recorded)
    data = {"source": "npz", "path": str(tmp_path / "data.npz"), "mean": [0.5], "std": [0.25], "batch": 16, "val": val}
    task = classification(model={**MODEL, "weights": "train", "train": {"epochs": 2}}, data=data)
    held = {
        role: {image.numpy().tobytes() for image in getattr(task, role).pixels} for role in ("train", "val", "test")
    }
    assert read == held["train"]
    assert not read & (held["val"] | held["test"])
    assert [len(held[role]) for role in held] == ([54, 6, 40] if val == "auto" else [60, 20, 20])
    again = make_task(task.origin, device="cpu")
    assert (again.fingerprint, again.roles) == (task.fingerprint, task.roles), "the second time it is read"


def test_training_needs_images() -> None:
    with pytest.raises(ParetuneError, match="weights=train needs images that train and images that validate"):
        network({**MODEL, "weights": "train"})


def test_no_weights_are_told() -> None:
    with pytest.raises(ParetuneError, match=r"task.model.weights is missing: .* or train, which trains the network"):
        network(MODEL)


def test_another_number_of_classes_is_named_with_the_setting(tmp_path: Path) -> None:
    file = stored(small(5), tmp_path / "five.pth")
    told = r"other shape: 3.weight .*\. The weights tell 5 classes apart and the model 3: set .* to 5, or take weights"
    with pytest.raises(ParetuneError, match=told):
        network({**MODEL, "weights": file})


def test_the_setting_is_the_sources(tmp_path: Path) -> None:
    from paretune.tasks.cifar import from_cifar

    file = stored(from_cifar(model="resnet20", classes=100)[1], tmp_path / "hundred.pth")
    with pytest.raises(ParetuneError, match=r"tell 100 classes apart and the model 10: set task\.model\.classes to"):
        network({"source": "cifar", "model": "resnet20", "weights": file})


@pytest.mark.parametrize(
    "changes",
    [
        {"0.weight": torch.zeros(2, 3, 3, 3)},  # another number of input channels
        {"0.weight": torch.zeros(7, 1, 3, 3), "3.weight": torch.zeros(5, 72), "3.bias": torch.zeros(5)},
        {"3.weight": torch.zeros(5, 72), "more": torch.zeros(1)},
    ],
    ids=["inputs", "widths", "another key"],
)
def test_what_else_does_not_fit_is_not_called_classes(tmp_path: Path, changes: dict[str, Tensor]) -> None:
    with pytest.raises(ParetuneError, match=r"keys do not fit the model(?!.*classes apart)"):
        network({**MODEL, "weights": stored(small(), tmp_path / "w.pth", **changes)})


def test_the_normalisation_of_published_weights_is_offered() -> None:
    model = {"source": "torchvision", "model": "resnet18"}
    assert normalisation_hint(model) == (
        "; the published weights of resnet18 have task.data.mean=[0.485,0.456,0.406] task.data.std=[0.229,0.224,0.225]"
    )


def test_published_weights_with_other_numbers_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    def told(mean: list[float], **model: str) -> str:
        data = {"source": "npz", "mean": mean, "std": [0.229, 0.224, 0.225]}
        check_normalisation({"source": "torchvision", "model": "resnet18", **model}, data)
        return capsys.readouterr().err

    other, theirs = [0.4914, 0.4822, 0.4465], [0.485, 0.456, 0.406]
    cifar = {"source": "cifar", "model": "resnet20", "weights": "pretrained"}
    for model in ({"weights": "DEFAULT"}, {"weights": "ResNet18_Weights.IMAGENET1K_V1"}, cifar):
        said = told(other, **model)
        assert said.count("\n") == 1
        assert "were trained with task.data.mean=[0.485,0.456,0.406] task.data.std=[0.229,0.224,0.225], not" in said
        assert told(theirs, **model) == told([0.4851, 0.456, 0.41], **model) == ""
    for weights in ("train", "mine.pth"):
        assert told(other, weights=weights) == ""


def test_the_published_cifar_networks_have_a_normalisation_too() -> None:
    model = {"source": "cifar", "model": "resnet20", "weights": "pretrained"}
    with pytest.raises(
        ParetuneError, match=r"task\.data\.mean is missing: .* resnet20 have task\.data\.mean=\[0\.485,0"
    ):
        check_normalisation(model, {"source": "npz"})


def test_a_name_of_torchvisions_weights_may_have_its_enumeration_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = torchvision_models().get_model_weights("resnet18")
    monkeypatch.setattr(asked, "get_state_dict", lambda self, **_: {"held": torch.ones(1)})
    for name in ("DEFAULT", "ResNet18_Weights.DEFAULT", "ResNet18_Weights.IMAGENET1K_V1"):
        assert is_name(name)
        assert list(published_state("resnet18", name)) == ["held"]
    with pytest.raises(ParetuneError, match=r"no set of weights of resnet18 is called 'ResNet50_Weights\.DEFAULT'"):
        published_state("resnet18", "ResNet50_Weights.DEFAULT")
    assert not is_name("my_Weights.pth")


def test_classes_of_weights_that_the_data_do_not_have_are_not_advised(tmp_path: Path) -> None:
    file = stored(small(5), tmp_path / "five.pth")
    with pytest.raises(
        ParetuneError, match=r"the model 3: take weights that were trained for 3 classes, or task\.model"
    ):
        network({**MODEL, "weights": file}, classes=3)
    with pytest.raises(ParetuneError, match=r"the model 3: set .* to 5, or take weights"):
        network({**MODEL, "weights": file}, classes=5)


@pytest.mark.parametrize(
    "model", [{"source": "torchvision", "model": "nothing"}, {"source": "cifar", "model": "resnet20"}, {}, MODEL]
)
def test_without_published_weights_nothing_is_offered(model: Mapping[str, Any]) -> None:
    assert normalisation_hint(model) == ""


def test_a_normalisation_that_is_missing_is_told_with_what_it_would_be() -> None:
    model = {"source": "torchvision", "model": "resnet18"}
    check_normalisation(model, {"source": "npz", "mean": [0.5], "std": [0.5]})
    check_normalisation(model, {"source": "module"})
    check_normalisation(MODEL, {"source": "npz"})
    with pytest.raises(ParetuneError, match=r"task\.data\.std is missing: .*; the published weights of resnet18 have "):
        check_normalisation(model, {"source": "npz", "mean": [0.5], "std": None})


class FakeTimm(SimpleNamespace):
    """What is asked of timm, with one network and published weights of three classes."""

    def list_models(self) -> list[str]:
        return ["tiny_net"]

    def get_pretrained_cfg(self, model: str) -> Any:
        held = {"num_classes": 3, "mean": (0.5,), "std": (0.25,), "url": self.url, "input_size": (1, 6, 6)}
        return SimpleNamespace(to_dict=lambda: held)

    def create_model(self, model: str, pretrained: bool, num_classes: int = 3, **arguments: Any) -> nn.Module:
        if pretrained and self.offline:
            raise OSError("no way to the hub")
        net = small(num_classes)
        if pretrained:
            nn.init.constant_(net[3].bias, 7.0)  # type: ignore[index]
        net.pretrained_cfg = {"input_size": (1, 6, 6)}  # type: ignore[assignment]
        return net


TIMM = {"source": "timm", "model": "tiny_net", "weights": "pretrained"}


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> FakeTimm:
    fake = FakeTimm(url="https://somewhere", offline=False)
    monkeypatch.setattr(timm_models, "timm_library", lambda: fake)
    return fake


def test_timms_published_weights_are_loaded(timm: FakeTimm) -> None:
    assert network(TIMM).state_dict()["3.bias"].tolist() == [7.0] * 3
    assert (
        normalisation_hint(TIMM) == "; the published weights of tiny_net have task.data.mean=[0.5] task.data.std=[0.25]"
    )


def test_timms_weights_for_other_classes_are_refused_and_not_half_loaded(timm: FakeTimm) -> None:
    with pytest.raises(ParetuneError, match=r"timm's weights of tiny_net tell 3 classes apart, not 9: set task\.model"):
        network({**TIMM, "classes": 9})


def test_timm_without_internet_or_weights_is_told(timm: FakeTimm) -> None:
    timm.offline = True
    with pytest.raises(
        ParetuneError, match=r"tiny_net cannot be had \(OSError: no way to the hub\); .* needs internet"
    ):
        network(TIMM)
    timm.url = ""
    with pytest.raises(
        ParetuneError, match=r"timm publishes no weights of tiny_net; task\.model\.weights takes a file"
    ):
        network(TIMM)


def test_a_network_of_timm_takes_weights_from_a_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model("resnet18", num_classes=4)
    path = tmp_path / "four.pth"
    found = network({"source": "timm", "model": "resnet18", "classes": 4, "weights": stored(net, path)})
    assert torch.equal(found.state_dict()["fc.weight"], net.state_dict()["fc.weight"])
    with pytest.raises(ParetuneError, match=r"tell 4 classes apart and the model 6: set task\.model\.classes to 4"):
        network({"source": "timm", "model": "resnet18", "classes": 6, "weights": str(path)})
