"""In what a study's fine-tunes compute: as asked, or, for `precision: auto`, what a short measurement finds fastest."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from paretune.compress.descent import Descent
from paretune.compress.precision import DTYPES, LAYOUTS, PLAIN, Precision, laid_out, precision_of
from paretune.compress.recover import parameter_groups
from paretune.conf.settings import Settings
from paretune.errors import ParetuneError, first_line
from paretune.machine import processor
from paretune.records import to_plain
from paretune.search.bench import Bench
from paretune.search.folder import read_json
from paretune.search.journal import JOURNAL
from paretune.search.threads import threads_for

AUTO = "auto"
SECONDS = 8.0  # for all candidates together; the first step of one that has begun is waited for
LAPS = 5  # steps that count, of every candidate that keeps up
HOPELESS = 1.4  # a candidate this many times slower than the best so far gets no further steps
MARGIN = 1.03  # how much faster than plain float32 a candidate must be to win
STEP_SECONDS = 0.15  # a batch of which plain float32 takes longer is cut short
LEAST = 16  # images of it at least
LEARNING_RATE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How fast one candidate trained: `images_per_second` of its fastest step, or the `reason` why it has none."""

    dtype: str
    memory_format: str
    threads: int
    images_per_second: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a study's fine-tunes compute in, and `threads` with what else it computes (None: by the usual rule).

    `measured` and the `processor` it was measured on are empty where nothing was.
    """

    asked: str
    precision: Precision = PLAIN
    threads: int | None = None
    measured: tuple[Measurement, ...] = ()
    batch: int = 0
    processor: str = ""

    def facts(self) -> dict[str, Any]:
        """As provenance.json has it, told by who computes with these threads."""
        told = {"asked": self.asked, **to_plain(self.precision), "threads": torch.get_num_threads()}
        measured = {"processor": self.processor, "batch": self.batch, "measured": to_plain(self.measured)}
        return told | (measured if self.measured else {})

    def words(self) -> str:
        """For the terminal."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        found = f"precision {self.asked}: {self.precision}, {threads}"
        rates = {(row.dtype, row.memory_format, row.threads): row.images_per_second for row in self.measured}
        won = rates.get((self.precision.dtype, self.precision.memory_format, self.threads or 0))
        usual = self.measured[0] if self.measured else None
        if won is None or usual is None or usual.images_per_second is None:
            return found
        return f"{found}: {won:.0f} images/s (float32 {usual.images_per_second:.0f}, with {usual.threads})"


def choice_of(settings: Settings, bench: Bench, say: Callable[[str], None]) -> Choice:
    """What `settings` ask for; for `auto` what the study's folder remembers, else what is measured now.

    A resumed study keeps its first choice on another machine, too: the same arithmetic matters more than its speed.
    """
    known = _remembered(settings.folder) if settings.precision == AUTO else _asked(settings)
    if known is None:
        say("measuring how this machine trains fastest …")
        known = measured_choice(bench, settings.threads)
    if settings.precision == AUTO:
        say(known.words())
    return replace(known, threads=settings.threads or known.threads)


def known_choice(folder: Path, settings: Settings) -> Choice:
    """What the study in `folder` was run with, to train one of its plans again; nothing is measured."""
    return (_remembered(folder) if settings.precision == AUTO else None) or _asked(settings)


def told_apart(settings: Settings) -> dict[str, Any]:
    """What must not change when a study is resumed: what was asked for, not what a stopwatch said; {} for float32."""
    if settings.precision == str(PLAIN):
        return {}
    chosen = settings.precision == AUTO and settings.threads is None
    return {"precision": settings.precision} | ({"threads": AUTO} if chosen else {})


def _asked(settings: Settings) -> Choice:
    precision = PLAIN if settings.precision == AUTO else precision_of(settings.precision)
    return Choice(asked=settings.precision, precision=precision, threads=settings.threads)


