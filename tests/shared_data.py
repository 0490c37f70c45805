"""Data that is not part of the product: in the folder `shared` beside the checkout, or in $PARETUNE_SHARED."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def shared(name: str) -> Path:
    """The path of "data/weights/akamaster_cifar10_resnet20.th" and the like; skips the test where there is none."""
    path = Path(os.environ.get("PARETUNE_SHARED") or ROOT.parent / "shared") / name
    if not path.exists():
        pytest.skip(f"there is no {path}; $PARETUNE_SHARED names the folder that holds {name}")
    return path
