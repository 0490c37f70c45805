"""What `paretune inspect` looks at: the inventory of a task's model, or of a bare network without data or weights."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from paretune.compress.layers import survey
from paretune.conf.settings import InventorySettings
from paretune.costs.counts import macs
from paretune.errors import ParetuneError, UnknownName
from paretune.inventory import Inventory
from paretune.plan import DENSE
from paretune.profile import profile
from paretune.search.bench import TRACED, inventory_of
from paretune.tasks.bare import Bare, make_bare
from paretune.tasks.table import make_task

MANY_MACS = 50e9  # finding groups takes a dozen real forwards


def look_at(
    config: Mapping[str, Any], *, device: str = "auto", asked: InventorySettings = TRACED
) -> tuple[str, Inventory]:
    """The name and inventory of what a task's config describes, its channel groups found as `asked`.

    A bare network is first made of shapes alone, which takes no memory and rejects a wrong input at once; with numbers
    only to find its channel groups.

    Raises:
        ParetuneError: an unknown task or model, a forward that fails on its input, a wildcard to exclude that matches
            nothing, or groups by hand that cannot be cut.
    """
    shapes = make_bare(config, device="meta")
    if shapes is None:
        task = make_task(config, device=device)
        return task.name, _with_groups(task.model, task.example(), asked)
    bare = _surveyed(config, shapes)
    if (count := macs(profile(bare, DENSE))) > MANY_MACS and asked.groups is None:
        return shapes.name, _without_groups(bare, f"not looked for in a network of {count / 1e9:.0f} G MACs")
    full = make_bare(config)
    assert full is not None
    return full.name, _with_groups(full.model, full.example, asked)


def _surveyed(config: Mapping[str, Any], shapes: Bare) -> Inventory:
    """Without groups; with numbers where the forward looks at them and so does not run on shapes alone."""
    try:
        return survey(shapes.model, shapes.example)
    except ParetuneError:
        full = make_bare(config)
        assert full is not None
    try:
        return survey(full.model, full.example)
    except ParetuneError as error:
        raise ParetuneError(f"{error}; give it another task.input_shape") from error


def _with_groups(model: nn.Module, example: Tensor, asked: InventorySettings) -> Inventory:
    """With channel groups if they can be found; else the reason stands where groups would. Those by hand must hold."""
    if asked.groups is None:
        print(f"looking for channel groups, {asked.seconds:g} s at most", file=sys.stderr)
    try:
        return inventory_of(model, example, asked)
    except UnknownName:
        raise
    except ParetuneError as error:
        if asked.groups is not None:
            raise
        return _without_groups(survey(model, example), str(error))


def _without_groups(bare: Inventory, why: str) -> Inventory:
    return replace(bare, whole=dict.fromkeys((layer.name for layer in bare.weighted), f"no channel groups: {why}"))
