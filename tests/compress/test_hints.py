"""Feature hints: what is compared, where a student starts, what is computed once."""

import pytest
import torch
import torch.nn.functional as F
from compress_nets import Named
from tiny_task import TinyNet, blobs
from torch import Tensor, nn
from training_nets import data, net, same, seeds, state

from paretune.compress import recover
from paretune.compress.cut import cut
from paretune.compress.groups import discover
from paretune.compress.hints import Hints, kept_inputs, reading
from paretune.compress.quantize import quantize
from paretune.compress.quantizer import ActivationQuantizer
from paretune.compress.recover import Teacher, finetune
from paretune.errors import ParetuneError
from paretune.plan import LayerPlan, Plan
from paretune.recipe import Recovery


def tiny(seed: int = 0) -> TinyNet:
    torch.manual_seed(seed)
    return TinyNet().eval()


def learn(model: nn.Module, teacher: Teacher, recovery: Recovery, kept: tuple[int, ...] | None = None) -> nn.Module:
    finetune(model, recovery, loss=F.cross_entropy, teacher=teacher, seeds=seeds, kept=kept)
    return model


def hints_only(epochs: int = 2, hint: float = 1.0, lr: float = 0.1) -> Recovery:
    return Recovery(epochs=epochs, lr=lr, distill="hints", hint=hint)


def features(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    with torch.no_grad(), reading(model.eval(), layer) as seen:
        model(images)
    return seen[-1]


def test_the_hint_is_what_the_layer_reads_before_any_rounding() -> None:
    model, images = tiny(), blobs(8, 1).inputs
    wanted = F.relu(model.norm2(model.conv2(F.relu(model.norm1(model.conv1(images)))))).mean((2, 3))
    torch.testing.assert_close(features(model, "head", images), wanted)
    quantize(model, Plan(layers=(LayerPlan(layer="head", activation_bits=2),)))
    quantizer = model.head.activation_quantizer
    assert isinstance(quantizer, ActivationQuantizer)
    quantizer.calibrate(wanted)
    assert not torch.equal(quantizer(wanted), wanted)
    assert torch.equal(features(model, "head", images), features(tiny(), "head", images))
    assert len(model.head._forward_pre_hooks) == 1  # the quantizer's


def test_layers_may_be_called_by_keyword() -> None:
    model = Named()
    images = torch.randn(2, 3, 8, 8)
    assert features(model, "head", images).shape == (2, 4)
    assert features(model, "two", images).shape == (2, 6, 6, 6)


@pytest.mark.parametrize("layer", ["head", "conv2"])
def test_a_student_like_its_teacher_has_nothing_to_learn(layer: str) -> None:
    student, teacher = tiny(), tiny()
    images = blobs(8, 1).inputs
    hints = Hints(student, teacher, layer)
    assert hints.distance(features(student, layer, images), features(teacher, layer, images)).item() == 0


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4, 4)])
def test_the_distance_is_the_mean_square_after_the_adapter(shape: tuple[int, ...]) -> None:
    layers = (nn.Conv2d(3, 2, 1), nn.Conv2d(4, 2, 1)) if len(shape) == 4 else (nn.Linear(3, 2), nn.Linear(4, 2))
    hints = Hints(nn.Sequential(layers[0]), nn.Sequential(layers[1]), "0")
    with torch.no_grad():
        hints.adapter.weight.normal_(generator=torch.Generator().manual_seed(0))
        hints.adapter.bias.fill_(0.5)
    student, teacher = torch.randn(shape), torch.randn(5, 4, *shape[2:])
    adapted = torch.einsum("nc...,dc->nd...", student, hints.adapter.weight) + 0.5
    torch.testing.assert_close(hints.distance(student, teacher), (adapted - teacher).square().mean())


@pytest.mark.parametrize("layer", ["head", "conv2"])
def test_a_cut_student_starts_from_what_it_has_lost(layer: str) -> None:
    """Kept channels lie on their places, so that the distance is the mean square of the removed ones."""
    teacher, images = tiny(), blobs(8, 1).inputs
    inventory = discover(teacher, images[:1])
    group = next(name for name, member in inventory.cuts[layer] if member.axis == "in")
    kept = {group: (0, 3, 4, 7)}
    places = kept_inputs(inventory, layer, kept)
    assert places == (0, 3, 4, 7)
    student = cut(teacher, inventory, kept)
    given, wanted = features(student, layer, images), features(teacher, layer, images)
    hints = Hints(student, teacher, layer, places)
    lost = wanted.clone()
    lost[:, list(places)] = 0
    torch.testing.assert_close(hints.distance(given, wanted), lost.square().mean())
    torch.testing.assert_close(given, wanted[:, list(places)])
    # Without places the channels would be compared with other ones.
    assert Hints(student, teacher, layer).distance(given, wanted) > hints.distance(given, wanted)


