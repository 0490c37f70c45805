"""Classification from parts, on made-up images, and on CIFAR-10 where it is at hand."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from shared_data import shared
from torch import nn

from paretune.errors import ParetuneError
from paretune.search.study import run_study
from paretune.tasks.classification import classification
from paretune.tasks.images import Images
from paretune.tasks.streamed import Streamed
from paretune.tasks.table import make_task
from paretune.tasks.task import Task, score

OBJECTIVES = ("top1_error", "size_bytes")


def small(classes: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes)
    )


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """A model and data config whose files exist: 60 training and 40 test images, 6×6, grey, three classes."""
    module = ModuleType("small_nets")
    module.__dict__.update(small=small)
    monkeypatch.setitem(sys.modules, "small_nets", module)
    chance = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in (("train", 60), ("test", 40)):
        arrays[f"x_{part}"] = chance.integers(0, 256, (count, 6, 6, 1), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 3
    np.savez(tmp_path / "data.npz", **arrays)
    torch.manual_seed(0)
    weights, images = tmp_path / "w.th", tmp_path / "data.npz"
    torch.save({"state_dict": {f"module.{key}": value for key, value in small().state_dict().items()}}, weights)
    shape = {"target": "small_nets.small", "input_shape": [1, 6, 6]}
    return {
        "model": {"source": "module", **shape, "weights": str(weights), "trained_on": "train"},
        "data": {"source": "npz", "path": str(images), "mean": [0.5], "std": [0.25]},
    }


def made(parts: Mapping[str, Mapping[str, Any]], **changes: Mapping[str, Any]) -> Task:
    return classification(**{key: {**value, **changes.get(key, {})} for key, value in parts.items()})


def test_the_roles_are_those_that_the_words_say(parts: dict[str, dict[str, Any]]) -> None:
    task = made(parts, data={"train_images": 30})
    assert isinstance(task.val, Images)
    assert [len(split) for split in (task.train, task.val, task.test)] == [30, 20, 20]
    assert task.roles["val"].startswith("20 of 40 test images (seed 0), because the weights have seen")
    with np.load(parts["data"]["path"]) as held:
        whole = torch.from_numpy(held["x_test"]).permute(0, 3, 1, 2)
    assert isinstance(task.test, Images)
    both = torch.cat([task.val.pixels, task.test.pixels]).flatten(1)
    assert sorted(both.tolist()) == sorted(whole.flatten(1).tolist()), "halves of the test images, none twice"


def test_the_weights_are_those_of_the_file(parts: dict[str, dict[str, Any]]) -> None:
    torch.manual_seed(0)
    wanted = small()
    task = made(parts)
    assert not task.model.training
    assert all(torch.equal(task.model.state_dict()[key], value) for key, value in wanted.state_dict().items())
    inputs, targets = next(iter(task.val.batches(None)))
    with torch.no_grad():
        wrong = (wanted.eval()(inputs).argmax(1) != targets).float().mean()
    assert score(task.model, task.val.batches(None), task.errors) == pytest.approx(float(wrong))


def test_a_task_can_be_made_again_from_its_origin(parts: dict[str, dict[str, Any]]) -> None:
    task = made(parts, data={"val_images": 12})
    again = make_task(task.origin, device="cpu")
    assert (again.fingerprint, again.roles) == (task.fingerprint, task.roles)
    assert made(parts, data={"mean": [0.4]}).fingerprint != made(parts).fingerprint
    assert made(parts, data={"seed": 1}).fingerprint != made(parts).fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"source": "timn"}}, "no source of models is called 'timn'"),
        ({"model": {"weights": None}}, "task.model.weights is missing: a file with trained weights"),
        ({"model": {"weights": "nowhere.th"}}, "weights: no file at nowhere.th"),
        ({"model": {"trained_on": None}}, "task.model.trained_on must say what the weights have seen"),
        ({"model": {"arguments": {"classes": 4}}}, r"other shape: 4.weight"),
        ({"model": {"trianed_on": "train"}}, "task has no setting 'trianed_on'"),
        ({"data": {"source": "npy"}}, "no source of images is called 'npy'. Did you mean 'npz'"),
        ({"data": {"path": "nowhere.npz"}}, "data: no file at nowhere.npz"),
        ({"data": {"path": None}}, "task.data.path is missing; images from 'npz' need it"),
        ({"data": {"pth": "x"}}, "task has no setting 'pth'. Did you mean 'path'"),
        ({"data": {"mean": None}}, "task.data.mean is missing: a number per channel"),
        ({"data": {"mean": [0.5, 0.5]}}, "mean has 2 numbers, the images have 1 channels"),
        ({"data": {"std": "a"}}, "task.data.std must be a list of numbers, one per channel, got 'a'"),
        ({"data": {"val": "train"}}, "the weights have seen all training images"),
        ({"data": {"train_images": 61}}, "task.data.train_images must be a whole number, 1 to 60, got 61"),
        ({"data": {"mean": [float("nan")]}}, r"task.data.mean must be a list of numbers, one per channel, got \[nan\]"),
        ({"data": {"std": [True]}}, r"task.data.std must be a list of numbers, one per channel, got \[True\]"),
        ({"data": {"batch": "abc"}}, "task.data.batch must be a whole number, 1 or more, got 'abc'"),
        ({"data": {"flip": "word"}}, "task.data.flip must be true or false, got 'word'"),
        ({"data": {"path": 3}}, "task.data.path must be text, got 3"),
        ({"data": {"source": "imagefolder", "path": None, "root": 3}}, "task.data.root must be text, got 3"),
        (
            {"data": {"source": "torchvision", "path": None, "name": 3, "root": "x"}},
            "task.data.name must be text, got 3",
        ),
        ({"data": {"source": "module", "path": None, "target": 3}}, "task.data.target must be text, got 3"),
    ],
)
def test_what_does_not_fit_is_refused(parts: dict[str, dict[str, Any]], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParetuneError, match=message):
        made(parts, **changes)


def test_labels_of_an_npz_tell_the_least_number_of_classes(parts: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    def of(classes: int) -> dict[str, Any]:
        torch.save(small(classes).state_dict(), tmp_path / f"{classes}.pth")
        return {"arguments": {"classes": classes}, "weights": str(tmp_path / f"{classes}.pth")}

    assert made(parts, model=of(5)).example().shape == (1, 1, 6, 6)
    said = "the model has 2 classes and the data at least 3 classes; take weights trained for at least 3 classes, or "
    with pytest.raises(ParetuneError, match=said + r"task\.model\.weights=train"):
        made(parts, model=of(2))


def test_weights_are_not_said_to_have_missed_what_they_were_published_for() -> None:
    model = {"source": "cifar", "model": "resnet20", "weights": "pretrained", "trained_on": "other"}
    data = {"source": "torchvision", "name": "CIFAR10", "root": "nowhere", "mean": [0.485, 0.456, 0.406]}
    with pytest.raises(ParetuneError, match="have seen all training images of CIFAR10; use trained_on=train"):
        classification(model=model, data={**data, "std": [0.229, 0.224, 0.225]})


# images in folders


@pytest.fixture
def pictures(tmp_path: Path, parts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same network, and 48 training and 24 test images of three classes and many sizes, for workers."""
    for part, count in (("train", 48), ("test", 24)):
        for number in range(count):
            path = tmp_path / "pictures" / part / "abc"[number % 3] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            chance = np.random.default_rng(number + 100 * (part == "test"))
            Image.fromarray(chance.integers(0, 256, (6 + number % 5, 9), dtype=np.uint8)).save(path)
    source = {"source": "imagefolder", "root": str(tmp_path / "pictures"), "size": 6, "load": "workers", "workers": 0}
    return {"model": parts["model"], "data": {**source, "mean": [0.5], "std": [0.25], "batch": 8}}


