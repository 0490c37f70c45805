"""Weights files: either format, and a message for everything that is none."""

from pathlib import Path

import pytest
import torch
from torch import nn

from paretune.errors import ParetuneError
from paretune.tasks.weights import cache_folder, load_state, read_state, save_state


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    model, other = net(), net()
    save_state(model, tmp_path / "deep" / "a.safetensors")
    load_state(other, read_state(tmp_path / "deep" / "a.safetensors"))
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.safetensors"]  # nothing half-written stays


def test_pytorch_files_are_read_too(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "a.pth")
    assert set(read_state(tmp_path / "a.pth")) == set(net().state_dict())


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


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "a.pth")
    with pytest.raises(ParetuneError, match=r"is no .safetensors file or PyTorch state dict"):
        read_state(tmp_path / "a.pth")


def test_keys_that_do_not_fit_are_listed() -> None:
    state = net().state_dict()
    del state["0.bias"]
    state["0.weight"] = torch.zeros(2, 4)
    state["stray"] = torch.zeros(1)
    with pytest.raises(ParetuneError, match=r"weights: 3 keys do not fit the model, first 0.weight, 0.bias, stray"):
        load_state(net(), state)


def test_a_checkpoint_around_the_state_dict_is_refused() -> None:
    model = nn.Linear(1, 1)
    checkpoint = {"weight": 3, "state_dict": model.state_dict(), "epoch": 9}
    with pytest.raises(ParetuneError, match=r"weights: 4 keys do not fit the model, first weight, bias, state_dict"):
        load_state(model, checkpoint)  # type: ignore[arg-type]


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
