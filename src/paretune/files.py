"""Files that are whole or not there: a reader never sees half a table, and a killed run leaves the old one."""

import os
import tempfile
from pathlib import Path


def write_text(path: Path, text: str) -> Path:
    """`path`, now holding `text` (UTF-8, "\\n" line ends). Its folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary file must be on the same file system, or the rename would copy.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp makes a file that only its owner may read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path
