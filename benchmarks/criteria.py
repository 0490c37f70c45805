"""Every criterion at half the MACs, with and without each repair: python benchmarks/criteria.py [--write]."""

from collections.abc import Iterator

from paper import publish, spread

from paretune.compress.criteria import CRITERIA
from paretune.compress.cut import cut
from paretune.plan import Plan
from paretune.recipe import Recovery
from paretune.search.bench import Bench, lay_out
from paretune.search.clock import Clock
from paretune.search.evaluate import evaluate, judge_of, quality_of
from paretune.search.measured import Measured
from paretune.search.planner import Planner
from paretune.spaces.language import parse_space
from paretune.tasks.digits import digits

SEEDS = range(5)
EPOCHS, LR = 3, 0.02
REPAIRS = ("none", "recalibration", "compensation", "fine-tune")
ABOUT = (
    f"Digits, ResNet of 77,754 parameters, one network per seed 0 to {len(SEEDS) - 1}. All groups lose the same "
    "share, solved for half the MACs (within 1 %), so that all criteria remove equally many channels and differ "
    "in which. Error on the 449 validation images in %, mean ± standard deviation over the seeds; one image is "
    "0.22. Repairs: none; batch-norm statistics measured anew; closed-form compensation, then batch-norm "
    f"statistics; batch-norm statistics, then {EPOCHS} epochs of fine-tuning at {LR} without a teacher. `random` "
    "is the control."
)


def errors(bench: Bench, plan: Plan, seed: int) -> dict[str, float]:
    """The error after each repair."""
    repaired = Recovery(epochs=0, lr=LR, compensate="linear")
    tuned = evaluate(Plan(groups=plan.groups, recovery=Recovery(epochs=EPOCHS, lr=LR)), bench, seed=seed).outcome
    bare = cut(bench.task.model, bench.inventory, plan.kept)
    return {
        "none": quality_of(bench, bare, bench.task.val, Clock()),
        "recalibration": judge_of(bench, None, Clock())(plan.kept),
        "compensation": judge_of(bench, repaired, Clock())(plan.kept),
        "fine-tune": tuned.values["top1_error"],
    }


def plans(bench: Bench, seed: int) -> dict[str, Plan]:
    """The plan of every criterion at half the MACs."""
    found = {}
    for name in CRITERIA:
        spec = {"criterion": name, "rate": {"rule": "target", "target": {"cost": "macs", "share": 0.5}}}
        space = parse_space(spec, bench.inventory)
        planner = Planner.ready(bench, space, Measured(bench=bench, seed=seed))
        recipe = space.answer(lambda question: question.leaf.ends()[0])
        found[name] = planner.plan(recipe, Clock()).plan
    return found


def measure() -> Iterator[list[str]]:
    """One row per criterion, least error after compensation first; then the dense networks."""
    found: dict[str, dict[str, list[float]]] = {name: {repair: [] for repair in REPAIRS} for name in CRITERIA}
    dense = []
    for seed in SEEDS:
        bench = lay_out(digits(seed=seed))
        dense.append(quality_of(bench, bench.task.model, bench.task.val, Clock()))
        for name, plan in plans(bench, seed).items():
            for repair, error in errors(bench, plan, seed).items():
                found[name][repair].append(error)
    for name in sorted(found, key=lambda name: sum(found[name]["compensation"])):
        yield [name, *(spread(found[name][repair]) for repair in REPAIRS)]
    yield ["(dense)", spread(dense), "", "", ""]


if __name__ == "__main__":
    publish(__file__, "Criteria and repairs at half the MACs", ABOUT, ("criterion", *REPAIRS), measure())
