"""Statistics measured anew, and a fine-tune that is repeatable and reduces the loss."""

import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_nets import data, net, same, seeds, state, tuned

from paretune.compress import recover
from paretune.compress.descent import shape
from paretune.compress.quantize import calibrate, quantize
from paretune.compress.recover import Teacher, finetune, recalibrate
from paretune.errors import ImpossiblePlan
from paretune.plan import LayerPlan, Plan
from paretune.recipe import Recovery


def loss_of(model: nn.Module) -> float:
    split = data()
    with torch.no_grad():
        return float(F.cross_entropy(model.eval()(split.inputs), split.targets))


def test_recalibration_is_the_plain_mean_of_the_batches_statistics() -> None:
    norm = nn.BatchNorm2d(3, momentum=0.3)
    norm.running_mean.fill_(99)  # type: ignore[union-attr]
    batches = [(torch.randn(size, 3, 4, 5) * 2 + 1, torch.zeros(size)) for size in (4, 7, 2)]
    recalibrate(norm, batches)
    means = torch.stack([images.mean((0, 2, 3)) for images, _ in batches])
    variances = torch.stack([images.var((0, 2, 3), unbiased=True) for images, _ in batches])
    torch.testing.assert_close(norm.running_mean, means.mean(0))
    torch.testing.assert_close(norm.running_var, variances.mean(0))
    assert norm.momentum == 0.3
    assert not norm.training


def test_recalibration_leaves_weights_alone_and_ends_in_eval_mode() -> None:
    model = net(dropout=0.9).train()
    before = state(model)
    recalibrate(model, data().batches(0))
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_recalibrating_twice_changes_nothing() -> None:
    model = net(dropout=0.9)
    recalibrate(model, data().batches(0))
    before = state(model)
    recalibrate(model, data().batches(0))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_norm_without_statistics_has_nothing_to_measure() -> None:
    model = nn.Sequential(nn.BatchNorm1d(8, track_running_stats=False), nn.BatchNorm1d(8))
    recalibrate(model, data().batches(0))
    assert model[0].running_mean is None
    assert model[1].running_mean.any()  # type: ignore[union-attr]


