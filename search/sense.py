"""Spaces that parse but make no sense: names that no table holds, patterns that do not fit, settings nobody reads."""

from paretune.compress.criteria import CRITERIA
from paretune.compress.patterns import parse_kind
from paretune.compress.rates import RATES
from paretune.compress.schedule import SHARES
from paretune.costs.hardware import Hardware
from paretune.costs.table import COSTS, MASKED, costs_for
from paretune.errors import ParetuneError, pick
from paretune.recipe import LASSO, SPARSE
from paretune.search.bench import CALIBRATION_IMAGES, Bench
from paretune.search.gradual import FLIPOUT
from paretune.search.sense_bits import check_quantizers
from paretune.spaces.leaf import Fixed
from paretune.spaces.sections import SECTIONS
from paretune.spaces.space import Space
from paretune.tasks.task import TOP1_ERROR


def check_sense(space: Space, bench: Bench) -> None:
    """Nothing, if every name that a recipe may hold is in its table and everything the space sets is read by something.

    Raises:
        ParetuneError: says what stands in the way and what would work.
    """
    check_quantizers(space)
    _check_criteria(space)
    _check_rates(space, bench)
    _check_masks(space)
    _check_recovery(space)
    for layer, kinds in space.kinds.items():
        if "partition" in kinds:
            _check_parts(space, bench, layer)


def _check_criteria(space: Space) -> None:
    for kinds in space.kinds.values():
        for kind in kinds:
            parse_kind(kind)
    for name in space.criteria:
        scorer = pick(CRITERIA, name, "criterion")
        if space.kinds and scorer.weights is None:
            able = ", ".join(known for known, one in CRITERIA.items() if one.weights is not None)
            raise ParetuneError(
                f"space.criterion: '{name}' scores channels, not weights; with patterns use one of {able}"
            )


def _check_rates(space: Space, bench: Bench) -> None:
    for rule in space.rules:
        pick(RATES, rule, "rate rule")
    if "target" in space.rules:
        _check_target(space, bench)
    if "knee" in space.rules:
        _check_knee(space, bench)


def _check_target(space: Space, bench: Bench) -> None:
    others = ", ".join(name for name in RATES if name != "target")
    if "target" in space.options("rate/target/of"):
        raise ParetuneError(f"space.rate.target.of: a target scales another rule; name one of {others}")
    for cost in map(str, space.options("rate/target/cost")):
        there = {
            name: one for name, one in costs_for(bench.hardware).items()
            if not (one.hardware and bench.hardware and bench.hardware.target_cycles)
        }  # fmt: skip
        if cost in COSTS and cost not in there:
            raise ParetuneError(
                f"space.rate.target.cost: '{cost}' {_unable(bench.hardware)}; take one of {', '.join(there)}"
            )
        pick(there, cost, "cost")
        if cost in MASKED and space.kinds:
            able = ", ".join(name for name in there if name not in MASKED)
            raise ParetuneError(
                f"space.rate.target.cost: '{cost}' depends on masks, which come after rates; with patterns use {able}"
            )


def _unable(hardware: Hardware | None) -> str:
    """Why no width can be found for a cost on this hardware."""
    if hardware is None:
        return "depends on the hardware, and none is named"
    if hardware.target_cycles is not None:
        return f"may rise as layers get narrower on hardware={hardware.name}, because target_cycles folds each anew"
    return f"is not told of hardware={hardware.name}, which has the engine '{hardware.engine}'"


def _check_knee(space: Space, bench: Bench) -> None:
    if bench.task.quality != TOP1_ERROR:
        raise ParetuneError(
            f"space.rate: the rule knee knows the chance level of top1_error only, not of '{bench.task.quality.name}'"
        )
    if not space.ranking:
        raise ParetuneError(
            "space.rate.knee.by: a blend has no sensitivity curves of its own; name the criterion to measure them by"
        )
    for criterion in space.ranking:
        pick(CRITERIA, criterion, "criterion")


def _check_recovery(space: Space) -> None:
    most = max(int(images) for images in space.options("recover/images"))
    if most > CALIBRATION_IMAGES:
        raise ParetuneError(f"space.recover.images: at most {CALIBRATION_IMAGES} are drawn, got {most}")
    straight = [mode for mode in map(str, space.options("recover/mode")) if "ste_mask" in mode]
    if straight and not (space.kinds and set(SHARES) & set(space.options("mask/schedule"))):
        raise ParetuneError(
            f"space.recover.mode: {straight[0]} lets weights come back between rounds, so it needs a pattern and "
            "mask.schedule: geometric or cubic"
        )


