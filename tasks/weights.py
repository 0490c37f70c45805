"""Weights on disk: read, checked against the model, written whole or not at all."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paretune.errors import ParetuneError, first_line

NESTS = ("state_dict", "model", "net")  # where checkpoints keep the state dict
COUNT = "num_batches_tracked"  # of a batch norm since PyTorch 0.4.1; files that are older have no such key


def cache_folder() -> Path:
    """Where trained base models are kept: $PARETUNE_CACHE, or paretune/ in the user's cache folder."""
    fallback = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paretune"
    return Path(os.environ.get("PARETUNE_CACHE") or fallback)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or, with any other suffix, of a PyTorch state dict or a checkpoint around one.

    In a checkpoint the state dict stands under one of `NESTS`, the first that holds tensors alone. A "module." that
    begins every key (nn.DataParallel's) is cut off. No pickled class is ever loaded.

    Raises:
        ParetuneError: the file is missing, is neither, holds no state dict, or pickled classes.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise ParetuneError(f"weights: no file at {path}")
    try:
        safe = path.suffix == ".safetensors"
        loaded = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load lets pickle's many errors through
        raise ParetuneError(f"weights: {path} {_why(error)}") from error
    return _unwrapped(_found(loaded, path))


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into `model`, in place; without counts of batches in `state`, the model keeps its own.

    Raises:
        ParetuneError: keys or shapes differ; the message lists the first three of each kind.
    """
    own = model.state_dict()
    wanted, given = _unwrapped(own), _unwrapped(state)
    missing = [key for key in wanted if key not in given and key.split(".")[-1] != COUNT]
    strange = [key for key in given if key not in wanted]
    shapes = {key: (tuple(given[key].shape), tuple(wanted[key].shape)) for key in wanted if key in given}
    other = [
        f"{key} {there} in the file, {here} in the model" for key, (there, here) in shapes.items() if there != here
    ]
    kinds = {"missing": missing, "not in the model": strange, "other shape": other}
    if any(kinds.values()):
        count = sum(map(len, kinds.values()))
        listed = "; ".join(f"{kind}: {_first(keys)}" for kind, keys in kinds.items() if keys)
        raise ParetuneError(f"weights: {count} keys do not fit the model; {listed}")
    model.load_state_dict({name: given.get(key, own[name]) for name, key in zip(own, wanted, strict=True)})


def save_state(model: nn.Module, path: Path) -> None:
    """Write the model's state to a .safetensors file, atomically."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, partial)
    os.replace(partial, path)


def _found(loaded: Any, path: Path) -> Mapping[str, Tensor]:
    inner = [loaded[name] for name in NESTS if name in loaded] if isinstance(loaded, Mapping) else []
    for held in (loaded, *inner):
        if isinstance(held, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in held.items()):
            return held
    what = _first([str(key) for key in loaded]) if isinstance(loaded, Mapping) else f"a {type(loaded).__name__}"
    raise ParetuneError(
        f"weights: {path} holds {what}, but no state dict: tensors by name, and nothing else, at the top or under "
        f"{', '.join(NESTS)}"
    )


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return dict(state)


def _why(error: Exception) -> str:
    """What is wrong with a file that could not be read. PyTorch's own text advises to run what is in it."""
    if refused := re.search(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL) (\S+)", str(error)):
        return (
            f"holds pickled {refused[1]}, which can run any code when it is read and is not read here; save the state "
            "dict alone, torch.save(model.state_dict(), path), or a .safetensors file"
        )
    reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    return f"is no .safetensors file or PyTorch state dict ({reason[1] if reason else first_line(error)})"


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
