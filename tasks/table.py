"""The tasks that can be named in a config, and the user's own through `_target_`."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from paretune.errors import ParetuneError, pick
from paretune.tasks.bare import BARE
from paretune.tasks.classification import classification
from paretune.tasks.digits import digits
from paretune.tasks.target import check_bound, check_known, imported
from paretune.tasks.task import Task

TASKS: Mapping[str, Callable[..., Task]] = {"digits": digits, "classification": classification}


def make_task(config: Mapping[str, Any], *, device: str = "auto") -> Task:
    """The task of a config such as {"name": "digits", "seed": 0} or {"_target_": "my_module.my_task", ...}.

    Every other key is passed on as an argument; a `_target_` must return a `Task`. `device` ("auto", "cpu", "cuda") is
    passed on to makers that take one.

    Raises:
        ParetuneError: unknown name or argument, a missing argument, a target that cannot be imported or called or
            returns something else, or a bare model (`paretune.tasks.bare`), which cannot be searched.
    """
    arguments = {key: value for key, value in config.items() if key not in ("name", "_target_")}
    called = str(config.get("_target_") or config.get("name"))
    if not config.get("_target_"):
        pick({**TASKS, **BARE}, called, "task")
        if called in BARE:
            told = "has a model but neither data nor trained weights: it can be inspected, not searched"
            raise ParetuneError(f"task '{called}' {told}")
    make = imported(called) if config.get("_target_") else TASKS[called]
    check_known(make, arguments)
    if "device" in inspect.signature(make).parameters:
        arguments.setdefault("device", _device(device))
    check_bound(make, arguments)
    try:
        task = make(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        if "_target_" in config:
            raise  # the user's own code: its traceback says more than we could
        raise ParetuneError(f"task {called} cannot be made of {arguments} ({error})") from error
    if not isinstance(task, Task):
        raise ParetuneError(f"task: {called} must return a paretune.tasks.task.Task, not a {type(task).__name__}")
    # A task that does not say how it can be made again can be made as it was made here.
    return task if task.origin else replace(task, origin=dict(config))


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ParetuneError("device=cuda: PyTorch sees no GPU here; use cpu or auto")
    return name
