"""Cycles and buffer traffic of a row on a systolic array, after SCALE-Sim."""

from collections.abc import Callable, Mapping

from paretune.costs.hardware import NO_WORK, Hardware, Work
from paretune.costs.skipping import kept_macs, streamed, whole
from paretune.profile import Row

# (laid along the rows, laid along the columns, streamed in time) of a product, from (positions, inner, filters).
MAPPINGS: Mapping[str, Callable[[int, int, int], tuple[int, int, int]]] = {
    "output": lambda positions, inner, filters: (positions, filters, inner),
    "weight": lambda positions, inner, filters: (inner, filters, positions),
    "input": lambda positions, inner, filters: (inner, positions, filters),
}

# How often (weights, inputs, outputs) cross between buffer and array, from the folds along (rows, columns).
TRAFFIC: Mapping[str, Callable[[int, int], tuple[int, int, int]]] = {
    "output": lambda down, across: (down, across, 1),
    "weight": lambda down, across: (1, across, 2 * down - 1),
    "input": lambda down, across: (across, 1, 2 * down - 1),
}


def systolic_work(row: Row, hardware: Hardware) -> Work:
    """What a row keeps an R × C systolic array busy with, for one sample; nothing if no MAC is left to do.

    Cycles are (2R + C + T - 2) ⌈S_R / R⌉ ⌈S_C / C⌉ for each of the row's matrix products, which run one after the
    other: a conv group fills no more of the array than itself. S_R, S_C and T are as in `MAPPINGS`; every fold fills
    and drains the whole array. The formula is the one given for SCALE-Sim (Samajdar et al. 2020,
    https://doi.org/10.1109/ISPASS48437.2020.00016), from memory. Its program (scalesim 3.0.0,
    https://pypi.org/project/scalesim) agrees to the cycle for weight and input stationary in the case that the tests
    hold; output stationary takes R + C + T - 2 per fold there, R less than here.

    Traffic is counted in numbers, our derivation. What stays in place is read once, what streams by once per fold that
    needs it: inputs (positions × inner, a pixel as often as windows hold it) for every fold of filters, weights (inner
    × filters) for every fold of positions. Where the inner dimension is folded, partial sums go out and come back:
    2 ⌈inner / R⌉ - 1 moves per output. SCALE-Sim has the same reads; of outputs it counts the writes only, ⌈inner / R⌉
    of each. Masked weights that are skipped are not read; inputs are read whole, because some filter may want each.

    Utilisation is the share of multiplier-cycles spent on a weight that its mask leaves, whether zeros are skipped or
    not.
    """
    work = _run(row, hardware, streamed(row, hardware, hardware.columns))
    if row.pattern != "partition":
        return work
    # Blocks far smaller than the array leave more of it idle than their zeros would cost.
    return min(work, _run(row, hardware, whole(row)), key=lambda one: one.cycles)


def _run(row: Row, hardware: Hardware, product: tuple[int, int, int, int]) -> Work:
    groups, positions, inner, filters = product
    if not row.macs or not inner:
        return NO_WORK
    along_rows, along_columns, time = MAPPINGS[hardware.dataflow](positions, inner, filters)
    down, across = -(-along_rows // hardware.rows), -(-along_columns // hardware.columns)
    passes = groups * down * across
    cycles = passes * (2 * hardware.rows + hardware.columns + time - 2)
    weights, inputs, outputs = TRAFFIC[hardware.dataflow](down, across)
    return Work(
        cycles=cycles,
        macs=groups * positions * inner * filters,
        passes=passes,
        utilisation=kept_macs(row) / (cycles * hardware.lanes),
        weights_read=weights * groups * inner * filters,
        inputs_read=inputs * row.groups * row.positions * row.inner,
        outputs_moved=outputs * groups * positions * filters,
    )
