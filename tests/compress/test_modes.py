"""Ways to fine-tune: masks that stay or learn, frozen norms, watchers; and weights drawn anew."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_nets import data, net, same, seeds, state, tuned

from paretune.compress.masks import attach, mask_module, raw_weight
from paretune.compress.recover import Teacher, Watcher, finetune, fresh
from paretune.errors import ImpossiblePlan, UnknownName
from paretune.recipe import Recovery


def masked(share: float = 0.5) -> nn.Module:
    """A net whose first weight has its first inputs masked."""
    model = net()
    mask = torch.ones(6, 8, dtype=torch.bool)
    mask[:, : round(8 * share)] = False
    attach(model, {"0": mask.numpy()})
    return model


def test_a_frozen_mask_stays_and_its_weights_learn_nothing() -> None:
    model = masked()
    first = model.get_submodule("0")
    before = raw_weight(first).clone()
    model = tuned(model, Recovery(epochs=2, lr=0.1))
    mask = mask_module(first)
    assert mask is not None
    gone = mask.mask == 0
    assert not first.weight[gone].any()  # type: ignore[index]
    assert first.weight[~gone].all()  # type: ignore[index]
    # Weight decay alone reaches them.
    torch.testing.assert_close(raw_weight(first)[gone], before[gone], rtol=1e-3, atol=0)
    assert not torch.allclose(raw_weight(first)[~gone], before[~gone], rtol=1e-2)


@pytest.mark.parametrize("mode", ["ste_mask", "ste_mask+bn_frozen"])
def test_a_straight_mask_lets_its_weights_learn_behind_it(mode: str) -> None:
    model = masked()
    first = model.get_submodule("0")
    before, mask = raw_weight(first).clone(), mask_module(first)
    assert mask is not None
    tuned(model, Recovery(epochs=2, lr=0.1, mode=mode))
    gone = mask.mask == 0
    assert not first.weight[gone].any()  # type: ignore[index]
    assert not torch.allclose(raw_weight(first)[gone], before[gone], rtol=1e-2)
    assert mask.straight is False


def test_the_masks_are_put_back_also_when_it_is_stopped() -> None:
    def stop() -> None:
        seen.append(mask.straight)
        raise TimeoutError("enough")

    seen = list[bool]()
    model = masked()
    mask = mask_module(model.get_submodule("0"))
    assert mask is not None
    made, recovery = Teacher(model=net(9), split=data()), Recovery(epochs=1, lr=0.1, mode="ste_mask")
    with pytest.raises(TimeoutError, match="enough"):
        finetune(model, recovery, loss=F.cross_entropy, teacher=made, seeds=seeds, tick=stop)
    assert seen == [True]
    assert mask.straight is False


@pytest.mark.parametrize("mode", ["bn_frozen", "ste_mask+bn_frozen"])
def test_frozen_norms_keep_their_statistics_and_learn_scale_and_shift(mode: str) -> None:
    model = net()
    before = state(model)
    tuned(model, Recovery(epochs=2, lr=0.1, mode=mode))
    same_still = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    assert same_still == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("recovery", "text"),
    [
        (Recovery(epochs=1, lr=0.1, mode="bn_frosen"), "no mode of the fine-tune is called 'bn_frosen'.*'bn_frozen'"),
        (Recovery(epochs=1, lr=0.1, distill="hint"), "no distill of the fine-tune is called 'hint'.*'hints'"),
    ],
)
def test_unknown_names_are_told(recovery: Recovery, text: str) -> None:
    with pytest.raises(UnknownName, match=text):
        tuned(net(), recovery)


def test_a_watcher_is_told_everything_in_order() -> None:
    class Diary(Watcher):
        def __init__(self) -> None:
            self.lines = list[str]()
            self.last = torch.empty(0)

        def on_gradients(self, model: nn.Module) -> None:
            weight = model.get_parameter("0.weight")
            assert weight.grad is not None
            self.last = weight.detach().clone()
            self.lines.append("g")

        def on_step(self, model: nn.Module) -> None:
            assert not torch.equal(model.get_parameter("0.weight"), self.last)
            self.lines.append("s")

        def on_epoch(self, epoch: int) -> None:
            self.lines.append(str(epoch))

    diary, model, made = Diary(), net(), Teacher(model=net(9), split=data())
    recovery = Recovery(epochs=2, lr=0.1)
    finetune(model, recovery, loss=F.cross_entropy, teacher=made, seeds=seeds, watcher=diary)
    assert "".join(diary.lines) == "gs" * 6 + "0" + "gs" * 6 + "1"
    assert same(model, tuned(net(), recovery))


def test_fresh_weights_depend_on_the_seed_only() -> None:
    one, other, third = net(1), net(2), net(1)
    tuned(one, Recovery(epochs=1, lr=0.1))
    before = torch.get_rng_state()
    assert fresh(one, 3) is one
    fresh(other, 3)
    fresh(third, 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, other)
    assert not same(one, third)
    assert not one[1].running_mean.any()  # type: ignore[index]


class Bare(nn.Module):
    """A weight that nobody knows how to draw."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.Sequential(nn.Linear(2, 2), Bare()), r"reset_parameters\(\): 1 cannot be drawn anew; use start 'trained'"),
        (Bare(), "the model itself cannot be drawn anew"),
        (nn.Sequential(nn.ReLU()), "no module has weights that can be drawn anew"),
    ],
)
def test_weights_that_cannot_be_drawn_anew_make_a_plan_impossible(model: nn.Module, text: str) -> None:
    before = state(model)
    with pytest.raises(ImpossiblePlan, match=text):
        fresh(model, 0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
