"""Presets and their rivals over three seeds: python benchmarks/presets.py [preset ...] [--write].

All of them take an hour and a half on two cores. Runs are kept in results/; the same command goes on where it was
stopped. With names on the command line only these are run, and the other rows of the table stay as they are.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile

from paper import publish

from paretune.errors import pick
from paretune.findings import Findings
from paretune.report.rival import Contest, Side, contest
from paretune.search.read import read_findings

SEEDS = range(3)
PRESETS = (
    "combine_net",
    "flipout",
    "extreme_sparsity",
    "partition",
    "blend",
    "blend_net",
    "blend_stage",
    "compensation",
    "mixed_bits",
    "codebook",
    "prune_ternary",
    "pe_ternary",
    "djpq",
    "djpq_restricted",
)
COMMAND = Path(sys.executable).with_name("paretune")
ABOUT = (
    f"`paretune study experiment=<preset> task.seed=<s> study.seed=<s>` for s in 0 to {len(SEEDS) - 1}: another "
    "network and another search each. The rival is a second search with as many trials of the same training; "
    "searched trials only, no controls. Hypervolume is the share of the box between a perfect model and (error 1,"
    " the dense costs): higher is better. Where every trial costs the same, the best error on the 449 validation "
    "images is compared instead, in %: lower is better. After further training: the best trial of each side, "
    "trained for the preset's `finish`."
)


def folder_of(preset: str, seed: int) -> Path:
    """Where a run lies; seed 0 is the one that a user's own command makes."""
    return Path("results") / (preset if seed == 0 else f"{preset}-seed{seed}")


def run(job: tuple[str, int]) -> Findings:
    """Run or resume one study in a process of its own, one thread."""
    preset, seed = job
    folder = folder_of(preset, seed)
    words = [
        f"experiment={preset}",
        f"task.seed={seed}",
        f"study.seed={seed}",
        f"study.name={folder.name}",
        "threads=1",
    ]
    with TemporaryFile() as log:
        subprocess.run([COMMAND, "study", *words], check=True, stdout=log, stderr=log)
    return read_findings(folder)


def value(found: Contest, side: Side) -> float:
    """What is compared: higher is better for hypervolume, lower for quality in percent."""
    if found.by == "hypervolume":
        return side.hypervolume
    assert side.best is not None
    return 100 * side.best.values["top1_error"]


def row(preset: str, found: list[Contest], commit: str) -> list[str]:
    """One preset over all seeds."""
    by = found[0].by
    digits = 4 if by == "hypervolume" else 2
    pairs = [(value(one, one.this), value(one, one.rival)) for one in found]
    ahead = sum((a > b) if by == "hypervolume" else (a < b) for a, b in pairs)
    equal = sum(a == b for a, b in pairs)
    this, rival = (", ".join(f"{pair[place]:.{digits}f}" for pair in pairs) for place in (0, 1))
    trials = f"{found[0].this.asked} / {found[0].rival.asked}"
    return [preset, found[0].rival.name, trials, by, this, rival, f"{ahead} / {equal} / {len(pairs) - ahead - equal}",
            finishes(found), commit]  # fmt: skip


def finishes(found: list[Contest]) -> str:
    """The errors of the best trials after further training, by seed, in percent; "" without."""
    pairs = [(one.this.finish, one.rival.finish) for one in found]
    shown = [(a.values["top1_error"], b.values["top1_error"]) for a, b in pairs if a is not None and b is not None]
    return "; ".join(f"{100 * a:.2f} vs {100 * b:.2f}" for a, b in shown)


def written() -> dict[str, list[str]]:
    """The rows of the table as it is, by preset."""
    path = Path(__file__).with_suffix(".md")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {cells[0]: cells for cells in rows if cells[0] in PRESETS}


def measure(names: Sequence[str]) -> Iterator[list[str]]:
    """All rows: those of `names` (of all, if there are none) from runs, the others as they are written."""
    chosen = [pick({name: name for name in PRESETS}, name, "preset") for name in names] or list(PRESETS)
    Path("results").mkdir(exist_ok=True)
    jobs = [(preset, seed) for seed in SEEDS for preset in chosen]
    with ThreadPoolExecutor(max_workers=2) as pool:
        done = dict(zip(jobs, pool.map(run, jobs), strict=True))
    known = written()
    for preset in PRESETS:
        if preset in chosen:
            found = [contest(done[preset, seed]) for seed in SEEDS]
            commit = str(done[preset, SEEDS[0]].provenance["commit"])[:7]
            yield row(preset, [one for one in found if one is not None], commit)
        elif preset in known:
            yield known[preset]


COLUMNS = (
    "preset", "rival", "searched trials", "compared by", "the search, by seed", "its rival, by seed",
    "seeds ahead / equal / behind", "after further training", "commit of the runs",
)  # fmt: skip

if __name__ == "__main__":
    asked = [word for word in sys.argv[1:] if not word.startswith("-")]
    publish(__file__, "Presets beside their rivals", ABOUT, COLUMNS, measure(asked))
