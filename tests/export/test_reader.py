"""The reader that travels with a file reads it without this package."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored_layers import KINDS, a_layer

from paretune.compress.coded import row_of
from paretune.costs.storage import ENCODINGS
from paretune.export import reader
from paretune.export.pack import layout, pack
from paretune.frozen import GRIDS, HEADER_BYTES, Frozen, FrozenLayer

READER = Path(reader.__file__).resolve()
# Packages are not importable by their absence from the path, but paretune is installed: it is shut out by name.
FRESH = """
import importlib.util, sys
for name in ("paretune", "torch", "safetensors", "constriction"):
    sys.modules[name] = None
spec = importlib.util.spec_from_file_location("reader", sys.argv[1])
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)
import numpy as np
np.savez(sys.argv[3], **reader.load(sys.argv[2]))
"""


def everything() -> Frozen:
    """A layer in every encoding that fits it, for every kind of weight."""
    made = [a_layer((6, 5, 3, 3), bits, density, grid=grid, activation_bits=4, exponent=bits == 3)
            for bits in (1, 2, 3, 8) for density in (0.05, 1.0) for grid in GRIDS]  # fmt: skip
    made += [a_layer((8, 24), bits, 0.9, kind=kind, biased=False) for bits in (1, 3, 32) for kind in KINDS]
    made += [a_layer((8, 20, 3), 4, 0.9, kind=kind) for kind in ("2:4", "3:5", "pe_block, channel_group")]
    made += [a_layer((6, 7), 32, 0.3), a_layer((6, 7), 32, 1.0, distinct=3), a_layer((1, 1), 2, 1.0)]
    layers = {
        f"{at}.{name}": replace(layer, encoding=name)
        for at, layer in enumerate(made) for name, encoding in ENCODINGS.items() if encoding.fits(row_of("", layer))
    }  # fmt: skip
    assert {layer.encoding for layer in layers.values()} == set(ENCODINGS)
    return Frozen(layers=layers, rest={"scale": np.arange(6, dtype=np.float32).reshape(2, 3), "one": np.float32([1])})


def written(frozen: Frozen, folder: Path) -> Path:
    (folder / "model.safetensors").write_bytes(pack(frozen))
    (folder / "layout.json").write_text(json.dumps(layout(frozen)), encoding="utf-8")
    return folder


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", *command], capture_output=True, text=True, check=False)


def test_the_reader_gives_every_weight_bit_for_bit_without_this_package(tmp_path: Path) -> None:
    frozen = everything()
    done = run("-c", FRESH, str(READER), str(written(frozen, tmp_path)), str(tmp_path / "found.npz"))
    assert done.returncode == 0, done.stderr
    expected = {f"{name}.weight": layer.weight() for name, layer in frozen.layers.items()}
    expected |= {f"{name}.bias": layer.bias for name, layer in frozen.layers.items() if layer.bias is not None}
    expected |= frozen.rest
    with np.load(tmp_path / "found.npz") as found:
        assert sorted(found) == sorted(expected)
        for name, array in expected.items():
            assert (found[name].dtype, found[name].shape) == (np.float32, array.shape), name
            assert found[name].tobytes() == array.tobytes(), name


def test_run_as_a_program_it_lists_what_is_there(tmp_path: Path) -> None:
    frozen = Frozen(layers={"a": a_layer((4, 5), 2, 0.9)}, rest={"scale": np.ones(3, np.float32)})
    done = run(str(READER), str(written(frozen, tmp_path)))
    assert done.stdout.splitlines() == ["a [4, 5] ternary 36 bytes", "scale [3] floats 12 bytes"]  # 4 and 4 × (4 + 4)


@pytest.mark.parametrize(
    ("at", "named"), [(-1, "second"), (HEADER_BYTES, "first"), (HEADER_BYTES + 4 * 16 - 1, "rest")]
)
def test_a_damaged_tensor_is_named(at: int, named: str, tmp_path: Path) -> None:
    layers: dict[str, FrozenLayer] = {name: a_layer((3, 3), 4, 1.0) for name in ("first", "second")}
    written(Frozen(layers=layers, rest={"rest": np.ones(4, np.float32)}), tmp_path)
    blob = bytearray((tmp_path / "model.safetensors").read_bytes())
    blob[at] ^= 1
    (tmp_path / "model.safetensors").write_bytes(bytes(blob))
    with pytest.raises(ValueError, match=f"'{named}' is damaged: its checksum"):
        reader.load(tmp_path)


@pytest.mark.parametrize("version", [4, None])
def test_another_format_is_refused(version: int | None, tmp_path: Path) -> None:
    written(Frozen(layers={}, rest={}), tmp_path)
    placed = {"format": version} if version else {}
    (tmp_path / "layout.json").write_text(json.dumps(placed), encoding="utf-8")
    with pytest.raises(ValueError, match=f"this reads format 3, the layout has format {version or 'below 3'}"):
        reader.load(tmp_path)


def test_the_reader_is_short_and_needs_numpy_only() -> None:
    text = READER.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    needs = {line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert needs - set(sys.stdlib_module_names) == {"numpy"}
