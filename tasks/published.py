"""Weights from the net: downloaded once, checked, and kept in the cache folder."""

import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from torch.hub import download_url_to_file

from paretune.errors import ParetuneError, first_line, near_miss
from paretune.tasks.weights import cache_folder

# BSD-2-Clause. The eight digits begin the file's SHA-256.
CIFAR = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"
PUBLISHED: Mapping[str, str] = {
    "resnet20": CIFAR + "resnet20-12fca82f.th",
    "resnet32": CIFAR + "resnet32-d509ac18.th",
    "resnet44": CIFAR + "resnet44-014dd654.th",
    "resnet56": CIFAR + "resnet56-4bfd9763.th",
    "resnet110": CIFAR + "resnet110-1d1ed7c2.th",
}
PRETRAINED = "pretrained"  # the word for published weights of cifar and timm
DIGITS = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


def is_address(weights: str) -> bool:
    """Whether `weights` is to be downloaded."""
    return weights.startswith(("https://", "http://"))


def published(model: str) -> Path:
    """The file with the published CIFAR-10 weights of a network in `PUBLISHED`, downloaded at the first time.

    Raises:
        ParetuneError: there are none, or they cannot be had.
    """
    if model not in PUBLISHED:
        raise ParetuneError(f"weights: none are published for '{model}'.{near_miss(model, PUBLISHED)}")
    return fetched(PUBLISHED[model])


def fetched(address: str) -> Path:
    """The file behind an http(s) `address`, downloaded at the first time.

    Where its name ends in eight hexadecimal digits or more, as in resnet20-12fca82f.th, the file's SHA-256 must begin
    with these. Files of one name and different addresses are kept apart.

    Raises:
        ParetuneError: it cannot be downloaded, or is another file.
    """
    name = Path(unquote(urlsplit(address).path)).name
    if not Path(name).suffix:
        raise ParetuneError(f"weights: {address} names no file such as net.pth or net.safetensors")
    path = cache_folder() / "weights" / hashlib.sha256(address.encode()).hexdigest()[:12] / name
    if path.is_file():
        return path
    digits = DIGITS.search(name)
    print(f"downloading {address}", file=sys.stderr)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = digits[1] if digits else None
        download_url_to_file(address, str(path), hash_prefix=prefix, progress=sys.stderr.isatty())
    except Exception as error:  # urllib's, the disk's, and a plain RuntimeError for another file
        raise ParetuneError(
            f"weights: {address} cannot be downloaded ({first_line(error)}); download it elsewhere and set "
            "task.model.weights to the file"
        ) from error
    return path
