"""Where labelled images come from: an .npz file, a data set of torchvision, folders of files, your own code."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.errors import ParetuneError, first_line, near_miss
from paretune.tasks.folders import from_folder
from paretune.tasks.own_data import Three, from_module
from paretune.tasks.raw import Arrays, Raw, checked, raw_of
from paretune.tasks.target import text
from paretune.tasks.torchvision_data import from_torchvision

__all__ = ["SOURCES", "Arrays", "Raw", "Three", "from_folder", "from_module", "from_npz", "from_torchvision"]
KEYS = ("x_train", "y_train", "x_test", "y_test")


def from_npz(path: str) -> Raw:
    """What an .npz file holds under x_train, y_train, x_test and y_test.

    Images are uint8 (n, height, width, channels), or (n, height, width) for grey ones; labels whole numbers (n,). There
    are at least as many classes as the largest label says, named by their numbers.

    Raises:
        ParetuneError: no such file, or not that in it; names the array.
    """
    text("task.data.path", path)
    file = Path(path).expanduser()
    if not file.is_file():
        raise ParetuneError(f"data: no file at {file}; task.data.path names an .npz file")
    try:
        with file.open("rb") as opened:  # numpy leaves a broken file open
            held = np.load(opened, allow_pickle=False)
            x_train, y_train, x_test, y_test = (_entry(held, key) for key in KEYS)
    except ParetuneError:
        raise
    except Exception as error:  # numpy, zipfile, zlib and pickle each complain in their own way
        raise ParetuneError(f"data: {file} is no .npz file of plain arrays ({first_line(error)})") from error
    return raw_of(checked(x_train, y_train, "train"), checked(x_test, y_test, "test"), ())


SOURCES: Mapping[str, Callable[..., Raw | Three]] = {
    "imagefolder": from_folder,
    "module": from_module,
    "npz": from_npz,
    "torchvision": from_torchvision,
}


def _entry(held: Any, key: str) -> NDArray[Any]:
    if not isinstance(held, np.lib.npyio.NpzFile):
        raise ValueError("a single array, needed are " + ", ".join(KEYS))
    if key not in held.files:
        raise ParetuneError(f"data: the .npz file has no {key}.{near_miss(key, held.files)}")
    return np.asarray(held[key])
