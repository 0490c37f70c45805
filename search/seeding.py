"""The first trials after the controls: plans that single effects promise to lie along the front."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import optuna

from paretune.compress.planning import foreseen
from paretune.conf.settings import Settings
from paretune.costs.table import COSTS
from paretune.effects import Effects
from paretune.errors import ImpossiblePlan, first_line
from paretune.plan import Plan
from paretune.profile import profile
from paretune.recipe import Recipe, Recovery
from paretune.records import digest
from paretune.samplers import lagrange
from paretune.search.clock import Clock
from paretune.search.controls import Control, Given
from paretune.search.decisions import Decision, decisions_of, mildest, point_at
from paretune.search.evaluate import CANNOT
from paretune.search.known import plan_key
from paretune.search.planner import Planner
from paretune.search.sensitivity import Options, Tell, measure_effects
from paretune.spaces.leaf import Scalar
from paretune.spaces.space import Space

STORED = "seeds"  # the study's attribute
STEEPEST = 4.0  # how far an effect of two decisions is carried beyond where it was measured
STAND_INS = {"latency_ms": "macs"}  # what is priced in place of what takes a model to measure
DEAR = 1e6  # how many times as much as the mildest plan one costs that cannot be carried out: nobody takes it


@dataclass(frozen=True, kw_only=True)
class Seeding:
    """Parameters of the seeds in the order of trying, every first few spread along the whole front; the `effects`
    they were made from, if any were measured; and why there are none or fewer than asked for, or "".
    """

    params: tuple[Mapping[str, Scalar], ...] = ()
    effects: Effects | None = None
    note: str = ""


def stored(study: optuna.Study) -> Seeding | None:
    """The seeds that the study began with, without their effects; None if it has come to none yet."""
    known = study.user_attrs.get(STORED)
    return None if known is None else Seeding(params=tuple(known["params"]), note=known["note"])


def keep(study: optuna.Study, seeding: Seeding) -> None:
    """Write the seeds into the study: measuring again would not give quite the same."""
    study.set_user_attr(STORED, {"params": [dict(params) for params in seeding.params], "note": seeding.note})


def make_seeds(
    settings: Settings, space: Space, planner: Planner, controls: Sequence[Control], *,
    say: Callable[[str], None], tell: Tell,
) -> Seeding:  # fmt: skip
    """Measure what single decisions cost, and find the plans that minimise harm + λ × cost for many λ.

    Plans over a budget are none of them, nor those of the controls. Everything that is no decision is at its default.
    """
    asked = settings.seeds.count
    decisions = decisions_of(space)
    if not asked:
        return Seeding()
    if not decisions:
        return Seeding(note="no seeds: the space leaves neither shares nor bits open")
    way = _Way(space=space, planner=planner, decisions=decisions, base=mildest(space, decisions))
    try:
        if way.plan((0,) * len(decisions)).open:
            return Seeding(note="no seeds: what this space finds in training cannot be measured before it")
        effects = planner.measured.effects(
            _key(settings, way),
            lambda: measure_effects(decisions, way.plan, planner.bench, settings.seeds, say=say, tell=tell),
        )
        say(f"choosing {asked} seeds by what single decisions harm and save …")
        params = _chosen(settings, way, effects, controls)
    except ImpossiblePlan as problem:
        return Seeding(note=f"no seeds: not even the mildest plan can be carried out ({first_line(problem)})")
    few = f"{len(params)} of {asked} seeds: there are no more different plans within the budget along the front"
    return Seeding(params=params, effects=effects, note=few if len(params) < asked else "")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Way:
    """From options to parameters to plans to costs."""

    space: Space
    planner: Planner
    decisions: tuple[Decision, ...]
    base: Mapping[str, Scalar]

    def params(self, options: Options) -> dict[str, Scalar]:
        return point_at(self.base, self.decisions, options)

    def recipe(self, options: Options) -> Recipe:
        return self.space.ask(Given(self.params(options)))

    def plan(self, options: Options) -> Plan:
        return self.planner.plan(self.recipe(options), Clock()).plan

    def costs(self, options: Options, names: Sequence[str]) -> list[float]:
        """Static costs, with stand-ins for masks: finding real ones for thousands of plans would take minutes."""
        recipe, bench = self.recipe(options), self.planner.bench
        if recipe.wanted:
            recipe = replace(recipe, masking=replace(recipe.masking, schedule="geometric"))
        rows = profile(bench.inventory, foreseen(self.planner.plan(recipe, Clock()).plan, bench.inventory))
        return [COSTS[name].count(rows, bench.hardware) for name in names]


def _key(settings: Settings, way: _Way) -> str:
    """What effects depend on besides task and seed. Both ends of the space: ties do not show at the mildest one."""
    ends = ((0,) * len(way.decisions), tuple(len(decision.settings) - 1 for decision in way.decisions))
    recipes = [replace(recipe, recovery=_untrained(recipe.recovery)) for recipe in map(way.recipe, ends)]
    asked = settings.seeds
    return digest([recipes, way.decisions, asked.images, asked.minutes, asked.pairs, way.planner.bench.hardware])


def _untrained(recovery: Recovery) -> Recovery:
    """The recovery without what concerns training only, at any one value."""
    return Recovery(
        epochs=0, lr=1.0, compensate=recovery.compensate, ridge=recovery.ridge, images=recovery.images,
        start=recovery.start,
    )  # fmt: skip


def _chosen(
    settings: Settings, way: _Way, effects: Effects, controls: Sequence[Control]
) -> tuple[Mapping[str, Scalar], ...]:
    asked = [STAND_INS.get(name, name) for name in settings.objectives[1:]]
    names = [name for name in dict.fromkeys((*asked, *settings.limits)) if name in COSTS]
    unit = way.costs((0,) * len(way.decisions), names)

    def costs(options: Options) -> list[float]:
        try:
            return way.costs(options, names)
        except CANNOT:
            return [DEAR * cost for cost in unit]

    harms = [lagrange.Decision(name=one.name, harm=_harm(one, effects)) for one in way.decisions]
    points = lagrange.seeds(
        harms, costs, count=settings.seeds.count + len(controls),
        limits=[settings.limits.get(name) for name in names], pairs=_pairs(way.decisions, harms, effects),
    )  # fmt: skip
    taken = {plan_key(way.planner, way.space, control.params) for control in controls if control.params}
    found: list[Mapping[str, Scalar]] = []
    for params in map(way.params, points):
        key = plan_key(way.planner, way.space, params)
        if key and key not in taken and len(found) < settings.seeds.count:
            taken.add(key)
            found.append(params)
    return tuple(found)


def _harm(decision: Decision, effects: Effects) -> tuple[float, ...]:
    loss = {(effect.decision, effect.setting): effect.loss for effect in effects.effects}
    return tuple(max(0.0, loss[decision.name, setting] - effects.loss) for setting in decision.settings)


def _pairs(
    decisions: Sequence[Decision], harms: Sequence[lagrange.Decision], effects: Effects
) -> dict[tuple[int, int, int, int], float]:
    """What pairs cost beyond the sum, at all their settings: as much more as the single effects are larger there."""
    place = {decision.name: at for at, decision in enumerate(decisions)}
    found: dict[tuple[int, int, int, int], float] = {}
    for pair in effects.pairs:
        one, two = (place[name] for name in pair.decisions)
        at = [decisions[which].settings.index(s) for which, s in zip((one, two), pair.settings, strict=True)]
        for a in range(1, len(decisions[one].settings)):
            for b in range(1, len(decisions[two].settings)):
                found[one, a, two, b] = pair.loss * _times(harms[one], a, at[0]) * _times(harms[two], b, at[1])
    return found


def _times(decision: lagrange.Decision, option: int, measured: int) -> float:
    whole = decision.harm[measured]
    return min(STEEPEST, decision.harm[option] / whole) if whole > 0 else 0.0
