"""The digits task: fixed roles, trained once, made again when the cache is damaged."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from paretune.errors import ParetuneError
from paretune.tasks import digits as module
from paretune.tasks.digits import digits
from paretune.tasks.memory import InMemory
from paretune.tasks.resnet import ResNet
from paretune.tasks.task import Task, score

WIDTHS = (4, 4)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """One epoch of training, into an empty cache folder."""
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "EPOCHS", 1)
    return tmp_path


def rows(task: Task) -> dict[str, InMemory]:
    return {"train": task.train, "val": task.val, "test": task.test}  # type: ignore[dict-item]


def weights(task: Task) -> dict[str, torch.Tensor]:
    return task.model.state_dict()


def same(one: Task, other: Task) -> bool:
    return all(torch.equal(value, weights(other)[key]) for key, value in weights(one).items())


def test_the_roles_are_disjoint_and_complete(digits_task: Task) -> None:
    sets = {role: {image.numpy().tobytes() for image in split.inputs} for role, split in rows(digits_task).items()}
    assert {role: len(split) for role, split in rows(digits_task).items()} == {"train": 898, "val": 449, "test": 450}
    assert len(set.union(*sets.values())) == 1797  # no two images of the data set are equal


def test_the_roles_are_stratified(digits_task: Task) -> None:
    whole = Counter(label for split in rows(digits_task).values() for label in split.targets.tolist())
    for split in rows(digits_task).values():
        found = Counter(split.targets.tolist())
        for label, count in whole.items():
            assert abs(found[label] - count * len(split) / 1797) <= 1.5


def test_the_pixels_are_normalised(digits_task: Task) -> None:
    pixels = torch.cat([split.inputs for split in rows(digits_task).values()])
    assert pixels.shape[1:] == (1, 8, 8)
    assert pixels.mean().item() == pytest.approx(0, abs=1e-3)
    assert pixels.std().item() == pytest.approx(1, abs=1e-3)


def test_the_trained_model_is_good_and_in_eval_mode(digits_task: Task) -> None:
    assert not digits_task.model.training
    assert sum(parameter.numel() for parameter in digits_task.model.parameters()) == 77_754
    for role in ("val", "test"):
        assert score(digits_task.model, rows(digits_task)[role].batches(None), digits_task.errors) < 0.03
    assert digits_task.example().shape == (1, 1, 8, 8)


def test_the_second_time_the_cache_is_read(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = digits(widths=WIDTHS)
    assert len(list(quick.iterdir())) == 1
    monkeypatch.setattr(module, "_train", lambda *_: pytest.fail("trained again"))
    assert same(digits(widths=WIDTHS), first)


@pytest.mark.parametrize("damage", [b"", b"not a tensor in sight", None])
def test_a_damaged_cache_is_trained_again(quick: Path, damage: bytes | None) -> None:
    first = digits(widths=WIDTHS)
    (file,) = quick.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    again = digits(widths=WIDTHS)
    assert same(again, first)
    assert again.fingerprint == first.fingerprint
    assert file.read_bytes() == whole


def test_seeds_and_widths_have_files_of_their_own(quick: Path) -> None:
    one, other = digits(widths=WIDTHS), digits(widths=WIDTHS, seed=1)
    digits(widths=(4, 5))
    assert len(list(quick.iterdir())) == 3
    assert not same(one, other)
    assert torch.equal(rows(one)["val"].inputs, rows(other)["val"].inputs)
    assert one.fingerprint != other.fingerprint


def test_training_draws_no_more_random_numbers_than_reading_the_cache(quick: Path) -> None:
    torch.manual_seed(5)
    first = digits(widths=WIDTHS)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    assert same(digits(widths=WIDTHS), first)
    assert torch.equal(torch.get_rng_state(), after)


def test_a_weights_file_is_loaded_instead(quick: Path, tmp_path: Path) -> None:
    model: nn.Module = ResNet(WIDTHS)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    task = digits(widths=WIDTHS, weights=str(tmp_path / "mine.pth"))
    assert all(torch.equal(value, weights(task)[key]) for key, value in model.state_dict().items())
    assert [path.name for path in quick.iterdir()] == ["mine.pth"]
    assert task.origin["weights"] == str(tmp_path / "mine.pth")


def test_weights_that_do_not_fit_are_refused(quick: Path, tmp_path: Path) -> None:
    torch.save(ResNet((4, 6)).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ParetuneError, match=r"weights: \d+ keys do not fit the model"):
        digits(widths=WIDTHS, weights=str(tmp_path / "other.pth"))


def test_the_origin_makes_the_task_again(quick: Path) -> None:
    task = digits(widths=WIDTHS, seed=2)
    arguments = {key: value for key, value in task.origin.items() if key != "name"}
    assert same(digits(**arguments), task)  # type: ignore[arg-type]
