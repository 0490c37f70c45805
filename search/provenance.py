"""Where numbers come from: commit, versions, device, threads, seeds."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from paretune.machine import processor, system

PACKAGES = ("paretune", "torch", "optuna", "hydra-core", "numpy", "onnx", "onnxruntime")


def provenance(identity: Mapping[str, Any], command: str) -> dict[str, Any]:
    """What is needed to tell whether two results may be compared, as plain JSON."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": {
            "system": system(),
            "processor": processor(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        },
        **identity,
    }


def one_run(facts: Mapping[str, Any], from_trial: int) -> dict[str, Any]:
    """One line per time the study's command was run: a resumed study may have met several versions of us."""
    return {
        "from_trial": from_trial,
        **{name: facts[name] for name in ("date", "command", "commit")},
        "torch": facts["packages"]["torch"],
        "threads": facts["machine"]["threads"],
        "device": facts["machine"]["accelerator"],
    }


def commit() -> str:
    """The commit of the checkout this code runs from, with "+changes" if files differ; "unknown" outside one.

    Results do not count: a study changes its own while it runs.
    """
    here = Path(__file__).resolve().parent
    try:
        head = _git(here, "rev-parse", "--short=12", "HEAD")
        code = (":/", ":(top,exclude)results")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", *code)
        return head + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def command_line() -> str:
    """The command as the user typed it, quoted for a shell."""
    program, *words = sys.argv
    return f"{program} {shlex.join(words)}".strip() if program.startswith("paretune ") else "from Python"


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
