"""How many threads PyTorch computes with: decided by a rule, not by a stopwatch, so that runs can be repeated."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from paretune.costs.counts import macs
from paretune.inventory import Inventory
from paretune.plan import DENSE
from paretune.profile import profile

SMALL_MACS = 10_000_000  # below this, handing work to a second thread costs more than it brings


@contextmanager
def threads_for(inventory: Inventory, wanted: int | None) -> Iterator[None]:
    """Compute with `wanted` threads inside; for None with one if the network is small, else PyTorch's default.

    Results depend on the number of threads through the order of sums, so it is part of the provenance.
    """
    before = torch.get_num_threads()
    small = macs(profile(inventory, DENSE)) < SMALL_MACS
    torch.set_num_threads(wanted or (1 if small else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