def _check_masks(space: Space) -> None:
    """Schedules, scopes and sparsities that can never do what is asked for."""
    schedules = set(map(str, space.options("mask/schedule")))
    sparse = {target for q in space.sparsities for target in q.targets if not _is_zero(q.leaf)}
    for layer in (target for question in space.sparsities for target in question.targets if target in sparse):
        if not set(space.kinds.get(layer, ())) & set(SPARSE):
            readers = " and ".join(SPARSE)
            raise ParetuneError(f"space.layers: '{layer}' has a sparsity, which only the patterns {readers} read")
    for layer, kinds in space.kinds.items():
        if set(kinds) <= set(SPARSE) and layer not in sparse and not schedules <= set(LASSO):
            raise ParetuneError(
                f"space.layers: '{layer}' has the pattern {kinds[0]} and no sparsity, so it masks nothing; give it one"
            )
        others = [kind for kind in kinds if kind != "unstructured"]
        if others and schedules <= set(FLIPOUT):
            raise ParetuneError(
                f"space.mask.schedule: {' and '.join(sorted(schedules))} finds unstructured zeros only, and "
                f"'{layer}' may be '{others[0]}'; use one_shot, geometric or cubic"
            )
    _check_schedules(space, schedules)
    if not space.kinds:
        if schedules != {"one_shot"}:
            raise ParetuneError(
                "space.mask.schedule: no layer has a pattern to find; give layers one, such as unstructured"
            )
        return
    if schedules & set(FLIPOUT) and "layer" in space.options("mask/scope"):
        raise ParetuneError("space.mask.scope: flipout and magnitude rank over all layers; set scope: global")
    if space.options("mask/rounds") == (0,) and schedules <= set(SHARES):
        raise ParetuneError(f"space.mask.rounds: {' and '.join(sorted(schedules))} needs 1 or more, got 0")


def _check_schedules(space: Space, schedules: set[str]) -> None:
    """Schedules that know one kind of zeros, and the penalty that only some of them read."""
    only = {**dict.fromkeys(LASSO, "pe_block"), "normalised": "unstructured"}
    if "normalised" in schedules and "global" in space.options("mask/scope"):
        raise ParetuneError("space.mask.scope: normalised ranks the weights of each layer apart; leave scope at layer")
    for layer, kinds in space.kinds.items():
        for schedule in schedules & set(only):
            others = [kind for kind in kinds if kind != only[schedule]]
            if others:
                raise ParetuneError(
                    f"space.mask.schedule: {schedule} finds the pattern {only[schedule]}, and '{layer}' may be "
                    f"'{others[0]}'"
                )
    for key, entry in SECTIONS["mask"].items():
        read = schedules & set(LASSO)
        if key.startswith("penalty/") and not read and space.options(f"mask/{key}") != (entry.default,):
            raise ParetuneError(
                f"space.mask.{key.replace('/', '.')} is read by the schedules {' and '.join(LASSO)} only, "
                f"the schedule is {' or '.join(sorted(schedules))}"
            )


def _is_zero(leaf: object) -> bool:
    return isinstance(leaf, Fixed) and not leaf.value


def _check_parts(space: Space, bench: Bench, layer: str) -> None:
    """A layer that cannot be divided is a mistake, and so is a fixed number of parts that does not divide the whole
    layer; a searched one may fail.
    """
    parts = [int(count) for count in space.options("mask/parts")]
    shape = bench.inventory.layer[layer].weight_shape
    free = {member.axis for _, member in bench.inventory.cuts[layer]} == {"in", "out"}
    fits = len(shape) == 2 and (len(parts) > 1 or not (shape[0] % parts[0] or shape[1] % parts[0]))
    if fits and free:
        return
    size, into = "×".join(map(str, shape)), f" into {parts[0]}" if len(parts) == 1 else ""
    why = (
        "its inputs or outputs are those of the model"
        if fits
        else "that takes a linear layer whose width and height are multiples of space.mask.parts"
    )
    raise ParetuneError(
        f"space.layers: '{layer}' ({size}) cannot be partitioned{into}: {why}; give it pattern: channel"
    )