def test_files_get_the_same_roles_as_arrays(pictures: dict[str, dict[str, Any]]) -> None:
    tasks = [made(pictures, data=data) for data in ({}, {"load": "memory", "workers": None})]
    assert [[len(split) for split in (task.train, task.val, task.test)] for task in tasks] == [[48, 12, 12]] * 2
    streams, arrays = tasks
    assert isinstance(streams.val, Streamed)
    assert isinstance(arrays.val, Images)
    assert streams.val.targets.tolist() == arrays.val.targets.tolist()
    assert {key: streams.roles[key] for key in arrays.roles} == arrays.roles
    assert "short side 7, middle 6; for training 0.08 to 1 of the area" in streams.roles["images"]


def test_files_resized_to_the_same_side_are_the_same_images(pictures: dict[str, dict[str, Any]]) -> None:
    batches = [next(iter(made(pictures, data=data).val.batches(None)))[0][:8] for data in (
        {"resize": 6}, {"load": "memory"}, {"load": "memory", "resize": 7}, {},
    )]  # fmt: skip
    assert torch.equal(batches[0], batches[1])
    assert torch.equal(batches[2], batches[3])
    assert not torch.equal(batches[0], batches[3])


def test_a_study_reads_files_through_workers(pictures: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    task = made(pictures, data={"workers": 1})
    space = {
        "groups": [{"match": "*", "ratio": [0.0, 0.25]}],
        "layers": [{"match": "*", "weight_bits": [4, 8]}],
        "activation_bits": 8,
        "criterion": "l2",
        "recover": {"epochs": 1, "lr": 0.02},
    }
    study = run_study(task, space=space, trials=3, out=tmp_path / "study", sampler="random", objectives=OBJECTIVES)
    trials = study.findings().trials
    assert [trial.status for trial in trials] == ["done"] * 3, [trial.reason for trial in trials]
    assert any("finetune" in trial.seconds for trial in trials)
    again = made(pictures, data={"workers": 0})
    assert again.fingerprint == task.fingerprint
    assert "images" in json.loads((tmp_path / "study" / "provenance.json").read_text())["roles"]


def test_the_fingerprint_of_files_knows_names_sizes_and_normalisation(pictures: dict[str, dict[str, Any]]) -> None:
    first = made(pictures).fingerprint
    assert made(pictures, data={"crop": [0.5, 1], "flip": False}).fingerprint == first
    assert made(pictures, data={"mean": [0.4]}).fingerprint != first
    root = Path(pictures["data"]["root"])
    (root / "test" / "a" / "0.png").rename(root / "test" / "a" / "00.png")
    assert made(pictures).fingerprint != first


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, Images),
        ({"limit_bytes": 72 * 36}, Images),  # all are grey
        ({"limit_bytes": 72 * 36 - 1}, Streamed),
        ({"crop": [0.5, 1]}, Streamed),
        ({"load": "workers"}, Streamed),
        ({"load": "memory", "resize": 9}, Images),
    ],
)
def test_images_that_do_not_fit_are_left_to_workers(
    pictures: dict[str, dict[str, Any]], settings: dict[str, Any], kind: type
) -> None:
    assert isinstance(made(pictures, data={"load": "auto", **settings}).train, kind)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mean": [0.5, 0.5], "std": [1, 1]}, "mean has 2 numbers, the images have 1 channels"),
        ({"mean": [0.5, 0.5]}, "mean and std need one number per channel each"),
        ({"pad": 4}, "task.data.pad=4 is for images in memory and not used by workers, .*; set task.data.pad=0"),
        ({"std": [0]}, "std divides, so each of its numbers must be above 0"),
        ({"batch": 0}, "task.data.batch must be a whole number, 1 or more, got 0"),
        ({"size": 7}, "the model's forward fails on"),
        ({"size": None, "load": "memory"}, r"images of mixed size, .*; set task.data.size=6"),
        ({"load": "worker"}, "no way for task.data.load is called 'worker'. Did you mean 'workers'"),
        (
            {"load": "workers", "size": None},
            "task.data.size is missing: load=workers and task.data.crop cut every image",
        ),
        ({"size": None, "crop": [0.5, 1], "load": "auto"}, "task.data.size is missing"),
        ({"size": None, "resize": 9, "load": "auto"}, "task.data.resize needs task.data.size"),
        ({"resize": 5}, "task.data.resize must be a whole number, task.data.size=6 or more, got 5"),
        ({"resize": 9.5}, "task.data.resize must be .* got 9.5"),
        ({"crop": [0, 1]}, r"task.data.crop must be \[low, high\], shares .* in \(0, 1\], got \[0, 1\]"),
        ({"crop": [0.5, 0.4]}, r"task.data.crop must be .* got \[0.5, 0.4\]"),
        ({"crop": [0.5, 1.1]}, r"task.data.crop must be .* got \[0.5, 1.1\]"),
        ({"crop": 0.5}, "task.data.crop must be .* got 0.5"),
        ({"crop": ["a", "b"]}, "task.data.crop must be .* got"),
        ({"crop": [0.5, 1], "load": "memory"}, "task.data.crop is for load=workers"),
        ({"workers": -1}, "task.data.workers must be auto or a whole number, 0 or more, got -1"),
        ({"workers": "all"}, "task.data.workers must be auto .* got 'all'"),
    ],
)
def test_what_workers_cannot_do(pictures: dict[str, dict[str, Any]], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ParetuneError, match=said):
        made(pictures, data=settings)


