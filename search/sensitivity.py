"""What single decisions cost, measured one at a time before the search: no training, batch norms measured anew."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from paretune.conf.settings import SeedSettings
from paretune.effects import Effect, Effects, Pair
from paretune.errors import ImpossiblePlan, first_line
from paretune.plan import Plan
from paretune.search.bench import Bench
from paretune.search.clock import Clock
from paretune.search.decisions import Decision
from paretune.search.evaluate import CANNOT, untrained
from paretune.search.grid import Seen, Spot, coarse_first, filled, wanted_pairs, wanted_spots

CALIBRATION = 256  # images that batch norms and activation ranges are measured on
LOOKS = 3  # at most so many times is one plan looked at to see how long that takes,
LONG = 2.0  # no more once so many seconds are spent
OVERRUN = 1.5  # times the minutes that were asked for, and measuring ends where it is

Options = tuple[int, ...]  # one option of every decision, 0 the mildest
PlanAt = Callable[[Options], Plan]
Tell = Callable[[int, int], None]  # settings measured so far, of how many


def measure_effects(
    decisions: Sequence[Decision], plan_at: PlanAt, bench: Bench, settings: SeedSettings, *,
    say: Callable[[str], None], tell: Tell,
) -> Effects:  # fmt: skip
    """Loss and error on `val` for every setting of every decision, all others at their mildest.

    `say` hears beforehand what it will take. If that is more than `settings.minutes`, it is done on a coarser grid; if
    it then takes much longer than foreseen, it ends with what it has.

    Raises:
        ImpossiblePlan: the mildest plan cannot be carried out.
    """
    look = _Look(count=len(decisions), plan_at=plan_at, bench=bench, images=settings.images)
    base, each = _mildest(look)
    most = max(1, int(60 * settings.minutes / each))
    spots, note = wanted_spots(decisions, most)
    pairs, fewer = wanted_pairs(decisions, most - len(spots)) if settings.pairs else ([], "")
    note = "; ".join(text for text in (note, fewer) if text)
    total = len(spots) + len(pairs)
    why = f": {note}, because more would take longer than seeds.minutes={settings.minutes:g}" if note else ""
    say(f"measuring sensitivities: {total} settings of {len(decisions)} decisions, about {total * each:.0f} s{why}")
    worst = look.silent()
    late = time.perf_counter() + OVERRUN * 60 * settings.minutes
    known: dict[Spot, Seen] = {}
    for spot in coarse_first(decisions, spots):
        if known and time.perf_counter() > late:
            break
        tell(len(known), total)
        known[spot] = _tried(look, dict([spot]), worst)
    effects = tuple(filled(decisions, known, base))
    found: list[Pair] = []
    for pair in pairs:
        if time.perf_counter() > late:
            break
        tell(len(known) + len(found), total)
        found.append(_pair(decisions, effects, pair, _tried(look, dict(pair), worst)[0], base[0]))
    done = len(known) + len(found)
    tell(done, total)
    slow = f"it took longer than foreseen and ended after {done} of {total} settings" if done < total else ""
    note = "; ".join(text for text in (note, slow) if text)
    return Effects(
        loss=base[0],
        error=base[1],
        effects=effects,
        pairs=tuple(found),
        images=min(look.images, len(bench.task.val)),
        note=note,
    )


def _mildest(look: "_Look") -> tuple[Seen, float]:
    """Loss and error of the mildest plan, and the seconds that such a look takes.

    Raises:
        ImpossiblePlan: the plan cannot be carried out.
    """
    start = time.perf_counter()
    try:
        base = look.at({})
    except CANNOT as problem:
        raise ImpossiblePlan(first_line(problem)) from problem
    if not all(map(math.isfinite, base)):
        raise ImpossiblePlan(f"its loss is {base[0]:g} and its error {base[1]:g}")
    first = time.perf_counter() - start
    seconds: list[float] = []  # of later looks: the first forward of a process is slower than the next
    while len(seconds) < LOOKS and first + sum(seconds) < LONG:
        look.seen.clear()
        start = time.perf_counter()
        look.at({})
        seconds.append(time.perf_counter() - start)
    return base, statistics.median(seconds or [first])


def _tried(look: "_Look", chosen: Mapping[int, int], worst: Seen) -> Seen:
    try:
        loss, error = look.at(chosen)
    except CANNOT:
        return worst
    return (loss, error) if math.isfinite(loss) and math.isfinite(error) else worst


def _pair(
    decisions: Sequence[Decision], effects: Sequence[Effect], pair: tuple[Spot, Spot], both: float, base: float
) -> Pair:
    """What the two cost together beyond what they cost alone."""
    names = (decisions[pair[0][0]].name, decisions[pair[1][0]].name)
    settings = (decisions[pair[0][0]].settings[pair[0][1]], decisions[pair[1][0]].settings[pair[1][1]])
    alone = {(effect.decision, effect.setting): effect.loss for effect in effects}
    sum_of_both = sum(alone[key] - base for key in zip(names, settings, strict=True))
    return Pair(decisions=names, settings=settings, loss=both - base - sum_of_both)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Look:
    count: int
    plan_at: PlanAt
    bench: Bench
    images: int
    seen: dict[str, Seen] = field(default_factory=dict)

    def at(self, chosen: Mapping[int, int]) -> Seen:
        """Mean loss and quality metric on the first `images` of `val`, with these options; two shares that leave
        equally many channels are one plan.
        """
        plan = self.plan_at(tuple(chosen.get(which, 0) for which in range(self.count)))
        if plan.key not in self.seen:
            self.seen[plan.key] = self._score(plan)
        return self.seen[plan.key]

    def silent(self) -> Seen:
        """What a network scores that answers every image alike, with zeros: chance level."""
        return self._mean(torch.zeros_like, self.bench.task.model)

    def _score(self, plan: Plan) -> Seen:
        recovery = replace(plan.recovery, epochs=0, images=min(CALIBRATION, plan.recovery.images))
        model = untrained(replace(plan, recovery=recovery), self.bench, Clock())
        return self._mean(lambda outputs: outputs, model)

    @torch.no_grad()
    def _mean(self, change: Callable[[Tensor], Tensor], model: nn.Module) -> Seen:
        task, losses, wrong, seen = self.bench.task, 0.0, 0.0, 0
        for inputs, targets in task.val.batches(None):
            wanted = targets[: self.images - seen]
            outputs = change(model(inputs[: len(wanted)]))
            losses += float(task.loss(outputs, wanted)) * len(wanted)
            wrong += task.errors(outputs, wanted)
            seen += len(wanted)
            if seen >= self.images:
                break
        return losses / seen, wrong / seen
