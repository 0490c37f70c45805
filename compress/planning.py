"""From a recipe to a plan: which channels of every group stay, and where the zeros of every layer are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from paretune.compress.blend import unit_scores, weight_scores
from paretune.compress.criteria import Scores
from paretune.compress.masks import Masks
from paretune.compress.narrow import narrow, slice_weight
from paretune.compress.partition import partition
from paretune.compress.patterns import global_masks, mask_for, mask_of, pattern_of, stand_in
from paretune.compress.quantizers import ACTIVATIONS, WEIGHTS
from paretune.compress.rates import RATES, Answer, Ground, Kept, choose_units
from paretune.costs.hardware import Hardware
from paretune.costs.table import COSTS
from paretune.curve import Curve
from paretune.errors import ImpossiblePlan, ParetuneError, pick
from paretune.inventory import Inventory
from paretune.plan import DENSE, FLOAT, GroupPlan, LayerPlan, Pattern, Plan
from paretune.profile import profile
from paretune.recipe import LASSO, SPARSE, Pruning, Quantizing, Rate, Recipe, Wanted

Curves = Callable[[str, str], Mapping[str, Curve]]  # (criterion, reduction) -> curve by group
Judge = Callable[[Kept], float]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan and, in words, what its rules decided on their own."""

    plan: Plan
    notes: tuple[str, ...] = ()


def no_curves(criterion: str, reduce: str) -> Mapping[str, Curve]:
    """For callers whose recipes need no sensitivity curves."""
    raise ParetuneError(f"no sensitivity curves by '{criterion}' were measured")


def no_judge(kept: Kept) -> float:
    """For callers whose recipes need no trial cuts."""
    raise ParetuneError("no model is at hand to try a cut on")


def plan_of(
    recipe: Recipe,
    inventory: Inventory,
    scores: Scores,
    *,
    curves: Curves = no_curves,
    judge: Judge = no_judge,
    seed: int = 0,
    hardware: Hardware | None = None,
) -> Planned:
    """The explicit plan of a recipe: the rate's rule says how many channels of a group stay, the blend says which.

    Ties keep the channel that comes first, so that equal scores give equal plans. A group that loses
    nothing is left out, so that every way of asking for "all" is the same plan. `seed` starts partitions; `hardware`
    is needed for a target on what it pays.

    Raises:
        UnknownName: a rule, criterion or cost that is not in its table.
        ImpossiblePlan: the rule or a pattern cannot be carried out on this model.
    """
    units = {group.name: unit_scores(scores, recipe.blends[group.name], group.name, recipe.reduce)
             for group in inventory.groups}  # fmt: skip

    bare = replace(recipe, encodings={})  # one of them may need a pattern, and those come later

    def priced(name: str, plan: Plan) -> float:
        return pick(COSTS, name, "cost").count(profile(inventory, plan), hardware)

    def cost(name: str, kept: Kept) -> float:
        return priced(name, _plan(bare, inventory, kept, {}))

    ground = Ground(
        inventory=inventory,
        units=units,
        ratios=recipe.ratios,
        keep=recipe.keep,
        cost=cost,
        dense=lambda name: priced(name, DENSE),
        curves=lambda by: curves(by, recipe.reduce),
        judge=judge,
    )
    rate, notes = _curves_by(recipe)
    answer: Answer = pick(RATES, rate.rule, "rate rule")(rate, ground)
    kept = {
        group.name: choose_units(units[group.name], answer.counts[group.name])
        for group in inventory.groups
        if answer.counts[group.name] < group.channels
    }
    patterns = {} if recipe.masking.schedule != "one_shot" else patterns_of(recipe, inventory, scores, kept, seed)
    return Planned(plan=_plan(recipe, inventory, kept, patterns), notes=(*answer.notes, *notes))


def _curves_by(recipe: Recipe) -> tuple[Rate, tuple[str, ...]]:
    """The rate with the criterion that its curves are ranked by, and a word of warning if channels leave by another.

    Raises:
        ImpossiblePlan: a blend, which has no curves of its own.
    """
    rate = recipe.rate
    if "knee" not in (rate.rule, rate.of if rate.rule == "target" else ""):
        return rate, ()
    used = {blend.criteria if len(blend.criteria) > 1 else blend.criteria[0] for blend in recipe.blends.values()}
    if rate.by == "same":
        if len(used) > 1 or not all(isinstance(name, str) for name in used):
            raise ImpossiblePlan("a blend has no sensitivity curves of its own; name a criterion in rate.knee.by")
        return replace(rate, by=str(next(iter(used)))), ()
    warned = () if used == {rate.by} else (f"curves by {rate.by}, channels by another: the guard holds for {rate.by}",)
    return rate, warned


def patterns_of(recipe: Recipe, inventory: Inventory, scores: Scores, kept: Kept, seed: int) -> dict[str, Pattern]:
    """The patterns that a recipe asks for, over the weights that are left once the channels are cut."""
    if not recipe.wanted:
        return {}
    sliced = {
        name: slice_weight(inventory, name, weight_scores(scores, recipe.blends[name], name), kept)
        for name in recipe.wanted
    }
    found = find_masks(recipe.wanted, sliced, narrow(inventory, kept), recipe.masking.scope, recipe.keep.minimum, seed)
    return {name: one for name, one in stored(recipe.wanted, found).items() if not found.masks[name].all()}


