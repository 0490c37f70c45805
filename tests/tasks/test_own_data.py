"""Data from one's own callable: data sets or loaders, and a message for everything else."""

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from paretune.errors import ParetuneError
from paretune.search.study import run_study
from paretune.tasks.classification import classification
from paretune.tasks.own import Loaded
from paretune.tasks.own_data import Three, from_module
from paretune.tasks.raw import Raw, Unread
from paretune.tasks.streamed import Streamed
from paretune.tasks.task import Task, score


def small(classes: int = 3) -> nn.Module:
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes)
    return nn.Sequential(*layers)


class Noisy(Dataset[tuple[Any, int]]):
    """Images (1, 6, 6) that are their number; with `noise` from all three generators added in training."""

    classes = ("ant", "bee", "cow")

    def __init__(self, count: int, *, noise: bool = False, targets: bool = True) -> None:
        self.noise, self.count = noise, count
        if targets:
            self.targets = [number % 3 for number in range(count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = torch.full((1, 6, 6), float(index))
        if self.noise:
            image = image + torch.rand(1, 6, 6) + random.random() + np.random.rand()
        return image, index % 3


def batches(count: int, batch: int = 8) -> list[tuple[Tensor, Tensor]]:
    numbers = torch.arange(count)
    inputs = numbers[:, None, None, None].expand(-1, 1, 6, 6).float()
    return list(zip(inputs.split(batch), (numbers % 3).split(batch), strict=True))


MADE: dict[str, Callable[..., Any]] = {
    "two": lambda train=30, **more: (Noisy(train, noise=True, **more), Noisy(20, **more)),
    "three_sets": lambda: [Noisy(30, noise=True), Noisy(10), Noisy(20)],
    "loaders": lambda: (DataLoader(Noisy(30), batch_size=8, shuffle=True), batches(10), batches(20)),
}


@pytest.fixture
def give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The parts of a task whose data are what a callable returns: one of MADE, or anything by its value."""
    torch.manual_seed(0)
    torch.save(small().state_dict(), tmp_path / "w.pth")

    def parts(made: Any, **data: Any) -> dict[str, Any]:
        module = ModuleType("own_things")
        make = MADE[made] if isinstance(made, str) else (made if callable(made) else lambda: made)
        module.__dict__.update(small=small, make=make, number=3)
        monkeypatch.setitem(sys.modules, "own_things", module)
        model = {"source": "module", "target": "own_things.small", "input_shape": [1, 6, 6]}
        return {
            "model": {**model, "weights": str(tmp_path / "w.pth"), "trained_on": "train"},
            "data": {"source": "module", "target": "own_things.make", "workers": 0, "batch": 8, **data},
        }

    return parts


def inputs_of(task: Task, role: str, seed: int | None) -> Tensor:
    return torch.cat([inputs for inputs, _ in getattr(task, role).batches(seed)])


def test_of_two_data_sets_the_roles_are_made(give: Callable[..., Any]) -> None:
    task = classification(**give("two"))
    assert isinstance(task.val, Streamed)
    assert [len(split) for split in (task.train, task.val, task.test)] == [30, 10, 10]
    assert "because the weights have seen all training images" in task.roles["val"]
    both = torch.cat([inputs_of(task, role, None) for role in ("val", "test")])[:, 0, 0, 0]
    assert sorted(both.tolist()) == list(range(20)), "as the user's transforms left them"
    assert task.roles["images"].startswith("read while they are needed, through the transforms of the data set")


@pytest.mark.parametrize("workers", [1, 2])
def test_random_transforms_depend_on_the_seed_alone(give: Callable[..., Any], workers: int) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[union-attr]
    alone, helped = (classification(**give("two", workers=n)) for n in (0, workers))
    one, other, two = inputs_of(alone, "train", 1), inputs_of(helped, "train", 1), inputs_of(alone, "train", 2)
    assert torch.equal(one, other)
    assert not torch.equal(one.flatten().sort().values, two.flatten().sort().values)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[union-attr]
    torch.manual_seed(0)  # the network is made under a seed of its own; data must not disturb what follows
    state = torch.get_rng_state()
    inputs_of(alone, "train", 3)
    assert torch.equal(torch.get_rng_state(), state)


def test_class_numbers_come_from_targets_or_from_one_pass(give: Callable[..., Any]) -> None:
    for arguments in ({}, {"targets": False}):
        give("two")
        raw = from_module("own_things.make", arguments, workers=0)
        assert isinstance(raw, Raw)
        assert isinstance(raw.train, Unread)
        assert raw.train.targets.tolist() == [number % 3 for number in range(30)]
        assert raw.classes == ("ant", "bee", "cow")
    give((Subset(Noisy(9), [1, 4, 8]), TensorDataset(torch.ones(4, 1, 6, 6), torch.tensor([0, 4, 0, 0]))))
    raw = from_module("own_things.make", workers=0)
    assert isinstance(raw, Raw)
    assert isinstance(raw.train, Unread)
    assert (raw.train.targets.tolist(), raw.classes) == ([1, 1, 2], ("0", "1", "2", "3", "4"))


def test_pictures_and_bytes_become_numbers_from_0_to_1(give: Callable[..., Any]) -> None:
    pixels = np.arange(36, dtype=np.uint8).reshape(6, 6)
    pairs = [(Image.fromarray(pixels), 0), (torch.from_numpy(pixels)[None], 1), (Image.fromarray(pixels), 2)]
    task = classification(**give((pairs, pairs), val="contaminated_train", val_share=0.4))
    for image in inputs_of(task, "test", None):
        assert torch.equal(image[0], torch.from_numpy(pixels).float() / 255)


def test_three_data_sets_are_in_the_roles_that_you_say(give: Callable[..., Any]) -> None:
    task = classification(**give("three_sets"))
    assert isinstance(task.val, Streamed)
    assert inputs_of(task, "val", None)[:, 0, 0, 0].tolist() == list(range(10))
    assert task.roles["val"] == "10 samples, your own choice"
    assert task.roles["weights"] == "have seen all training samples (trained_on=train)"


def test_three_loaders_are_used_as_they_are(give: Callable[..., Any]) -> None:
    task = classification(**give("loaders"))
    assert isinstance(task.train, Loaded)
    assert [len(split) for split in (task.train, task.val, task.test)] == [30, 10, 20]
    assert [len(targets) for _, targets in task.train.batches(0)] == [8, 8, 8, 6]
    assert task.roles["train"] == "30 samples, your own choice"
    again = classification(**give("loaders"))
    assert again.fingerprint == task.fingerprint
    other = classification(**give((batches(30), batches(10), batches(21))))
    assert other.fingerprint != task.fingerprint
    parts = give("loaders")
    parts["model"]["trained_on"] = None
    with pytest.raises(ParetuneError, match=r"task.model.trained_on must say what the weights have seen"):
        classification(**parts)


def test_the_fingerprint_changes_with_the_data_and_not_with_chance(give: Callable[..., Any]) -> None:
    class Unseeded(Noisy):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            return torch.from_numpy(np.random.default_rng().random((1, 6, 6), dtype=np.float32)), index % 3

    first = classification(**give("two")).fingerprint
    assert classification(**give("two")).fingerprint == first
    assert classification(**give("two", arguments={"train": 33})).fingerprint != first
    scaled = [(2 * image, label) for image, label in (Noisy(20)[i] for i in range(20))]
    assert classification(**give((Noisy(30, noise=True), scaled))).fingerprint != first
    one, other = (classification(**give((Unseeded(9), Noisy(8)))).fingerprint for _ in range(2))
    assert one == other


@pytest.mark.parametrize("made", ["two", "loaders"])
def test_a_study_runs_on_them(give: Callable[..., Any], tmp_path: Path, made: str) -> None:
    task = classification(**give(made))
    space = {
        "groups": [{"match": "*", "ratio": [0.0, 0.25]}],
        "layers": [{"match": "*", "weight_bits": [4, 8]}],
        "activation_bits": 8,
        "criterion": "l2",
        "recover": {"epochs": 1, "lr": 0.001},
    }
    study = run_study(task, space=space, trials=2, out=tmp_path / "own", objectives=("top1_error", "size_bytes"))
    dense = study.findings().trials[0].values["top1_error"]
    assert dense == pytest.approx(score(task.model, task.val.batches(None), task.errors))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from batches(4)


def failing() -> None:
    raise OSError("no disk\nat all")


def once() -> Iterator[Any]:
    yield from batches(4)


GOOD = batches(4)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (failing, r"own_things.make failed \(OSError: no disk\)"),
        (None, r"must return two data sets \(train, test\) or three .*, not a NoneType"),
        ([Noisy(3)], "must return two data sets .*, not 1 things"),
        ((Noisy(3), 4), "must return two data sets .*, not two of Noisy and int"),
        ((DataLoader(Noisy(3)), DataLoader(Noisy(3))), "not two of DataLoader and DataLoader"),
        ((Stream(), Stream()), "not two of Stream and Stream"),
        ((Noisy(3), Noisy(0)), "the test data set is empty"),
        ((Noisy(3), [("a", 1)]), r"sample 0 of test cannot be read \(the image is a str; needed is a PIL image or a"),
        ((Noisy(3), [(torch.ones(1), 0.5)]), r"sample 0 of test .*\(the class is 0.5; needed is a whole number"),
        ((Noisy(3), [(torch.ones(1), -1)]), "the class is -1"),
        ((Noisy(3), [torch.ones(1)]), r"sample 0 of test .*\(a Tensor, needed are an image and a class number"),
        ((Noisy(3), [(torch.ones(1), 0), (torch.ones(2), 0)]), r"sample 1 of test .*\(2,\) float32, the first of its"),
        ((GOOD, GOOD, []), "the test loader is empty"),
        ((GOOD, 3, GOOD), r"the val loader is a int; needed are \(inputs, targets\) batches"),
        ((GOOD, [torch.ones(2)], GOOD), "the val loader gives a Tensor; needed are"),
        ((GOOD, Noisy(4), GOOD), r"the val loader is a Noisy; needed are \(inputs, targets\) batches"),
        ((GOOD, [(torch.ones(1), 0)], GOOD), r"the val loader gives a tuple; needed are \(inputs, targets\) batches"),
        ((GOOD, once(), GOOD), "the val loader can be read only once; give a DataLoader or a list"),
    ],
)
def test_what_a_callable_must_not_return(give: Callable[..., Any], made: Any, said: str) -> None:
    give(made)
    with pytest.raises(ParetuneError, match=said):
        from_module("own_things.make", workers=0)


def test_targets_that_are_none(give: Callable[..., Any]) -> None:
    wrong = Noisy(3)
    wrong.targets = [0, 1]
    give((wrong, Noisy(3)))
    with pytest.raises(ParetuneError, match="`targets` of train must be 3 numbers from 0"):
        from_module("own_things.make", workers=0)


def test_an_iterable_data_set_that_makes_batches_is_a_loader(give: Callable[..., Any]) -> None:
    give((Stream(), Stream(), Stream()))
    assert isinstance(from_module("own_things.make"), Three)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"target": "own_thinks.make"}, "data.target 'own_thinks.make' cannot be imported"),
        ({"target": "own_things.nothing"}, "data.target 'own_things.nothing' cannot be imported"),
        ({"target": "own_things.number"}, "data.target 'own_things.number' is not callable"),
        ({"target": None}, "task.data.target is missing; images from 'module' need it"),
        ({"_target_": "own_things.make"}, r"task has no setting '_target_'\. Did you mean 'target'\?"),
        ({"arguments": {"trian": 3}}, "got an unexpected keyword argument 'trian'"),
        ({"arguments": [3]}, r"task.data.arguments must be names and values, got \[3\]"),
        ({"workers": -2}, "task.data.workers must be auto or a whole number"),
        ({"mean": [0.5]}, "task.data.mean is not for data=module, whose own transforms do that; leave it out"),
        ({"std": [0.5]}, "task.data.std is not for data=module"),
        ({"pad": 4}, "task.data.pad is not for data=module"),
        ({"flip": True}, "task.data.flip is not for data=module"),
        ({"val": "train"}, "task.data.val: the three parts of your data are its roles; leave it out"),
        ({"train_images": 3}, "task.data.train_images: the three parts of your data are its roles"),
    ],
)
def test_settings_that_do_not_fit(give: Callable[..., Any], data: dict[str, Any], said: str) -> None:
    with pytest.raises(ParetuneError, match=said):
        classification(**give("loaders", **data))


def test_more_classes_than_the_network_has_are_refused(give: Callable[..., Any]) -> None:
    more = [(inputs, targets + 1) for inputs, targets in batches(9)]
    with pytest.raises(ParetuneError, match="the model has 3 classes and the data at least 4 classes"):
        classification(**give((more, more, more)))
    with pytest.raises(ParetuneError, match="the model has 3 classes and the data at least 5 classes"):
        classification(**give(([(torch.ones(1, 6, 6), 4), (torch.ones(1, 6, 6), 0)], Noisy(4)), val_share=0.5))


class Late(Noisy):
    """Sets that are read up to a label which no network of three classes has; `targets` do not tell."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = super().__getitem__(index)
        return image, 7 if index == self.count - 1 else label


@pytest.mark.parametrize("role", ["train", "val", "test"])
@pytest.mark.parametrize("loaders", [True, False])
def test_a_late_label_that_no_class_has_is_told(give: Callable[..., Any], role: str, loaders: bool) -> None:
    made = {name: (Late if name == role else Noisy)(40) for name in ("train", "val", "test")}
    held = [DataLoader(one, batch_size=8) if loaders else one for one in made.values()]
    for one in made.values():
        one.targets = [0] * 40  # so that the labels are not known beforehand

    def whole_pass() -> None:
        task = classification(**give(tuple(held)))
        for _ in getattr(task, role).batches(0 if role == "train" else None):
            pass

    with pytest.raises(ParetuneError, match=r"there is the label 7, and the network tells 3 classes apart, 0 to 2"):
        whole_pass()


def test_training_stops_at_a_label_that_no_class_has(
    give: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    parts = give(tuple(DataLoader(one, batch_size=8) for one in (Late(40), Noisy(16), Noisy(16))))
    parts["model"] |= {"weights": "train", "trained_on": None, "train": {"epochs": 1}}
    with pytest.raises(ParetuneError, match="there is the label 7"):
        classification(**parts)


def test_labels_that_are_known_are_looked_at_before_anything_runs(give: Callable[..., Any]) -> None:
    wrong = Noisy(20)
    wrong.targets[-1] = 3
    with pytest.raises(ParetuneError, match="the model has 3 classes and the data at least 4 classes"):
        classification(**give((Noisy(20), Noisy(20), wrong)))


def test_data_of_ones_own_train_once(give: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))

    def trained(**data: Any) -> int:
        parts = give("two", **data)
        parts["model"] |= {"weights": "train", "trained_on": None, "train": {"epochs": 1}}
        classification(**parts)
        return len(list((tmp_path / "cache").glob("*.safetensors")))

    assert [trained(), trained(), trained(arguments={"train": 33})] == [1, 1, 2]


def test_what_cannot_be_read_for_the_fingerprint_is_named(give: Callable[..., Any]) -> None:
    class Broken(Noisy):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            if index == 2:
                raise OSError("disk gone")
            return super().__getitem__(index)

    with pytest.raises(ParetuneError, match=r"sample 2 of train cannot be read \(disk gone\)"):
        classification(**give((Broken(30), Noisy(20))))
