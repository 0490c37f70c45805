"""Labelled images from files: what comes in comes out as bytes, and what does not fit says so in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from paretune.errors import ParetuneError
from paretune.tasks.raw import Arrays
from paretune.tasks.sources import SOURCES, Raw, from_folder, from_module, from_npz, from_torchvision
from paretune.tasks.torchvision_models import torchvision_datasets

Bytes = NDArray[np.uint8]


def random_bytes(*shape: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def npz(folder: Path, **other: Any) -> Path:
    """Six training and four test images of 8 × 6 in colour, with what `other` says instead (None: without the key)."""
    held: dict[str, Any] = {
        "x_train": random_bytes(6, 8, 6, 3), "y_train": np.array([0, 1, 3, 0, 1, 3], dtype=np.int32),
        "x_test": random_bytes(4, 8, 6, 3, seed=1), "y_test": np.arange(4) % 2,
    }  # fmt: skip
    held |= other
    np.savez(folder / "held.npz", **{key: value for key, value in held.items() if value is not None})
    return folder / "held.npz"


def write(path: Path, image: Bytes, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **settings)


def folder(root: Path, *, test: str = "test", count: int = 3, shape: tuple[int, ...] = (8, 8, 3)) -> Path:
    """Classes cat and dog with `count` images of `shape` for training and as many for the test, all different."""
    for part in ("train", test):
        for number in range(2 * count):
            name = f"{part}/{('dog', 'cat')[number % 2]}/{number // 2}.png"
            write(root / name, random_bytes(*shape, seed=number + 100 * (part == "train")))
    return root


def read(raw: Raw) -> tuple[Bytes, list[int], Bytes, list[int]]:
    """Both parts of `raw`, of the promised types."""
    assert isinstance(raw.train, Arrays)
    assert isinstance(raw.test, Arrays)
    for part in (raw.train, raw.test):
        assert (str(part.pixels.dtype), str(part.targets.dtype), part.pixels.ndim) == ("uint8", "int64", 4)
    return raw.train.pixels, raw.train.targets.tolist(), raw.test.pixels, raw.test.targets.tolist()


# npz


def test_an_npz_comes_out_as_it_was_stored_and_a_class_may_be_missing(tmp_path: Path) -> None:
    raw = from_npz(str(npz(tmp_path)))
    x_train, y_train, x_test, y_test = read(raw)
    assert np.array_equal(x_train, random_bytes(6, 8, 6, 3))
    assert np.array_equal(x_test, random_bytes(4, 8, 6, 3, seed=1))
    assert (y_train, y_test) == ([0, 1, 3, 0, 1, 3], [0, 1, 0, 1])
    assert (raw.classes, raw.notes) == (("0", "1", "2", "3"), ())


def test_grey_images_of_an_npz_get_one_channel(tmp_path: Path) -> None:
    grey = random_bytes(6, 8, 6)
    pixels, *_ = read(from_npz(str(npz(tmp_path, x_train=grey, x_test=grey[:4]))))
    assert np.array_equal(pixels, grey[..., None])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"x_test": None, "xtest": 0}, r"no x_test. Did you mean 'xtest'\? Known: x_train, y_train, y_test, xtest"),
        ({"x_train": np.ones((6, 8, 6, 3), np.float32)}, "images of train are float32; needed are uint8, .* 0 to 255"),
        ({"x_test": random_bytes(4, 9)}, r"images of test have the shape \(4, 9\); needed is \(n, height"),
        ({"x_test": random_bytes(4, 3, 8, 6)}, r"channels first; needed is x.transpose\(0, 2, 3, 1\)"),
        ({"y_train": np.zeros((6, 1), int)}, r"labels of train have the shape \(6, 1\); needed is one class number"),
        ({"y_train": np.zeros(5, int)}, "train has 6 images and 5 labels"),
        ({"y_train": -np.arange(6)}, "labels of train are from -5 to 0; needed are whole numbers, .* from 0"),
        ({"y_train": np.full(6, 10**9)}, "labels of train are from 1000000000 to"),
        ({"y_test": np.zeros(4)}, "labels of test are float64; needed are whole numbers"),
        ({"x_test": random_bytes(0, 8, 6, 3), "y_test": np.zeros(0, int)}, "there are none; at least one"),
        ({"x_test": random_bytes(4, 8, 6)}, "train images are 8×6×3 and test images 8×6×1 .* both need one shape"),
        ({"y_test": np.array([None] * 4)}, r"held.npz is no .npz file of plain arrays \(Object arrays"),
    ],
)
def test_an_npz_that_does_not_fit(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    with pytest.raises(ParetuneError, match=said):
        from_npz(str(npz(tmp_path, **other)))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off", None])
def test_a_file_that_is_no_npz(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "odd.npz"
    if content is None:
        with path.open("wb") as file:
            np.save(file, np.zeros(3))  # a single array
    else:
        path.write_bytes(content)
    with pytest.raises(ParetuneError, match=r"odd.npz is no .npz file of plain arrays \("):
        from_npz(str(path))
    with pytest.raises(ParetuneError, match=r"no file at .*absent.npz; task.data.path names an .npz file"):
        from_npz(str(tmp_path / "absent.npz"))


# torchvision


class Pairs:
    """A data set as torchvision has them: three pairs in training, two in the test part."""

    classes = ("cat", "dog")
    shape: tuple[int, ...] = (8, 6, 3)
    splits = ("train", "test")
    failure: Exception | None = None

    def pairs(self, training: bool) -> None:
        if self.failure:
            raise self.failure
        self.held = [(random_bytes(*self.shape, seed=i + 9 * training), i % 2) for i in range(3 if training else 2)]

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        pixels, label = self.held[index]
        return Image.fromarray(pixels), label


class ByTrain(Pairs):
    def __init__(self, root: str, train: bool = True, target_transform: None = None, download: bool = False) -> None:
        self.pairs(train)


class BySplit(Pairs):
    def __init__(self, root: str, split: str = "train", target_transform: None = None) -> None:
        if split not in self.splits:
            raise ValueError(f"Unknown value '{split}' for argument split")
        self.pairs(split == "train")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Puts a data set among torchvision's, with attributes set, and answers with its name."""

    def put(kind: type[Pairs], **attributes: Any) -> str:
        monkeypatch.setattr(torchvision_datasets(), "Fake", type("Fake", (kind,), attributes), raising=False)
        return "Fake"

    return put


