"""The quantizers by name: one table for weights, one for activations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from paretune.compress.activations import (
    ClippedActivation,
    LeastErrorActivation,
    MinMaxActivation,
    OffsetActivation,
)
from paretune.compress.codebook import Codebook
from paretune.compress.djpq import CurvedActivation, CurvedWeight
from paretune.compress.learned import LearnedActivation, LearnedWeight, PlusWeight
from paretune.compress.powers import Incremental, PowerOfTwo
from paretune.compress.prune_ternary import TernaryDirection
from paretune.compress.quantizer import ActivationQuantizer, WeightQuantizer
from paretune.compress.ternary import Ternary
from paretune.compress.uniform import LeastSquaresWeight, MinMaxWeight, TanhWeight
from paretune.errors import ImpossiblePlan, pick
from paretune.recipe import Quantizing


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightMethod:
    """How a quantizer is made, the bits it has, both ends included, and the fields of `Quantizing` that it `reads`."""

    make: Callable[[Tensor, int, Quantizing], WeightQuantizer]
    least: int = 2
    most: int = 8
    reads: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationMethod:
    """As `WeightMethod`, for what a layer reads."""

    make: Callable[[int, Quantizing], ActivationQuantizer]
    least: int = 1
    most: int = 8
    reads: tuple[str, ...] = ()


WEIGHTS: Mapping[str, WeightMethod] = {
    "lsq": WeightMethod(make=LearnedWeight),
    "lsq_plus": WeightMethod(make=PlusWeight),
    "min_max": WeightMethod(make=MinMaxWeight),
    "mse": WeightMethod(make=LeastSquaresWeight),
    "dorefa": WeightMethod(make=TanhWeight, least=1),
    "ternary": WeightMethod(make=Ternary, most=2, reads=("threshold", "of")),
    "power_of_two": WeightMethod(make=PowerOfTwo),
    "inq": WeightMethod(make=Incremental, reads=("steps",)),
    "codebook": WeightMethod(make=Codebook, least=1),
    "prune_ternary": WeightMethod(make=TernaryDirection, most=2, reads=("pull", "gradient", "freeze")),
    "djpq": WeightMethod(make=CurvedWeight),
}

ACTIVATIONS: Mapping[str, ActivationMethod] = {
    "lsq": ActivationMethod(make=LearnedActivation),
    "lsq_plus": ActivationMethod(make=OffsetActivation),
    "min_max": ActivationMethod(make=MinMaxActivation),
    "mse": ActivationMethod(make=LeastErrorActivation),
    "pact": ActivationMethod(make=ClippedActivation, reads=("decay",)),
    "djpq": ActivationMethod(make=CurvedActivation, least=2),
}


def check_bits(name: str, bits: int, method: WeightMethod | ActivationMethod, of: str) -> None:
    """Nothing, if the quantizer `name` of the weights or activations (`of`) has `bits`.

    Raises:
        ImpossiblePlan: it has not; says what it has and who else would do.
    """
    if method.least <= bits <= method.most:
        return
    table: Mapping[str, WeightMethod | ActivationMethod] = WEIGHTS if of == "weights" else ACTIVATIONS
    able = [other for other, row in table.items() if row.least <= bits <= row.most]
    has = f"{method.least} to {method.most} bits" if method.least < method.most else f"{method.least} bits only"
    who = f"; for {bits} use {', '.join(able)}" if able else ""
    raise ImpossiblePlan(f"the quantizer '{name}' of {of} has {has}, got {bits}{who}")


def make_weight_quantizer(name: str, weight: Tensor, bits: int, settings: Quantizing) -> WeightQuantizer:
    """The quantizer called `name`, fitted to `weight` (out, ...) as its mask leaves it.

    Raises:
        UnknownName: no such quantizer.
        ImpossiblePlan: bits that it does not have.
    """
    method = pick(WEIGHTS, name, "weight quantizer")
    check_bits(name, bits, method, "weights")
    made = method.make(weight, bits, settings)
    made.name = name
    return made


def make_activation_quantizer(name: str, bits: int, settings: Quantizing) -> ActivationQuantizer:
    """The quantizer called `name`; it has no range before it is calibrated.

    Raises:
        UnknownName: no such quantizer.
        ImpossiblePlan: bits that it does not have.
    """
    method = pick(ACTIVATIONS, name, "activation quantizer")
    check_bits(name, bits, method, "activations")
    made = method.make(bits, settings)
    made.name = name
    return made