def foreseen(plan: Plan, inventory: Inventory) -> Plan:
    """The plan with a stand-in for every mask that training has still to find: as many zeros, nowhere in particular.

    Its costs are those of the plan that will be found if masks go by layer; under one global threshold zeros move
    between layers, and only costs that do not look at masks are sure.
    """
    if plan.pruning is None or not plan.open:
        return plan
    left, pruning = narrow(inventory, plan.kept), plan.pruning

    def guess(row: LayerPlan) -> LayerPlan:
        if row.layer not in pruning.wanted or row.pattern is not None:
            return row
        wanted, shape = pruning.wanted[row.layer], left.layer[row.layer].weight_shape
        return replace(row, pattern=stand_in(wanted, shape, pruning.minimum))

    return replace(plan, layers=tuple(map(guess, plan.layers)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Masks by layer. A partition comes with its pattern, whose part numbers agree from layer to layer."""

    masks: Masks
    partitions: Mapping[str, Pattern]


def find_masks(
    wanted: Mapping[str, Wanted],
    scores: Mapping[str, NDArray[Any]],
    left: Inventory,
    scope: str,
    minimum: int,
    seed: int,
) -> Found:
    """The masks of all layers from their weights' scores; `left` is the inventory of what is being masked.

    With the scope "global" one threshold is used for all unstructured layers; other patterns go by layer.
    """
    parts = {name: want for name, want in wanted.items() if want.kind == "partition"}
    free = {name: want for name, want in wanted.items() if want.kind == "unstructured" and scope == "global"}
    rest = (name for name in wanted if name not in parts and name not in free)
    masks = {name: mask_for(wanted[name], scores[name], minimum) for name in rest}
    partitions = partition(left, parts, {name: scores[name] for name in parts}, seed) if parts else {}
    masks |= {name: mask_of(pattern, scores[name].shape) for name, pattern in partitions.items()}
    if free:
        masks |= global_masks(free, {name: scores[name] for name in free}, minimum)
    return Found(masks={name: masks[name] for name in wanted}, partitions=partitions)


def stored(wanted: Mapping[str, Wanted], found: Found) -> dict[str, Pattern]:
    """The masks as patterns."""
    return {
        name: found.partitions[name] if name in found.partitions else pattern_of(wanted[name], mask)
        for name, mask in found.masks.items()
    }


def _plan(recipe: Recipe, inventory: Inventory, kept: Kept, patterns: Mapping[str, Pattern]) -> Plan:
    layers = tuple(_layer_plan(recipe, layer.name, patterns.get(layer.name)) for layer in inventory.weighted)
    groups = tuple(
        GroupPlan(group=group.name, kept=tuple(kept[group.name])) for group in inventory.groups if group.name in kept
    )
    return Plan(
        groups=groups, layers=layers, recovery=recipe.recovery, pruning=_pruning(recipe),
        quantizing=_quantizing(recipe.quantizing, layers), joint=recipe.joint,
    )  # fmt: skip


def _layer_plan(recipe: Recipe, name: str, pattern: Pattern | None) -> LayerPlan:
    """The layer's part of a plan. What stays float names no quantizer, so that equal models have equal plans."""
    rounds = {"weight": recipe.weight_bits[name] < FLOAT, "activation": recipe.activation_bits[name] < FLOAT}
    return LayerPlan(
        layer=name,
        weight_bits=recipe.weight_bits[name],
        activation_bits=recipe.activation_bits[name],
        pattern=pattern,
        weight_quantizer=recipe.weight_quantizers.get(name, "lsq") if rounds["weight"] else "lsq",
        activation_quantizer=recipe.activation_quantizers.get(name, "lsq") if rounds["activation"] else "lsq",
        encoding=recipe.encodings.get(name, "cheapest"),
    )


def _quantizing(asked: Quantizing, layers: Sequence[LayerPlan]) -> Quantizing | None:
    """The settings that a quantizer of the plan reads, the others at their defaults; None if all are."""
    used = {WEIGHTS[row.weight_quantizer].reads for row in layers if row.weight_quantizer in WEIGHTS}
    used |= {ACTIVATIONS[row.activation_quantizer].reads for row in layers if row.activation_quantizer in ACTIVATIONS}
    read = {name: getattr(asked, name) for names in used for name in names}
    found = Quantizing(**read)
    return None if found == Quantizing() else found


def _pruning(recipe: Recipe) -> Pruning | None:
    masking = recipe.masking
    natural = masking.schedule in LASSO  # blocks may become zeros without being asked to
    wanted = {name: w for name, w in recipe.wanted.items() if natural or w.sparsity or w.kind not in SPARSE}
    if masking.schedule == "one_shot" or not wanted:
        return None
    return Pruning(
        schedule=masking.schedule, rounds=masking.rounds, epochs=masking.epochs, lr=masking.lr, wanted=wanted,
        blends={name: recipe.blends[name] for name in wanted}, scope=masking.scope, noise=masking.noise,
        power=masking.power, minimum=recipe.keep.minimum,
        penalty=masking.penalty if masking.schedule in LASSO else None,
    )  # fmt: skip
