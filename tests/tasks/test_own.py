"""A task from one's own loaders: repeatable, and mistakes are found before a study starts."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from paretune.errors import ParetuneError
from paretune.tasks.memory import InMemory
from paretune.tasks.own import from_loaders
from paretune.tasks.task import Task, fingerprint, misclassified, score


def loader(count: int = 10, shuffle: bool = False, batch: int = 4, **more: Any) -> DataLoader[Any]:
    data = TensorDataset(torch.arange(float(3 * count)).view(count, 3), torch.arange(count) % 2)
    return DataLoader(data, batch_size=batch, shuffle=shuffle, **more)


def task(model: nn.Module | None = None, **changes: Any) -> Task:
    splits = {"train": loader(shuffle=True), "val": loader(6), "test": loader(7), **changes}
    return from_loaders(model or nn.Linear(3, 2), **splits)


def firsts(task: Task, seed: int | None) -> list[float]:
    return [value for inputs, _ in task.train.batches(seed) for value in inputs[:, 0].tolist()]


def test_the_task_is_ready_to_use() -> None:
    made = task(nn.Sequential(nn.Linear(3, 2), nn.Dropout()).train())
    assert not made.model.training
    assert (len(made.train), len(made.val), len(made.test)) == (10, 6, 7)
    assert made.example().tolist() == [[0.0, 1.0, 2.0]]
    assert 0 <= score(made.model, made.val.batches(None), made.errors) <= 1


def test_a_shuffling_loader_repeats_its_order_for_a_seed() -> None:
    made = task()
    assert firsts(made, 1) == firsts(made, 1) != firsts(made, 2)
    assert sorted(firsts(made, 1)) == sorted(firsts(made, 2)) == [3.0 * i for i in range(10)]
    assert firsts(made, None) == firsts(made, 0)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    firsts(task(nn.Flatten()), 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_lists_and_splits_will_do_as_well() -> None:
    batches = [(torch.ones(2, 3), torch.zeros(2)), (torch.ones(1, 3), torch.zeros(1))]
    split = InMemory(inputs=torch.ones(5, 3), targets=torch.zeros(5))
    made = task(val=batches, test=split)
    assert (len(made.val), made.test) == (3, split)


@pytest.mark.parametrize("role", ["train", "val", "test"])
@pytest.mark.parametrize(
    "empty", [[], InMemory(inputs=torch.ones(0, 3), targets=torch.zeros(0)), loader(2, batch=4, drop_last=True)]
)
def test_an_empty_split_is_refused(role: str, empty: Any) -> None:
    with pytest.raises(ParetuneError, match=rf"task 'mine': the {role} split is empty"):
        task(**{role: empty})


@pytest.mark.parametrize("role", ["train", "val", "test"])
def test_an_iterator_that_runs_dry_is_refused(role: str) -> None:
    def once() -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.ones(2, 3), torch.zeros(2)

    with pytest.raises(ParetuneError, match=rf"task 'mine': the {role} split can be read only once; give a DataLoader"):
        task(**{role: once()})


def test_a_failing_forward_is_found_at_once() -> None:
    with pytest.raises(ParetuneError, match=r"task 'mine': the model's forward fails on \(4, 3\): mat1 and mat2"):
        task(nn.Linear(4, 2))


def test_a_failure_without_a_word_is_named_by_its_type() -> None:
    class Mute(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    with pytest.raises(ParetuneError, match=r"the model's forward fails on \(4, 3\): AssertionError"):
        task(Mute())


def test_the_fingerprint_changes_with_weights_and_data() -> None:
    model, inputs = nn.Linear(3, 2), torch.ones(4, 3)
    first = fingerprint(model, inputs)
    assert first == fingerprint(model, inputs.clone())
    assert first != fingerprint(model, inputs * 2)
    with torch.no_grad():
        model.bias[0] += 1
    assert first != fingerprint(model, inputs)


def test_errors_are_counted_and_averaged() -> None:
    outputs = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0]])
    assert misclassified(outputs, torch.tensor([0, 0, 1])) == 2.0
    batches = [(outputs, torch.tensor([0, 0, 1])), (outputs[:1], torch.tensor([0]))]
    model = nn.Identity().train()
    assert score(model, batches, misclassified) == 2 / 4
    assert not model.training


def test_nothing_cannot_be_scored() -> None:
    with pytest.raises(ParetuneError, match=r"the split to be scored is empty"):
        score(nn.Identity(), [], misclassified)
