"""The rules of the house that a machine can check."""

import ast
import importlib
import inspect
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "paretune"
FLOORS = {
    "": 0,  # src/paretune itself
    "conf": 1, "spaces": 1, "costs": 1, "tasks": 1,
    "compress": 2, "samplers": 2,
    "report": 3, "export": 3,
    "search": 4,
}  # fmt: skip
# Where a third-party package may be imported: folders, or single files.
WALLS = {
    "torch": {"tasks", "compress", "export", "search"},
    "torchvision": {"tasks/torchvision_models.py"},
    "timm": {"tasks/timm_models.py"},
    "kneed": {"compress/knee.py"},
    "constriction": {"export/entropy.py"},
    "sklearn": {"tasks"},
    "PIL": {"tasks"},
    "optuna": {"samplers", "search"},
    "hydra": {"search/launch.py"},
    "omegaconf": {"search/launch.py"},
    "plotly": {"report"},
    "pandas": {"report", "search"},
    "onnx": {"export"},
    "onnxruntime": {"export"},
    "safetensors": {"export", "tasks"},
}
MODULES = sorted(path for name in FLOORS for path in (PACKAGE / name).glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def short(path: Path) -> str:
    """ "search/launch.py" for a module, "tests/test_house.py" for a test."""
    return str(path.relative_to(ROOT if path.is_relative_to(ROOT / "tests") else PACKAGE))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything a module imports, also inside functions."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{short(path)} imports relatively; write the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def folder_of(path: Path) -> str:
    return path.parent.name if path.parent != PACKAGE else ""


def imported_folder(name: str) -> str:
    """The folder that "paretune.search.store.Store" lies in."""
    second = name.split(".")[1] if "." in name else ""
    return second if second in FLOORS else ""


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(parsed(path)) if isinstance(node, Function)]


def can_fail(test: ast.AST, tree: ast.Module, seen: frozenset[str] = frozenset()) -> bool:
    """True if `test` asserts something, or calls a function of its file `tree` that does."""
    helpers = {node.name: node for node in tree.body if isinstance(node, Function)}
    for node in ast.walk(test):
        if isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("pytest.raises", "pytest.fail") or name.split(".")[-1].startswith("assert_"):
                return True
            if name in helpers and name not in seen and can_fail(helpers[name], tree, seen | {name}):
                return True
    return False


def test_there_are_modules_and_tests_to_check() -> None:
    assert len(MODULES) > 40
    assert len(TESTS) > 20
    assert {folder_of(path) for path in MODULES} == set(FLOORS)


def test_every_folder_has_a_floor_and_is_a_link_to_the_root() -> None:
    for path in PACKAGE.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert path.name in FLOORS, f"give {path.name} a floor"
            assert path.resolve() == ROOT / path.name


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_a_folder_imports_from_floors_below_only(path: Path) -> None:
    here = folder_of(path)
    for name in imports(path):
        if name.split(".")[0] == "paretune":
            there = imported_folder(name)
            assert there == here or FLOORS[there] < FLOORS[here], f"{short(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_third_party_packages_stay_behind_their_walls(path: Path) -> None:
    for name in imports(path):
        allowed = WALLS.get(name.split(".")[0])
        assert allowed is None or allowed & {folder_of(path), short(path)}, f"{short(path)} imports {name}"


def test_nothing_imports_the_folders_by_their_bare_names() -> None:
    for path in [*MODULES, *TESTS]:
        bare = [name for name in imports(path) if name.split(".")[0] in FLOORS]
        assert not bare, f"{short(path)} imports {bare}; write paretune.{bare[0]}"


@pytest.mark.parametrize("path", [path for path in TESTS if path.name.startswith("test_")], ids=short)
def test_every_test_can_fail(path: Path) -> None:
    tests = [function for function in functions(path) if function.name.startswith("test_")]
    assert tests
    toothless = [test.name for test in tests if not can_fail(test, parsed(path))]
    assert not toothless, f"{short(path)}: {toothless} assert nothing, nor does a helper they call"


@pytest.mark.parametrize(
    ("body", "teeth"),
    [
        ("assert f()", True),
        ("with pytest.raises(ValueError, match='x'): f()", True),
        ("np.testing.assert_allclose(f(), 1)", True),
        ("torch.testing.assert_close(f(), 1)", True),
        ("check(f())", True),  # asserts itself
        ("checks(f())", True),  # calls what asserts
        ("for x in xs: check(x)", True),
        ("f()", False),
        ("f(check)", False),
        ("loop(f())", False),
        ("other.check(f())", False),
        ("assert True", False),
        ("'assert f()'", False),
        ("pytest.raises", False),
    ],
)
def test_the_rule_that_a_test_can_fail_can_fail(body: str, teeth: bool) -> None:
    helpers = "def check(x): assert x\ndef checks(x): check(x)\ndef loop(x): pool(x)\ndef pool(x): loop(x)\n"
    tree = ast.parse(f"{helpers}def test_it():\n {body}\n")
    assert can_fail(tree.body[-1], tree) is teeth


@pytest.mark.parametrize("path", TESTS, ids=short)
def test_every_raises_has_a_match(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises":
            assert "match" in {keyword.arg for keyword in node.keywords}, f"{short(path)}:{node.lineno}"


def test_no_test_is_shadowed_by_another_of_its_name() -> None:
    for path in TESTS:
        names = [node.name for node in parsed(path).body if isinstance(node, Function)]
        assert len(set(names)) == len(names), f"{short(path)}: {sorted(n for n in names if names.count(n) > 1)}"


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=short)
def test_modules_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    for function in functions(path):
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= 60, f"{short(path)}: {function.name} has {lines} lines"


@pytest.mark.parametrize("path", [path for path in MODULES if path.stat().st_size], ids=short)
def test_everything_public_has_a_docstring(path: Path) -> None:
    """A method may have that of the class it comes from."""
    tree, module = parsed(path), importlib.import_module(named(path))
    assert ast.get_docstring(tree), "the module says what it is for"
    for node in tree.body:
        if isinstance(node, (Function, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, Function) and not method.name.startswith("_"):
                    # PyTorch says what a forward is.
                    told = inspect.getdoc(getattr(getattr(module, node.name), method.name))
                    assert method.name == "forward" or told, f"{node.name}.{method.name}"


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_every_module_can_be_imported_by_its_full_name(path: Path) -> None:
    assert Path(importlib.import_module(named(path)).__file__ or "").resolve() == path.resolve()


def named(path: Path) -> str:
    """The full name that a module is imported by."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(["paretune", *(part for part in parts if part != "__init__")])


def test_the_wheel_holds_every_module_and_every_config(tmp_path: Path) -> None:
    """Built from a copy, because a build writes into its source tree."""
    source, ignore = tmp_path / "source", shutil.ignore_patterns("*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "src", source / "src", symlinks=True, ignore=ignore)
    for name in filter(None, FLOORS):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": ""}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    configs = [PACKAGE / "conf" / path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")]
    wanted = {f"paretune/{path.relative_to(PACKAGE)}" for path in (*MODULES, *configs, PACKAGE / "py.typed")}
    assert len(configs) >= 4
    assert not wanted - packed
    strays = {name.split("/")[0] for name in packed} - {"paretune"}
    assert all(name.endswith(".dist-info") for name in strays), strays