def _remembered(folder: Path) -> Choice | None:
    """What was measured when the study in `folder` began; None if there is no study or nothing was."""
    path = folder / "provenance.json"
    if not (folder / JOURNAL).exists() or not path.exists():
        return None
    facts: Mapping[str, Any] = read_json(path).get("precision", {})
    if facts.get("asked") != AUTO or "measured" not in facts:
        return None
    try:
        return Choice(
            asked=AUTO, precision=Precision(dtype=facts["dtype"], memory_format=facts["memory_format"]),
            threads=facts["threads"], measured=tuple(Measurement(**row) for row in facts["measured"]),
            batch=facts["batch"], processor=facts["processor"],
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ParetuneError(f"{path}: what precision=auto has chosen cannot be read ({error!r})") from error


def measured_choice(bench: Bench, threads: int | None) -> Choice:
    """The fastest way to train the task's model on its device, `SECONDS` at most; `threads` fixes their number.

    Every candidate trains a copy of its own, a step at a time and in turn, so that a busy moment hits all of them;
    its fastest step counts. Plain float32 with the usual number of threads wins unless another is `MARGIN` faster.
    """
    end = monotonic() + SECONDS
    with threads_for(bench.inventory, threads):
        usual = torch.get_num_threads()
    inputs, targets = _batch(bench, usual, end)
    racers = [Racer(bench, key, (inputs, targets)) for key in candidates(bench.task.device.type, usual, threads)]
    _race(racers, end)
    plain, best = racers[0], min(racers, key=lambda racer: racer.seconds)
    if best.seconds * MARGIN > plain.seconds:
        best = plain
    return Choice(
        asked=AUTO, precision=best.precision, threads=best.threads, batch=len(targets), processor=processor(),
        measured=tuple(racer.measurement() for racer in racers),
    )  # fmt: skip


def candidates(device: str, usual: int, wanted: int | None) -> list[tuple[Precision, int]]:
    """What is tried on a `device` type: plain float32 with the `usual` number of threads, then everything else."""
    # float16 is slow on CPUs, and needs the loss scaled.
    dtypes = [name for name in DTYPES if device != "cpu" or name != "float16"]
    counts = [usual] if wanted or device != "cpu" else sorted({1, usual, torch.get_num_threads()})
    every = [
        (Precision(dtype=dtype, memory_format=layout), threads)
        for dtype in dtypes
        for layout in LAYOUTS
        for threads in counts
    ]
    # What is likely to win comes early, for where the time does not suffice for all.
    return sorted(every, key=lambda key: (key != (PLAIN, usual), key[0] == PLAIN, key[0].memory_format == "contiguous"))


def _batch(bench: Bench, threads: int, end: float) -> tuple[Tensor, Tensor]:
    """A training batch, cut so short that plain float32 takes about `STEP_SECONDS` a step, but not below `LEAST`."""
    inputs, targets = bench.calibration[0]
    racer = Racer(bench, (PLAIN, threads), (inputs[:LEAST], targets[:LEAST]))
    _race([racer], end, laps=1)
    if not math.isfinite(racer.seconds):
        return inputs, targets
    count = max(LEAST, int(STEP_SECONDS / racer.seconds * LEAST))
    return inputs[:count], targets[:count]


@dataclass(eq=False)
class Racer:
    """One candidate with its own copy of the model; `seconds` of its fastest step, the first one not counted."""

    bench: Bench
    key: tuple[Precision, int]
    batch: tuple[Tensor, Tensor]
    seconds: float = math.inf
    reason: str = ""
    _model: nn.Module | None = field(default=None, init=False)
    _descent: Descent | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.precision, self.threads = self.key

    def drop(self) -> None:
        """Free its memory: there are up to a dozen of them."""
        self._model = self._descent = None

    def lap(self) -> None:
        """One step of training that counts; before the first, one that does not. A failure ends its race."""
        torch.set_num_threads(self.threads)
        try:
            if self._descent is None:
                self._train()
            start = perf_counter()
            self._train()
        except Exception as error:  # a candidate that does not run is no reason to end the study
            self.reason, self.seconds = first_line(error), math.inf
            self.drop()
        else:
            self.seconds = min(self.seconds, perf_counter() - start)

    def _train(self) -> None:
        inputs, targets = self.batch
        if self._model is None or self._descent is None:
            self._model = laid_out(copy.deepcopy(self.bench.task.model).train(), self.precision)
            self._descent = Descent(parameter_groups(self._model), LEARNING_RATE, 1000, self.precision)
        value = self.bench.task.loss(self.precision.outputs(self._model, inputs), targets)
        if not math.isfinite(value.item()):
            raise RuntimeError("the loss is not finite")
        self._descent.step(value)
        if inputs.is_cuda:
            torch.cuda.synchronize()

    def measurement(self) -> Measurement:
        """What provenance.json keeps of it."""
        timed = math.isfinite(self.seconds)
        return Measurement(
            **to_plain(self.precision), threads=self.threads,
            images_per_second=round(len(self.batch[1]) / self.seconds, 1) if timed else None,
            reason=self.reason or ("" if timed else "no time left"),
        )  # fmt: skip


def _race(racers: Sequence[Racer], end: float, laps: int = LAPS) -> None:
    """Let them step in turn, but not beyond the moment `end`; those that fail or fall behind drop out.

    PyTorch's number of threads and random state are put back.
    """
    before = torch.get_num_threads()
    gpus = {racer.bench.task.device for racer in racers if racer.bench.task.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(gpus)):
            for lap in range(laps):
                limit = HOPELESS * min(racer.seconds for racer in racers) if lap else math.inf
                for racer in racers:
                    if racer.seconds > limit:
                        racer.drop()
                    elif not racer.reason and monotonic() < end:
                        racer.lap()
    finally:
        torch.set_num_threads(before)