def test_what_stays_after_a_flatten_is_whole_maps() -> None:
    """A linear layer reads 4 × 4 pixels of every channel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 3)).eval()
    inventory = discover(model, torch.randn(1, 3, 4, 4))
    (group,) = inventory.groups
    wanted = tuple(range(16, 32)) + tuple(range(64, 80))
    assert kept_inputs(inventory, "3", {group.name: (1, 4)}) == wanted
    assert kept_inputs(inventory, "3", {}) == tuple(range(80))


def test_what_a_grouped_convolution_keeps_is_not_known() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(16, 3)).eval()
    inventory = discover(model, torch.randn(1, 3, 2, 2))
    assert kept_inputs(inventory, "1", {}) is None


def test_the_gradient_reaches_student_and_adapter_and_not_the_teacher() -> None:
    student, teacher = tiny(1), tiny()
    images = blobs(8, 1).inputs
    hints = Hints(student, teacher, "head")
    with reading(student, "head") as seen:
        student(images)
    hints.distance(seen[-1], features(teacher, "head", images)).backward()
    assert student.conv1.weight.grad is not None
    assert student.conv1.weight.grad.any()
    assert student.head.weight.grad is None  # it comes after the hint
    assert hints.adapter.weight.grad is not None
    assert hints.adapter.weight.grad.any()
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("distill", ["hints", "logits+hints"])
def test_a_hinted_student_comes_nearer_to_its_teacher(distill: str) -> None:
    images = blobs(96, 1)
    teacher = Teacher(model=tiny(), split=images, hint_layer="head")

    def distance(hint: float) -> float:
        recovery = Recovery(epochs=6, lr=0.02, distill=distill, hint=hint)
        student = learn(tiny(1), teacher, recovery).eval()
        return float(
            F.mse_loss(features(student, "head", images.inputs), features(teacher.model, "head", images.inputs))
        )

    assert distance(hint=20.0) < 0.5 * distance(hint=0.0)


@pytest.mark.parametrize("distill", ["hints", "logits+hints"])
def test_a_hint_of_weight_zero_changes_nothing(distill: str) -> None:
    teacher = Teacher(model=net(9), split=data(), hint_layer="4")
    hinted = Recovery(epochs=2, lr=0.1, distill=distill, hint=0.0)
    plain = Recovery(epochs=2, lr=0.1, distill="logits" if "logits" in distill else "none")
    assert same(learn(net(), teacher, hinted), learn(net(), teacher, plain))


def test_nothing_of_the_adapter_or_the_hooks_is_left() -> None:
    student = net()
    before, modules = state(student), list(student.modules())
    teacher = Teacher(model=net(9), split=data(), hint_layer="4")
    learn(student, teacher, hints_only())
    assert state(student).keys() == before.keys()
    assert list(student.modules()) == modules
    for module in (*student.modules(), *teacher.model.modules()):
        assert not module._forward_pre_hooks


def test_hinting_is_repeatable_and_leaves_the_global_generator_alone() -> None:
    first, again = net(dropout=0.5), net(dropout=0.5)
    made = net(9)
    learn(first, Teacher(model=made, split=data(), hint_layer="4"), hints_only())
    torch.manual_seed(7)
    before = torch.get_rng_state()
    learn(again, Teacher(model=made, split=data(), hint_layer="4"), hints_only())
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again)


class Counting(nn.Module):
    """A network that counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(2 * x)


@pytest.fixture
def asked() -> tuple[Counting, Teacher]:
    torch.manual_seed(0)
    model = Counting()
    return model, Teacher(model=model, split=data(), hint_layer="head")


def test_features_are_computed_once_and_only_when_asked(asked: tuple[Counting, Teacher]) -> None:
    model, teacher = asked
    assert all(lesson.features is None for _, _, lesson in teacher.lessons(1))
    assert model.calls == 6
    for _ in range(2):
        for inputs, _, lesson in teacher.lessons(1, features=True):
            assert lesson.features is not None
            assert torch.equal(lesson.features, 2 * inputs)
            assert not lesson.features.requires_grad
            assert torch.equal(lesson.outputs, model.head(2 * inputs))
    assert model.calls == 12  # once more, for the features
    for inputs, _, outputs in teacher.batches(1):  # what is kept with features serves without
        assert torch.equal(outputs, model.head(2 * inputs))
    assert model.calls == 12


def test_features_count_among_what_is_kept(asked: tuple[Counting, Teacher], monkeypatch: pytest.MonkeyPatch) -> None:
    model, teacher = asked
    monkeypatch.setattr(recover, "CACHE_VALUES", 96 * (3 + 8))  # one epoch with features, which replaces one without
    for features in (False, True, True, False):
        assert len(list(teacher.lessons(1, features=features))) == 6
    assert model.calls == 2 * 6
    list(teacher.lessons(2))
    list(teacher.lessons(2))
    assert model.calls == 4 * 6


def test_two_fine_tunes_ask_the_teacher_once(asked: tuple[Counting, Teacher]) -> None:
    model, teacher = asked
    torch.manual_seed(3)
    for distill in ("hints", "logits+hints", "logits"):
        student = Counting()
        learn(student, teacher, Recovery(epochs=2, lr=0.01, distill=distill))
        assert model.calls == 2 * 6


@pytest.mark.parametrize(
    ("layer", "kept", "text"),
    [
        (None, None, "distill 'hints' needs a teacher with a hint_layer"),
        ("1", None, "the hint layer '1' is a BatchNorm1d; name a convolution or a linear layer"),
        (
            "4",
            (0, 1),
            "the student's '4' reads 6 features and the teacher's 6, so `kept` needs 6 different places below 6",
        ),
        ("4", (0, 1, 2, 3, 4, 6), r"places below 6; got \[0, 1, 2, 3, 4, 6\]"),
        ("4", (0, 1, 2, 3, 4, 4), r"different places below 6; got \[0, 1, 2, 3, 4, 4\]"),
    ],
)
def test_hints_that_cannot_be(layer: str | None, kept: tuple[int, ...] | None, text: str) -> None:
    teacher = Teacher(model=net(9), split=data(), hint_layer=layer)
    with pytest.raises(ParetuneError, match=text):
        learn(net(), teacher, hints_only(), kept)


def test_features_of_no_layer_are_not_to_be_had() -> None:
    teacher = Teacher(model=net(9), split=data())
    with pytest.raises(ParetuneError, match="needs a teacher with a hint_layer"):
        next(teacher.lessons(1, features=True))
