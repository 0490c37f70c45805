"""Inventories of dense chains to partition, scores for them, and what is asked of them."""

import numpy as np
from hand_made import units
from numpy.typing import NDArray

from paretune.inventory import Group, Inventory, Layer, Member
from paretune.recipe import Wanted

Array = NDArray[np.float64]


def tower(*widths: int, pixels: int = 1) -> Inventory:
    """A convolution of widths[0] channels, then linear layers "fc1", "fc2", ... with the other widths, and a "head".

    The first reads `pixels` indices per channel.
    """
    names = ["stem", *(f"fc{i}" for i in range(1, len(widths))), "head"]
    sizes = [widths[0] * pixels, *widths[1:], 3]
    layers = [Layer(name="stem", kind="conv", weight_shape=(widths[0], 3, 3, 3), bias=True)]
    layers += [
        Layer(name=name, kind="linear", weight_shape=(sizes[i + 1], sizes[i]), bias=True)
        for i, name in enumerate(names[1:])
    ]
    groups = tuple(
        Group(
            name=names[i],
            channels=width,
            members=(
                Member(layer=names[i], axis="out", units=units(width)),
                Member(layer=names[i + 1], axis="in", units=units(width, each=pixels if i == 0 else 1)),
            ),
        )
        for i, width in enumerate(widths)
    )
    return Inventory(layers=tuple(layers), groups=groups, input_shape=(3, 8, 8), whole={"head": "output"})


def drawn(inventory: Inventory, seed: int = 0) -> dict[str, Array]:
    """Random scores by layer."""
    generator = np.random.default_rng(seed)
    return {layer.name: generator.random(layer.weight_shape) for layer in inventory.layers}


def wanted(parts: int, *layers: str, restarts: int = 5) -> dict[str, Wanted]:
    """A partition of these layers."""
    return dict.fromkeys(layers, Wanted(kind="partition", parts=parts, restarts=restarts))
