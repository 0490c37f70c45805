"""Channel groups: which output channels of which layers can only leave together."""

import copy
import ctypes
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn

from paretune.compress.layers import Watched, observed, tensors, watch
from paretune.compress.proof import proven
from paretune.errors import ParetuneError, first_line
from paretune.inventory import Axis, Group, Inventory, Layer, Member

Place = tuple[str, Axis]
Roots = dict[int, set[int]]  # index along a weight axis -> channels of the group's first producer


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What torch-pruning says about one producer's channels; `reason` is why they cannot leave, or empty."""

    name: str
    channels: int
    places: dict[Place, Roots]
    reason: str


def discover(model: nn.Module, example: Tensor, *, seconds: float = 60.0) -> Inventory:
    """The layers and prunable channel groups of `model`, seen on `example` (1, ...); `model` is left untouched.

    Channels are followed by torch-pruning's dependency graph (Fang et al. 2023, DepGraph,
    https://arxiv.org/abs/2301.12900); every group is then checked by a real cut. Groups that reach the model's input or
    output, a layer that cannot be sliced or a layer used twice stay whole and are listed with the reason. The channels
    of a grouped convolution are bundled so that each of its conv groups loses the same number. What one forward runs
    and keeps in memory is watched, and how that follows the channels is checked by two cuts. Takes about the time of
    ten forwards, at most `seconds` (wall clock).

    Raises:
        ParetuneError: the forward fails on `example`, the model cannot be traced, or time is up.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _within(seconds, lambda: _discover(model, example))


def _within(seconds: float, work: Callable[[], Inventory]) -> Inventory:
    """Runs `work` in a thread of its own: a limit by signal would hold in the main thread only, and take away the
    caller's own alarm. The thread also starts free of the caller's no_grad and autocast."""
    done: list[Inventory] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        # torch-pruning's endless loops are plain Python: an exception raised inside ends them
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        raise ParetuneError(
            f"finding the channel groups took longer than {seconds:g} s; try a smaller example or a longer limit; "
            "if neither helps, torch-pruning does not get through this model's graph"
        )
    if failed:
        raise failed[0]
    return done[0]


def _discover(model: nn.Module, example: Tensor) -> Inventory:
    try:
        twin = copy.deepcopy(model).to(example.device).eval()
    except Exception as error:
        raise ParetuneError(f"the model cannot be copied: {first_line(error)}") from error
    watched = watch(twin, example)
    try:
        framed, graph = _graph(twin, example)
        traced = _all(graph, framed, watched)
    except Exception as error:
        raise ParetuneError(f"torch-pruning cannot trace the model: {first_line(error)}") from error
    layers = _with_norms(graph, twin, watched)
    traced = _keep_whole(traced, _mixed(traced, layers))
    groups = {item.name: _group(item, layers) for item in traced if not item.reason}
    single = {name: "its channels can only leave all at once" for name, group in groups.items() if group.channels < 2}
    inventory = Inventory(
        layers=layers,
        groups=tuple(group for group in groups.values() if group.channels > 1),
        input_shape=tuple(example.shape[1:]),
        whole=_whole(_keep_whole(traced, single), layers),
    )
    return observed(twin, example, proven(twin, example, inventory), watched.trace)


class _Framed(nn.Module):
    """The model between an entry and an exit that torch-pruning can see.

    Without them it does not notice a residual from the input, miscounts a concatenation with it, and overlooks
    an output that other layers read as well. The entry is a batch norm: that has a known number of channels.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        super().__init__()
        norms: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
        seen = example.dim() in norms and example.is_floating_point()
        self.entry = norms[example.dim()](example.shape[1], device=example.device) if seen else nn.Identity()
        self.model = model

    def forward(self, example: Tensor) -> list[Tensor]:
        return [tensor * 1 for tensor in tensors(self.model(self.entry(example))) if tensor.requires_grad]


