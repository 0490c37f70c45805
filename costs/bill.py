"""What one piece of hardware pays for a profile: cycles, energy and resources, row by row and in total."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from paretune.costs.energy import Spent, energy_of
from paretune.costs.finn import finn_work, network_cycles, network_resources
from paretune.costs.hardware import Hardware, Work
from paretune.costs.partition import Split, parallel_cycles, partitioned
from paretune.costs.systolic import systolic_work
from paretune.errors import pick
from paretune.profile import Profile, Row

ENGINES: Mapping[str, Callable[[Row, Hardware], Work]] = {"systolic": systolic_work, "finn": finn_work}


@dataclass(frozen=True, kw_only=True, slots=True)
class Paid:
    """What one row costs on a piece of hardware; energies in the units of its two tables."""

    work: Work
    spent: Spent
    relative: Spent

    @property
    def energy_pj(self) -> float:
        """All of its energy by the table in pJ."""
        return self.spent.total

    @property
    def energy_relative(self) -> float:
        """All of its energy by the relative table."""
        return self.relative.total


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
        spent=energy_of(row, work, hardware, hardware.energy),
        relative=energy_of(row, work, hardware, hardware.relative_energy),
    )


def splits_of(rows: Profile, hardware: Hardware) -> tuple[Split, ...]:
    """The partitioned layers on several accelerators, next to the dense layer on one, with energies in pJ.

    None with `target_cycles`: there the dense layer and its blocks have engines of different sizes.
    """
    if hardware.target_cycles is not None:
        return ()
    return partitioned(
        rows,
        hardware,
        lambda row: work_of(row, hardware),
        lambda row, work: energy_of(row, work, hardware, hardware.energy).total,
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
