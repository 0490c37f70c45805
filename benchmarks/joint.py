"""DJPQ against pruning first and quantizing then, at equal bit operations: python benchmarks/joint.py [--write]."""

from collections.abc import Iterator, Mapping

from paper import publish, spread

from paretune.costs.counts import bops
from paretune.plan import DENSE, GroupPlan, LayerPlan, Plan
from paretune.profile import profile
from paretune.recipe import Joint, Recovery
from paretune.search.bench import Bench, lay_out
from paretune.search.clock import Clock
from paretune.search.evaluate import Trained, evaluate, quality_of
from paretune.search.measured import Measured
from paretune.search.planner import Planner
from paretune.spaces.language import parse_space
from paretune.tasks.digits import digits

SEEDS = range(5)
BETAS = {"free": (0.3, 3.0), "power_of_two": (1.0,)}
WIDTHS = (8, 4, 3)
EPOCHS, AFTER, LR = 20, 5, 0.02
RATE, GAMMA = 0.02, 3e-4
ABOUT = (
    f"Digits, ResNet of 77,754 parameters, one network per seed 0 to {len(SEEDS) - 1}. DJPQ: {EPOCHS} epochs of joint "
    f"training at {LR} (gates and quantizers at {RATE}, gamma {GAMMA:g}; both were set by trying seed 0), then {AFTER} "
    "of fine-tuning, for each weight beta of the bit operations. Its rival in two steps: channels by l2 at one ratio "
    f"for all groups, LSQ at one bit-width for weights and activations, {EPOCHS + AFTER} epochs at {LR}. For every "
    f"DJPQ network each of the widths {WIDTHS} gets the smallest ratio (in steps of 0.01) that does not exceed that "
    "network's bit operations, and the width with the least error on the 449 validation images is taken: three "
    "trainings against one, in the rival's favour. Compared on the 450 test images, that nobody chose by. Mean ± "
    "standard deviation over the seeds, all in %."
)


def jointly(bench: Bench, beta: float, seed: int, bits: str) -> Trained:
    """A network found by one training."""
    start = {layer.name: 8 for layer in bench.inventory.weighted}
    joint = Joint(
        epochs=EPOCHS, lr=LR, rate=RATE, gamma=GAMMA, beta=beta, weight_bits=start, activation_bits=start, bits=bits
    )
    layers = tuple(
        LayerPlan(layer=name, weight_bits=8, activation_bits=8, weight_quantizer="djpq", activation_quantizer="djpq")
        for name in start
    )
    return done(evaluate(Plan(layers=layers, joint=joint, recovery=Recovery(epochs=AFTER, lr=LR)), bench, seed=seed))


def done(trained: Trained) -> Trained:
    """The same.

    Raises:
        AssertionError: it failed.
    """
    assert trained.outcome.status == "done", trained.outcome.reason
    return trained


def in_two_steps(bench: Bench, limit: float, seed: int) -> Trained:
    """The best of the rival's networks with at most `limit` bit operations."""
    runs = [done(evaluate(plan, bench, seed=seed)) for plan in rivals(bench, limit, seed)]
    return min(runs, key=lambda one: one.outcome.values["top1_error"])


def rivals(bench: Bench, limit: float, seed: int) -> Iterator[Plan]:
    """One plan per width, pruned as little as the limit allows."""
    recovery = Recovery(epochs=EPOCHS + AFTER, lr=LR)
    for bits in WIDTHS:
        layers = tuple(
            LayerPlan(layer=one.name, weight_bits=bits, activation_bits=bits) for one in bench.inventory.weighted
        )
        for ratio in range(96):
            plan = Plan(groups=groups(bench, ratio / 100, seed), layers=layers, recovery=recovery)
            if bops(profile(bench.inventory, plan)) <= limit:
                yield plan
                break


def groups(bench: Bench, ratio: float, seed: int) -> tuple[GroupPlan, ...]:
    """The groups of a uniform cut by l2."""
    space = parse_space({"rate": {"rule": "uniform", "ratio": ratio}}, bench.inventory)
    planner = Planner.ready(bench, space, Measured(bench=bench, seed=seed))
    return planner.plan(space.answer(lambda question: question.leaf.ends()[0]), Clock()).plan.groups


def test_error(bench: Bench, trained: Trained) -> float:
    """On the 450 images that nobody has chosen by."""
    assert trained.model is not None
    return quality_of(bench, trained.model, bench.task.test, Clock())


def measure() -> Iterator[list[str]]:
    """One row per beta and kind of bits."""
    benches: Mapping[int, Bench] = {seed: lay_out(digits(seed=seed)) for seed in SEEDS}
    for bits, betas in BETAS.items():
        for beta in betas:
            shares: dict[str, list[float]] = {"djpq": [], "rival": []}
            errors: dict[str, list[float]] = {"djpq": [], "rival": []}
            channels = []
            for seed, bench in benches.items():
                whole = bops(profile(bench.inventory, DENSE))
                found = jointly(bench, beta, seed, bits)
                channels.append(left(found.plan, bench))
                other = in_two_steps(bench, found.outcome.values["bops"], seed)
                for name, one in (("djpq", found), ("rival", other)):
                    shares[name].append(one.outcome.values["bops"] / whole)
                    errors[name].append(test_error(bench, one))
            ahead = sum(a < b for a, b in zip(errors["djpq"], errors["rival"], strict=True))
            behind = sum(a > b for a, b in zip(errors["djpq"], errors["rival"], strict=True))
            cells = [spread(values) for values in (shares["djpq"], shares["rival"], channels, *errors.values())]
            yield [bits, f"{beta:g}", *cells, f"{ahead} / {len(SEEDS) - ahead - behind} / {behind}"]


def left(plan: Plan, bench: Bench) -> float:
    """The share of channels that stays, over all groups."""
    groups = bench.inventory.groups
    return sum(plan.kept_share(bench.inventory, g.name) * g.channels for g in groups) / sum(g.channels for g in groups)


COLUMNS = (
    "bits", "beta", "bit operations of DJPQ", "of two steps", "channels DJPQ keeps", "test error: DJPQ", "two steps",
    "seeds DJPQ is ahead / equal / behind",
)  # fmt: skip

if __name__ == "__main__":
    publish(__file__, "Joint training and two steps at equal bit operations", ABOUT, COLUMNS, measure())
