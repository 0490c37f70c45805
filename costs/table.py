"""Static costs: plain arithmetic over a profile; what zeros bring down is known exactly once the codes are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from paretune.costs import counts
from paretune.costs.bill import bill
from paretune.costs.hardware import Hardware
from paretune.costs.uncounted import Missing, no_macs, nothing, on_fpga, stand_ins, temporary
from paretune.errors import ParetuneError
from paretune.findings import Objective
from paretune.inventory import Inventory
from paretune.plan import FLOAT, Plan
from paretune.profile import Profile, profile


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """An objective that needs no training: `count` turns a profile into a number; smaller is better.

    `source` says where the formula comes from and `uncounted` what of a network it leaves out. With `hardware` it
    depends on what the network runs on, with an `engine` only that one has it. `masked` and `coded` say that masks, or
    zeros that come from rounding, bring it down.
    """

    objective: Objective
    count: Callable[[Profile, Hardware | None], float]
    source: str
    uncounted: Missing = field(default=nothing)
    direction: str = "smaller is better"
    hardware: bool = False
    engine: str = ""
    masked: bool = False
    coded: bool = False


def _plain(
    name: str, unit: str, definition: str, count: Callable[[Profile], float], *, source: str = "counted",
    uncounted: Missing = nothing, masked: bool = False,
) -> Cost:  # fmt: skip
    return Cost(
        objective=Objective(name=name, unit=unit, definition=definition),
        count=lambda rows, hardware: count(rows), source=source, uncounted=uncounted, masked=masked, coded=masked,
    )  # fmt: skip


def _paid(
    name: str, unit: str, definition: str, *, source: str, engine: str = "", uncounted: Missing = no_macs
) -> Cost:
    def count(rows: Profile, hardware: Hardware | None) -> float:
        if hardware is None or name not in costs_for(hardware):
            on = f"'{hardware.name}' does not have it" if hardware else "no hardware is named"
            raise ParetuneError(f"the cost '{name}' needs hardware that has it, and {on}")
        return bill(rows, hardware)[name]

    return Cost(
        objective=Objective(name=name, unit=unit, definition=definition), count=count, source=source,
        uncounted=uncounted, hardware=True, engine=engine, masked=True,
    )  # fmt: skip


BAYESIAN_BITS = "van Baalen et al. 2020, https://arxiv.org/abs/2005.07093"
UNIQ = "Baskin et al. 2018, https://arxiv.org/abs/1804.10969 (from memory)"
SCALE_SIM = "SCALE-Sim, https://doi.org/10.1109/ISPASS48437.2020.00016; of FINN engines FINN-R, https://arxiv.org/abs/1809.04570"
FINN = "FINN-R, Blott et al. 2018, https://arxiv.org/abs/1809.04570"
LEVELS = "levels of memory: Eyeriss, https://doi.org/10.1109/JSSC.2016.2616357; what crosses them: ours"
PARTITION = "Shahhosseini et al. 2019, https://arxiv.org/abs/1901.11391; cycles: ours"

COSTS: Mapping[str, Cost] = {
    cost.objective.name: cost
    for cost in (
        _plain("params", "parameters", "learnable numbers left", counts.params),
        _plain(
            "nonzeros", "parameters", "learnable numbers left that neither a mask nor rounding has set to zero",
            counts.nonzeros, masked=True,
        ),
        _plain("weight_bits", "bits", f"Σ weights × bits before any encoding, {FLOAT} for float", counts.weight_bits),
        _plain(
            "size_bytes", "bytes", "packed weight file: weights as they are encoded, float32 scales and biases, header",
            counts.size_bytes, masked=True,
        ),
        _plain(
            "activation_bytes", "bytes",
            "most activations of one sample in memory at once, in order of execution, at the bits their readers take",
            counts.activation_bytes, source="ours", uncounted=temporary,
        ),
        _plain(
            "macs", "MACs", "multiply-adds of one sample through conv and linear layers and products of activations",
            counts.macs, uncounted=no_macs,
        ),
        _plain(
            "effective_macs", "MACs", "MACs without those of weights that are zero", counts.effective_macs,
            uncounted=no_macs, masked=True,
        ),
        _plain(
            "bops", "bit-operations", f"Σ MACs × weight bits × activation bits, {FLOAT} for float", counts.bops,
            source=BAYESIAN_BITS, uncounted=no_macs,
        ),
        _plain(
            "effective_bops", "bit-operations", "bops without those of weights that are zero", counts.effective_bops,
            source=BAYESIAN_BITS, uncounted=no_macs, masked=True,
        ),
        _plain(
            "relative_bops", "share", "bops as a share of the dense model's at 32×32 bits", counts.relative_bops,
            source=BAYESIAN_BITS, uncounted=no_macs,
        ),
        _plain(
            "baskin_bops", "bit-operations",
            "Σ MACs × (w a + w + a + log2 inner): with the accumulator; inner is inputs × kernel size",
            counts.baskin_bops, source=UNIQ, uncounted=no_macs,
        ),
        _plain(
            "effective_baskin_bops", "bit-operations", "baskin_bops without the products w a of weights that are zero",
            counts.effective_baskin_bops, source=UNIQ, uncounted=no_macs, masked=True,
        ),
        _paid(
            "energy_pj", "pJ", "modelled: operations, registers, buffer and DRAM, by the hardware's energy table",
            source=LEVELS, uncounted=stand_ins,
        ),
        _paid(
            "energy_relative", "16-bit MACs", "modelled: the same traffic by the relative table, a 16-bit MAC is 1",
            source=LEVELS, uncounted=stand_ins,
        ),
        _paid(
            "cycles", "cycles",
            "modelled: Σ over layers, one after the other; with target_cycles the slowest layer of the pipeline",
            source=SCALE_SIM,
        ),
        _paid(
            "parallel_cycles", "cycles", "modelled: cycles, parts of partitioned layers on accelerators of their own",
            source=PARTITION,
        ),
        _paid("luts", "LUTs", "modelled: lookup tables of the engines", engine="finn", source=FINN, uncounted=on_fpga),
        _paid(
            "dsps", "DSPs", "modelled: multiplier blocks of the engines", engine="finn", source=FINN,
            uncounted=on_fpga,
        ),
        _paid(
            "brams", "BRAM18s", "modelled: blocks of 18 kbit memory for the weights", engine="finn", source=FINN,
            uncounted=on_fpga,
        ),
    )
}  # fmt: skip


def costs_of(inventory: Inventory, plan: Plan, hardware: Hardware | None = None) -> dict[str, float]:
    """Every cost of `plan` that can be told of this network: without a watched forward no `activation_bytes`.

    Raises:
        ImpossiblePlan: the plan asks for an encoding that does not fit a layer.
        ParetuneError: an energy table lacks what the hardware needs.
    """
    found = static_costs(profile(inventory, plan), hardware)
    if not inventory.steps:
        del found["activation_bytes"]
    return found


def source_on(name: str, hardware: Hardware) -> str:
    """Where a cost's formula and, of an energy, the figures of the hardware's table come from."""
    tables = {"energy_pj": hardware.energy, "energy_relative": hardware.relative_energy}
    cost = COSTS[name]
    return f"{tables[name].source}; {cost.source}" if name in tables else cost.source


MASKED = tuple(name for name, cost in COSTS.items() if cost.masked)  # what masks bring down
CODED = tuple(name for name, cost in COSTS.items() if cost.coded)  # what zeros that come from rounding bring down


def costs_for(hardware: Hardware | None) -> Mapping[str, Cost]:
    """The costs that can be told on this hardware; without one those of the network alone."""
    return {name: cost for name, cost in COSTS.items() if not cost.hardware or (hardware and _has(hardware, cost))}


def _has(hardware: Hardware, cost: Cost) -> bool:
    if cost.objective.name == "parallel_cycles":
        return hardware.target_cycles is None
    return cost.engine in ("", hardware.engine)


def static_costs(rows: Profile, hardware: Hardware | None = None) -> dict[str, float]:
    """Every cost of `costs_for(hardware)`, by name.

    Raises:
        ParetuneError: an energy table lacks what the hardware needs.
    """
    found = {name: cost.count(rows, None) for name, cost in COSTS.items() if not cost.hardware}
    return found if hardware is None else found | bill(rows, hardware)
