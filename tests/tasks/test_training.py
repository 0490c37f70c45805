"""Training from scratch: the same seed the same weights, kept, resumed, and never a look at val or test."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paretune.errors import ParetuneError
from paretune.tasks import training
from paretune.tasks.images import Images
from paretune.tasks.task import misclassified, score
from paretune.tasks.training import Training, digest, rate, train_once, training_of

HOW = Training(epochs=3, lr=0.05, seed=1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def bright(count: int, seed: int = 0) -> Images:
    """Noise in which one of three rows of pixels is brighter: its number is the class."""
    chance = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 3
    pixels = torch.randint(0, 100, (count, 1, 6, 6), generator=chance, dtype=torch.uint8)
    for row in range(3):
        pixels[targets == row, :, 2 * row] += 120
    return Images(pixels=pixels, targets=targets, mean=(0.3,), std=(0.3,), batch=32, pad=0)


def tiny(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1),
            nn.Linear(216, 3),
        )  # fmt: skip


class Recorder:
    """A split that remembers with which seeds it was read."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.seeds: list[int | None] = []

    def __len__(self) -> int:
        return len(self.images)

    def steps(self) -> int:
        return self.images.steps()

    def batches(self, seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        self.seeds.append(seed)
        yield from self.images.batches(seed)


def trained(how: Training = HOW, *, net: nn.Module | None = None, train: Any = None, val: Any = None) -> nn.Module:
    net = net or tiny()
    train_once(net, train or bright(96), val or bright(30, 7), how, name="tiny")
    return net


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[key], theirs[key]) for key in mine)


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*.safetensors"))


def never(*_: Any) -> None:
    raise AssertionError("it was trained again")


def test_it_learns_images_that_it_never_saw() -> None:
    net = trained(replace(HOW, epochs=8), train=bright(192))
    assert not net.training
    assert score(net, bright(60, 9).batches(None), misclassified) < 0.1


def test_the_same_seed_trains_the_same_weights_and_leaves_the_callers_chance_alone(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    first = trained()
    drawn = torch.rand(1)
    monkeypatch.setenv("PARETUNE_CACHE", str(cache / "another"))
    assert same(first, trained())
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)
    assert not same(first, trained(replace(HOW, seed=2)))


def test_what_was_trained_is_read_the_second_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trained()
    monkeypatch.setattr(training, "_epoch", never)
    second = trained()
    assert same(first, second)
    assert not second.training
    (name,) = kept(cache)
    assert name.startswith("trained-tiny-")
    assert not list(cache.glob("*.partial*"))


@pytest.mark.parametrize(
    "changed",
    [
        {"how": replace(HOW, epochs=2)},
        {"how": replace(HOW, lr=0.04)},
        {"how": replace(HOW, weight_decay=0.0)},
        {"how": replace(HOW, label_smoothing=0.1)},
        {"how": replace(HOW, seed=2)},
        {"net": tiny(5)},
        {"train": bright(96, 1)},
        {"train": bright(95)},
        {"train": replace(bright(96), pad=1)},
        {"train": replace(bright(96), batch=16)},
    ],
    ids=" ".join,
)
def test_whatever_changes_the_weights_is_kept_beside_the_others(cache: Path, changed: dict[str, Any]) -> None:
    trained()
    trained(**changed)
    assert len(kept(cache)) == 2


