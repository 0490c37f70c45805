"""What one piece of hardware pays for a profile: cycles, energy and resources, row by row and in total."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from paretune.costs.energy import energy_of
from paretune.costs.finn import finn_work, network_cycles, network_resources
from paretune.costs.hardware import Hardware, Work
from paretune.costs.partition import parallel_cycles
from paretune.costs.systolic import systolic_work
from paretune.errors import pick
from paretune.profile import Profile, Row

ENGINES: Mapping[str, Callable[[Row, Hardware], Work]] = {"systolic": systolic_work, "finn": finn_work}


@dataclass(frozen=True, kw_only=True, slots=True)
class Paid:
    """What one row costs on a piece of hardware; energies in the units of its two tables."""

    work: Work
    energy_pj: float
    energy_relative: float


def work_of(row: Row, hardware: Hardware) -> Work:
    """The row's work on the hardware's engine."""
    return pick(ENGINES, hardware.engine, "engine")(row, hardware)


def paid(row: Row, hardware: Hardware) -> Paid:
    """Everything that can be said of one row alone.

    Raises:
        ParetuneError: an energy table lacks what the hardware needs.
    """
    work = work_of(row, hardware)
    return Paid(
        work=work,
        energy_pj=energy_of(row, work, hardware, hardware.energy).total,
        energy_relative=energy_of(row, work, hardware, hardware.relative_energy).total,
    )


def bill(rows: Profile, hardware: Hardware) -> dict[str, float]:
    """Every cost of the hardware by name; those of another engine are left out.

    Raises:
        ParetuneError: an energy table lacks what the hardware needs.
    """
    busy = tuple(row for row in rows if row.macs or row.floats)  # a folded norm is no work and no traffic
    each = [paid(row, hardware) for row in busy]
    works = [one.work for one in each]
    found: dict[str, float] = {
        "energy_pj": sum(one.energy_pj for one in each),
        "energy_relative": sum(one.energy_relative for one in each),
        "cycles": network_cycles(works, hardware) if hardware.engine == "finn" else sum(work.cycles for work in works),
    }
    if hardware.target_cycles is None:
        split = any(row.pattern == "partition" for row in busy)
        alone = found["cycles"]
        found["parallel_cycles"] = (
            parallel_cycles(busy, hardware, lambda row: work_of(row, hardware)) if split else alone
        )
    if hardware.engine == "finn":
        needed = network_resources(busy, hardware)
        found |= {"luts": needed.luts, "dsps": needed.dsps, "brams": needed.brams}
    return found
