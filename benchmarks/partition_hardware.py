"""What K accelerators make of VGG16's linear layers: python benchmarks/partition_hardware.py [--write], seconds."""

from collections.abc import Iterator, Sequence
from functools import partial

from paper import publish

from paretune.compress.layers import survey
from paretune.compress.patterns import stand_in
from paretune.costs.bill import splits_of
from paretune.plan import LayerPlan, Plan
from paretune.profile import profile
from paretune.recipe import Wanted
from paretune.search.devices import hardware_of
from paretune.tasks.bare import make_bare

PARTS = (2, 4, 8, 16)
LAYERS = ("classifier.0", "classifier.3")
HARDWARE = ("systolic_16x16", "mcu")
ABOUT = (
    "Modelled, not measured: the two hidden linear layers of torchvision's VGG16 (25,088 and 4,096 inputs, 4,096 "
    "outputs each), 8/8 bits, in K equal blocks (Partition Pruning, Shahhosseini et al. 2019, which reports 7.72 "
    "times the speed and 2.73 times less energy for the linear layers of TinyVGG16; its K and its layer sizes are not "
    "known). Speed is cycles: by pruning is one accelerator with the blocks beside the same one with the dense "
    "layers, by parallelism is K accelerators beside one, both with the blocks. Energy is the dense layers' by that "
    "of all blocks; what accelerators say to each other, and what they draw while idle, is not modelled."
)


def rows() -> Iterator[Sequence[str]]:
    """A row per hardware and K; both layers together."""
    bare = make_bare({"name": "torchvision", "model": "vgg16"}, device="meta")
    assert bare is not None
    inventory = survey(bare.model, bare.example)
    for hardware in map(hardware_of, HARDWARE):
        for parts in PARTS:
            pattern = partial(stand_in, Wanted(kind="partition", parts=parts))
            layers = (
                LayerPlan(layer=n, weight_bits=8, activation_bits=8, pattern=pattern(inventory.layer[n].weight_shape))
                for n in LAYERS
            )
            found = splits_of(profile(inventory, Plan(layers=tuple(layers))), hardware)
            dense, serial, parallel = (
                sum(getattr(split, f"{which}_cycles") for split in found) for which in ("dense", "serial", "parallel")
            )
            gain = sum(split.dense_energy for split in found) / sum(split.blocks_energy for split in found)
            speeds = (dense / serial, serial / parallel, dense / parallel, gain)
            yield hardware.name, str(parts), *(f"{speed:.2f}" for speed in speeds)


if __name__ == "__main__":
    publish(
        __file__, "Partitioned linear layers on K accelerators", ABOUT,
        ("hardware", "K", "speed by pruning", "by parallelism", "together", "times less energy"), rows(),
    )  # fmt: skip
