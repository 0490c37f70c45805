"""The `paretune` command: study, report, export, verify, inspect. Errors are one line and exit code 2."""

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paretune import __version__
from paretune.errors import ParetuneError, near_miss

if TYPE_CHECKING:
    from paretune.export.verify import Verdict

USAGE = """paretune: search how to shrink a trained network, look at the Pareto front, ship the best point.

  paretune study experiment=digits                         run or resume a study
  paretune report results/digits                           write its tables and page anew
  paretune export results/digits --pick knee --out model/  ship one point of the front
  paretune verify model/                                   check shipped files in a fresh process
  paretune inspect task=digits                             layers, groups and dense costs

Each command explains itself with --help."""


def study(arguments: Sequence[str]) -> int:
    """Run or resume a study; arguments are Hydra overrides."""
    from paretune.search.launch import study_command

    return study_command(arguments)


def inspect(arguments: Sequence[str]) -> int:
    """Print layers, groups and dense costs of a task; arguments are Hydra overrides and format=json."""
    from paretune.search.launch import inspect_command

    return inspect_command(arguments)


def report(arguments: Sequence[str]) -> int:
    """Write a study's tables and page anew."""
    parser = argparse.ArgumentParser("paretune report", description=report.__doc__)
    parser.add_argument("folder", type=Path, help="the study's folder, such as results/digits")
    folder = parser.parse_args(arguments).folder
    from paretune.report.verdict import summary_lines
    from paretune.search.read import read_findings, write_report

    page = write_report(folder)
    print("\n".join(summary_lines(read_findings(folder))))
    print(f"written: {page}, trials.csv, front.csv, front.svg")
    return 0


def export(arguments: Sequence[str]) -> int:
    """Ship one point of a study: packed weights, ONNX, plan, scores; checked in a fresh process."""
    parser = argparse.ArgumentParser("paretune export", description=export.__doc__)
    parser.add_argument("folder", type=Path, help="the study's folder, such as results/digits")
    parser.add_argument("--pick", default="knee", help="knee, budget, goal or trial=17 (default knee)")
    parser.add_argument("--under", action="append", default=[], metavar="COST=LIMIT",
                        help="for --pick budget, such as size_bytes=20000; may be given several times")  # fmt: skip
    parser.add_argument("--drop", type=float, help="for --pick goal: allowed loss against dense, 0.01 is one point")
    parser.add_argument("--recover", default="kept", choices=("kept", "full"),
                        help="kept: the weights the search found; full: train again, three seeds")  # fmt: skip
    parser.add_argument("--pt2", action="store_true", help="also write model.pt2, for torch.export.load")
    parser.add_argument("--no-latency", action="store_true", help="do not time the shipped graph on this machine")
    parser.add_argument("--latency-threads", type=int, metavar="N",
                        help="onnxruntime's threads while it is timed (default 1)")  # fmt: skip
    parser.add_argument("--latency-repeats", type=int, metavar="N",
                        help="runs that are timed, after 10 that are not (default 50)")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder to write, such as model/")
    given = parser.parse_args(arguments)
    from paretune.search.confirm import export as ship
    from paretune.search.show import show_storage

    verdict = ship(
        given.folder, given.pick, given.out, recover=given.recover, under=_limits(given.under), drop=given.drop,
        pt2=given.pt2, latency=not given.no_latency and _timing(given),
    )  # fmt: skip
    show_storage(given.out)
    _show_latency(given.out)
    print(f"written: {given.out} ({', '.join(sorted(path.name for path in given.out.iterdir()))})")
    return _show(verdict)


def verify(arguments: Sequence[str]) -> int:
    """Load shipped files in a fresh process and score them again; exit code 1 if they differ."""
    parser = argparse.ArgumentParser("paretune verify", description=verify.__doc__)
    parser.add_argument("folder", type=Path, help="an exported folder, such as model/")
    from paretune.search.reverify import verify_folder

    verdict = verify_folder(parser.parse_args(arguments).folder)
    return _show(verdict)


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "study": study, "report": report, "export": export, "verify": verify, "inspect": inspect,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code: 0 well, 1 a failed check, 2 something to put right, 130 Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.path.insert(0, os.getcwd())  # so that a `_target_` may name a module beside the user
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0)
    if words[0] == "--version":
        print(__version__)
        sys.exit(0)
    try:
        if words[0] not in COMMANDS:
            raise ParetuneError(f"no command is called '{words[0]}'.{near_miss(words[0], COMMANDS)}")
        sys.exit(COMMANDS[words[0]](words[1:]))
    except ParetuneError as error:
        print(f"paretune: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"paretune: {error.strerror}{where}; make room, then run the same command to go on", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("paretune: stopped; nothing is lost, run the same command to go on", file=sys.stderr)
        sys.exit(130)


def _limits(pairs: Sequence[str]) -> dict[str, float] | None:
    limits = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        try:
            limits[name] = float(number)
        except ValueError:
            raise ParetuneError(f"--under needs COST=LIMIT, such as size_bytes=20000; got '{pair}'") from None
    return limits or None


def _timing(given: argparse.Namespace) -> dict[str, int]:
    """What to time otherwise than the study's settings say."""
    from paretune.export.latency import Timing

    asked = {"threads": given.latency_threads, "repeats": given.latency_repeats}
    changes = {name: number for name, number in asked.items() if number is not None}
    Timing(**changes)  # refuses what makes no sense before anything else is looked at
    return changes


def _show_latency(folder: Path) -> None:
    """Print what was measured; nothing if it was not asked for."""
    from paretune.export.latency import said

    latency = json.loads((folder / "scores.json").read_text(encoding="utf-8")).get("latency")
    if latency is not None:
        print(said(latency))


def _show(verdict: "Verdict") -> int:
    if verdict.top1_error is not None:
        print(f"top-1 error on {verdict.images} test images, in a fresh process: {verdict.top1_error:.2%}")
    print("\n".join(verdict.message))
    return 0 if verdict.ok else 1
