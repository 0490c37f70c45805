"""A four-layer model written down by hand, for tests that need an inventory and no tensor."""

from paretune.inventory import Group, Inventory, Layer, Member


def units(channels: int, each: int = 1) -> tuple[tuple[int, ...], ...]:
    """`channels` units of `each` neighbouring indices."""
    return tuple(tuple(range(unit * each, unit * each + each)) for unit in range(channels))


def small_inventory() -> Inventory:
    """A 3×3 convolution with a folded norm, a 1×1 convolution with a norm of its own, 2×2 pooling, a linear head."""
    layers = (
        Layer(name="stem", kind="conv", weight_shape=(4, 3, 3, 3), bias=False, positions=16, norm="stem.bn"),
        Layer(name="stem.bn", kind="norm", weight_shape=(4,), bias=True, buffers=8),
        Layer(name="body.a", kind="conv", weight_shape=(6, 4, 1, 1), bias=True, positions=16),
        Layer(name="body.bn", kind="norm", weight_shape=(6,), bias=True, buffers=12),
        Layer(name="scale", kind="other", weight_shape=(5,), bias=False),
        Layer(name="head", kind="linear", weight_shape=(10, 24), bias=True),
    )
    stem = (
        Member(layer="stem", axis="out", units=units(4)),
        Member(layer="stem.bn", axis="out", units=units(4)),
        Member(layer="body.a", axis="in", units=units(4)),
    )
    body = (
        Member(layer="body.a", axis="out", units=units(6)),
        Member(layer="body.bn", axis="out", units=units(6)),
        Member(layer="head", axis="in", units=units(6, each=4)),
    )
    groups = (Group(name="stem", channels=4, members=stem), Group(name="body.a", channels=6, members=body))
    whole = {"head": "its channels are the model's output"}
    return Inventory(layers=layers, groups=groups, input_shape=(3, 4, 4), whole=whole)