def _graph(model: nn.Module, example: Tensor) -> tuple[_Framed, Any]:
    framed = _Framed(model, example).eval()
    for parameter in framed.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    graph = tp.DependencyGraph()
    # without forward_fn it first calls model(*example), which a plain convolution takes for an unbatched input
    graph.build_dependency(
        framed,
        example_inputs=example,
        forward_fn=lambda net, given: net(given),
        unwrapped_parameters=[],
        customized_pruners={},
        ignored_layers=[],
        ignored_params=[],
        verbose=False,
    )
    return framed, graph


def _all(graph: Any, framed: _Framed, watched: Watched) -> list[Traced]:
    """One entry per set of coupled producers, in order of execution."""
    layers = {framed.model.get_submodule(layer.name): layer for layer in watched.layers}
    found: list[Traced] = []
    seen: set[str] = set()
    for module, layer in layers.items():
        if layer.kind not in ("conv", "linear") or layer.name in seen:
            continue
        if module not in graph.module2node:
            found.append(_lost(layer))
            continue
        found.append(_trace(graph, framed, layers, module, watched.shared))
        seen.update(name for name, axis in found[-1].places if axis == "out")
    return found


def _lost(layer: Layer) -> Traced:
    places: dict[Place, Roots] = {(layer.name, "out"): {}}
    return Traced(name=layer.name, channels=0, places=places, reason="the tracer cannot follow its output")


def _trace(
    graph: Any, framed: _Framed, layers: Mapping[nn.Module, Layer], root: nn.Module, shared: frozenset[str]
) -> Traced:
    channels = layers[root].weight_shape[0]
    prune = graph.get_pruner_of_module(root).prune_out_channels
    places: dict[Place, Roots] = {}
    reasons: list[str] = []
    for item in graph.get_pruning_group(root, prune, list(range(channels))):
        layer = layers.get(item.dep.target.module)
        reasons.append(_reason(item.dep.target, layer, framed, shared))
        if layer is None or layer.kind == "other":
            continue
        outward = layer.kind == "norm" or layer.depthwise or graph.is_out_channel_pruning_fn(item.dep.handler)
        roots = places.setdefault((layer.name, "out" if outward else "in"), {})
        for index, source in zip(item.idxs, item.root_idxs, strict=True):
            roots.setdefault(index, set()).add(source)
    reason = next(filter(None, reasons), "")
    return Traced(name=layers[root].name, channels=channels, places=places, reason=reason)


def _reason(node: Any, layer: Layer | None, framed: _Framed, shared: frozenset[str]) -> str:
    if node.type == tp.ops.OPTYPE.OUTPUT:
        return "its channels are the model's output"
    if node.module is framed.entry:
        return "its channels are tied to the model's input"
    if isinstance(node.module, nn.Parameter):
        return "its channels meet a parameter that belongs to no layer"
    if layer is not None and layer.name in shared:
        return f"'{layer.name}' is used more than once"
    if layer is not None and layer.kind != "other":
        return ""
    name = next((name for name, module in framed.model.named_modules() if module is node.module), None)
    return f"its channels pass '{name}' ({type(node.module).__name__}), which cannot be sliced" if name else ""


def _with_norms(graph: Any, model: nn.Module, watched: Watched) -> tuple[Layer, ...]:
    """The layers, each with the batch norm that alone reads its output."""
    names = {module: name for name, module in model.named_modules()}
    batch_norms = {layer.name for layer in watched.layers if layer.kind == "norm"} - watched.shared

    def norm(layer: Layer) -> str | None:
        node = graph.module2node.get(model.get_submodule(layer.name))
        if layer.kind not in ("conv", "linear") or layer.name in watched.shared or node is None:
            return None
        if len(node.outputs) != 1 or len(node.outputs[0].inputs) != 1:
            return None
        reader = node.outputs[0].module
        fixed = getattr(reader, "running_mean", None) is not None  # else it normalises by the batch, even in eval mode
        return names[reader] if fixed and names.get(reader) in batch_norms else None

    return tuple(replace(layer, norm=norm(layer)) for layer in watched.layers)


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


def _group(traced: Traced, layers: tuple[Layer, ...]) -> Group:
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
    return Group(name=traced.name, channels=max(unit) + 1, members=tuple(members))


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