class Bent(nn.Module):
    """Prints alike, whatever function of PyTorch it applies."""

    def __init__(self, bend: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.bend = nn.Linear(36, 3), bend

    def forward(self, x: Tensor) -> Tensor:
        return self.bend(self.head(x.flatten(1)))


def test_networks_that_print_alike_and_compute_other_things_are_kept_apart(cache: Path) -> None:
    for bend in (torch.relu, torch.tanh, torch.nn.functional.gelu):
        trained(net=Bent(bend))
    assert len(kept(cache)) == 3
    trained(net=Bent(torch.tanh))
    assert len(kept(cache)) == 3


def test_what_was_asked_for_and_the_recipe_are_kept_apart(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in ({"target": "mine.a"}, {"target": "mine.b"}, {"target": "mine.b", "arguments": {"p": 0.5}}):
        train_once(tiny(), bright(96), bright(30, 7), HOW, name="tiny", asked=asked)
    assert len(kept(cache)) == 3
    monkeypatch.setattr(training, "RECIPE", training.RECIPE + 1)
    train_once(tiny(), bright(96), bright(30, 7), HOW, name="tiny", asked=asked)
    assert len(kept(cache)) == 4


def test_a_cache_folder_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ParetuneError, match=r"the cache folder .*cache cannot be written .*; set PARETUNE_CACHE to"):
        trained()


def test_the_validation_images_change_nothing(cache: Path) -> None:
    first = trained()
    assert same(first, trained(val=bright(12, 8)))
    assert len(kept(cache)) == 1


def test_validation_images_are_only_scored_and_never_trained_on() -> None:
    train, val = Recorder(bright(96)), Recorder(bright(30, 7))
    trained(train=train, val=val)
    assert set(val.seeds) == {None}
    assert len(val.seeds) == HOW.epochs, "once behind every epoch"
    seeds = [seed for seed in train.seeds if seed is not None]
    assert len(set(seeds)) == len(seeds) == HOW.epochs, "another order every epoch"


@pytest.mark.parametrize("done", [1, 2])
def test_killed_and_resumed_is_as_if_it_had_not_been(
    cache: Path, monkeypatch: pytest.MonkeyPatch, done: int, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = trained()
    monkeypatch.setenv("PARETUNE_CACHE", str(cache / "killed"))
    run: Callable[..., float] = training._epoch

    def killed(*args: Any) -> float:
        if args[4] == done:
            raise KeyboardInterrupt("killed here")
        return run(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch", killed)
        with pytest.raises(KeyboardInterrupt, match="killed here"):
            trained()
    assert not kept(cache / "killed")
    capsys.readouterr()
    assert same(whole, trained())
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"training tiny: goes on behind epoch {done} of 3"
    assert len(told) == 1 + HOW.epochs - done


@pytest.mark.parametrize("suffix", ["safetensors", "partial"])
def test_a_damaged_file_is_made_again(cache: Path, suffix: str) -> None:
    whole = trained()
    (path,) = cache.glob("*.safetensors")
    path.unlink()
    path.with_suffix(f".{suffix}").write_bytes(b"damaged")
    assert same(whole, trained())


def test_a_line_per_epoch_says_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    trained()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("training tiny: epoch 2 of 3, loss ")
    assert " %, about " in lines[1]
    assert lines[2].endswith(" %"), "nothing is left behind the last"


class Viewer(nn.Module):
    """A forward that takes pixels to lie channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        logits: Tensor = self.head(y.view(len(y), -1))
        return logits


def test_a_forward_that_needs_channels_first_gets_them() -> None:
    assert trained(net=Viewer()).state_dict()["conv.weight"].is_contiguous()
    assert training._layout(Viewer(), torch.rand(2, 1, 6, 6)) is torch.contiguous_format
    assert training._layout(tiny(), torch.rand(2, 1, 6, 6)) is torch.channels_last


def test_a_loss_that_is_no_number_is_told_and_nothing_is_kept(cache: Path) -> None:
    with pytest.raises(ParetuneError, match=r"training tiny diverged in epoch 1; task.model.train.lr=1e\+30 is too"):
        trained(Training(epochs=1, lr=1e30), net=nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Linear(3, 3)))
    assert not kept(cache)


class Two(nn.Module):
    """Gives its auxiliary outputs too while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Any:
        y = self.head(x.flatten(1))
        return (y, y) if self.training else y


def test_a_network_with_two_outputs_cannot_be_trained_here() -> None:
    with pytest.raises(ParetuneError, match="tiny gives a tuple in train mode, not one tensor"):
        trained(net=Two())


@pytest.mark.parametrize("steps", [1, 7, 400])
def test_the_rate_rises_in_a_line_and_falls_as_half_a_cosine(steps: int) -> None:
    rates = [rate(step, steps, 0.2) for step in range(steps)]
    warm = max(1, steps // 20)
    assert rates[:warm] == pytest.approx([0.2 * (k + 1) / warm for k in range(warm)])
    middle = warm + (steps - warm) / 2
    if middle == int(middle) and middle < steps:
        assert rates[int(middle)] == pytest.approx(0.1)
    assert all(a >= b > 0 for a, b in zip(rates[warm:], rates[warm + 1 :], strict=False))
    assert max(rates) == pytest.approx(0.2)
    assert steps == 1 or math.isclose(rate(steps, steps, 0.2), 0.0, abs_tol=1e-12)


def test_a_digest_is_of_the_images_and_not_of_the_object() -> None:
    assert digest(bright(9)) == digest(bright(9))
    assert digest(bright(9)) != digest(replace(bright(9), flip=False))
    assert digest(Recorder(bright(9))) != digest(Recorder(bright(9, 1)))


def test_images_that_are_others_at_every_pass_are_refused(cache: Path) -> None:
    class Fickle(Recorder):
        def batches(self, seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
            self.seeds.append(seed)
            yield from bright(96, len(self.seeds)).batches(seed)

    with pytest.raises(ParetuneError, match="the images that train are others at every clean pass"):
        trained(train=Fickle(bright(96)))
    assert not kept(cache)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"epoch": 3}, r"task.model.train has no setting 'epoch'\. Did you mean 'epochs'"),
        ({"epochs": 0}, r"task.model.train.epochs must be a whole number, 1 or more, got 0"),
        ({"epochs": 2.5}, r"task.model.train.epochs must be a whole number, 1 or more, got 2\.5"),
        ({"seed": -1}, r"task.model.train.seed must be a whole number, 0 to 1000000000000, got -1"),
        ({"seed": 10**15}, r"task.model.train.seed must be a whole number, 0 to 1000000000000, got 10{15}"),
        ({"epochs": True}, r"task.model.train.epochs must be a whole number, 1 or more, got True"),
        ({"lr": 0}, r"task.model.train.lr must be a number above 0, got 0"),
        ({"lr": "fast"}, r"task.model.train.lr must be a number above 0, got 'fast'"),
        ({"weight_decay": float("nan")}, r"task.model.train.weight_decay must be a number 0 or more, got nan"),
        ({"label_smoothing": 1}, r"task.model.train.label_smoothing must be a number in \[0, 1\), got 1"),
        (30, r"task.model.train holds settings such as epochs and lr, got 30"),
    ],
)
def test_settings_that_cannot_be_are_told(given: Any, told: str) -> None:
    with pytest.raises(ParetuneError, match=told):
        training_of(given)


def test_what_is_not_given_has_its_default() -> None:
    assert training_of(None) == training_of({"lr": None}) == Training()
    assert training_of({"epochs": 5, "lr": 1}) == Training(epochs=5, lr=1)
