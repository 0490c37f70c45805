"""Batches are repeatable, complete, and never a handful of samples."""

import pytest
import torch
from torch import Tensor

from paretune.tasks.memory import InMemory, shift


def numbered(count: int, batch: int = 4, **more: object) -> InMemory:
    """Sample i is the number i, as input and as target."""
    return InMemory(inputs=torch.arange(float(count))[:, None], targets=torch.arange(count), batch=batch, **more)  # type: ignore[arg-type]


def targets(split: InMemory, seed: int | None) -> list[list[int]]:
    return [batch.tolist() for _, batch in split.batches(seed)]


def flat(split: InMemory, seed: int | None) -> list[int]:
    return [target for batch in targets(split, seed) for target in batch]


def test_without_a_seed_everything_comes_in_order() -> None:
    assert flat(numbered(10), None) == list(range(10))
    assert [len(batch) for batch in targets(numbered(2500), None)] == [1024, 1024, 452]


def test_a_seed_fixes_the_order() -> None:
    split = numbered(12)
    assert targets(split, 3) == targets(split, 3) != targets(split, 4)
    assert sorted(flat(split, 3)) == list(range(12))
    assert flat(split, 3) != list(range(12))


@pytest.mark.parametrize(("count", "sizes"), [(3, [3]), (4, [4]), (11, [4, 4]), (12, [4, 4, 4])])
def test_the_last_incomplete_training_batch_is_dropped_unless_it_is_the_only_one(count: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in targets(numbered(count), 0)] == sizes
    assert sum(map(len, targets(numbered(count), None))) == count


def test_inputs_stay_with_their_targets() -> None:
    for inputs, labels in numbered(12).batches(5):
        assert inputs[:, 0].tolist() == labels.tolist()


def test_only_training_batches_are_augmented_and_repeatably() -> None:
    def noisy(inputs: Tensor, generator: torch.Generator) -> Tensor:
        return inputs + torch.rand(inputs.shape, generator=generator)

    split = numbered(8, augment=noisy)
    first, again = ([inputs for inputs, _ in split.batches(1)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any((inputs[:, 0] != labels).any() for inputs, labels in split.batches(1))
    assert all((inputs[:, 0] == labels).all() for inputs, labels in split.batches(None))


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    list(numbered(8, augment=lambda inputs, generator: inputs).batches(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_length_is_the_number_of_samples() -> None:
    assert len(numbered(11)) == len(numbered(11).to("cpu")) == 11
    assert numbered(11).to("cpu").batch == 4


def images(count: int = 200, side: int = 5) -> Tensor:
    """A different positive number in every pixel, with a border of zeros."""
    made = torch.zeros(count, 2, side, side)
    made[:, :, 1:-1, 1:-1] = torch.arange(1.0, 1 + count * 2 * (side - 2) ** 2).view(count, 2, side - 2, side - 2)
    return made


def test_a_shift_keeps_size_and_content() -> None:
    before = images()
    after = shift(before, torch.Generator().manual_seed(0))
    assert after.shape == before.shape
    assert torch.equal(after.flatten(1).sort(dim=1).values, before.flatten(1).sort(dim=1).values)


def test_a_shift_moves_every_image_as_a_whole_by_one_pixel_at_most() -> None:
    before = images()
    after = shift(before, torch.Generator().manual_seed(0))
    moves = [(rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1)]
    seen = set()
    for old, new in zip(before, after, strict=True):
        found = [move for move in moves if torch.equal(torch.roll(old, move, dims=(1, 2)), new)]
        assert len(found) == 1
        seen.add(found[0])
    assert seen == set(moves)


def test_a_shift_fills_the_border_with_the_minimum_and_depends_on_the_generator() -> None:
    plain = torch.full((50, 1, 3, 3), 2.0)
    plain[0, 0, 0, 0] = -1.0
    after = shift(plain, torch.Generator().manual_seed(0))
    assert set(after.unique().tolist()) == {-1.0, 2.0}
    assert (after[1:] == -1).any()
    assert not torch.equal(after, shift(plain, torch.Generator().manual_seed(1)))
    assert torch.equal(after, shift(plain, torch.Generator().manual_seed(0)))
