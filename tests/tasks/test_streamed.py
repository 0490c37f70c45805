"""Splits that worker processes read: the same images however many there are, and no trace when they are gone."""

import gc
import logging
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from paretune.errors import ParetuneError
from paretune.tasks import files
from paretune.tasks.files import CROP, Pictures
from paretune.tasks.folders import from_folder
from paretune.tasks.pictures import cut_pixels, random_box
from paretune.tasks.raw import Raw, Unread
from paretune.tasks.streamed import Reader, Streamed, worker_count
from paretune.tasks.torchvision_models import torchvision_datasets

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(seed: int, width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def folder(root: Path, count: int = 12) -> Path:
    """Two classes, `count` training images and as many for the test, all different, of many sizes."""
    for part in ("train", "test"):
        for number in range(count):
            path = root / part / ("cat", "dog")[number % 2] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(number + 100 * (part == "test"), 10 + number, 24 - number).save(path)
    return root


def unread(raw: Raw, part: str = "train") -> Unread:
    found = getattr(raw, part)
    assert isinstance(found, Unread)
    return found


def streamed(
    root: Path, part: str = "train", workers: int = 0, batch: int = 4, flip: bool = True, **settings: Any
) -> Streamed:
    found = unread(from_folder(str(root), **{"size": 8, "load": "workers", "workers": workers, **settings}), part)
    kept = {"reader": found.reader, "rows": found.rows, "targets": found.targets}
    return Streamed(**kept, mean=MEAN, std=STD, batch=batch, flip=flip)


def all_of(split: Streamed, seed: int | None) -> tuple[Tensor, list[int]]:
    pairs = list(split.batches(seed))
    return torch.cat([inputs for inputs, _ in pairs]), torch.cat([targets for _, targets in pairs]).tolist()


# what is read


@pytest.mark.parametrize("size", [8, 13])
@pytest.mark.parametrize("resize", [None, 13, 20])
def test_evaluation_is_torchvisions_to_the_last_bit(tmp_path: Path, size: int, resize: int | None) -> None:
    assert torchvision_datasets()  # without it torchvision lacks two operators here
    from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

    split = streamed(folder(tmp_path), "test", size=size, resize=resize)
    side = round(size * 256 / 224) if resize is None else resize
    wanted = Compose([Resize(side), CenterCrop(size), ToTensor(), Normalize(MEAN, STD)])
    inputs, targets = all_of(split, None)
    order = [number for start in (0, 1) for number in range(start, 12, 2)]  # cats first
    assert torch.equal(inputs, torch.stack([wanted(picture(i + 100, 10 + i, 24 - i)) for i in order]))
    assert targets == [0] * 6 + [1] * 6


def test_a_random_part_is_scaled_as_torchvision_scales_it() -> None:
    assert torchvision_datasets()
    from torchvision.transforms.functional import resized_crop

    image = picture(0, 40, 30)
    for seed in range(5):
        left, top, right, bottom = random_box(40, 30, CROP, np.random.default_rng(seed))
        wanted = np.asarray(resized_crop(image, top, left, bottom - top, right - left, [8, 8]))
        assert np.array_equal(cut_pixels(image, 3, 8, CROP, np.random.default_rng(seed)), wanted)


sides = st.integers(1, 400)


@given(sides, sides, st.floats(0.05, 1), st.floats(0.05, 1), st.integers(0, 99))
def test_a_random_part_lies_inside_with_that_area_and_ratio(w: int, h: int, one: float, two: float, seed: int) -> None:
    low, high = sorted((one, two))
    left, top, right, bottom = random_box(w, h, (low, high), np.random.default_rng(seed))
    assert 0 <= left < right <= w
    assert 0 <= top < bottom <= h
    wide, tall = right - left, bottom - top
    assert (wide - 0.5) / (tall + 0.5) <= 4 / 3 + 0.01
    assert (wide + 0.5) / (tall - 0.5) >= 3 / 4 - 0.01
    # Whole sides are off by half a pixel each; a part in the middle, where none fits, is as large as the ratio allows.
    fallback = wide in (w, round(h * 4 / 3)) and tall in (h, round(w * 4 / 3))
    assert fallback or low * w * h <= (wide + 0.5) * (tall + 0.5)
    assert fallback or (wide - 0.5) * (tall - 0.5) <= high * w * h


def test_the_whole_of_a_square_is_that_square() -> None:
    """Of an area share of 1 only the ratio 1 fits a square, so the fallback takes all of it."""
    assert random_box(50, 50, (1.0, 1.0), np.random.default_rng(0)) == (0, 0, 50, 50)
    assert random_box(300, 10, (1.0, 1.0), np.random.default_rng(0)) == (143, 0, 156, 10)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("seed", [None, 3])
def test_nothing_depends_on_the_number_of_workers(tmp_path: Path, workers: int, seed: int | None) -> None:
    folder(tmp_path)
    (tmp_path / "train" / "cat" / "04.png").write_bytes(b"no image")
    files_ = {"corrupt": 0.1, "crop": [0.2, 0.7]}
    alone, helped = (all_of(streamed(tmp_path, workers=n, **files_), seed) for n in (0, workers))
    assert torch.equal(alone[0], helped[0])
    assert alone[1] == helped[1]


def test_a_seed_fixes_order_part_and_mirror(tmp_path: Path) -> None:
    split = streamed(folder(tmp_path))
    state = torch.get_rng_state()
    first, again, other = (all_of(split, seed)[0] for seed in (2**40, 2**40, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    still = replace(split, flip=False)
    pairs = list(zip(all_of(still, 6)[0], other, strict=True))
    mirrored = [torch.equal(one.flip(2), two) for one, two in pairs]
    assert all(m or torch.equal(one, two) for m, (one, two) in zip(mirrored, pairs, strict=True))
    assert 0 < sum(mirrored) < len(mirrored)


def test_a_thinner_split_sees_the_same_augmentation(tmp_path: Path) -> None:
    split = streamed(folder(tmp_path), batch=1, flip=False)
    whole = {row.numpy().tobytes() for row in all_of(split, 1)[0]}
    some = replace(split, rows=split.rows[[3, 8]], targets=split.targets[[3, 8]])
    assert {row.numpy().tobytes() for row in all_of(some, 1)[0]} <= whole


@pytest.mark.parametrize(("batch", "sizes"), [(4, [4, 4, 4]), (5, [5, 5]), (20, [12])])
def test_the_last_incomplete_training_batch_is_dropped_if_there_is_a_full_one(
    tmp_path: Path, batch: int, sizes: list[int]
) -> None:
    split = streamed(folder(tmp_path), batch=batch)
    assert [len(targets) for _, targets in split.batches(0)] == sizes
    assert (len(split), split.steps()) == (12, len(sizes))
    assert sum(len(targets) for _, targets in split.batches(None)) == 12


def test_grey_files_are_grey_and_colour_among_them_is_found_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in folder(tmp_path).rglob("*.png"):
        Image.open(path).convert("L").save(path)
    split = replace(streamed(tmp_path), mean=(0.5,), std=(0.5,))
    assert all_of(split, None)[0].shape == (12, 1, 8, 8)
    with pytest.raises(ParetuneError, match="mean has 3 numbers, the images have 1 channels"):
        all_of(replace(split, mean=MEAN, std=STD), None)
    picture(0, 9, 9).save(tmp_path / "train" / "cat" / "02.png")
    with pytest.raises(ParetuneError, match="in colour, the images that were looked at beforehand are all grey"):
        all_of(split, None)
    assert all_of(streamed(tmp_path), None)[0].shape == (12, 3, 8, 8), "those looked at decide"


@pytest.mark.gpu
def test_a_gpu_gets_the_same_images(tmp_path: Path) -> None:
    split = streamed(folder(tmp_path), workers=1)
    there = replace(split, device=torch.device("cuda"))
    for seed in (None, 1):
        (inputs, targets), (moved, labels) = all_of(split, seed), all_of(there, seed)
        torch.testing.assert_close(moved.cpu(), inputs)
        assert (moved.is_cuda, labels) == (True, targets)


# stopping


def test_a_pass_may_stop_anywhere_and_others_may_run_beside_it(tmp_path: Path) -> None:
    split = streamed(folder(tmp_path), workers=2, batch=2)
    wanted = all_of(split, 4)[0]
    for stop in (1, 2, 5):
        pairs = split.batches(4)
        for _ in range(stop):
            next(pairs)
        del pairs
    one, other = split.batches(4), split.batches(4)
    both = [(a, b) for (a, _), (b, _) in zip(one, other, strict=True)]
    assert torch.equal(torch.cat([a for a, _ in both]), wanted)
    assert torch.equal(torch.cat([b for _, b in both]), wanted)
    assert len(multiprocessing.active_children()) == 4  # two for each of two at once, all kept


def test_the_workers_stay_for_the_next_pass_and_go_with_the_last_split(tmp_path: Path) -> None:
    raw = from_folder(str(folder(tmp_path)), size=8, load="workers", workers=2)
    train, test = (Streamed(reader=p.reader, rows=p.rows, targets=p.targets, batch=4) for p in map(unread, (raw, raw)))
    del raw
    gc.collect()
    before = {child.pid for child in multiprocessing.active_children()}
    all_of(train, 0)
    first = {child.pid for child in multiprocessing.active_children()} - before
    next(train.batches(1))
    all_of(test, None)
    assert {child.pid for child in multiprocessing.active_children()} - before == first
    assert len(first) == 2
    del train, test
    gc.collect()
    assert {child.pid for child in multiprocessing.active_children()} == before


ENDING = """
import sys
from paretune.tasks.folders import from_folder
from paretune.tasks.streamed import Streamed
part = from_folder(sys.argv[1], size=8, load="workers", workers=2).train
split = Streamed(reader=part.reader, rows=part.rows, targets=part.targets, batch=2)
pairs = split.batches(0)
next(pairs)
print(*(worker.pid for worker in __import__("multiprocessing").active_children()))
raise SystemExit(3)
"""


def test_a_program_that_ends_in_the_middle_of_a_pass_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", ENDING, str(folder(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (3, "")
    pids = done.stdout.split()
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError, match="No such process"):
            os.kill(int(pid), 0)


# broken images


@dataclass(frozen=True)
class Numbers:
    """Samples that are their own number; those in `bad` cannot be read, and number 99 ends its process."""

    bad: tuple[int, ...] = ()
    count: int = 10

    def __len__(self) -> int:
        return self.count

    def name(self, row: int) -> str:
        return f"number {row}"

    def read(self, row: int, seed: int | None) -> tuple[Tensor, int]:
        if row == 99:
            os._exit(1)
        if row in self.bad:
            raise ValueError("worn out")
        return torch.full((1,), float(row)), row

    def identity(self, rows: NDArray[np.int64]) -> Iterator[Tensor]:
        yield torch.from_numpy(rows)


def numbers(reader: Reader, batches: list[list[int]], seed: int | None) -> list[list[int]]:
    found = reader.read([[(row, seed) for row in batch] for batch in batches])
    return [targets.tolist() for _, targets in found]


def test_in_training_the_next_of_the_batch_stands_in_and_in_evaluation_none(caplog: pytest.LogCaptureFixture) -> None:
    reader = Reader(Numbers((0, 2, 3, 9)), workers=0, corrupt=0.4)
    batches = [[0, 1, 2], [4, 3, 2], [9], [5, 6]]
    assert numbers(reader, batches, 1) == [[1, 1, 1], [4, 4, 4], [5, 6]]
    assert numbers(reader, batches, None) == [[1], [4], [5, 6]]
    assert len(caplog.messages) == 4, "told once, in training"


def test_a_broken_image_is_named_and_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reader = Reader(Numbers((1, 7)), workers=0, corrupt=0.35, lost=2)
    with caplog.at_level(logging.WARNING, "paretune"):
        numbers(reader, [[0, 1], [7, 1, 2]], 0)
        numbers(reader, [[0, 1], [7, 1, 2]], None)
    assert caplog.messages == [
        "data: number 1 cannot be read (worn out); 3 of 12 so far, left out",
        "data: number 7 cannot be read (worn out); 4 of 12 so far, left out",
    ]
    few = Reader(Numbers((1, 7)), workers=0, corrupt=0.15)
    said = r"number \d cannot be read \(worn out\); 2 of 10 so far, more than the share 0.15 .*; mend or remove"
    for _ in range(2):
        with pytest.raises(ParetuneError, match=said):
            numbers(few, [[0, 1], [7, 1, 2]], None)


def test_a_file_that_breaks_while_it_is_streamed_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    split = streamed(folder(tmp_path), workers=1, corrupt=0.05)
    (tmp_path / "train" / "dog" / "03.png").write_bytes(b"no image any more")
    with caplog.at_level(logging.WARNING, "paretune"):
        assert len(all_of(split, None)[1]) == 11
        assert len(all_of(split, 0)[1]) == 12
    (said,) = caplog.messages
    assert "data: train/dog/03.png cannot be read (cannot identify image" in said
    assert "1 of 24 so far" in said


def test_broken_files_are_found_beforehand_as_far_as_they_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path)
    for name in ("cat/02.png", "cat/04.png"):
        (tmp_path / "train" / name).write_bytes(b"no image")
    raw = from_folder(str(tmp_path), size=8, load="workers", workers=0, corrupt=0.1)
    assert raw.notes == ("2 of 24 images looked at cannot be read, first train/cat/02.png",)
    assert (len(unread(raw).rows), len(unread(raw, "test").rows)) == (10, 12)
    assert len(all_of(streamed(tmp_path, corrupt=0.1), None)[1]) == 10
    said = (
        r"2 of 24 images cannot be read, .* task.data.corrupt=0.05: train/cat/02.png, train/cat/04.png \(cannot ident"
    )
    with pytest.raises(ParetuneError, match=said):
        streamed(tmp_path, corrupt=0.05)
    monkeypatch.setattr(files, "LOOKED_AT", 20)
    assert len(streamed(tmp_path, corrupt=0.05)) in (10, 11, 12), "two of twenty may be chance"
    with pytest.raises(ParetuneError, match=r"of 20 images looked at cannot be read, more than the share .*=0:"):
        streamed(tmp_path, corrupt=0)


@pytest.mark.parametrize(("bad", "count", "share"), [(0, 5, 0.3), (1, 5, 0.3), (5, 5, 0.3), (1, 9, 0.0)])
def test_the_chance_of_so_many_broken_ones(bad: int, count: int, share: float) -> None:
    less = sum(comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(bad))
    assert files._tail(bad, count, share) == pytest.approx(1 - less, abs=1e-12)


def test_a_part_of_broken_images_only_is_refused(tmp_path: Path) -> None:
    for path in (folder(tmp_path) / "test").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ParetuneError, match="no image of test can be read; at least one is needed"):
        streamed(tmp_path, corrupt=0.9)


