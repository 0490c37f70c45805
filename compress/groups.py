"""Channel groups: which output channels of which layers can only leave together."""

import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
from torch import Tensor, nn

from paretune.compress.bundles import NONE, Lying, Spots, Traced, bundled, part_of_a_grouped_input
from paretune.compress.channels import Followed, Place, follow
from paretune.compress.labels import Atoms
from paretune.compress.layers import Watched, observed, twin_of, watch
from paretune.compress.proof import holds, proven
from paretune.compress.splits import Follower, settings, settle
from paretune.errors import ParetuneError, first_line, near_miss
from paretune.inventory import Group, Inventory, Layer

TRIES = 4  # readings of a module that takes channels apart
FEW = 5  # names in a message
MORE = "allow more time (inventory.seconds) or give groups by hand (inventory.groups)"


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
        raise ParetuneError(f"finding the channel groups took longer than {seconds:g} s, last {error}") from error


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
    twin = twin_of(model, example)
    watched = watch(twin, example)
    excluded = _excluded(exclude, watched.layers)
    try:
        followed = _followed(twin, example, watched, deadline)
    except TimeoutError:
        raise
    except Exception as error:
        raise ParetuneError(f"the model's channels cannot be followed: {first_line(error)}") from error
    inventory = _proven(twin, example, watched, followed, excluded, deadline)
    return observed(twin, example, inventory, watched.trace, deadline)


def _followed(twin: nn.Module, example: Tensor, watched: Watched, deadline: float) -> Followed:
    """What `follow` gives; if time is up, the error names the layer that was called last."""
    last = ["the model's input"]

    def noting(name: str) -> Callable[[nn.Module, object], None]:
        return lambda module, given: last.append(f"'{name}'")

    handles = []
    for layer in watched.layers:
        with suppress(RuntimeError, TypeError):  # a compiled module may take no hooks
            handles.append(twin.get_submodule(layer.name).register_forward_pre_hook(noting(layer.name)))
    try:
        return follow(twin, example, watched, deadline)
    except TimeoutError as error:  # what is excluded later is followed, too
        hint = f"which inventory.exclude does not shorten: {MORE}"
        raise TimeoutError(f"following channels through {last[-1]}, {hint}") from error
    finally:
        for handle in handles:
            handle.remove()


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
        best = _checked(twin, example, found, best.groups if best else (), deadline)
        lost = {group.name for group in found.groups} - set(best.group)
        again = _met(book, followed, lost, ways, tries)
        if not again:
            break
        tries |= again
    assert best is not None
    return _needed(twin, example, best, deadline)


def _checked(
    twin: nn.Module, example: Tensor, found: Inventory, known: tuple[Group, ...], deadline: float
) -> Inventory:
    """What `proven` leaves; if time is up, the error names the groups that were being cut."""
    try:
        return proven(twin, example, found, known=known, deadline=deadline)
    except TimeoutError as error:
        names = [f"'{group.name}'" for group in found.groups if group not in known]
        more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
        cuts = f"{', '.join(names[:FEW])}{more}"
        raise TimeoutError(f"trying to cut {cuts}; exclude layers by name (inventory.exclude), {MORE}") from error


def _needed(twin: nn.Module, example: Tensor, inventory: Inventory, deadline: float) -> Inventory:
    """Without settings that no cut needs: another number of a module may happen to have the value of one that counts
    channels."""
    several = [group for group in inventory.groups if len(group.settings) > 1]
    for name in sorted({setting.name for group in several for setting in group.settings}):
        less = replace(inventory, groups=tuple(_without(group, name) for group in inventory.groups))
        if less != inventory and time.monotonic() < deadline and holds(twin, example, less):
            inventory = less
    return inventory


def _without(group: Group, name: str) -> Group:
    left = tuple(setting for setting in group.settings if setting.name != name)
    return replace(group, settings=left) if left else group


def _met(
    book: Atoms, followed: Followed, lost: set[str], ways: Mapping[int, int], tries: Mapping[int, int]
) -> dict[int, int]:
    """The next reading of every split that meets the groups called `lost`, if there is another."""
    roots = book.roots()
    lines = [followed.places[name, "out"][0] for name in lost]
    classes = np.unique(np.concatenate([roots[line[line >= 0]] for line in lines])) if lines else NONE
    found = {}
    for number, count in ways.items():
        if tries.get(number, 0) + 1 < count and len(classes):
            atoms = np.unique(book.splits[number].atoms)
            if np.isin(roots[atoms[atoms >= 0]], classes).any():
                found[number] = tries.get(number, 0) + 1
    return found


def _inventory(
    watched: Watched, followed: Followed, followers: list[Follower], excluded: frozenset[str], example: Tensor
) -> Inventory:
    layers = _with_norms(watched, followed)
    traced = _all(followed, layers, excluded)
    traced = _keep_whole(traced, part_of_a_grouped_input(traced, layers))
    groups = _groups([item for item in traced if not item.reason], layers, followers, followed)
    single = {group.name: "its channels can only leave all at once" for group in groups if group.channels < 2}
    return Inventory(
        layers=layers,
        groups=tuple(group for group in groups if group.channels > 1),
        input_shape=tuple(example.shape[1:]),
        whole=_whole(_keep_whole(traced, single), layers),
    )


def _groups(
    traced: list[Traced], layers: tuple[Layer, ...], followers: list[Follower], followed: Followed
) -> list[Group]:
    table = {layer.name: layer for layer in layers}
    bundles = [bundled(item, table) for item in traced]
    units = [(item.atoms, unit) for item, (unit, _) in zip(traced, bundles, strict=True)]
    numbers = settings(followers, units, followed.book.roots())
    return [
        Group(name=item.name, channels=int(unit.max()) + 1, members=tuple(members), settings=own)
        for item, (unit, members), own in zip(traced, bundles, numbers, strict=True)
    ]


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
    lying = Lying(followed)
    stuck: dict[int, tuple[int, str]] = {}
    for order, (atom, reason) in enumerate(followed.book.stuck.items()):
        stuck.setdefault(int(lying.roots[atom]), (order, reason))
    found: list[Traced] = []
    seen: set[str] = set()
    for layer in layers:
        if layer.kind not in ("conv", "linear") or layer.name in seen:
            continue
        found.append(_trace(layer, followed, lying, stuck, excluded))
        seen.update(name for name, axis in found[-1].places if axis == "out")
    return found


def _trace(
    layer: Layer, followed: Followed, lying: Lying, stuck: Mapping[int, tuple[int, str]], excluded: frozenset[str]
) -> Traced:
    rows = followed.places.get((layer.name, "out"))
    if rows is None:
        lost: dict[Place, Spots] = {(layer.name, "out"): Spots(index=NONE, atom=NONE)}
        return Traced(name=layer.name, atoms=NONE, places=lost, reason="the tracer cannot follow its output")
    atoms = np.where(rows[0] < 0, -1, lying.roots[rows[0]])
    held = atoms[atoms >= 0]
    places = lying.of(held)
    reasons = sorted(stuck[atom] for atom in np.unique(held).tolist() if atom in stuck)
    reason = reasons[0][1] if reasons else ""
    if not reason and any(name in excluded for name, _ in places):
        reason = "excluded by name"
    return Traced(name=layer.name, atoms=atoms, places=places, reason=reason)


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
