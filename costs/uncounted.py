"""What a cost leaves out of a network, in words: nothing is missing without being named."""

from collections.abc import Callable

from paretune.costs.finn import floats
from paretune.inventory import Inventory
from paretune.profile import Profile

Missing = Callable[[Profile, Inventory], tuple[str, ...]]


def nothing(rows: Profile, inventory: Inventory) -> tuple[str, ...]:
    """For costs that see every number of the network."""
    return ()


def no_macs(rows: Profile, inventory: Inventory) -> tuple[str, ...]:
    """Operations without multiply-accumulates of their own, with how often they run; norms and layers that stay as
    they are, and sizes that a cut changes in an unknown way.
    """
    if not inventory.steps:
        return ("whatever is no conv, linear or norm layer: nobody watched a forward of this network",)
    ran = tuple(f"{name} ×{times}" for name, times in inventory.operations)
    return ran + inventory.unsure


def stand_ins(rows: Profile, inventory: Inventory) -> tuple[str, ...]:
    """The same, and what no energy table here knows."""
    blind = () if inventory.steps else ("activations that do not fit the buffer",)
    return (*no_macs(rows, inventory), *blind, "control, instruction fetch, leakage, the network on chip")


def on_fpga(rows: Profile, inventory: Inventory) -> tuple[str, ...]:
    """The same, what an FPGA needs beside its engines, and float layers, which such an engine does not really run."""
    as_integers = tuple(f"{name}: float, counted as 32-bit integers" for name in floats(rows))
    beside = "FIFOs, input generators, thresholds, pooling, what steers the skipping of zeros"
    return (*no_macs(rows, inventory), beside, *as_integers)


def temporary(rows: Profile, inventory: Inventory) -> tuple[str, ...]:
    """What lies in memory beside the activations."""
    if not inventory.steps:
        return ("all activations: nobody watched a forward of this network",)
    known = "what an operation needs while it runs (im2col, accumulators), weights, and copies for alignment"
    return (known, *inventory.unsure)
