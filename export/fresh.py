"""A script in a fresh Python process that knows nothing of this package, its settings or the user's folders."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from paretune.errors import ParetuneError


def fresh_process(*arguments: str | Path, failed: str) -> Any:
    """What `python -I` with these arguments prints in its last line, read as JSON.

    Raises:
        ParetuneError: it ends with an exit code (`failed` and the last line of its standard error say why) or prints
            no JSON.
    """
    command = [sys.executable, "-I", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ParetuneError(f"{failed}: {lines[-1]}")
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise ParetuneError(f"{failed}: it printed no result") from error