@pytest.mark.parametrize("kind", [ByTrain, BySplit])
def test_a_data_set_of_torchvision_comes_out_pair_by_pair(fake: Callable[..., str], kind: type[Pairs]) -> None:
    raw = from_torchvision(fake(kind).upper(), "somewhere")
    x_train, y_train, x_test, y_test = read(raw)
    assert np.array_equal(x_train, np.stack([random_bytes(8, 6, 3, seed=i + 9) for i in range(3)]))
    assert np.array_equal(x_test, np.stack([random_bytes(8, 6, 3, seed=i) for i in range(2)]))
    assert (y_train, y_test, raw.classes, raw.notes) == ([0, 1, 0], [0, 1], ("cat", "dog"), ())


def test_the_validation_split_is_the_test_part_where_there_is_no_other_and_is_noted(fake: Callable[..., str]) -> None:
    raw = from_torchvision(fake(BySplit, splits=("train", "val"), shape=(8, 6), classes=()), "somewhere")
    assert raw.notes == ("the test images are those of split=val",)
    assert read(raw)[0].shape == (3, 8, 6, 1)
    assert raw.classes == ("0", "1")
    with pytest.raises(ParetuneError, match=r"torchvision's Fake cannot be read .*Unknown value 'valid'"):
        from_torchvision(fake(BySplit, splits=("train",)), "somewhere")


def test_mnist_files_come_out_as_they_were_stored(tmp_path: Path) -> None:
    """The format of http://yann.lecun.com/exdb/mnist: magic number, sizes (big endian), bytes."""
    images, labels = random_bytes(4, 28, 28), np.array([9, 0, 5, 5], dtype=np.uint8)
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for part, count in (("train", 4), ("t10k", 2)):
        for name, held in (("images-idx3", images[:count]), ("labels-idx1", labels[:count])):
            head = np.array([0x0800 + held.ndim, *held.shape], dtype=">i4").tobytes()
            (tmp_path / "MNIST" / "raw" / f"{part}-{name}-ubyte").write_bytes(head + held.tobytes())
    raw = from_torchvision("MNIST", str(tmp_path))
    x_train, y_train, x_test, _ = read(raw)
    assert np.array_equal(x_train, images[..., None])
    assert np.array_equal(x_test, images[:2, ..., None])
    assert y_train == [9, 0, 5, 5]
    assert len(raw.classes) == 10


