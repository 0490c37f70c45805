"""Weights files: every format people have, and a message for everything that is none."""

import argparse
import os
import re
import warnings
from pathlib import Path

import pytest
import torch
from shared_data import shared
from torch import Tensor, nn

from paretune.errors import ParetuneError
from paretune.tasks.bare import make_bare
from paretune.tasks.weights import cache_folder, load_state, read_state, save_state


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    model, other = net(), net()
    save_state(model, tmp_path / "deep" / "a.safetensors")
    load_state(other, read_state(tmp_path / "deep" / "a.safetensors"))
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.safetensors"]  # nothing half-written stays


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def wrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As nn.DataParallel names them."""
    return {f"module.{key}": tensor for key, tensor in state.items()}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th", ".ckpt", ".bin", ""])
@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files_are_read_whatever_their_suffix(tmp_path: Path, suffix: str, zipped: bool) -> None:
    state = net().state_dict()
    torch.save(state, tmp_path / f"a{suffix}", _use_new_zipfile_serialization=zipped)
    assert same(read_state(tmp_path / f"a{suffix}"), state)


@pytest.mark.parametrize("nest", ["state_dict", "model", "net"])
def test_the_state_dict_is_taken_out_of_a_checkpoint(tmp_path: Path, nest: str) -> None:
    state = net().state_dict()
    torch.save({"epoch": 3, nest: wrapped(state), "optimizer": {"lr": 0.1}}, tmp_path / "a.th")
    assert same(read_state(tmp_path / "a.th"), state)


def test_of_several_mappings_the_first_of_tensors_is_taken(tmp_path: Path) -> None:
    state = net().state_dict()
    torch.save({"net": {"x": torch.zeros(1)}, "model": state, "state_dict": {"epoch": 3}}, tmp_path / "a.pth")
    assert same(read_state(tmp_path / "a.pth"), state)


def test_a_tensor_called_model_is_a_tensor_of_the_state(tmp_path: Path) -> None:
    state = {"model": torch.ones(2), "net": torch.zeros(3)}
    torch.save(state, tmp_path / "a.pth")
    assert same(read_state(tmp_path / "a.pth"), state)


def test_a_prefix_is_cut_off_only_if_all_keys_have_it(tmp_path: Path) -> None:
    state = {"module.a": torch.ones(1), "b.module.": torch.zeros(1)}
    torch.save(state, tmp_path / "a.pth")
    assert same(read_state(tmp_path / "a.pth"), state)


def test_a_model_in_a_wrapper_reads_what_it_saved_and_what_was_saved_without_one(tmp_path: Path) -> None:
    inner, outer = net(), nn.ModuleDict({"module": net()})
    save_state(outer, tmp_path / "a.safetensors")
    load_state(inner, read_state(tmp_path / "a.safetensors"))
    assert same(wrapped(inner.state_dict()), outer.state_dict())
    other = nn.ModuleDict({"module": net()})
    load_state(other, inner.state_dict())
    assert same(other.state_dict(), outer.state_dict())
    bare = net()
    load_state(bare, outer.state_dict())
    assert same(bare.state_dict(), inner.state_dict())


@pytest.mark.parametrize(
    ("content", "holds"),
    [
        ({"epoch": 3, "best": 0.9}, "epoch, best,"),
        ({"state_dict": {"epoch": 3}, "a": 1, "b": 2, "c": 3, "d": 4}, "state_dict, a, b and 2 more,"),
        ({"weight": torch.zeros(1), "epoch": 3}, "weight, epoch,"),
        ({0: torch.zeros(1)}, "0,"),
        ([torch.zeros(1)], "a list,"),
        (torch.zeros(1), "a Tensor,"),
    ],
)
def test_a_checkpoint_without_a_state_dict_says_what_it_has(tmp_path: Path, content: object, holds: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ParetuneError, match=rf"a.pth holds {holds} but no state dict: .* state_dict, model, net$"):
        read_state(tmp_path / "a.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParetuneError, match=r"weights: no file at .*missing.pth"):
        read_state(tmp_path / "missing.pth")
    with pytest.raises(ParetuneError, match=r"weights: no file at"):
        read_state(tmp_path)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02}q\x00."])  # the last is a plain pickle of {}
def test_a_file_that_is_neither_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ParetuneError, match=rf"weights: .*{name} is no .safetensors file or PyTorch state dict"):
        read_state(tmp_path / name)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (nn.Sequential(nn.Linear(1, 1)), "torch.nn.modules.container.Sequential"),
        ({"state_dict": {"a": torch.zeros(1)}, "args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        ({"state_dict": {"a": torch.zeros(1)}, "hook": os.system}, "(posix|nt).system"),
    ],
)
def test_pickled_classes_are_refused_and_the_way_out_is_named(
    tmp_path: Path, content: object, name: str, zipped: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the old format warns of modules without source
        torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ParetuneError, match=rf"a.ckpt holds pickled {name}, .* save the state dict alone, .*safetens"):
        read_state(tmp_path / "a.ckpt")


def test_the_advice_to_read_a_pickle_all_the_same_is_not_passed_on(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"\x80\x02\x95")  # 149 is no operand that is read
    with pytest.raises(ParetuneError, match=r"a.pth is no .* PyTorch state dict \(Unsupported operand 149\)$"):
        read_state(tmp_path / "a.pth")


def test_keys_that_do_not_fit_are_listed_by_kind() -> None:
    state = net().state_dict()
    del state["0.bias"]
    state["0.weight"] = torch.zeros(2, 4)
    state["stray"] = torch.zeros(1)
    message = (
        r"weights: 3 keys do not fit the model; missing: 0.bias; not in the model: stray; "
        r"other shape: 0.weight \(2, 4\) in the file, \(2, 3\) in the model$"
    )
    model = net()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ParetuneError, match=message):
        load_state(model, state)
    assert same(model.state_dict(), before)


def test_three_keys_of_a_kind_are_listed_and_kinds_without_keys_are_not() -> None:
    state = net().state_dict() | {f"stray{number}": torch.zeros(1) for number in range(5)}
    message = r"weights: 5 keys do not fit the model; not in the model: stray0, stray1, stray2 and 2 more$"
    with pytest.raises(ParetuneError, match=message):
        load_state(net(), state)
    del state["stray3"], state["stray4"]
    with pytest.raises(ParetuneError, match=r"; not in the model: stray0, stray1, stray2$"):
        load_state(net(), state)
    message = r"weights: 6 keys do not fit .*; missing: 0.weight, 0.bias, 1.weight and 3 more$"
    with pytest.raises(ParetuneError, match=message):
        load_state(net(), {})


def test_files_older_than_the_counts_of_batch_norms_fit() -> None:
    source, model = net(), net()
    model.get_buffer("1.num_batches_tracked").fill_(7)
    load_state(model, {key: value for key, value in source.state_dict().items() if "num_batches" not in key})
    assert torch.equal(model.get_parameter("0.weight"), source.get_parameter("0.weight"))
    assert model.get_buffer("1.num_batches_tracked") == 7


@pytest.mark.parametrize("depth", [20, 56])
def test_the_published_cifar_checkpoints_fit(depth: int) -> None:
    state = read_state(shared(f"data/weights/akamaster_cifar10_resnet{depth}.th"))
    bare = make_bare({"name": "cifar", "model": f"resnet{depth}"})
    assert bare is not None
    load_state(bare.model, state)
    own = bare.model.state_dict()
    assert all(torch.equal(own[key], tensor) for key, tensor in state.items())
    # Its numbers of parameters, as the authors' table of models gives them: 0.27M and 0.85M.
    assert sum(parameter.numel() for parameter in bare.model.parameters()) == {20: 269_722, 56: 853_018}[depth]


def test_shared_data_are_looked_up_in_the_environment_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PARETUNE_SHARED", str(tmp_path))
    with pytest.raises(
        pytest.skip.Exception, match=rf"there is no {re.escape(str(tmp_path / 'absent'))}; \$PARETUNE_S"
    ):
        shared("absent")
    (tmp_path / "here").touch()
    assert shared("here") == tmp_path / "here"


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("PARETUNE_CACHE", "")
    assert cache_folder() == tmp_path / "paretune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("PARETUNE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "paretune"
