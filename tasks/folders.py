"""Folders of image files, a folder per class: decoded into memory, or read by worker processes."""

from collections.abc import Mapping
from pathlib import Path

from paretune.errors import ParetuneError, pick
from paretune.tasks.files import Listed, View, streamed, view_of
from paretune.tasks.pictures import (
    LIMIT_BYTES,
    SUFFIXES,
    Shape,
    check_bytes,
    check_settings,
    decoded,
    one_shape,
    picture_files,
    shapes,
)
from paretune.tasks.raw import Raw, checked, raw_of
from paretune.tasks.target import text

TEST_NAMES = ("test", "val", "valid")  # the first one found is the test set
LOADS = ("auto", "memory", "workers")


def from_folder(
    root: str, size: int | None = None, corrupt: float = 0.01, limit_bytes: int = LIMIT_BYTES, load: str = "auto",
    resize: int | None = None, crop: object = None, workers: object = "auto",
) -> Raw:  # fmt: skip
    """Images from root/train/<class>/ and root/test/<class>/ (or val/, or valid/), classes numbered by sorted name.

    `load` "memory" decodes every image into memory, at most `limit_bytes` in all; "workers" lets `workers` processes
    read them while they are needed (see `paretune.tasks.files`); "auto" takes workers if `crop` is given or a `size`
    with which the bytes do not fit. `size` scales the short side to `resize` (in memory `size`, for workers 256/224 of
    it) and cuts out the middle square; workers need it, in memory all images must have one size without it. `crop` is
    the range of the share of the area that workers' training crops have. Images are grey where all files are (for
    workers: all that are looked at beforehand). Files that cannot be read are left out and told, up to the share
    `corrupt` of all. Files without the suffix of an image and hidden ones are not looked at.

    Raises:
        ParetuneError: folders that are missing, empty or do not match; mixed sizes; too many bytes or broken images.
    """
    text("task.data.root", root)
    check_settings(size, limit_bytes)
    if isinstance(corrupt, bool) or not isinstance(corrupt, int | float) or not 0 <= corrupt < 1:
        raise ParetuneError(f"task.data.corrupt must be a share in [0, 1), got {corrupt!r}")
    pick(dict.fromkeys(LOADS), load, "way for task.data.load")
    view = view_of(size, resize, crop, workers, needed=load == "workers")
    if crop is not None and load == "memory":
        raise ParetuneError("task.data.crop is for load=workers; images in memory are cropped by task.data.pad")
    top = Path(root).expanduser()
    test_name, notes = _test_name(top)
    classes, train = _labelled(top, "train")
    other, test = _labelled(top, test_name)
    _check_same(classes, other, test_name)
    parts = {"train": train, test_name: test}
    if (
        load != "memory"
        and view
        and (load == "workers" or crop is not None or not _fits(top, parts, view, limit_bytes))
    ):
        return streamed(top, parts, tuple(classes), view, corrupt, notes)
    return _in_memory(top, parts, classes, (size, resize), corrupt, limit_bytes, notes)


def _fits(top: Path, parts: Mapping[str, Listed], view: View, limit_bytes: int) -> bool:
    files = [top / name for part in parts.values() for name in part.names]
    need = len(files) * view.size**2
    if need <= limit_bytes < 3 * need:  # only if all are grey
        return all(channels == 1 for _, _, channels in shapes(files, view.size)[0].values())
    return need <= limit_bytes


def _in_memory(
    top: Path, parts: Mapping[str, Listed], classes: list[str], sides: tuple[int | None, int | None], corrupt: float,
    limit_bytes: int, notes: tuple[str, ...],
) -> Raw:  # fmt: skip
    size, resize = sides
    held = {name: [top / file for file in part.names] for name, part in parts.items()}
    files = [path for paths in held.values() for path in paths]
    check_bytes(len(files), (size or 0, size or 0, 1), limit_bytes)  # before a million files are opened
    good, bad = shapes(files, size)
    _check_share(bad, len(files), corrupt, top)
    shape: Shape = one_shape({_name(path, top): found for path, found in good.items()})
    check_bytes(len(good), shape, limit_bytes)
    arrays = []
    for name, part in parts.items():
        labelled = [(path, label) for path, label in zip(held[name], part.labels, strict=True) if path in good]
        pixels, labels, broken = decoded(labelled, shape, size, resize)
        bad |= broken
        _check_share(bad, len(files), corrupt, top)
        arrays.append(checked(pixels, labels, name))
    if bad:
        notes += (f"{len(bad)} of {len(files)} images cannot be read, first {_name(min(bad), top)}",)
    return raw_of(arrays[0], arrays[1], classes, notes)


def _test_name(root: Path) -> tuple[str, tuple[str, ...]]:
    if not root.is_dir():
        raise ParetuneError(f"data: no folder at {root}; task.data.root holds train/<class>/ and test/<class>/")
    held = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    tests = [name for name in TEST_NAMES if name in held]
    if "train" not in held or not tests:
        lacks = "test folder (test, val or valid)" if "train" in held else "train folder"
        raise ParetuneError(f"data: {root} has no {lacks}; it has {', '.join(held[:10]) or 'no folders'}")
    return tests[0], tuple(f"{name}/ is not read, {tests[0]}/ is the test set" for name in tests[1:])


def _labelled(top: Path, part: str) -> tuple[list[str], Listed]:
    folder = top / part
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise ParetuneError(f"data: {folder} has no class folders; needed is {folder.name}/<class>/*.png")
    listed = Listed([], [], [])
    for label, name in enumerate(classes):
        found = picture_files(folder / name)
        if not found:
            raise ParetuneError(
                f"data: the class folder {folder / name} has no images ({' '.join(SUFFIXES)}); fill or remove it"
            )
        listed.names.extend(f"{part}/{name}/{file}" for file, _ in found)
        listed.sizes.extend(size for _, size in found)
        listed.labels.extend([label] * len(found))
    return classes, listed


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