def test_what_torchvision_does_not_have(tmp_path: Path, fake: Callable[..., str]) -> None:
    with pytest.raises(
        ParetuneError, match=r"no data set of torchvision is called 'CIFAR11'. Did you mean 'CIFAR10'\?"
    ):
        from_torchvision("CIFAR11", "somewhere")
    with pytest.raises(ParetuneError, match=r"CIFAR10 is not in .*not found.*; set task.data.download=true, or"):
        from_torchvision("CIFAR10", str(tmp_path))
    offline = fake(ByTrain, failure=OSError("<urlopen error no network>"))
    with pytest.raises(
        ParetuneError, match=r"cannot be downloaded into somewhere \(.*no network>\); put its files there"
    ):
        from_torchvision(offline, "somewhere", download=True)
    by_hand = fake(BySplit, failure=RuntimeError("Dataset not found"))
    with pytest.raises(ParetuneError, match=r"\(Dataset not found\); torchvision does not download it, put it there"):
        from_torchvision(by_hand, "somewhere", download=True)


def test_a_data_set_of_torchvision_that_holds_something_else(fake: Callable[..., str]) -> None:
    with pytest.raises(ParetuneError, match="train image 0 is a Image with a list; needed are a PIL image and a class"):
        from_torchvision(fake(ByTrain, __getitem__=lambda self, index: (Image.new("L", (2, 2)), [1])), "somewhere")
    with pytest.raises(ParetuneError, match=r"train image 0 cannot be read .mode I;16, 8 bits per channel"):
        from_torchvision(fake(ByTrain, __getitem__=lambda self, index: (Image.new("I;16", (2, 2)), 1)), "somewhere")
    with pytest.raises(ParetuneError, match=r"image 0 is 3×2 and Fake's train image 1 4×2 .*; set task.data.size=2"):
        from_torchvision(fake(ByTrain, __getitem__=lambda self, i: (Image.new("L", (3 + i, 2)), 1)), "somewhere")
    with pytest.raises(ParetuneError, match="train image 1 is in colour and the first one grey"):
        from_torchvision(
            fake(ByTrain, __getitem__=lambda self, i: (Image.new(("L", "RGB")[i], (2, 2)), 1)), "somewhere"
        )
    with pytest.raises(
        ParetuneError, match=r"5 images of 6×8 take 720 bytes .*limit_bytes=300; task.data.size=4 or less"
    ):
        from_torchvision(fake(ByTrain), "somewhere", limit_bytes=300)
    assert read(from_torchvision(fake(ByTrain), "somewhere", size=4, limit_bytes=300))[0].shape == (3, 4, 4, 3)


# folders


@pytest.mark.parametrize("test", ["test", "val", "valid"])
def test_a_folder_comes_out_by_sorted_class_and_name(tmp_path: Path, test: str) -> None:
    raw = from_folder(str(folder(tmp_path, test=test, count=2)))
    x_train, y_train, x_test, y_test = read(raw)
    assert raw.classes == ("cat", "dog")
    assert y_train == y_test == [0, 0, 1, 1]
    for pixels, first in ((x_train, 100), (x_test, 0)):  # cats have the odd numbers
        assert np.array_equal(pixels, np.stack([random_bytes(8, 8, 3, seed=first + i) for i in (1, 3, 0, 2)]))
    assert raw.notes == ()


def test_hidden_files_and_files_of_other_kinds_are_not_looked_at(tmp_path: Path) -> None:
    folder(tmp_path)
    for name in ("cat/list.txt", "cat/.DS_Store", "cat/._0.png", ".cache/0.png", "cat/.thumbs/1.png"):
        (tmp_path / "train" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "train" / name).write_text("no image")
    write(tmp_path / "train" / "cat" / "more" / "a.PNG", random_bytes(8, 8, 3))
    raw = from_folder(str(tmp_path))
    assert (len(read(raw)[1]), raw.classes, raw.notes) == (7, ("cat", "dog"), ())


