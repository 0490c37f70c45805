"""The plan that a command line asks for: in a few settings, or from a file. No model is built for it."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import yaml

from paretune.compress.narrow import narrow
from paretune.compress.patterns import stand_in
from paretune.compress.planning import foreseen
from paretune.errors import ImpossiblePlan, ParetuneError, near_miss
from paretune.inventory import Inventory
from paretune.plan import DENSE, Pattern, Plan
from paretune.recipe import Wanted
from paretune.records import from_plain
from paretune.spaces.fixed import fixed_plan


def asked_plan(asked: Mapping[str, Any], inventory: Inventory) -> Plan:
    """The plan of the `plan` section: of a file, or of a few settings; the dense one without any.

    Raises:
        ParetuneError: as in `fixed_plan`, or `file` beside other settings.
    """
    if "file" not in asked:
        return fixed_plan(asked, inventory, _masked) if asked else DENSE
    if others := [key for key in asked if key != "file"]:
        raise ParetuneError(f"plan.file says everything; leave plan.{others[0]} out, or the file")
    plan = _checked(_read(Path(str(asked["file"]))), inventory)
    return foreseen(plan, inventory)


def _masked(wanted: Wanted, shape: tuple[int, ...]) -> Pattern | None:
    """A stand-in for the mask; None where nothing is masked."""
    found = stand_in(wanted, shape)
    return None if found.nonzeros == prod(shape) else found


def _read(path: Path) -> Plan:
    """The plan of an exported folder, or of a YAML or JSON file."""
    file = path / "plan.yaml" if path.is_dir() else path
    if not file.is_file():
        raise ParetuneError(f"plan.file: no file at {file}; it is an exported folder, or its plan.yaml")
    try:
        plan = from_plain(Plan, yaml.safe_load(file.read_text(encoding="utf-8")))
        told = [unit for units in plan.kept.values() for unit in units]
        for row in plan.layers:
            told += [row.weight_bits, row.activation_bits, *(row.codes or ())]
            told += [row.pattern.nonzeros, row.pattern.index_bytes, row.pattern.parts] if row.pattern else []
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, AttributeError, KeyError) as error:
        raise ParetuneError(f"plan.file: {file} holds no plan; the plan.yaml of an exported folder does") from error
    if not all(isinstance(number, int) for number in told):
        raise ParetuneError(f"plan.file: {file} holds no plan of this version; export it again")
    return plan


def _checked(plan: Plan, inventory: Inventory) -> Plan:
    """The plan, if it is one of this network.

    Raises:
        ImpossiblePlan: it names layers or groups that the network does not have, units or weights that are not there,
            or leaves bits and channels to be found in training.
    """
    other = "plan.file: the plan is another network's"
    tables = (("layer", plan.bits, [layer.name for layer in inventory.weighted]), ("group", plan.kept, inventory.group))
    for kind, named, there in tables:
        for name in named:
            if name not in there:
                raise ImpossiblePlan(f"{other}: no {kind} is called '{name}'.{near_miss(name, there)}")
    if plan.joint is not None and not plan.joint.done:
        raise ImpossiblePlan("plan.file: bits and channels are still to be found in training; take an exported plan")
    left = narrow(inventory, plan.kept)
    for row in plan.layers:
        stay, weights = row.pattern.nonzeros if row.pattern else 0, prod(left.layer[row.layer].weight_shape)
        if stay > weights:
            raise ImpossiblePlan(f"{other}: it keeps {stay} weights of '{row.layer}', which has {weights}")
    return plan
