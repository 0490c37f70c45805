"""Channel groups that the user names, for networks that no tracer can follow.

A row is one group, and channel i of it leaves everything that the row lists:

    {name: stage1, out: [conv1, bn1, block.*.conv2], in: [block.*.conv1, fc]}

`out` are the layers that make the channels (rows of weights: convolutions, linear layers, batch norms, depthwise
convolutions), `in` those that read them (columns of weights). A residual is one row: all that is added stands under
`out`, with the batch norms. Names may be wildcards. A reader with m times as many columns as there are channels, as
after a flatten, loses m consecutive ones with each. Where that does not say it, an entry is a table:

    {layer: joined, from: 96}          the channels begin at column 96, as in a concatenation
    {layer: up, each: 4}               4 consecutive rows (or columns) for each channel, as before a pixel shuffle

A layer may be listed several times: queries, keys and values that one layer makes are three entries of it with `from`.
`units: 12` lets the channels leave in 12 equal consecutive bundles only, such as attention heads, and
`settings: {attn.num_heads: 1}` are whole numbers in modules that go down by so much with each of them. `channels: 64`
says how many there are if no entry of `out` shows it by its size. `name` is that of the first `out` layer if left out.
The channels of a grouped convolution are bundled so that each of its conv groups loses the same number.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from paretune.compress.cut import cut
from paretune.compress.layers import Watched, observed, tensors, twin_of, watch, with_norms
from paretune.compress.proof import proven
from paretune.errors import ParetuneError, first_line, near_miss
from paretune.inventory import Axis, Group, Inventory, Layer, Member, Setting
from paretune.spaces.language import known

KEYS = ("name", "out", "in", "channels", "units", "settings")
ENTRY_KEYS = ("layer", "from", "each")
LISTS: tuple[Axis, ...] = ("out", "in")
UNNAMED = "no row of inventory.groups lists its output channels"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One layer of a row. `start` and `each` are None where the row does not say them."""

    layer: Layer
    axis: Axis
    start: int | None
    each: int | None

    @property
    def size(self) -> int:
        """How many rows or columns the layer has; those of all conv groups together."""
        shape = self.layer.weight_shape
        return shape[0] if self.axis == "out" else shape[1] * self.layer.groups

    @property
    def tells(self) -> bool:
        """True if its size is the number of channels."""
        return self.axis == "out" and self.start is None and self.each is None

    @property
    def width(self) -> int:
        """The rows or columns of one conv group where those have to stay equal, else all."""
        return self.size // self.layer.groups if self.layer.groups > 1 and not self.layer.depthwise else self.size


@dataclass(frozen=True, kw_only=True)
class Row:
    """One group as it was written down; `where` names it in messages."""

    name: str
    entries: tuple[Entry, ...]
    channels: int
    bundles: int
    settings: tuple[Setting, ...]

    @property
    def where(self) -> str:
        """ "group 'stage1'"."""
        return f"group '{self.name}'"


