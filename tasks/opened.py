"""Networks with modules taken apart that hide layers: attention, and batch norm with an activation inside."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from paretune.tasks.attention import Attention, attention_of, is_attention
from paretune.tasks.norm_act import NormAct, is_norm_act
from paretune.tasks.window_attention import WindowAttention, is_window_attention

# What is taken apart, and what stands in its place.
OPENERS: tuple[tuple[Callable[[nn.Module], bool], Callable[[Any], nn.Module]], ...] = (
    (is_attention, attention_of),
    (is_window_attention, WindowAttention),
    (is_norm_act, NormAct),
)


def opened(model: nn.Module) -> nn.Module:
    """`model` with every `nn.MultiheadAttention`, every window attention of torchvision's Swin networks, and every
    batch norm of timm with an activation inside taken apart.

    The first two hold the weights of queries, keys and values in one tensor that no layer applies; in their place
    stands an `Attention` or a `WindowAttention`, which compute the same from four linear layers. Works on the meta
    device. `model` is changed in place; only if it is itself one of these, what is returned is another module.

    Left as they are: subclasses, attention with bias_kv or zero_attn, and what has hooks, parametrizations or weights
    that another module holds as well. An `nn.TransformerEncoder` no longer turns padded batches into nested tensors,
    so what it returns at padded places is no longer zero in eval mode, as it never was in training mode.
    """
    held = Counter(id(tensor) for module in model.modules() for tensor in module._parameters.values())
    new = {module: _open(module) for module in model.modules() if _can_open(module, held)}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if name and module in new:
            model.set_submodule(name, new[module])
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(part, Attention) for part in module.modules()):
            module.use_nested_tensor = False
    return new.get(model, model)


def in_parts(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` under the names that the opened `model` has, whether it was saved before opening or after."""
    found = dict(state)
    for name, module in model.named_modules():
        if isinstance(module, (Attention, WindowAttention, NormAct)):
            module.rename(found, f"{name}." if name else "")
    return found


def _can_open(module: nn.Module, held: Counter[int]) -> bool:
    plain = all(not (part._forward_hooks or part._forward_pre_hooks) for part in module.modules())
    own = (tensor for part in module.modules() for tensor in part._parameters.values() if tensor is not None)
    return any(fits(module) for fits, _ in OPENERS) and plain and all(held[id(tensor)] == 1 for tensor in own)


def _open(module: nn.Module) -> nn.Module:
    return next(make for fits, make in OPENERS if fits(module))(module).train(module.training)