def test_images_are_grey_where_all_are_and_in_colour_otherwise(tmp_path: Path) -> None:
    root = str(folder(tmp_path, shape=(8, 8)))
    assert np.array_equal(read(from_folder(root))[0][0], random_bytes(8, 8, seed=101)[..., None])
    write(tmp_path / "test" / "dog" / "2.png", random_bytes(8, 8, 3))
    assert np.array_equal(read(from_folder(root))[0][0], np.repeat(random_bytes(8, 8, seed=101)[..., None], 3, axis=2))


def test_a_palette_and_transparency_come_out_as_colours(tmp_path: Path) -> None:
    folder(tmp_path, count=1)
    colours = random_bytes(8, 8, 3)
    colours[4:] = colours[0, 0]  # few enough for a palette
    palette = Image.fromarray(colours).quantize(64)
    palette.save(tmp_path / "train" / "cat" / "0.png", transparency=bytes([0, 128]))
    write(tmp_path / "train" / "dog" / "0.png", np.dstack([colours, random_bytes(8, 8)]))
    cat, dog = read(from_folder(str(tmp_path)))[0]
    assert np.array_equal(cat, np.asarray(palette.convert("RGB")))
    assert np.array_equal(dog, colours)


@pytest.mark.parametrize("side", [None, 8, 9])
@pytest.mark.parametrize("shape", [(20, 31, 3), (31, 20, 3), (9, 12), (8, 15, 3)])
def test_a_size_is_reached_as_torchvision_reaches_it(tmp_path: Path, shape: tuple[int, ...], side: int | None) -> None:
    from torchvision.transforms import CenterCrop, Compose, Resize

    root, resize = folder(tmp_path, shape=shape, count=1), Compose([Resize(side or 8), CenterCrop(8)])
    pixels, *_ = read(from_folder(str(root), size=8, resize=side))
    wanted = np.asarray(resize(Image.fromarray(random_bytes(*shape, seed=101))))
    assert np.array_equal(pixels[0], wanted.reshape(8, 8, -1))


def test_broken_images_are_left_out_and_named_up_to_a_share(tmp_path: Path) -> None:
    folder(tmp_path, count=5)  # 20 images in all
    write(tmp_path / "train" / "cat" / "3.png", random_bytes(64, 64, 3))
    cut = (tmp_path / "train" / "cat" / "3.png").read_bytes()[:2000]  # the head is whole, its pixels are not
    for name, content in (("3.png", cut), ("4.png", b"no image")):
        (tmp_path / "train" / "cat" / name).write_bytes(content)
    raw = from_folder(str(tmp_path), corrupt=0.1, size=8)
    pixels, labels, x_test, _ = read(raw)
    assert raw.notes == ("2 of 20 images cannot be read, first train/cat/3.png",)
    assert labels == [0] * 3 + [1] * 5
    assert np.array_equal(pixels, np.stack([random_bytes(8, 8, 3, seed=100 + i) for i in (1, 3, 5, 0, 2, 4, 6, 8)]))
    assert len(x_test) == 10
    said = r"2 of 20 images .* share task.data.corrupt=0.09: train/cat/3.png, train/cat/4.png \(.*mend or remove them"
    with pytest.raises(ParetuneError, match=said):
        from_folder(str(tmp_path), corrupt=0.09, size=8)
    with pytest.raises(
        ParetuneError, match=r"1 of 20 images .* share task.data.corrupt=0.01: train/cat/4.png \(cannot"
    ):
        from_folder(str(tmp_path), size=8)


def test_more_than_8_bits_cannot_be_read(tmp_path: Path) -> None:
    write(folder(tmp_path) / "train" / "cat" / "0.png", np.zeros((8, 8), dtype=np.uint16))
    with pytest.raises(ParetuneError, match=r"1 of 12 images .*: train/cat/0.png \(mode I;16, 8 bits per channel are"):
        from_folder(str(tmp_path))