def by_hand(model: nn.Module, example: Tensor, rows: Sequence[Mapping[str, Any]]) -> Inventory:
    """The layers of `model`, seen on `example` (N, ...), with the channel groups that `rows` name and no others.

    The rows' language is that of this module. Every group is proven by a real cut: what is left must compute what the
    network computes with these channels at zero. `model` is left untouched.

    Raises:
        ParetuneError: the forward fails on `example`; a row with an unknown key or layer, sizes that do not fit
            together, a channel that is listed twice, or a group that cannot be cut. The message names the group.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin = twin_of(model, example)
        watched = watch(twin, example)
        inventory = _inventory(twin, watched, rows, tuple(example.shape[1:]))
        _prove(twin, example, inventory)
        return observed(twin, example, inventory, watched.trace)


def _inventory(
    model: nn.Module, watched: Watched, rows: Sequence[Mapping[str, Any]], input_shape: tuple[int, ...]
) -> Inventory:
    layers = with_norms(watched)
    order = {layer.name: position for position, layer in enumerate(layers)}
    read = [_read(number, row, layers, watched.shared) for number, row in enumerate(rows, 1)]
    groups = [_group(row, order) for row in read]
    _check_apart(groups)
    _check_settings(model, groups)
    groups.sort(key=lambda group: order[group.producers[0].layer])
    made = {member.layer for group in groups for member in group.producers}
    unmade = (layer.name for layer in layers if layer.kind in ("conv", "linear") and layer.name not in made)
    whole = dict.fromkeys(unmade, UNNAMED)
    return Inventory(layers=layers, groups=tuple(groups), input_shape=input_shape, whole=whole)


def _read(number: int, row: Any, layers: tuple[Layer, ...], shared: frozenset[str]) -> Row:
    where = f"inventory.groups: row {number}"
    known(where, row, KEYS)
    name = row.get("name")
    if name is not None and (not isinstance(name, str) or not name):
        raise ParetuneError(f"{where}: name is a word, got {name!r}")
    where = f"group '{name}'" if name else where
    entries = [entry for axis in LISTS for entry in _entries(where, axis, row.get(axis, ()), layers, shared)]
    if not entries or entries[0].axis == "in":
        raise ParetuneError(f"{where}: out needs the layers that make its channels, got none")
    made = {entry.layer.name for entry in entries if entry.axis == "out"}
    if name in set(_names(layers)) - made:  # groups and layers share one space of names
        raise ParetuneError(f"{where}: a layer that it does not make is called so; give the group another name")
    channels = _count(where, "channels", row, 2)
    if channels is None:
        channels = next((entry.size for entry in entries if entry.tells), None)
    if channels is None:
        raise ParetuneError(f"{where}: no entry of out shows how many channels there are; add channels: 64")
    bundles = _count(where, "units", row, 2) or channels
    if channels % bundles:
        raise ParetuneError(f"{where}: {channels} channels do not make {bundles} equal units")
    return Row(
        name=name or entries[0].layer.name, entries=tuple(entries), channels=channels, bundles=bundles,
        settings=_settings(where, row.get("settings", {})),
    )  # fmt: skip


def _settings(where: str, given: Any) -> tuple[Setting, ...]:
    if not isinstance(given, Mapping):
        raise ParetuneError(f"{where}: settings is a table such as {{attn.num_heads: 1}}, got {given!r}")
    split = {str(key): str(key).rpartition(".") for key in given}
    counts = {key: _count(where, key, given, 1) or 1 for key in given}
    return tuple(Setting(module=split[key][0], name=split[key][2], per_unit=counts[key]) for key in given)


def _count(where: str, key: str, given: Mapping[str, Any], least: int) -> int | None:
    number = given.get(key)
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < least):
        raise ParetuneError(f"{where}: {key} is a whole number from {least} on, got {number!r}")
    return number


def _entries(where: str, axis: Axis, given: Any, layers: tuple[Layer, ...], shared: frozenset[str]) -> Iterator[Entry]:
    listed = [given] if isinstance(given, (str, Mapping)) else given
    if not isinstance(listed, Sequence):
        raise ParetuneError(f"{where}: {axis} is a list of layers, got {given!r}")
    for entry in listed:
        table = {"layer": entry} if isinstance(entry, str) else entry
        known(f"{where}, {axis}", table, ENTRY_KEYS)
        start, each = _count(where, "from", table, 0), _count(where, "each", table, 1)
        for layer in _named(where, axis, table.get("layer"), layers):
            if layer.name in shared:
                raise ParetuneError(f"{where}: '{layer.name}' is used more than once, so its channels cannot leave")
            yield Entry(layer=layer, axis=axis, start=start, each=each)


def _named(where: str, axis: Axis, pattern: Any, layers: tuple[Layer, ...]) -> list[Layer]:
    """The layers behind a name or wildcard; a wildcard passes over those that have nothing to cut on this axis."""
    exact = [layer for layer in layers if layer.name == pattern]
    hits = exact or [layer for layer in layers if isinstance(pattern, str) and fnmatchcase(layer.name, pattern)]
    if not hits:
        raise ParetuneError(f"{where}: no layer is called '{pattern}'.{near_miss(str(pattern), _names(layers))}")
    fitting = [layer for layer in hits if not _unfit(layer, axis)]
    if not fitting:
        raise ParetuneError(f"{where}: '{hits[0].name}' {_unfit(hits[0], axis)}")
    return fitting


def _names(layers: tuple[Layer, ...]) -> list[str]:
    return [layer.name for layer in layers]


def _unfit(layer: Layer, axis: Axis) -> str:
    if layer.kind == "other":
        return "is no convolution, linear layer or batch norm, so it cannot be sliced"
    if axis == "in" and (layer.kind == "norm" or layer.depthwise):
        return "has a row and no column for each channel: list it under out"
    return ""


def _group(row: Row, order: Mapping[str, int]) -> Group:
    """The members with the indices of every unit, in order of execution."""
    places = [(entry, _indices(row, entry)) for entry in row.entries]
    unit = _units(row, places)
    count = max(unit) + 1
    if count < 2:
        raise ParetuneError(f"{row.where}: its channels can only leave all at once")
    members: dict[tuple[str, Axis], list[set[int]]] = {}
    for entry, channels in places:
        units = members.setdefault((entry.layer.name, entry.axis), [set() for _ in range(count)])
        for channel, indices in enumerate(channels):
            units[unit[channel]].update(_stored(entry, indices))
    found = [
        Member(layer=layer, axis=axis, units=tuple(tuple(sorted(each)) for each in units))
        for (layer, axis), units in members.items()
    ]
    found.sort(key=lambda member: (order[member.layer], member.axis == "out"))
    return Group(name=row.name, channels=count, members=tuple(found), settings=row.settings)


def _indices(row: Row, entry: Entry) -> list[range]:
    """The rows or columns of every channel."""
    what = "output channels" if entry.axis == "out" else "input channels"
    each = entry.each or 1
    if entry.start is None and entry.each is None:
        each, rest = divmod(entry.size, row.channels)
        if rest or not each or (each > 1 and entry.axis == "out"):
            raise ParetuneError(f"{row.where}: {_told(row)} and '{entry.layer.name}' {entry.size}{_hint(entry)}")
    start = entry.start or 0
    end = start + each * row.channels
    if end > entry.size:
        raise ParetuneError(
            f"{row.where}: {row.channels} channels from {start} on, {each} each, end at {end}, "
            f"and '{entry.layer.name}' has {entry.size} {what}"
        )
    if entry.width < entry.size and (start or end < entry.size):
        raise ParetuneError(
            f"{row.where}: it is only part of the {what} of the grouped convolution '{entry.layer.name}'"
        )
    return [range(first, first + each) for first in range(start, end, each)]


def _told(row: Row) -> str:
    """Where the number of channels comes from."""
    first = next((entry for entry in row.entries if entry.tells and entry.size == row.channels), None)
    return f"'{first.layer.name}' has {row.channels} output channels" if first else f"it has {row.channels} channels"


def _hint(entry: Entry) -> str:
    return " input channels; an entry {layer: ..., from: ...} says where they begin" if entry.axis == "in" else ""


def _stored(entry: Entry, indices: Sequence[int]) -> set[int]:
    """As the weight tensor counts: the columns of a grouped convolution inside one conv group."""
    return {index % entry.width for index in indices} if entry.axis == "in" else set(indices)


def _units(row: Row, places: Sequence[tuple[Entry, Sequence[range]]]) -> list[int]:
    """The unit of every channel, numbered by their first channel."""
    unit = [channel * row.bundles // row.channels for channel in range(row.channels)]
    for entry, channels in places:
        if entry.width == entry.size:
            continue
        tied: dict[int, set[int]] = {}
        for channel, indices in enumerate(channels):
            for index in indices:
                tied.setdefault(index % entry.width, set()).add(channel)
        for together in tied.values():
            joined = {unit[channel] for channel in together}
            unit = [min(joined) if each in joined else each for each in unit]
    numbers = {first: number for number, first in enumerate(dict.fromkeys(unit))}
    return [numbers[each] for each in unit]


def _check_apart(groups: Sequence[Group]) -> None:
    """Nothing may leave twice, and no two groups have one name."""
    owners: dict[tuple[str, Axis, int], str] = {}
    names: set[str] = set()
    for group in groups:
        if group.name in names:
            raise ParetuneError(f"inventory.groups: two groups are called '{group.name}'")
        names.add(group.name)
        for member in group.members:
            side = "output" if member.axis == "out" else "input"
            for index in (index for unit in member.units for index in unit):
                if (owner := owners.get((member.layer, member.axis, index))) is not None:
                    twice = "twice" if owner == group.name else f"in group '{owner}' already"
                    raise ParetuneError(
                        f"group '{group.name}': {side} channel {index} of '{member.layer}' is listed {twice}"
                    )
                owners[member.layer, member.axis, index] = group.name


def _check_settings(model: nn.Module, groups: Sequence[Group]) -> None:
    """Every setting is a whole number that is still above 0 when one unit is left."""
    modules = dict(model.named_modules())
    for group in groups:
        for setting in group.settings:
            path = f"{setting.module}.{setting.name}".lstrip(".")
            number = getattr(modules.get(setting.module), setting.name, None)
            if not isinstance(number, int) or isinstance(number, bool):
                raise ParetuneError(f"group '{group.name}': settings: the model has no whole number '{path}'")
            if number <= setting.per_unit * (group.channels - 1):
                raise ParetuneError(
                    f"group '{group.name}': settings: '{path}' is {number}; less {setting.per_unit} for each of "
                    f"{group.channels - 1} units nothing is left"
                )


def _prove(model: nn.Module, example: Tensor, inventory: Inventory) -> None:
    try:
        found = proven(model, example, inventory).group
    except Exception:  # a forward may check its shapes with any exception
        found = {}
    lost = [group for group in inventory.groups if group.name not in found]
    reasons = {group.name: _why(model, example, inventory, group) for group in lost}
    for name, reason in reasons.items():
        if reason:
            raise ParetuneError(f"group '{name}' cannot be cut: {reason}")
    for name in reasons:
        raise ParetuneError(
            f"group '{name}' cannot be cut: what is left computes something else than the network with these channels "
            "at zero; its layers do not hold them in the same order, or they mix on the way"
        )


def _why(model: nn.Module, example: Tensor, inventory: Inventory, group: Group) -> str:
    """What a cut of this group alone does to the forward's shapes; empty if nothing."""
    kept = {group.name: tuple(unit for unit in range(group.channels) if unit % 3 != 1)}
    small = cut(model, replace(inventory, groups=(group,)), kept)
    begun = ["the start"]
    for layer in inventory.layers:
        with suppress(RuntimeError, TypeError):  # a compiled module may take no hooks
            small.get_submodule(layer.name).register_forward_pre_hook(_noting(begun, layer.name))
    with torch.no_grad():
        dense = [tuple(tensor.shape) for tensor in tensors(model(example))]
        try:
            left = [tuple(tensor.shape) for tensor in tensors(small(example))]
        except Exception as error:
            return f"the forward then fails at or after {begun[-1]}: {first_line(error)}"
    changed = ((one, two) for one, two in zip(dense, left, strict=False) if one != two)
    return next((f"its channels are the model's output, whose shape {one} became {two}" for one, two in changed), "")


def _noting(begun: list[str], name: str) -> Callable[[nn.Module, Any], None]:
    def note(_: nn.Module, given: Any) -> None:
        begun.append(f"'{name}'")

    return note
