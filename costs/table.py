"""Static costs: plain arithmetic over a profile; what zeros bring down is known exactly once the codes are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from paretune.costs.storage import stored_bytes
from paretune.findings import Objective
from paretune.frozen import HEADER_BYTES
from paretune.plan import FLOAT
from paretune.profile import Profile


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """An objective that needs no training: `count` turns a profile into a number; smaller is better."""

    objective: Objective
    count: Callable[[Profile], float]


def params(rows: Profile) -> int:
    """Learnable numbers: weights, biases and norm scales, whatever their bit-width."""
    return sum(row.params for row in rows)


def nonzeros(rows: Profile) -> int:
    """Learnable numbers that neither a mask nor, once that is known, rounding has set to zero."""
    return sum(row.params - row.weights + row.nonzeros for row in rows)


def size_bytes(rows: Profile) -> int:
    """Bytes of the packed weight file: every weight in its encoding, each starting on a byte, float32 scales, biases,
    activation steps and whatever is not a layer's weight, and the file's header. Of a plan that is not trained yet it
    is an upper bound: see `paretune.costs.storage.stored_bytes`.
    """
    return HEADER_BYTES + sum(stored_bytes(row) + 4 * (row.scales + row.floats) for row in rows)


def least_bytes(rows: Profile) -> int:
    """Bytes that the packed file takes in any case: all but the weights that training turns into codes."""
    floats = HEADER_BYTES + sum(4 * (row.scales + row.floats) for row in rows)
    return floats + sum(stored_bytes(row) for row in rows if row.weight_bits == FLOAT and not row.pattern)


def macs(rows: Profile) -> int:
    """Multiply-accumulates of one sample through convolutions and linear layers; one multiply-add counts once."""
    return sum(row.macs for row in rows)


def effective_macs(rows: Profile) -> int:
    """Multiply-accumulates of one sample if every weight that is zero is skipped."""
    return sum(row.macs * row.nonzeros // row.weights for row in rows if row.weights)


def bops(rows: Profile) -> int:
    """Bit operations of one sample: Σ MACs × weight bits × activation bits, 32 for float.

    The product form of Bayesian Bits (van Baalen et al. 2020, https://arxiv.org/abs/2005.07093).
    """
    return sum(row.macs * row.weight_bits * row.activation_bits for row in rows)


def effective_bops(rows: Profile) -> int:
    """Bit operations of one sample without those of zeros: Σ effective MACs × weight bits × activation bits."""
    return sum(
        row.macs * row.nonzeros // row.weights * row.weight_bits * row.activation_bits for row in rows if row.weights
    )


def _cost(name: str, unit: str, definition: str, count: Callable[[Profile], float]) -> Cost:
    return Cost(objective=Objective(name=name, unit=unit, definition=definition), count=count)


COSTS: Mapping[str, Cost] = {
    cost.objective.name: cost
    for cost in (
        _cost("params", "parameters", "learnable numbers left", params),
        _cost(
            "nonzeros",
            "parameters",
            "learnable numbers left that neither a mask nor rounding has set to zero",
            nonzeros,
        ),
        _cost(
            "size_bytes",
            "bytes",
            "packed weight file: weights as they are encoded, float32 scales and biases, header",
            size_bytes,
        ),
        _cost("macs", "MACs", "multiply-adds of one sample through conv and linear layers", macs),
        _cost("effective_macs", "MACs", "MACs without those of weights that are zero", effective_macs),
        _cost("bops", "bit-operations", f"Σ MACs × weight bits × activation bits, {FLOAT} for float", bops),
        _cost("effective_bops", "bit-operations", "bops without those of weights that are zero", effective_bops),
    )
}


MASKED = ("nonzeros", "size_bytes", "effective_macs", "effective_bops")  # what masks bring down


def static_costs(rows: Profile) -> dict[str, float]:
    """Every cost in the table, by name."""
    return {name: cost.count(rows) for name, cost in COSTS.items()}