def test_a_part_of_broken_images_only_is_empty(tmp_path: Path) -> None:
    for path in (folder(tmp_path) / "test").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ParetuneError, match=r"images of test have the shape .* there are none; at least one"):
        from_folder(str(tmp_path), corrupt=0.9)


def test_images_of_mixed_size_need_a_size(tmp_path: Path) -> None:
    write(folder(tmp_path) / "test" / "dog" / "1.png", random_bytes(9, 7, 3))
    said = r"train/cat/0.png is 8×8 and test/dog/1.png 7×9 .*; set task.data.size=7"
    with pytest.raises(ParetuneError, match=said):
        from_folder(str(tmp_path))
    assert read(from_folder(str(tmp_path), size=7))[2].shape == (6, 7, 7, 3)


def test_images_beyond_the_limit_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 images: 8 × 8 × 3 bytes each are 2,304 in all; 5 × 5 × 3 are 900."""
    root = str(folder(tmp_path))
    assert len(read(from_folder(root, limit_bytes=2304))[0]) == 6
    with pytest.raises(
        ParetuneError, match=r"12 images of 8×8 take 2,304 bytes .*limit_bytes=2,303; task.data.size=7 or"
    ):
        from_folder(root, limit_bytes=2303)
    with pytest.raises(ParetuneError, match=r"task.data.size=5 or less would fit"):
        from_folder(root, limit_bytes=900)
    assert read(from_folder(root, size=5, limit_bytes=900))[0].shape == (6, 5, 5, 3)
    with pytest.raises(ParetuneError, match="limit_bytes=10; fewer images would fit"):
        from_folder(root, limit_bytes=10)
    monkeypatch.setattr(Image, "open", lambda path: pytest.fail("opened"))
    with pytest.raises(ParetuneError, match="take 12,000,000 bytes of memory or more"):
        from_folder(root, size=1000, limit_bytes=10_000_000, load="memory")


def remove(path: Path) -> None:
    for held in [*path.rglob("*.png")]:
        held.unlink()
    for held in sorted(path.rglob("*"), reverse=True):
        held.rmdir()
    path.rmdir()


@pytest.mark.parametrize(
    ("gone", "made", "said"),
    [
        ("", None, "no folder at .*; task.data.root holds train/<class>/ and test/<class>/"),
        ("train", None, "has no train folder; it has test"),
        ("test", "holdout", r"has no test folder \(test, val or valid\); it has holdout, train"),
        ("train/cat", None, "different class folders: only test has cat; both need the same"),
        ("test/cat", "test/cow", "different class folders: only train has cat; only test has cow"),
        ("train", "train", "train has no class folders; needed is train/<class>/"),
        ("train/cat", "train/cat", "the class folder .*train/cat has no images .* fill or remove it"),
    ],
)  # fmt: skip
def test_folders_that_do_not_fit(tmp_path: Path, gone: str, made: str | None, said: str) -> None:
    root = folder(tmp_path / "held")
    remove(root / gone)
    if made is not None:
        (root / made).mkdir()
    if made == "test/cow":
        write(root / made / "0.png", random_bytes(8, 8, 3))
    with pytest.raises(ParetuneError, match=said):
        from_folder(str(root))


def test_of_two_test_folders_one_is_read_and_the_other_noted(tmp_path: Path) -> None:
    folder(folder(tmp_path, test="val"), test="test", count=1)
    raw = from_folder(str(tmp_path))
    assert len(read(raw)[3]) == 2
    assert raw.notes == ("val/ is not read, test/ is the test set",)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 0}, "task.data.size must be a whole number, 1 or more, got 0"),
        ({"size": "32"}, "task.data.size must be .* got '32'"),
        ({"limit_bytes": 1.5}, "task.data.limit_bytes must be .* got 1.5"),
        ({"corrupt": 1}, r"task.data.corrupt must be a share in \[0, 1\), got 1"),
    ],
)
def test_settings_that_are_none(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ParetuneError, match=said):
        from_folder(str(tmp_path), **settings)


def test_every_source_is_listed() -> None:
    makers = {"imagefolder": from_folder, "module": from_module, "npz": from_npz, "torchvision": from_torchvision}
    assert dict(SOURCES) == makers
