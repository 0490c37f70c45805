"""A fine-tuned model to plain arrays and back: batch norms folded, weights as whole numbers, exact both ways."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paretune.compress.cut import cut
from paretune.compress.layers import own_floats
from paretune.compress.masks import mask_module
from paretune.compress.patterns import mask_of
from paretune.compress.quantize import Arguments, quantized_weight, weight_codes, weight_quantizer, with_input
from paretune.compress.quantizer import ActivationQuantizer
from paretune.errors import ParetuneError
from paretune.frozen import Frozen, FrozenLayer, activation_floats
from paretune.inventory import Inventory, Layer
from paretune.plan import FLOAT, LayerPlan, Plan

Doubles = NDArray[np.float64]


def freeze(model: nn.Module, inventory: Inventory, plan: Plan) -> Frozen:
    """The arrays of `model`, which `plan` has cut and quantized, as it computes in eval mode.

    Raises:
        ParetuneError: a layer carries other bit-widths, quantizers or zeros than the plan says, or a norm without
            running statistics.
    """
    layers = {layer.name: _freeze_layer(model, layer, plan) for layer in inventory.weighted}
    state = model.state_dict()
    rest = {key: _float32(state[key]) for key in _rest_keys(model, inventory)}
    return Frozen(layers=layers, rest=rest)


def thaw(dense: nn.Module, inventory: Inventory, plan: Plan, frozen: Frozen) -> nn.Module:
    """A plain module in eval mode that computes what the artifact computes; `dense` stays untouched.

    It is the dense model cut by the plan, with float32 weights that lie on the quantization grid, an
    identity in place of every folded batch norm, and an `ActivationRounding` before every quantized layer.

    Raises:
        ParetuneError: `frozen` does not belong to this model and plan; names the layer or tensor.
    """
    model = cut(dense, inventory, plan.kept).eval().requires_grad_(False)
    for layer in inventory.weighted:
        if layer.name not in frozen.layers:
            raise ParetuneError(f"the frozen model has no layer '{layer.name}'; it belongs to another model")
        _thaw_layer(model.get_submodule(layer.name), layer.name, frozen.layers[layer.name])
    _take_out(model, inventory.folded)
    _thaw_rest(model, inventory, frozen)
    return model


class ActivationRounding(nn.Module):
    """x → step × clip(round(u / step), low, high), u = sign(x) |x|^power, halves to even as ONNX does; no gradient."""

    step: Tensor

    def __init__(self, step: float, low: int, high: int, power: float = 1.0) -> None:
        super().__init__()
        # A tensor, because dividing by a Python number may turn into multiplying by its reciprocal.
        self.register_buffer("step", torch.tensor(step), persistent=False)
        self.low, self.high, self.power = low, high, power

    def forward(self, x: Tensor) -> Tensor:
        if self.power != 1.0:
            x = x.sign() * x.abs() ** self.power
        return (x / self.step).round().clamp(self.low, self.high) * self.step


def _freeze_layer(model: nn.Module, layer: Layer, plan: Plan) -> FrozenLayer:
    module = model.get_submodule(layer.name)
    wanted = plan.bits.get(layer.name, LayerPlan(layer=layer.name))
    _check(module, wanted)
    factor, shift = _after(model, layer)
    plain = layer.norm is None and module.bias is None
    frozen = replace(_weight(module, factor), bias=None if plain else shift.astype(np.float32), **_rounding(module))
    codes = _masked(module, wanted, frozen.codes)
    return replace(frozen, codes=codes, pattern=wanted.pattern, encoding=wanted.encoding)


def _check(module: nn.Module, wanted: LayerPlan) -> None:
    """Nothing, if the layer carries the bits and quantizers that its plan names, if any."""
    found = LayerPlan(layer=wanted.layer)
    if (weight := weight_quantizer(module)) is not None:
        found = replace(found, weight_bits=weight.bits, weight_quantizer=weight.name)
    if (activation := _activation(module)) is not None:
        found = replace(found, activation_bits=activation.bits, activation_quantizer=activation.name)
    asked = LayerPlan(layer=wanted.layer)
    if wanted.weight_bits < FLOAT:
        asked = replace(asked, weight_bits=wanted.weight_bits, weight_quantizer=wanted.weight_quantizer)
    if wanted.activation_bits < FLOAT:
        asked = replace(asked, activation_bits=wanted.activation_bits, activation_quantizer=wanted.activation_quantizer)
    if found != asked:
        raise ParetuneError(f"the plan asks for {asked}, the model carries {found}; freeze it with its own plan")


def _activation(module: nn.Module) -> ActivationQuantizer | None:
    quantizer = getattr(module, "activation_quantizer", None)
    return quantizer if isinstance(quantizer, ActivationQuantizer) else None


def _rounding(module: nn.Module) -> dict[str, Any]:
    """What a frozen layer says about the activation it reads, as its fields; nothing for a float one."""
    quantizer = _activation(module)
    if quantizer is None:
        return {}
    return {
        "activation_bits": quantizer.bits, "step": float(quantizer.positive_step().detach()), "low": quantizer.low,
        "high": quantizer.high, "power": quantizer.power(),
        "exponent": activation_floats(quantizer.name, quantizer.bits) > 1,
    }  # fmt: skip


def _masked(module: nn.Module, wanted: LayerPlan, codes: NDArray[Any]) -> NDArray[Any]:
    """`codes` with a plain 0 wherever the layer's mask has one; no mask and no pattern both mean that all stay."""
    mask, pattern = mask_module(module), wanted.pattern
    every = np.ones(codes.shape, np.bool_)
    carried = every if mask is None else mask.mask.detach().cpu().numpy() != 0
    asked = every if pattern is None else mask_of(pattern, codes.shape)
    differing = int((carried != asked).sum())
    if differing:
        asks = f"pattern '{pattern.kind}', which leaves {asked.sum()}" if pattern else "no pattern, so it leaves all"
        raise ParetuneError(
            f"layer '{wanted.layer}': the plan has {asks} of {asked.size} weights, the model's mask leaves "
            f"{carried.sum()} and is another at {differing} of them; freeze it with its own plan"
        )
    return codes if pattern is None else np.where(asked, codes, codes.dtype.type(0))


