"""Commands as a user types them, for tests of what they print."""

from collections.abc import Callable

import pytest

from paretune.search.door import main


def calling(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that runs one command and gives (exit code, standard output, standard error)."""

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit, match=r"\d") as left:
            main(words)
        printed = capsys.readouterr()
        return int(str(left.value.code)), printed.out, printed.err

    return run
