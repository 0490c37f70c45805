"""What this machine is called, so that numbers measured on it are not taken for another's."""

import platform
from pathlib import Path


def processor() -> str:
    """The processor's model name, "unknown" where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def system() -> str:
    """The operating system and the kind of processor: "Linux x86_64"."""
    return f"{platform.system()} {platform.machine()}"
