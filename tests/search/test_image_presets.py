"""Presets for real images run on made-up ones: three trials, far less of everything, the same way."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paretune.findings import Findings
from paretune.search.door import main
from paretune.search.read import read_findings
from paretune.tasks.bare import make_bare
from paretune.tasks.weights import save_state

SMALL = (
    "cifar10_resnet20_small", "cifar10_resnet56_small", "cifar10_vgg16_small", "cifar100_resnet56_small",
    "imagenet_resnet18_small",
)  # fmt: skip


def images(path: Path, classes: int) -> str:
    """128 noisy images with as many to test on."""
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (128, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(128) % classes
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels[::-1], y_test=labels[::-1])
    return str(path)


def folders(root: Path) -> str:
    """Three classes of images of many sizes."""
    chance = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 8)):
        for label in ("ant", "bee", "cat"):
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = chance.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{number}.png")
    return str(root)


def weights(path: Path, **network: object) -> str:
    """Those of a new network."""
    torch.manual_seed(0)
    bare = make_bare(network)
    assert bare is not None
    save_state(bare.model, path)
    return str(path)


def words(name: str, folder: Path) -> Sequence[str]:
    if name.startswith("imagenet"):
        held = weights(folder / "net.safetensors", name="torchvision", model="resnet18", arguments={"num_classes": 3})
        data = [f"task.data.root={folders(folder / 'images')}", "task.data.size=32", "task.data.resize=36"]
        return [*data, "task.data.workers=0", "+task.model.arguments.num_classes=3", f"task.model.weights={held}"]
    classes, network = (100, "resnet56") if name.startswith("cifar100") else (10, name.split("_")[1])
    numbers = ["task.data.mean=[0.485,0.456,0.406]", "task.data.std=[0.229,0.224,0.225]"]
    data = ["data=npz", f"task.data.path={images(folder / 'images.npz', classes)}", *numbers]
    if "vgg" in name or classes == 100:
        return [*data, "task.model.train.epochs=1"]
    return [*data, f"task.model.weights={weights(folder / 'net.safetensors', name='cifar', model=network)}"]


def run(name: str, folder: Path, *more: str) -> Findings:
    few = ["task.data.train_images=40", "task.data.val_images=10", "task.data.batch=20", "study.trials=3"]
    with pytest.raises(SystemExit, match=r"0") as end:
        main(["study", f"experiment={name}", f"results_dir={folder}", *few, *words(name, folder), *more])
    assert end.value.code == 0
    return read_findings(folder / name)


@pytest.mark.parametrize("name", SMALL)
def test_an_image_preset_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    findings = run(name, tmp_path, *([] if name == SMALL[0] else ["precision=float32"]))
    assert [trial.status for trial in findings.trials] == ["done"] * 3, [trial.reason for trial in findings.trials]
    assert findings.inventory.groups
    facts = findings.provenance
    assert facts["precision"]["asked"] == ("auto" if name == SMALL[0] else "float32")
    assert ("because the weights have seen" in facts["roles"]["val"]) == ("vgg" not in name and "100" not in name)
    assert (tmp_path / name / "report.html").exists()