class Counting(nn.Module):
    """Doubles its input and counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 2 * x


def read(teacher: Teacher, seed: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    return list(teacher.batches(seed))


def test_the_teacher_is_asked_once_per_seed() -> None:
    model = Counting().train()
    teacher = Teacher(model=model, split=data())
    first, again = read(teacher, 1), read(teacher, 1)
    assert model.calls == 96 // 16
    for (inputs, targets, outputs), (inputs2, targets2, outputs2) in zip(first, again, strict=True):
        assert torch.equal(inputs, inputs2)
        assert torch.equal(targets, targets2)
        assert torch.equal(outputs, outputs2)
        assert torch.equal(outputs, 2 * inputs)
        assert not outputs.requires_grad
    read(teacher, 2)
    assert model.calls == 2 * 96 // 16
    assert not model.training


def test_an_epoch_that_was_broken_off_is_not_remembered() -> None:
    model = Counting()
    teacher = Teacher(model=model, split=data())
    next(teacher.batches(1))
    assert len(read(teacher, 1)) == 6
    assert model.calls == 1 + 6


def test_outputs_that_do_not_fit_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover, "CACHE_VALUES", 96 * 8)  # one epoch
    model = Counting()
    teacher = Teacher(model=model, split=data())
    for seed in (1, 2, 1, 2):
        assert all(torch.equal(outputs, 2 * inputs) for inputs, _, outputs in read(teacher, seed))
    assert model.calls == 3 * 6  # seed 1 once, seed 2 twice


@pytest.mark.parametrize("distill", ["none", "logits"])
def test_finetuning_reduces_the_loss(distill: str) -> None:
    teacher = tuned(net(5), Recovery(epochs=8, lr=0.1)).eval()
    model = net()
    before = loss_of(model)
    tuned(model, Recovery(epochs=4, lr=0.1, distill=distill), teacher=teacher)
    assert loss_of(model) < 0.5 * before


def test_a_quantized_model_learns_its_steps_too() -> None:
    model = net()
    layers = tuple(LayerPlan(layer=name, weight_bits=3, activation_bits=4) for name in ("0", "4"))
    quantize(model, Plan(layers=layers))
    calibrate(model, data().inputs)
    before, steps = loss_of(model), [p.clone() for name, p in model.named_parameters() if name.endswith("step")]
    tuned(model, Recovery(epochs=4, lr=0.05))
    after = [p for name, p in model.named_parameters() if name.endswith("step")]
    assert loss_of(model) < 0.6 * before
    assert len(after) == 4
    assert not any(torch.equal(a, b) for a, b in zip(steps, after, strict=True))


def test_one_step_is_enough_to_learn_something() -> None:
    """The warm-up must not start at a learning rate of zero: a short recovery would lose its first steps."""
    model = net()
    before = model[0].weight.clone()  # type: ignore[index]
    tuned(model, Recovery(epochs=1, lr=0.1), split=data(16))
    assert not torch.equal(model[0].weight, before)  # type: ignore[index]


@pytest.mark.parametrize("distill", ["none", "logits"])
def test_finetuning_is_repeatable(distill: str) -> None:
    recovery = Recovery(epochs=2, lr=0.1, distill=distill)
    one, other, teacher = net(dropout=0.5), net(dropout=0.5), net(9)
    tuned(one, recovery, teacher=teacher)
    torch.manual_seed(7)  # whatever happened in between
    assert same(tuned(other, recovery, teacher=teacher), one)


def test_finetuning_leaves_the_global_generator_alone() -> None:
    model = net(dropout=0.5)
    before = torch.get_rng_state()
    tuned(model, Recovery(epochs=1, lr=0.1), teacher=nn.Identity())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seeds_decide_what_is_learned() -> None:
    one, other = net(), net()
    teacher = Teacher(model=net(9), split=data())
    finetune(one, Recovery(epochs=1, lr=0.1), loss=F.cross_entropy, teacher=teacher, seeds=lambda epoch: epoch)
    finetune(other, Recovery(epochs=1, lr=0.1), loss=F.cross_entropy, teacher=teacher, seeds=lambda epoch: 1 + epoch)
    assert not same(one, other)


def test_the_teacher_is_not_trained() -> None:
    teacher = net(9).eval()
    before = state(teacher)
    tuned(net(), Recovery(epochs=2, lr=0.1, distill="logits"), teacher=teacher)
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_no_epochs_change_nothing() -> None:
    model = net()
    assert same(tuned(model, Recovery(epochs=0, lr=0.1)), net())
    assert model.training  # not even the mode


@pytest.mark.parametrize("lr", [1e30, math.nan])
def test_a_loss_that_is_not_finite_is_an_impossible_plan(lr: float) -> None:
    with pytest.raises(ImpossiblePlan, match=r"the loss became (nan|inf) in epoch 1 at lr (1e\+30|nan)"):
        tuned(nn.Linear(8, 3), Recovery(epochs=2, lr=lr))


def test_a_tick_comes_before_every_batch() -> None:
    ticks = list[int]()
    finetune(
        net(),
        Recovery(epochs=3, lr=0.1),
        loss=F.cross_entropy,
        teacher=Teacher(model=net(9), split=data()),
        seeds=seeds,
        tick=lambda: ticks.append(1),
    )
    assert len(ticks) == 3 * data().steps() == 18


def test_a_tick_can_stop_it() -> None:
    def stop() -> None:
        raise TimeoutError("enough")

    model = net()
    with pytest.raises(TimeoutError, match="enough"):
        finetune(
            model,
            Recovery(epochs=1, lr=0.1),
            loss=F.cross_entropy,
            teacher=Teacher(model=net(9), split=data()),
            seeds=seeds,
            tick=stop,
        )
    assert same(model, net())


def test_the_learning_rate_warms_up_over_a_tenth_and_falls_to_nothing() -> None:
    rates = [shape(done / 100) for done in range(101)]
    assert rates[5] == pytest.approx(0.5)
    assert rates[10] == pytest.approx(1)
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert all(a < b for a, b in pairwise(rates[:11]))
    assert all(a > b for a, b in pairwise(rates[10:]))


@pytest.mark.parametrize(("temperature", "alpha"), [(4.0, 0.7), (1.0, 1.0), (8.0, 0.25)])
def test_distillation_is_hintons_loss(temperature: float, alpha: float) -> None:
    """(1 - α) × cross entropy + α × T² × KL(teacher ‖ student) at temperature T, mean over the batch."""
    outputs, wanted, targets = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    soft = F.softmax(wanted / temperature, 1)
    divergence = (soft * (soft.log() - F.log_softmax(outputs / temperature, 1))).sum(1).mean()
    expected = (1 - alpha) * F.cross_entropy(outputs, targets) + alpha * temperature**2 * divergence
    recovery = Recovery(epochs=1, lr=0.1, temperature=temperature, alpha=alpha)
    torch.testing.assert_close(recover._loss(outputs, targets, wanted, F.cross_entropy, recovery), expected)
    hard = recover._loss(outputs, targets, None, F.cross_entropy, recovery)
    torch.testing.assert_close(hard, F.cross_entropy(outputs, targets))


def test_weights_decay_and_nothing_else_does() -> None:
    model = net()
    quantize(model, Plan(layers=(LayerPlan(layer="0", weight_bits=4),)))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: Iterator[dict[str, object]] = iter(recover.parameter_groups(model))
    decayed, rest = ({names[id(p)] for p in group["params"]} for group in groups)  # type: ignore[attr-defined]
    assert decayed == {"0.parametrizations.weight.original", "4.weight"}
    assert decayed | rest == set(names.values())


def by_hand(model: nn.Module, recovery: Recovery, teacher: nn.Module | None) -> nn.Module:
    """The fine-tune as a plain training loop; `teacher` distils at temperature 4 and α 0.7."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": weights, "weight_decay": 1e-4}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=recovery.lr, momentum=0.9, nesterov=True)
    done, steps = 0, recovery.epochs * data().steps()
    for epoch in range(recovery.epochs):
        model.train()
        torch.manual_seed(seeds(epoch))
        for inputs, targets in data().batches(seeds(epoch)):
            for group in optimizer.param_groups:
                group["lr"] = recovery.lr * shape((done + 0.5) / steps)
            outputs = model(inputs)
            value = F.cross_entropy(outputs, targets)
            if teacher:
                with torch.no_grad():
                    wanted = F.log_softmax(teacher.eval()(inputs) / 4.0, 1)
                student = F.log_softmax(outputs / 4.0, 1)
                soft = F.kl_div(student, wanted, reduction="batchmean", log_target=True)
                value = (1 - 0.7) * value + 0.7 * 4.0**2 * soft
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            done += 1
    return model


@pytest.mark.parametrize("distill", ["none", "logits"])
def test_it_is_a_plain_training_loop_to_the_last_bit(distill: str) -> None:
    recovery, teacher = Recovery(epochs=3, lr=0.1, distill=distill), net(9)
    wanted = by_hand(net(dropout=0.5), recovery, teacher if distill == "logits" else None)
    assert same(tuned(net(dropout=0.5), recovery, teacher=teacher), wanted)