def test_folders_of_other_classes_are_refused(pictures: dict[str, dict[str, Any]]) -> None:
    root = Path(pictures["data"]["root"])
    (root / "test" / "d").mkdir()
    with pytest.raises(ParetuneError, match=r"the class folder .*d has no images"):
        made(pictures)
    shutil.copy(root / "test" / "a" / "0.png", root / "test" / "d")
    with pytest.raises(ParetuneError, match="train and test have different class folders: only test has d"):
        made(pictures)
    shutil.copytree(root / "test" / "d", root / "train" / "d")
    with pytest.raises(ParetuneError, match="the model has 3 classes and the data 4 classes"):
        made(pictures)


@pytest.mark.slow
@pytest.mark.parametrize(("net", "wrong"), [("resnet20", 827), ("resnet56", 661)])
def test_the_published_checkpoints_have_their_published_error(net: str, wrong: int, tmp_path: Path) -> None:
    """91.73 % and 93.39 % of CIFAR-10's 10,000 test images (https://github.com/akamaster/pytorch_resnet_cifar10)."""
    weights, maker = shared(f"data/weights/akamaster_cifar10_{net}.th"), shared("tools/cifar10_npz.py")
    file = tmp_path / "cifar10.npz"
    space: dict[str, Any] = {"__file__": str(maker), "__name__": "cifar10_npz"}
    exec(compile(maker.read_text(encoding="utf-8"), str(maker), "exec"), space)
    images, labels = space["split"]("test")
    np.savez(file, x_train=images[:10], y_train=labels[:10], x_test=images, y_test=labels)
    task = classification(
        model={"source": "cifar", "model": net, "weights": str(weights), "trained_on": "train"},
        data={"source": "npz", "path": str(file), "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    )
    found = [round(score(task.model, split.batches(None), task.errors) * len(split)) for split in (task.val, task.test)]
    assert sum(found) == wrong
