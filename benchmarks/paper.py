"""What the benchmark scripts share: a table in Markdown with where its numbers come from."""

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from paretune.search.provenance import provenance


def publish(
    script: str,
    heading: str,
    about: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    threads: str = "1 thread",
) -> None:
    """Print the table and, with --write on the command line, write it beside `script` as Markdown.

    One thread, unless the rows set another number; then `threads` says which.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--write", action="store_true", help="also write the table to the .md file beside the script")
    parser.add_argument("names", nargs="*", help="which ones, where a script has several parts; all by default")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    facts = provenance({}, "")
    name = Path(script).stem
    source = (
        f"Written by `python benchmarks/{name}.py --write`: {facts['date']}, commit {facts['commit']}, "
        f"{facts['machine']['processor']}, {threads}, load {os.getloadavg()[0]:.1f} before the start, "
        f"Python {facts['python']}, torch {facts['packages']['torch']}."
    )
    lines = ["| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows)]
    page = "\n".join([f"# {heading}", "", source, "", about, "", *lines, ""])
    print(page)
    if chosen.write:
        Path(script).with_suffix(".md").write_text(page, encoding="utf-8")


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation of shares, in percent."""
    tensor = torch.tensor(values, dtype=torch.float64)
    return f"{100 * float(tensor.mean()):.2f} ± {100 * float(tensor.std()):.2f}"
