"""A fine-tune in 16 bits or in another layout learns what the plain one does, and leaves a plain float32 model."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_nets import seeds, state

from paretune.compress.descent import Descent
from paretune.compress.masks import attach
from paretune.compress.precision import DTYPES, LAYOUTS, PLAIN, WORDS, Precision, precision_of
from paretune.compress.quantize import calibrate, quantize
from paretune.compress.quantizers import ACTIVATIONS, WEIGHTS
from paretune.compress.recover import Teacher, finetune
from paretune.conf.settings import PRECISIONS
from paretune.errors import UnknownName
from paretune.plan import LayerPlan, Plan
from paretune.recipe import Recovery
from paretune.tasks.memory import InMemory

EVERY = [Precision(dtype=dtype, memory_format=layout) for dtype in DTYPES for layout in LAYOUTS]
LAYERS = ("0", "3", "7")


def images(count: int = 96) -> InMemory:
    """Three noisy pictures of 4×6 pixels in two channels."""
    chance = torch.Generator().manual_seed(0)
    targets = torch.arange(count) % 3
    inputs = torch.randn(3, 2, 4, 6, generator=chance)[targets] + 0.3 * torch.randn(count, 2, 4, 6, generator=chance)
    return InMemory(inputs=inputs, targets=targets, batch=16)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 24, 3),
    )  # fmt: skip


def loss_of(model: nn.Module) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model.eval()(images().inputs), images().targets))


def tuned(model: nn.Module, precision: Precision, teacher: nn.Module | None = None, **more: object) -> nn.Module:
    recovery = Recovery(epochs=3, lr=0.05, **more)  # type: ignore[arg-type]
    asked = Teacher(model=teacher or net(9), split=images(), hint_layer="7")
    finetune(model, recovery, loss=F.cross_entropy, teacher=asked, seeds=seeds, precision=precision)
    return model


@pytest.mark.parametrize("precision", EVERY, ids=str)
@pytest.mark.parametrize("distill", ["none", "logits+hints"])
def test_every_precision_learns_and_leaves_contiguous_float32(precision: Precision, distill: str) -> None:
    model, teacher = net(), tuned(net(9), PLAIN).eval()
    before = loss_of(model)
    tuned(model, precision, teacher, distill=distill)
    assert loss_of(model) < 0.5 * before
    for tensor in model.state_dict().values():
        assert tensor.dtype in (torch.float32, torch.int64)
        assert tensor.is_contiguous()


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_weight_quantizer_learns_in_bfloat16(name: str) -> None:
    bits = min(4, WEIGHTS[name].most)
    assert_learns(tuple(LayerPlan(layer=layer, weight_bits=bits, weight_quantizer=name) for layer in LAYERS))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_quantizer_learns_in_bfloat16(name: str) -> None:
    rows = (LayerPlan(layer=layer, activation_bits=4, activation_quantizer=name) for layer in LAYERS)
    assert_learns(tuple(rows))


def assert_learns(layers: tuple[LayerPlan, ...]) -> None:
    """With a mask too, in bfloat16 and channels last; learned steps move and stay finite."""
    model = net()
    attach(model, {"3": (torch.arange(8 * 8 * 9).view(8, 8, 3, 3) % 3 > 0).numpy()})
    quantize(model, Plan(layers=layers))
    calibrate(model, images().inputs)
    before, steps = loss_of(model), learned(model)
    tuned(model, Precision(dtype="bfloat16", memory_format="channels_last"))
    assert loss_of(model) < 0.8 * before
    after = learned(model)
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert not any(torch.equal(value, steps[key]) for key, value in after.items())


def learned(model: nn.Module) -> dict[str, Tensor]:
    """The learned steps and ranges."""
    named = model.named_parameters()
    return {key: p.detach().clone() for key, p in named if key.split(".")[-1] in ("step", "alpha") and p.requires_grad}


def test_activations_are_rounded_in_float32_whatever_the_layers_compute_in() -> None:
    model = net()
    quantize(model, Plan(layers=(LayerPlan(layer="3", activation_bits=8),)))
    calibrate(model, images().inputs)
    seen: list[Tensor] = []
    quantizer = model[3].activation_quantizer  # type: ignore[index]
    quantizer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    outputs = Precision(dtype="bfloat16").outputs(model, images().inputs)
    assert seen[0].dtype == outputs.dtype == torch.float32
    assert torch.equal(seen[0], seen[0].bfloat16().float()), "what came was computed in 16 bits"


def test_channels_last_computes_the_same_but_for_the_order_of_sums() -> None:
    one, other = tuned(net(), PLAIN), tuned(net(), Precision(memory_format="channels_last"))
    for key, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", EVERY, ids=str)
def test_a_precision_is_repeatable(precision: Precision) -> None:
    one, other = state(tuned(net(), precision)), state(tuned(net(), precision))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_scaled_loss_shows_watchers_the_true_gradients() -> None:
    model = net()
    copied = copy.deepcopy(model)
    images_, targets = images().inputs, images().targets
    value = F.cross_entropy(Precision(dtype="float16").outputs(model, images_), targets)
    found: list[Tensor] = []
    descent = Descent([{"params": list(model.parameters())}], 0.1, 10, Precision(dtype="float16"))
    descent.step(value, lambda: found.extend(p.grad.clone() for p in model.parameters() if p.grad is not None))
    F.cross_entropy(copied(images_), targets).backward()  # type: ignore[no-untyped-call]
    for grad, parameter in zip(found, copied.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad, rtol=0.05, atol=0.005)


def test_a_step_whose_scaled_gradients_overflow_is_left_out_and_the_next_one_is_not() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    descent = Descent([{"params": [weight]}], 0.1, 10, Precision(dtype="float16"))
    descent.step(weight.sum() * 1e38)
    assert torch.equal(weight, torch.ones(2, 2))
    assert descent.share == 0.1
    descent.step(weight.sum())
    assert bool((weight < 1).all())


def test_an_odd_loss_of_whole_number_inputs_stays_float() -> None:
    """Tokens go in as whole numbers; what comes out is not rounded to them."""
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    outputs = Precision(dtype="bfloat16", memory_format="channels_last").outputs(model, torch.arange(5))
    assert outputs.dtype == torch.float32
    assert bool((outputs != outputs.round()).any())


def test_the_config_names_every_precision_there_is() -> None:
    assert {*PRECISIONS} == {*WORDS, "auto"}
    assert {precision_of(word) for word in WORDS} == {*EVERY}
    assert [str(precision_of(word)) for word in WORDS] == list(WORDS)
    with pytest.raises(UnknownName, match=r"no precision is called 'bf16'"):
        precision_of("bf16")
