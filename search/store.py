"""The study in Optuna's journal: the only store. Trials go in as asked and told, and come out as plain rows."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from paretune.errors import ParetuneError
from paretune.findings import Kind, Trial
from paretune.outcome import Outcome
from paretune.plan import Plan
from paretune.records import from_plain, to_plain
from paretune.search.folder import forget
from paretune.search.journal import JOURNAL, collector_paused, mend_journal, replayed

optuna.logging.set_verbosity(optuna.logging.WARNING)
WORST_QUALITY = 1.0  # told for a trial that is over budget: never trained, so never scored


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What is written beside a trial's parameters before it is told; `choices` are the parameters as meant.

    `plan` is None if the recipe could not be turned into one.
    """

    kind: Kind
    label: str
    same_as: int | None
    choices: dict[str, str | int | float]
    plan: Plan | None
    outcome: Outcome
    of: int | None = None


def open_study(folder: Path, name: str, objectives: Sequence[str], identity: Mapping[str, Any]) -> optuna.Study:
    """The study of `folder`, created if there is none. The caller holds the folder's lock.

    Raises:
        ParetuneError: the folder holds a study with another identity (the message says what differs), or a
            damaged journal.
    """
    path = folder / JOURNAL
    mend_journal(path)
    storage = replayed(path)
    names = optuna.get_all_study_names(storage)  # a folder may have been renamed since, its study is still that one
    study = optuna.create_study(
        storage=storage,
        study_name=names[0] if names else name,
        directions=["minimize"] * len(objectives),
        load_if_exists=True,
    )
    known = study.user_attrs.get("identity")
    if known is None:
        forget(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(objectives))
        study.set_user_attr("identity", dict(identity))
    elif known != json.loads(json.dumps(identity)):
        raise AnotherStudy(folder, known, identity)
    return study


class AnotherStudy(ParetuneError):
    """A folder holds a study that must not be mixed with the one asked for; `keys` are what differs."""

    def __init__(self, folder: Path, known: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        old, new = _flat("", known), _flat("", json.loads(json.dumps(asked)))
        self.folder = folder
        changed = [key for key in sorted(old | new) if old.get(key) != new.get(key) and key != "space_hash"]
        self.keys = sorted(changed, key=lambda key: not key.endswith(".name"))  # a name says most
        words = [f"another {key} ({old.get(key, 'none')}, now {new.get(key, 'none')})" for key in self.keys[:3]]
        more = f" and {len(self.keys) - 3} more changes" if len(self.keys) > 3 else ""
        super().__init__(
            f"{folder} holds a study with {', '.join(words)}{more}; give this one its own, such as "
            f"study.name={folder.name}-2"
        )


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        key: item for name, part in value.items() for key, item in _flat(f"{prefix}.{name}".strip("."), part).items()
    }


def identity_in(study: optuna.Study, folder: Path) -> dict[str, Any]:
    """What the study of `folder` was asked for.

    Raises:
        ParetuneError: the process that made the folder died before it could write that.
    """
    try:
        identity: dict[str, Any] = study.user_attrs["identity"]
    except KeyError:
        raise ParetuneError(f"{folder} holds no study yet; run the study's command again") from None
    return identity


def load_study(folder: Path) -> optuna.Study:
    """The study of `folder`, to be read only.

    Raises:
        ParetuneError: there is none.
    """
    path = folder / JOURNAL
    if not path.is_file():
        raise ParetuneError(f"{folder} is not the folder of a study: {JOURNAL} is missing")
    storage = replayed(path)
    names = optuna.get_all_study_names(storage)
    if not names:
        raise ParetuneError(f"{path} holds no study yet; run the study's command again")
    return optuna.load_study(storage=storage, study_name=names[0])


def tell(study: optuna.Study, trial: optuna.Trial, entry: Entry, objectives: Sequence[str]) -> None:
    """Store `entry` and finish the trial.

    Dense, finishes and repeats are told PRUNED: they are no points of the space. So are stopped trials, because only
    values of whole trials are told; Optuna's tpe counts them among the bad ones, the others pass them over. Failures
    are FAIL, and a trial over budget is told with its exact costs and the worst quality: its constraints say it is
    infeasible.
    """
    trial.set_user_attr("entry", to_plain(entry))
    outcome = entry.outcome
    if outcome.status == "failed":
        study.tell(trial, state=TrialState.FAIL)
    elif entry.label == "dense" or entry.kind in ("finish", "repeat") or outcome.status == "stopped":
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, [outcome.values.get(name, WORST_QUALITY) for name in objectives])


def unfinished(study: optuna.Study) -> optuna.Trial | None:
    """The trial that a killed process was working on: it is taken up again under its own number."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return optuna.Trial(study, trials[-1]._trial_id) if trials else None


def told(study: optuna.Study) -> list[FrozenTrial]:
    """The finished trials in order of number."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def rows_of(study: optuna.Study, budget: Mapping[str, float]) -> list[Trial]:
    """All finished trials as plain rows."""
    with collector_paused():
        return [read_trial(trial, budget) for trial in told(study)]


def read_trial(trial: FrozenTrial, budget: Mapping[str, float]) -> Trial:
    """A finished trial as a plain row."""
    entry = from_plain(Entry, trial.user_attrs["entry"])
    values = entry.outcome.values
    return Trial(
        number=trial.number,
        kind=entry.kind,
        label=entry.label,
        status=entry.outcome.status,
        reason=entry.outcome.reason,
        same_as=entry.same_as,
        feasible=all(values.get(name, 0.0) <= limit for name, limit in budget.items()),
        values=values,
        rungs=entry.outcome.rungs,
        seconds=entry.outcome.seconds,
        params=dict(entry.choices),
        plan=entry.plan,
        notes=entry.outcome.notes,
        of=entry.of,
    )
