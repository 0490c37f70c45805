"""Masks that grow in rounds: the schedules' formulas, and what comes of them in training."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tiny_task import TinyNet, blobs
from torch import nn

from paretune.compress.masks import Masks, masked_layers, raw_weight
from paretune.compress.recover import Teacher, recalibrate
from paretune.compress.schedule import epochs_of, prune_in_training, sparsity_at
from paretune.errors import ImpossiblePlan, UnknownName
from paretune.recipe import Pruning, Wanted

LAYERS = ("conv1", "conv2", "head")  # 72, 576 and 24 weights
Scores = dict[str, NDArray[np.float64]]


def seeds(epoch: int) -> int:
    return 100 + epoch


def tiny() -> TinyNet:
    torch.manual_seed(0)
    return TinyNet()


def by_magnitude(model: nn.Module) -> dict[str, NDArray[Any]]:
    """|w| behind the masks."""
    return {name: raw_weight(model.get_submodule(name)).detach().abs().numpy() for name in LAYERS}


def layer_masks(wanted: Mapping[str, Wanted], scores: Scores, scope: str, minimum: int) -> Masks:
    """The highest scores of every layer, or 2 of 4 neighbours."""
    masks = {}
    for name, asked in wanted.items():
        if asked.kind == "2:4":
            ranks = scores[name].reshape(-1, 4).argsort(axis=1).argsort(axis=1)
            masks[name] = (ranks >= 2).reshape(scores[name].shape)
            continue
        stay = max(minimum, round(scores[name].size * (1 - asked.sparsity)))
        order = np.argsort(-scores[name], axis=None, kind="stable")
        masks[name] = np.isin(np.arange(order.size), order[:stay]).reshape(scores[name].shape)
    return masks


def pruning(**more: Any) -> Pruning:
    wanted = {name: Wanted(kind="unstructured", sparsity=0.75) for name in LAYERS}
    plain = Pruning(schedule="cubic", rounds=4, epochs=4, lr=0.1, wanted=wanted, blends={})
    return replace(plain, **more)


class Course:
    """Prunes a tiny net and remembers every round."""

    def __init__(self, asked: Pruning, mode: str = "frozen_mask") -> None:
        self.ticks, self.epochs = 0, list[int]()
        self.rounds, self.asked, self.straight = list[Masks](), list[dict[str, Wanted]](), list[set[bool]]()
        self.scores = list[Scores]()
        self.model = tiny()
        self.found = prune_in_training(
            self.model,
            asked,
            rank=self.rank,
            make_masks=self.make,
            loss=F.cross_entropy,
            teacher=Teacher(model=tiny(), split=blobs(96, 1)),
            seeds=self.seed,
            tick=self.tick,
            mode=mode,
        )

    def rank(self, model: nn.Module) -> dict[str, NDArray[Any]]:
        self.straight.append({mask.straight for _, _, mask in masked_layers(model)})
        return by_magnitude(model)

    def make(self, wanted: dict[str, Wanted], scores: Scores, scope: str, minimum: int) -> Masks:
        self.asked.append(wanted)
        self.scores.append(scores)
        self.rounds.append(layer_masks(wanted, scores, scope, minimum))
        return self.rounds[-1]

    def seed(self, epoch: int) -> int:
        self.epochs.append(epoch)
        return seeds(epoch)

    def tick(self) -> None:
        self.ticks += 1


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_the_schedules_follow_their_formulas(sparsity: float, rounds: int) -> None:
    for number in range(1, rounds + 1):
        done = number / rounds
        geometric, cubic = (sparsity_at(name, sparsity, number, rounds) for name in ("geometric", "cubic"))
        assert 1 - geometric == pytest.approx((1 - sparsity) ** done)
        assert cubic == pytest.approx(sparsity - sparsity * (1 - done) ** 3)


@pytest.mark.parametrize("schedule", ["geometric", "cubic"])
def test_the_last_round_reaches_the_target_exactly_and_none_goes_back(schedule: str) -> None:
    course = [sparsity_at(schedule, 0.9, number, 5) for number in range(1, 6)]
    assert course[-1] == 0.9
    assert course == sorted(course)
    assert course[0] >= 0


def test_geometric_rounds_remove_equal_shares_of_what_is_left() -> None:
    left = [1, *(1 - sparsity_at("geometric", 0.96, number, 4) for number in range(1, 5))]
    shares = [after / before for before, after in pairwise(left)]
    assert shares == pytest.approx([0.04**0.25] * 4)


def test_cubic_removes_most_in_the_first_round() -> None:
    course = [0.0, *(sparsity_at("cubic", 0.8, number, 4) for number in range(1, 5))]
    gains = [after - before for before, after in pairwise(course)]
    assert gains == pytest.approx([0.8 * 37 / 64, 0.8 * 19 / 64, 0.8 * 7 / 64, 0.8 / 64])


def test_an_unknown_schedule_is_told() -> None:
    with pytest.raises(UnknownName, match=r"no schedule of masks is called 'cubik'\.* Did you mean 'cubic'"):
        sparsity_at("cubik", 0.5, 1, 2)


@pytest.mark.parametrize(
    ("epochs", "rounds", "wanted"),
    [(6, 3, [2, 2, 2]), (8, 3, [2, 2, 4]), (2, 3, [0, 0, 2]), (0, 2, [0, 0]), (5, 1, [5])],
)
def test_epochs_are_split_evenly_and_the_last_round_gets_the_rest(epochs: int, rounds: int, wanted: list[int]) -> None:
    assert epochs_of(epochs, rounds) == wanted


@pytest.mark.parametrize("schedule", ["geometric", "cubic"])
def test_the_masks_end_at_the_target_and_lie_on_the_model(schedule: str) -> None:
    course = Course(pruning(schedule=schedule))
    assert {name: int(mask.sum()) for name, mask in course.found.items()} == {"conv1": 18, "conv2": 144, "head": 6}
    on = {name: mask.mask.bool().numpy() for name, _, mask in masked_layers(course.model)}
    for name, mask in course.found.items():
        assert np.array_equal(mask, on[name])
        weight = course.model.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        assert np.array_equal(weight.detach().numpy() != 0, mask)
    assert course.ticks == len(course.rounds) + 4 * 3  # before every scoring and every batch


@pytest.mark.parametrize("schedule", ["geometric", "cubic"])
def test_zeros_that_are_for_good_never_come_back(schedule: str) -> None:
    course = Course(pruning(schedule=schedule))
    assert len(course.rounds) == 4
    for number, (before, after) in enumerate(pairwise(course.rounds), start=1):
        for name in LAYERS:
            assert not (after[name] & ~before[name]).any()
            assert after[name].sum() < before[name].sum() or name == "head"  # so small that rounds can coincide
            assert np.isneginf(course.scores[number][name][~before[name]]).all()
            assert np.isfinite(course.scores[number][name][before[name]]).all()
    assert course.straight == [set()] + [{False}] * 3


def test_zeros_that_learn_may_come_back() -> None:
    course = Course(pruning(schedule="geometric", lr=0.3, epochs=8), mode="ste_mask")
    pairs = pairwise(course.rounds)
    assert any((after[name] & ~before[name]).any() for before, after in pairs for name in LAYERS)
    assert all(np.isfinite(scores[name]).all() for scores in course.scores for name in LAYERS)
    assert course.straight == [set()] + [{True}] * 3  # whole gradients while the criteria look
    assert {mask.straight for _, _, mask in masked_layers(course.model)} == {False}
    assert int(course.found["conv2"].sum()) == 144


def test_one_round_masks_once_and_trains_on() -> None:
    course = Course(pruning(rounds=1, epochs=3))
    assert len(course.rounds) == 1
    before = by_magnitude(tiny())
    for name, mask in layer_masks(course.asked[0], before, "layer", 1).items():
        assert np.array_equal(mask, course.found[name])
    assert sorted(set(course.epochs)) == [0, 1, 2]


def settled(asked: Pruning, settle: Callable[[nn.Module], None], **more: Any) -> nn.Module:
    """A tiny net after its rounds."""
    model, teacher = tiny(), Teacher(model=tiny(), split=blobs(96, 1))
    prune_in_training(
        model, asked, rank=by_magnitude, make_masks=layer_masks, loss=F.cross_entropy, teacher=teacher,
        settle=settle, **{"seeds": seeds} | more,
    )  # fmt: skip
    return model


def test_statistics_settle_after_every_mask_and_before_the_training_of_its_round() -> None:
    events = list[str]()

    def seed(epoch: int) -> int:
        events.append(f"epoch {epoch}")
        return seeds(epoch)

    def settle(model: nn.Module) -> None:
        zeros = sum(int((mask.mask == 0).sum()) for _, _, mask in masked_layers(model))
        events.append(f"settle {zeros}")

    settled(pruning(rounds=2, epochs=2, schedule="geometric"), settle, seeds=seed)
    half = 36 + 288 + 12  # (1 - 0.75) ** (1 / 2) stays
    assert list(dict.fromkeys(events)) == [f"settle {half}", "epoch 0", f"settle {504}", "epoch 1"]


def test_nothing_settles_in_a_round_without_new_masks() -> None:
    calls = list[int]()
    wanted = {"conv2": Wanted(kind="2:4")}
    settled(pruning(rounds=3, epochs=0, wanted=wanted), lambda _: calls.append(1))
    assert calls == [1]


def test_what_settling_measures_is_what_frozen_norms_train_with() -> None:
    """In the mode "bn_frozen" the statistics stay as settling left them: those of the masked model, not the dense."""
    batches = [(inputs, targets) for inputs, targets in blobs(96, 1).batches(None)]
    seen = list[dict[str, torch.Tensor]]()

    def settle(model: nn.Module) -> None:
        recalibrate(model, batches)
        seen.append(running(model))

    def running(model: nn.Module) -> dict[str, torch.Tensor]:
        return {key: value.clone() for key, value in model.state_dict().items() if "running" in key}

    model = settled(pruning(rounds=2, epochs=2), settle, mode="bn_frozen")
    assert len(seen) == 2
    assert any(not torch.equal(value, seen[1][key]) for key, value in seen[0].items())
    assert all(torch.equal(value, seen[1][key]) for key, value in running(model).items())
    plain = settled(pruning(rounds=2, epochs=2), lambda _: None, mode="bn_frozen")
    assert all(torch.equal(value, running(tiny())[key]) for key, value in running(plain).items())


def test_no_two_rounds_train_on_the_same_epoch() -> None:
    course = Course(pruning(rounds=3, epochs=7))
    assert list(dict.fromkeys(course.epochs)) == list(range(7))


def test_rounds_without_epochs_mask_all_the_same() -> None:
    course = Course(pruning(rounds=3, epochs=0))
    once = layer_masks(pruning().wanted, by_magnitude(tiny()), "layer", 1)
    assert len(course.rounds) == 3
    assert all(np.array_equal(course.found[name], once[name]) for name in LAYERS)


def test_patterns_of_a_fixed_share_come_in_the_last_round() -> None:
    wanted = {
        "conv1": Wanted(kind="channel"),
        "conv2": Wanted(kind="2:4"),
        "head": Wanted(kind="unstructured", sparsity=0.5),
    }
    course = Course(pruning(rounds=3, wanted=wanted))
    assert [set(asked) for asked in course.asked] == [{"head"}, {"head"}, {"conv2", "head"}]
    assert [asked["head"].sparsity for asked in course.asked] == pytest.approx([0.5 * 19 / 27, 0.5 * 26 / 27, 0.5])
    assert course.found.keys() == {"conv2", "head"}
    assert (course.found["conv2"].reshape(-1, 4).sum(axis=1) == 2).all()


def test_scope_and_minimum_are_handed_on() -> None:
    seen = list[tuple[str, int]]()

    def make(wanted: dict[str, Wanted], scores: Scores, scope: str, minimum: int) -> Masks:
        seen.append((scope, minimum))
        return layer_masks(wanted, scores, scope, minimum)

    teacher = Teacher(model=tiny(), split=blobs(96, 1))
    asked = pruning(scope="global", minimum=3, rounds=2, epochs=0)
    prune_in_training(
        tiny(), asked, rank=by_magnitude, make_masks=make, loss=F.cross_entropy, teacher=teacher, seeds=seeds
    )
    assert seen == [("global", 3)] * 2


def test_pruning_in_training_is_repeatable() -> None:
    one, other = Course(pruning()), Course(pruning())
    assert all(np.array_equal(one.found[name], other.found[name]) for name in LAYERS)
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[key])


def test_no_rounds_are_an_impossible_plan() -> None:
    with pytest.raises(ImpossiblePlan, match="schedule 'cubic' needs at least one round, got 0"):
        Course(pruning(rounds=0))


@pytest.mark.parametrize("schedule", ["flipout", "one_shot"])
def test_what_has_no_rounds_is_refused(schedule: str) -> None:
    with pytest.raises(UnknownName, match=f"no schedule of masks is called '{schedule}'"):
        Course(pruning(schedule=schedule))
