"""Folders of image files, a folder per class, decoded into memory."""

from collections.abc import Mapping
from pathlib import Path

from paretune.errors import ParetuneError
from paretune.tasks.pictures import (
    LIMIT_BYTES,
    SUFFIXES,
    check_bytes,
    check_settings,
    decoded,
    one_shape,
    picture_files,
    shapes,
)
from paretune.tasks.raw import Raw, checked, raw_of

TEST_NAMES = ("test", "val", "valid")  # the first one found is the test set
Files = list[tuple[Path, int]]


def from_folder(root: str, size: int | None = None, corrupt: float = 0.01, limit_bytes: int = LIMIT_BYTES) -> Raw:
    """Images from root/train/<class>/ and root/test/<class>/ (or val/, or valid/), classes numbered by sorted name.

    `size` scales the short side to it and cuts out the middle square; without it all images must have one size. They
    are grey where all files are. Every image is decoded into memory, at most `limit_bytes` in all. Files that cannot be
    read are left out and noted, up to the share `corrupt` of all. Files without the suffix of an image and hidden ones
    are not looked at.

    Raises:
        ParetuneError: folders that are missing, empty or do not match; mixed sizes; too many bytes or broken images.
    """
    check_settings(size, limit_bytes)
    if isinstance(corrupt, bool) or not isinstance(corrupt, int | float) or not 0 <= corrupt < 1:
        raise ParetuneError(f"task.data.corrupt must be a share in [0, 1), got {corrupt!r}")
    top = Path(root).expanduser()
    test_name, notes = _test_name(top)
    classes, train = _labelled(top / "train")
    other, test = _labelled(top / test_name)
    _check_same(classes, other, test_name)
    files = [path for path, _ in train + test]
    check_bytes(len(files), (size or 0, size or 0, 1), limit_bytes)  # before a million files are opened
    good, bad = shapes(files, size)
    _check_share(bad, len(files), corrupt, top)
    shape = one_shape({_name(path, top): found for path, found in good.items()})
    check_bytes(len(good), shape, limit_bytes)
    parts = []
    for part, held in (("train", train), (test_name, test)):
        pixels, labels, broken = decoded([(path, label) for path, label in held if path in good], shape, size)
        bad |= broken
        _check_share(bad, len(files), corrupt, top)
        parts.append(checked(pixels, labels, part))
    if bad:
        notes += (f"{len(bad)} of {len(files)} images cannot be read, first {_name(min(bad), top)}",)
    return raw_of(parts[0], parts[1], classes, notes)


def _test_name(root: Path) -> tuple[str, tuple[str, ...]]:
    if not root.is_dir():
        raise ParetuneError(f"data: no folder at {root}; task.data.root holds train/<class>/ and test/<class>/")
    held = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    tests = [name for name in TEST_NAMES if name in held]
    if "train" not in held or not tests:
        lacks = "test folder (test, val or valid)" if "train" in held else "train folder"
        raise ParetuneError(f"data: {root} has no {lacks}; it has {', '.join(held[:10]) or 'no folders'}")
    return tests[0], tuple(f"{name}/ is not read, {tests[0]}/ is the test set" for name in tests[1:])


def _labelled(folder: Path) -> tuple[list[str], Files]:
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise ParetuneError(f"data: {folder} has no class folders; needed is {folder.name}/<class>/*.png")
    files: Files = []
    for label, name in enumerate(classes):
        found = picture_files(folder / name)
        if not found:
            raise ParetuneError(
                f"data: the class folder {folder / name} has no images ({' '.join(SUFFIXES)}); fill or remove it"
            )
        files += [(path, label) for path in found]
    return classes, files


def _check_same(train: list[str], test: list[str], name: str) -> None:
    only = [
        f"only {part} has {', '.join(odd[:3])}" + (f" and {len(odd) - 3} more" if odd[3:] else "")
        for part, odd in (("train", sorted({*train} - {*test})), (name, sorted({*test} - {*train})))
        if odd
    ]
    if only:
        raise ParetuneError(
            f"data: train and {name} have different class folders: {'; '.join(only)}; both need the same"
        )


def _check_share(bad: Mapping[Path, str], images: int, corrupt: float, root: Path) -> None:
    if len(bad) > corrupt * images:
        first = ", ".join(_name(path, root) for path in sorted(bad)[:3])
        raise ParetuneError(
            f"data: {len(bad)} of {images} images cannot be read, more than the share task.data.corrupt={corrupt}: "
            f"{first} ({bad[min(bad)]}); mend or remove them"
        )


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