def _after(model: nn.Module, layer: Layer) -> tuple[Doubles, Doubles]:
    """What the layer's bias and folded norm do to weight × x: factor and shift, (out,) each, float64."""
    module = model.get_submodule(layer.name)
    bias = module.bias
    shift = np.zeros(len(module.weight)) if bias is None else _float64(bias)  # type: ignore[arg-type]
    if layer.norm is None:
        return np.ones_like(shift), shift
    norm: Any = model.get_submodule(layer.norm)
    if norm.running_mean is None or norm.running_var is None:
        raise ParetuneError(f"'{layer.norm}' keeps no running statistics, so it cannot be folded into '{layer.name}'")
    factor = (_float64(norm.running_var) + norm.eps) ** -0.5
    if norm.weight is not None:
        factor = factor * _float64(norm.weight)
    beta = 0.0 if norm.bias is None else _float64(norm.bias)
    return factor, beta + (shift - _float64(norm.running_mean)) * factor


def _weight(module: nn.Module, factor: Doubles) -> FrozenLayer:
    """The layer's weight times `factor` (out,), without bias and activation."""
    if not quantized_weight(module):
        raw = _float64(module.weight)  # type: ignore[arg-type]
        folded = (raw * _columns(factor, raw)).astype(np.float32) + np.float32(0)  # no -0.0, which is no zero in a file
        return FrozenLayer(codes=folded, scales=np.empty(0, np.float32), bias=None)
    found = weight_codes(module)
    # The levels of a codebook are not symmetric, so that a sign cannot move into its codes.
    codebook = found.grid == "codebook"
    scales = (found.scales * (factor if codebook else np.abs(factor))).astype(np.float32)
    signs = np.ones(len(factor), np.int8) if codebook else np.where(factor < 0, -1, 1).astype(np.int8)
    # A channel that the norm switches off gets codes of zero, since not every runtime takes a scale of zero.
    dead = scales == 0
    if found.bits == 1:
        scales = np.where(dead, np.finfo(np.float32).tiny, scales)  # a sign alone cannot say zero
    else:
        scales, signs = np.where(dead, found.scales, scales), np.where(dead, 0, signs).astype(np.int8)
    return FrozenLayer(
        codes=found.codes * _columns(signs, found.codes), scales=scales, bias=None, weight_bits=found.bits,
        grid=found.grid, levels=found.levels,
    )  # fmt: skip


def _columns(values: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """(out,) values as (out, 1, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _rest_keys(model: nn.Module, inventory: Inventory) -> list[str]:
    """The float entries of the state that belong to no convolution, linear layer or folded norm.

    They are listed as `watch` counts them: a module that has two names is stored once.
    """
    plain = [x.name for x in inventory.layers if x.kind in ("norm", "other") and x.name not in inventory.folded]
    return [f"{name}.{key}".lstrip(".") for name in plain for key in own_floats(model.get_submodule(name))]


def _thaw_layer(module: Any, name: str, layer: FrozenLayer) -> None:
    weight = torch.from_numpy(layer.weight().copy())
    if module.weight.shape != weight.shape:
        raise ParetuneError(
            f"layer '{name}' is {tuple(weight.shape)} in the frozen model and {tuple(module.weight.shape)} "
            "after the plan; they belong to different plans"
        )
    device = module.weight.device
    module.weight = nn.Parameter(weight.to(device), requires_grad=False)
    bias = None if layer.bias is None else torch.from_numpy(layer.bias.copy()).to(device)
    module.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    if layer.activation_bits < FLOAT:
        module.activation_rounding = ActivationRounding(layer.step, layer.low, layer.high, layer.power).to(device)
        module.register_forward_pre_hook(_round_input, with_kwargs=True)


def _take_out(model: nn.Module, folded: frozenset[str]) -> None:
    """An identity in place of every folded norm, under all names it has: `self.norm` may also be in `self.body`."""
    norms = {model.get_submodule(name) for name in folded}
    names = [name for name, module in model.named_modules(remove_duplicate=False) if module in norms]
    for name in names:
        model.set_submodule(name, nn.Identity())


def _round_input(layer: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Arguments:
    return with_input(layer.activation_rounding, inputs, named)


def _thaw_rest(model: nn.Module, inventory: Inventory, frozen: Frozen) -> None:
    state = model.state_dict()
    keys = _rest_keys(model, inventory)
    stray = set(keys) ^ set(frozen.rest)
    stray |= {key for key in keys if key in frozen.rest and state[key].shape != frozen.rest[key].shape}
    if stray:
        raise ParetuneError(f"tensors that the frozen model and the plan do not share: {', '.join(sorted(stray))}")
    for key in keys:
        state[key].copy_(torch.from_numpy(frozen.rest[key].copy()))


def _float64(tensor: Tensor) -> Doubles:
    doubles: Doubles = tensor.detach().cpu().double().numpy()
    return doubles


def _float32(tensor: Tensor) -> NDArray[np.float32]:
    # Copied, because the array would share memory with a model that may still be trained.
    floats: NDArray[np.float32] = tensor.detach().cpu().float().numpy().copy()
    return floats
