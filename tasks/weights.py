"""Weights on disk: read, checked against the model, written whole or not at all."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from paretune.errors import ParetuneError, first_line


def cache_folder() -> Path:
    """Where trained base models are kept: $PARETUNE_CACHE, or paretune/ in the user's cache folder."""
    fallback = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paretune"
    return Path(os.environ.get("PARETUNE_CACHE") or fallback)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or a PyTorch state-dict file.

    Raises:
        ParetuneError: the file is missing or is neither.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise ParetuneError(f"weights: no file at {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load lets pickle's many errors through; each means the same here
        raise ParetuneError(
            f"weights: {path} is no .safetensors file or PyTorch state dict ({first_line(error)})"
        ) from error


def load_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy `state` into `model`, in place.

    Raises:
        ParetuneError: keys or shapes differ; the message lists the first few.
    """
    wanted = model.state_dict()
    odd = [key for key in wanted if getattr(state.get(key), "shape", None) != wanted[key].shape]
    odd += [key for key in state if key not in wanted]
    if odd:
        raise ParetuneError(f"weights: {len(odd)} keys do not fit the model, first {', '.join(odd[:3])}")
    model.load_state_dict(state)


def save_state(model: nn.Module, path: Path) -> None:
    """Write the model's state to a .safetensors file, atomically."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, partial)
    os.replace(partial, path)
