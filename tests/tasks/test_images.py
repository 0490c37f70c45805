"""Images stay bytes, come back normalised, and are augmented in every way there is and in no other."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paretune.errors import ParetuneError
from paretune.tasks.images import Images, cropped, evaluated

MEAN, STD = (0.4, 0.5), (0.2, 0.25)
SHAPE = (2, 3, 4)  # neither square nor of one channel, so that no two axes can be mistaken for each other


def made(count: int = 12, *, batch: int = 4, **more: object) -> Images:
    """Random images, of which image i has target i."""
    pixels = torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(pixels=pixels, targets=torch.arange(count), mean=MEAN, std=STD, batch=batch, **more)  # type: ignore[arg-type]


def normal(pixels: Tensor) -> Tensor:
    return (pixels / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def whole(split: Images, seed: int | None) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*split.batches(seed), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def possible(image: Tensor, pad: int) -> list[Tensor]:
    """All (2·pad + 1)² crops of one image and their mirror images, by slicing."""
    height, width = image.shape[1:]
    padded = F.pad(image, [pad] * 4)
    places = product(range(2 * pad + 1), repeat=2)
    crops = [padded[:, row : row + height, column : column + width] for row, column in places]
    return crops + [crop.flip(2) for crop in crops]


def test_without_augmentation_the_numbers_are_a_formula_of_the_pixels_in_another_order() -> None:
    split = made(pad=0, flip=False)
    inputs, targets = whole(split, 3)
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs, normal(split.pixels[targets]))
    assert sorted(targets.tolist()) == list(range(12)) != targets.tolist()


def test_clean_batches_come_in_order_whatever_the_augmentation() -> None:
    split = made(2500)
    assert [len(targets) for _, targets in split.batches(None)] == [1024, 1024, 452]
    inputs, targets = whole(split, None)
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs, normal(split.pixels))
    assert targets.tolist() == list(range(2500))


@pytest.mark.parametrize(("side", "size"), [(8, 1024), (32, 64), (64, 16), (512, 16)])
def test_larger_images_are_scored_in_smaller_batches(side: int, size: int) -> None:
    assert evaluated(torch.zeros(2, 3, side, side, dtype=torch.uint8)) == size


@pytest.mark.parametrize(("side", "size"), [(32, 1024), (256, 341), (512, 85), (2**14, 1)])
def test_elsewhere_a_batch_is_a_quarter_of_a_gigabyte_at_most(side: int, size: int) -> None:
    assert evaluated(torch.zeros(2, 3, side, side, dtype=torch.uint8, device="meta")) == size


@pytest.mark.parametrize(("pad", "flip"), [(0, True), (1, False), (1, True), (2, True)])
def test_every_training_image_is_one_of_the_possible_ones_and_all_of_them_occur(pad: int, flip: bool) -> None:
    ways = (2 * pad + 1) ** 2 * (1 + flip)
    split = made(ways * 12, batch=32, pad=pad, flip=flip)
    seen = set()
    for image, target in zip(*whole(split, 0), strict=True):
        choices = possible(split.pixels[target], pad)
        found = [way for way, choice in enumerate(choices) if torch.equal(normal(choice), image)]
        assert len(found) == 1
        seen.add(found[0])
    assert seen == set(range(ways))


def test_half_of_the_images_are_mirrored() -> None:
    split = made(4000, batch=1000, pad=0)
    inputs, targets = whole(split, 0)
    plain = (inputs == normal(split.pixels[targets])).flatten(1).all(dim=1)
    assert abs(plain.float().mean() - 0.5) < 4 * 0.5 / 4000**0.5  # four standard deviations


def test_a_crop_begins_at_its_row_and_column() -> None:
    image = torch.arange(1, 13, dtype=torch.uint8).view(1, 1, 3, 4)
    top_left, middle = (torch.tensor([number]) for number in (0, 1))
    plain, mirrored = torch.tensor([False]), torch.tensor([True])
    shifted = torch.tensor([[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]], dtype=torch.uint8)
    assert torch.equal(cropped(image, top_left, middle, plain, pad=1)[0, 0], shifted)
    assert torch.equal(cropped(image, top_left, middle, mirrored, pad=1)[0, 0], shifted.flip(1))
    assert torch.equal(cropped(image, middle, middle, plain, pad=1), image)


def test_a_seed_fixes_every_batch() -> None:
    split = made(64, batch=16)
    first, again = ([(x, y) for x, y in split.batches(5)] for _ in range(2))
    assert all(torch.equal(a, b) and torch.equal(s, t) for (a, s), (b, t) in zip(first, again, strict=True))
    assert whole(split, 5)[1].tolist() != whole(split, 6)[1].tolist()


def test_seeds_differ_in_crops_and_not_only_in_order() -> None:
    split = made(batch=64, pad=1).rows(torch.zeros(64, dtype=torch.int64))  # 64 times the same image
    same = (whole(split, 5)[0] == whole(split, 6)[0]).flatten(1).all(dim=1)
    assert same.sum() < 16  # 64 / 18 are to be expected, as there are 18 choices


@pytest.mark.parametrize(("count", "sizes"), [(3, [3]), (4, [4]), (11, [4, 4]), (12, [4, 4, 4])])
def test_the_last_incomplete_training_batch_is_dropped_unless_it_is_the_only_one(count: int, sizes: list[int]) -> None:
    split = made(count)
    assert [len(targets) for _, targets in split.batches(0)] == sizes
    assert split.steps() == len(sizes)
    assert len(whole(split, None)[1]) == len(split) == count


def test_pixels_stay_bytes_and_what_they_were() -> None:
    for split in (made(), made(pad=0, flip=False)):
        before = split.pixels.clone()
        list(split.batches(0)), list(split.batches(None))
        assert split.pixels.dtype == split.to("cpu").pixels.dtype == torch.uint8
        assert torch.equal(split.pixels, before)


def test_channels_last_pixels_give_the_same_batches() -> None:
    split = made()
    turned = Images(
        pixels=split.pixels.contiguous(memory_format=torch.channels_last),
        targets=split.targets, mean=MEAN, std=STD, batch=4,
    )  # fmt: skip
    assert torch.equal(whole(split, 1)[0], whole(turned, 1)[0])


def test_rows_are_a_subset_in_the_order_asked_for() -> None:
    split = made(pad=1, flip=False, batch=2)
    part = split.rows(torch.tensor([7, 2, 9]))
    assert part.targets.tolist() == [7, 2, 9]
    assert torch.equal(part.pixels, split.pixels[[7, 2, 9]])
    assert (part.mean, part.std, part.batch, part.pad, part.flip) == (MEAN, STD, 2, 1, False)
    assert part.pixels.dtype == torch.uint8


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    list(made().batches(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"mean": (0.5,)}, "mean has 1 numbers, the images have 2 channels"),
        ({"std": (0.5, 0.5, 0.5)}, "std has 3 numbers, the images have 2 channels"),
        ({"std": (0.5, 0.0)}, r"each of its numbers must be above 0; got \[0.5, 0.0\]"),
        ({"std": (0.5, float("nan"))}, r"must be above 0; got \[0.5, nan\]"),
        ({"batch": 0}, "task.data.batch must be a whole number, 1 or more, got 0"),
        ({"batch": True}, "task.data.batch must be a whole number, 1 or more, got True"),
        ({"pad": -1}, "task.data.pad must be a whole number, 0 or more, got -1"),
        ({"pad": "x"}, "task.data.pad must be a whole number, 0 or more, got 'x'"),
        ({"pixels": torch.zeros(6, *SHAPE)}, r"must be torch.uint8 .*, got torch.float32 \(6, 2, 3, 4\)"),
        ({"pixels": torch.zeros(6, 3, 4, dtype=torch.uint8)}, r"must be .*width\), got torch.uint8 \(6, 3, 4\)"),
        ({"targets": torch.arange(5)}, "there are 6 images and 5 targets"),
    ],
)
def test_what_cannot_be_is_refused(more: dict[str, object], message: str) -> None:
    good = {"pixels": made(6).pixels, "targets": torch.arange(6), "mean": MEAN, "std": STD}
    assert len(Images(**good)) == 6  # type: ignore[arg-type]
    with pytest.raises(ParetuneError, match=message):
        Images(**{**good, **more})  # type: ignore[arg-type]