def test_samples_of_another_shape_are_named() -> None:
    class Growing(Numbers):
        def read(self, row: int, seed: int | None) -> tuple[Tensor, int]:
            return torch.zeros(row + 1), row

    with pytest.raises(
        ParetuneError, match=r"number 1 cannot be read \(\(2,\) float32, the first of its batch is \(1,\) f"
    ):
        numbers(Reader(Growing(), workers=0), [[0, 1]], None)


def test_a_process_that_dies_is_told() -> None:
    reader = Reader(Numbers(count=100), workers=1)
    with pytest.raises(ParetuneError, match=r"workers could not go on \(DataLoader worker .*0 reads without any"):
        numbers(reader, [[1], [99]], None)
    assert numbers(reader, [[1], [2]], None) == [[1], [2]], "the next pass has a new one"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"std": (0.5,)}, "mean and std need one number per channel each"),
        ({"std": (0.5, 0.0, 1.0)}, "std divides, so each of its numbers must be above 0"),
        ({"batch": 0}, "task.data.batch must be a whole number, 1 or more, got 0"),
        ({"batch": 1.5}, "task.data.batch must be a whole number, 1 or more, got 1.5"),
    ],
)
def test_a_split_that_is_none(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    split = streamed(folder(tmp_path, 2))
    with pytest.raises(ParetuneError, match=said):
        replace(split, **changes)


def test_automatic_workers_are_one_per_core_and_eight_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, wanted in ((1, 1), (3, 3), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert worker_count("auto") == wanted
    assert worker_count(12) == 12


def test_what_identifies_files_is_not_where_they_lie(tmp_path: Path) -> None:
    def seen(root: Path, **settings: Any) -> list[list[int]]:
        split = streamed(root, **settings)
        assert isinstance(split.reader.samples, Pictures)
        return [tensor.flatten().tolist() for tensor in split.reader.samples.identity(split.rows)]

    one, other = folder(tmp_path / "one"), folder(tmp_path / "two")
    assert seen(one) == seen(other) == seen(one, workers=1, crop=[0.5, 1])
    assert seen(one) != seen(one, resize=12)
    picture(5, 40, 40).save(other / "train" / "cat" / "00.png")
    assert seen(one) != seen(other)
    assert seen(one, part="test") == seen(other, part="test")
