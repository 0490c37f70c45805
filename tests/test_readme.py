"""What the README promises in code works as it stands there."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from tiny_task import blobs, tiny_task
from torch.utils.data import DataLoader, TensorDataset

from paretune.compress.criteria import CRITERIA
from paretune.compress.groups import discover
from paretune.spaces.language import KEYS, parse_space
from paretune.tasks.resnet import ResNet

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, word: str) -> str:
    """The README's code block in `language` that contains `word`."""
    fenced = README.split("```")[1::2]
    return next(text.removeprefix(language) for text in fenced if text.startswith(f"{language}\n") and word in text)


def test_five_lines_of_python_search_and_export(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = block("python", "from_loaders")
    assert len([line for line in code.splitlines() if line and not line.startswith("from")]) == 4
    code = code.replace("trials=100", "trials=5").replace("60_000", "4_000")
    model = tiny_task().model

    def loader(seed, shuffle):
        split = blobs(96, seed)
        return DataLoader(TensorDataset(split.inputs, split.targets), batch_size=32, shuffle=shuffle)

    names = {
        "model": model,
        "train_loader": loader(1, True),
        "val_loader": loader(2, False),
        "test_loader": loader(3, False),
    }
    exec(compile(code, "README.md", "exec"), names)
    assert "top1_error" in capsys.readouterr().out
    assert isinstance(names["study"].front(), pd.DataFrame)
    assert {"model.onnx", "model.safetensors", "plan.yaml", "scores.json", "README.md"} <= {
        path.name for path in (tmp_path / "model").iterdir()
    }
    assert (tmp_path / "results" / "mine" / "report.html").exists()
    # A model the user goes on using is the one they came with.
    assert torch.equal(model.conv1.weight, tiny_task().model.conv1.weight)


def test_the_space_parses_on_a_model_with_a_stem():
    inventory = discover(ResNet((4, 8)), torch.zeros(1, 1, 8, 8))
    space = parse_space(yaml.safe_load(block("yaml", "my_conf/space")), inventory)
    assert {name for question in space.ratios for name in question.targets} == {
        group.name for group in inventory.groups
    }
    assert space.criteria == ("l2", "l1", "bn_scale", "taylor")


def test_the_defaults_of_a_space_are_what_the_readme_says():
    """The block of all keys describes the same space as an empty one with its layers left in float."""
    inventory = discover(ResNet((4, 8)), torch.zeros(1, 1, 8, 8))
    shown = yaml.safe_load(block("yaml", "everything.yaml"))
    assert parse_space(shown, inventory).describe() == parse_space({}, inventory).describe()
    assert set(shown) | {"groups", "activation_bits"} == set(KEYS)


def test_every_criterion_and_preset_is_named():
    assert all(f"`{name}`" in README for name in CRITERIA)
    presets = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")} - {"digits"}
    assert all(f"`{name}`" in README for name in presets)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#]+)\)", README)) | {"results/README.md"}))
def test_every_link_leads_somewhere(path):
    assert path.startswith("http") or (ROOT / path).exists()


def test_the_tree_names_every_folder():
    for folder in ("search", "report", "export", "compress", "conf", "spaces", "costs", "tasks"):
        assert (ROOT / "src" / "paretune" / folder).resolve() == ROOT / folder
        assert f"{folder}/" in block("", "src/paretune/  the nouns")
