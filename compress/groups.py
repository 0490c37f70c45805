"""Channel groups: which output channels of which layers can only leave together."""

import copy
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import Tensor, nn

from paretune.compress.channels import Followed, Place, follow
from paretune.compress.labels import Atoms
from paretune.compress.layers import Watched, observed, watch
from paretune.compress.proof import proven
from paretune.compress.splits import Follower, setting, settle
from paretune.errors import ParetuneError, first_line, near_miss
from paretune.inventory import Axis, Group, Inventory, Layer, Member

Roots = dict[int, set[int]]  # index along a weight axis -> channels of the group's first producer
TRIES = 4  # readings of a module that takes channels apart


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What is known of one producer's channels; `reason` is why they cannot leave, or empty. `roots` are its channels
    by the atom that stands for them."""

    name: str
    channels: int
    places: dict[Place, Roots]
    reason: str
    roots: Roots


def discover(model: nn.Module, example: Tensor, *, seconds: float = 60.0, exclude: Iterable[str] = ()) -> Inventory:
    """The layers and prunable channel groups of `model`, seen on `example` (1, ...); `model` is left untouched.

    Channels are followed through the operations of one forward, as in a dependency graph (Fang et al. 2023, DepGraph,
    https://arxiv.org/abs/2301.12900), and attention leaves by heads; every group is then checked by a real cut. Groups
    that reach the model's input or output, a layer that cannot be sliced, a layer used twice or one whose name matches
    a shell wildcard in `exclude` stay whole and are listed with the reason. The channels of a grouped convolution are
    bundled so that each of its conv groups loses the same number. What one forward runs and keeps in memory is watched,
    and how that follows the channels is checked by two cuts. Takes about the time of ten forwards, at most `seconds`
    (wall clock) for the groups.

    Raises:
        ParetuneError: the forward fails on `example`, the model cannot be copied, a wildcard matches no layer, or time
            is up.
    """
    deadline = time.monotonic() + seconds
    try:
        return _apart(lambda: _discover(model, example, deadline, tuple(exclude)))
    except TimeoutError as error:
        raise ParetuneError(
            f"finding the channel groups took longer than {seconds:g} s; exclude layers by name (inventory.exclude) or "
            "give groups by hand (inventory.groups)"
        ) from error


def _apart(work: Callable[[], Inventory]) -> Inventory:
    """Runs `work` in a thread of its own, which starts free of the caller's no_grad, autocast and inference mode."""
    done: list[Inventory] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _discover(model: nn.Module, example: Tensor, deadline: float, exclude: tuple[str, ...]) -> Inventory:
    try:
        twin = copy.deepcopy(model).to(example.device).eval()
    except Exception as error:
        raise ParetuneError(f"the model cannot be copied: {first_line(error)}") from error
    watched = watch(twin, example)
    excluded = _excluded(exclude, watched.layers)
    try:
        followed = follow(twin, example, watched, deadline)
    except TimeoutError:
        raise
    except Exception as error:
        raise ParetuneError(f"the model's channels cannot be followed: {first_line(error)}") from error
    inventory = _proven(twin, example, watched, followed, excluded, deadline)
    return observed(twin, example, inventory, watched.trace)


def _excluded(patterns: tuple[str, ...], layers: tuple[Layer, ...]) -> frozenset[str]:
    names = [layer.name for layer in layers]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ParetuneError(f"inventory.exclude: no layer matches '{pattern}'.{near_miss(pattern, names)}")
    return frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def _proven(
    twin: nn.Module, example: Tensor, watched: Watched, followed: Followed, excluded: frozenset[str], deadline: float
) -> Inventory:
    """Groups whose cut fails are tried again with the next reading of the splits that they meet."""
    book, before = followed.book, list(followed.book.parent)
    tries: dict[int, int] = {}
    best: Inventory | None = None
    for _ in range(TRIES):
        book.parent[:] = before
        followers, ways = settle(book, twin, tries)
        found = _inventory(watched, followed, followers, excluded, example)
        if best is not None:
            known = {member.layer for group in best.groups for member in group.producers}
            new = (g for g in found.groups if not known & {member.layer for member in g.producers})
            order = [layer.name for layer in found.layers]
            both = sorted((*best.groups, *new), key=lambda group: order.index(group.name))
            found = replace(found, groups=tuple(both))
        best = proven(twin, example, found, deadline=deadline)
        lost = {group.name for group in found.groups} - set(best.group)
        again = _met(book, followed, lost, ways, tries)
        if not again:
            break
        tries |= again
    assert best is not None
    return best


def _met(
    book: Atoms, followed: Followed, lost: set[str], ways: Mapping[int, int], tries: Mapping[int, int]
) -> dict[int, int]:
    """The next reading of every split that meets the groups called `lost`, if there is another."""
    classes = {book.find(atom) for name in lost for atom in followed.places[name, "out"][0].tolist() if atom >= 0}
    found = {}
    for number, count in ways.items():
        hit = any(book.find(atom) in classes for atom in set(book.splits[number].atoms.ravel().tolist()) if atom >= 0)
        if hit and tries.get(number, 0) + 1 < count:
            found[number] = tries.get(number, 0) + 1
    return found


def _inventory(
    watched: Watched, followed: Followed, followers: list[Follower], excluded: frozenset[str], example: Tensor
) -> Inventory:
    layers = _with_norms(watched, followed)
    traced = _all(followed, layers, excluded)
    traced = _keep_whole(traced, _mixed(traced, layers))
    groups = {item.name: _group(item, layers, followers, followed.book) for item in traced if not item.reason}
    single = {name: "its channels can only leave all at once" for name, group in groups.items() if group.channels < 2}
    return Inventory(
        layers=layers,
        groups=tuple(group for group in groups.values() if group.channels > 1),
        input_shape=tuple(example.shape[1:]),
        whole=_whole(_keep_whole(traced, single), layers),
    )


def _with_norms(watched: Watched, followed: Followed) -> tuple[Layer, ...]:
    """The layers, each with the batch norm that alone reads its output; one without statistics never folds."""
    fixed = {layer.name: layer for layer in watched.layers if layer.kind == "norm" and layer.buffers}

    def norm(layer: Layer) -> str | None:
        readers = followed.readers.get(layer.name, [])
        found = fixed.get(readers[0]) if len(readers) == 1 else None
        if found is None or layer.kind not in ("conv", "linear") or {layer.name, found.name} & watched.shared:
            return None
        fits = found.weight_shape == layer.weight_shape[:1] and (layer.kind == "conv" or layer.positions == 1)
        return found.name if fits else None

    return tuple(replace(layer, norm=norm(layer)) for layer in watched.layers)


def _all(followed: Followed, layers: tuple[Layer, ...], excluded: frozenset[str]) -> list[Traced]:
    """One entry per set of coupled producers, in order of execution."""
    where = _where(followed)
    stuck: dict[int, tuple[int, str]] = {}
    for order, (atom, reason) in enumerate(followed.book.stuck.items()):
        stuck.setdefault(followed.book.find(atom), (order, reason))
    found: list[Traced] = []
    seen: set[str] = set()
    for layer in layers:
        if layer.kind not in ("conv", "linear") or layer.name in seen:
            continue
        found.append(_trace(layer, followed, where, stuck, excluded))
        seen.update(name for name, axis in found[-1].places if axis == "out")
    return found


Where = dict[int, list[tuple[Place, int]]]  # places and indices by the atom that stands for what lies there


def _where(followed: Followed) -> Where:
    where: Where = {}
    for place, rows in followed.places.items():
        for row in rows:
            for index, atom in enumerate(row.tolist()):
                if atom >= 0:
                    where.setdefault(followed.book.find(atom), []).append((place, index))
    return where


def _trace(
    layer: Layer, followed: Followed, where: Where, stuck: Mapping[int, tuple[int, str]], excluded: frozenset[str]
) -> Traced:
    rows = followed.places.get((layer.name, "out"))
    if rows is None:
        lost: dict[Place, Roots] = {(layer.name, "out"): {}}
        return Traced(name=layer.name, channels=0, places=lost, reason="the tracer cannot follow its output", roots={})
    roots: Roots = {}
    for channel, atom in enumerate(rows[0].tolist()):
        if atom >= 0:
            roots.setdefault(followed.book.find(atom), set()).add(channel)
    places: dict[Place, Roots] = {}
    for atom, channels in roots.items():
        for place, index in where[atom]:
            places.setdefault(place, {}).setdefault(index, set()).update(channels)
    reasons = sorted(stuck[atom] for atom in roots if atom in stuck)
    reason = reasons[0][1] if reasons else ""
    if not reason and any(name in excluded for name, _ in places):
        reason = "excluded by name"
    return Traced(name=layer.name, channels=len(rows[0]), places=places, reason=reason, roots=roots)


def _mixed(traced: list[Traced], layers: tuple[Layer, ...]) -> dict[str, str]:
    """Why groups stay whole whose channels meet others' in the input of a grouped convolution.

    Every conv group must lose the same number of channels, which would tie the groups to each other.
    """
    reasons: dict[str, str] = {}
    for layer in layers:
        if layer.groups == 1 or layer.depthwise:
            continue
        owners = {item.name: set(item.places.get((layer.name, "in"), ())) for item in traced}
        owners = {name: indices for name, indices in owners.items() if indices}
        width = layer.weight_shape[1] * layer.groups
        if len(owners) > 1 or any(len(indices) < width for indices in owners.values()):
            reasons.update(dict.fromkeys(owners, f"only part of what the grouped convolution '{layer.name}' reads"))
    return reasons


def _keep_whole(traced: list[Traced], reasons: Mapping[str, str]) -> list[Traced]:
    return [replace(item, reason=item.reason or reasons.get(item.name, "")) for item in traced]


def _whole(traced: list[Traced], layers: tuple[Layer, ...]) -> dict[str, str]:
    weighted = {layer.name for layer in layers if layer.kind in ("conv", "linear")}
    return {
        name: item.reason
        for item in traced
        if item.reason
        for name, axis in item.places
        if axis == "out" and name in weighted
    }


def _group(traced: Traced, layers: tuple[Layer, ...], followers: list[Follower], book: Atoms) -> Group:
    """Bundles the channels that share an index somewhere, or a place in the conv groups of a grouped convolution."""
    table = {layer.name: layer for layer in layers}
    local = [_local(roots, table[name], axis) for (name, axis), roots in traced.places.items()]
    unit = _units(traced.channels, [roots for place in local for roots in place.values()])
    members = []
    for (name, axis), sources in traced.places.items():
        units: list[set[int]] = [set() for _ in range(max(unit) + 1)]
        for index, roots in sources.items():
            place = index % table[name].weight_shape[1] if axis == "in" else index
            for root in roots:
                units[unit[root]].add(place)
        members.append(Member(layer=name, axis=axis, units=tuple(tuple(sorted(indices)) for indices in units)))
    order = {layer.name: position for position, layer in enumerate(layers)}
    members.sort(key=lambda member: (order[member.layer], member.axis == "out"))
    settings = tuple(dict.fromkeys(filter(None, (setting(item, traced.roots, unit, book) for item in followers))))
    return Group(name=traced.name, channels=max(unit) + 1, members=tuple(members), settings=settings)


def _local(roots: Roots, layer: Layer, axis: Axis) -> Roots:
    """The roots by their index inside one conv group; a plain layer has one conv group, a depthwise one drops them."""
    if layer.groups == 1 or layer.depthwise:
        return roots
    width = layer.weight_shape[1] if axis == "in" else layer.weight_shape[0] // layer.groups
    local: Roots = {}
    for index, sources in roots.items():
        local.setdefault(index % width, set()).update(sources)
    return local


def _units(channels: int, tied: list[set[int]]) -> list[int]:
    """The unit of every channel, numbered by their first channel; the channels in each set of `tied` share one."""
    parent = list(range(channels))

    def find(channel: int) -> int:
        while parent[channel] != channel:
            parent[channel] = channel = parent[parent[channel]]
        return channel

    for channel_set in tied:
        first, *others = sorted(find(channel) for channel in channel_set)
        for other in others:
            parent[find(other)] = find(first)
    firsts = [find(channel) for channel in range(channels)]
    numbers = {first: number for number, first in enumerate(dict.fromkeys(firsts))}
    return [numbers[first] for first in firsts]
