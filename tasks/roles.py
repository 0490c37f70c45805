"""Which images train, steer and confirm: roles that stay honest about what the weights have already seen."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paretune.errors import ParetuneError, near_miss
from paretune.tasks.target import whole

Rows = NDArray[np.int64]
SEEN = ("train", "other")
VAL = ("auto", "train", "test", "contaminated_train")


@dataclass(frozen=True, kw_only=True, eq=False)
class Roles:
    """Rows of the training set (`train`) and of the set `val_of` ("train" or "test") that `val` comes from; `test` are
    rows of the test set. `words` say the same for people, by role.
    """

    train: Rows
    val: Rows
    val_of: str
    test: Rows
    words: Mapping[str, str]


def roles_of(
    train: Rows, test: Rows, *, trained_on: str | None, val: str = "auto", val_share: float = 0.1,
    train_images: int | None = None, val_images: int | None = None, seed: int = 0,
) -> Roles:  # fmt: skip
    """The roles of images with the targets `train` and `test`, every class in proportion.

    `trained_on` says what the weights have seen: "train" is all training images, as published checkpoints have;
    "other" none of these. After "train" a validation split cut from the training images would tell what the network
    remembers, so `val` is a fixed half of the test images and `test` the
    other half. After "other" `val` is `val_share` of the training images, which then train nothing, and `test` stays
    whole. `val` "train" or "test" asks for one of the two; "contaminated_train" cuts from the training images in any
    case. `train_images` and `val_images` leave only so many. The test images are never thinned out.

    Raises:
        ParetuneError: unknown words, a contaminated combination, numbers that are none, more images than there are, or
            a role without any.
    """
    _check(trained_on, val, val_share)
    whole("task.data.seed", seed, 0)
    seen = trained_on == "train"
    if seen and val == "train":
        raise ParetuneError(
            "task.data.val=train: the weights have seen all training images, so a validation split cut from them tells "
            "nothing; use auto or test, or contaminated_train to do it all the same"
        )
    from_test = val == "test" or (val == "auto" and seen)
    if from_test and len(test) < 2:
        raise ParetuneError(f"data: val and test are halves of the test images, of which there is only {len(test)}")
    if from_test:
        half = _part(test, (len(test) + 1) // 2, seed)
        rest, steer, last, size = np.arange(len(train)), half, _without(len(test), half), len(test)
    else:
        cut = _part(train, max(1, round(val_share * len(train))), seed)
        if len(cut) == len(train):
            raise ParetuneError(f"task.data.val_share={val_share} leaves none of {len(train):,} images to train on")
        rest, steer, last, size = _without(len(train), cut), cut, np.arange(len(test)), len(train)
    kept = _thinned(rest, train, train_images, "train", seed)
    steering = _thinned(steer, test if from_test else train, val_images, "val", seed)
    source = "test" if from_test else "training"
    why = ", because the weights have seen all training images" if seen and from_test else ""
    dirty = ", WHICH THE WEIGHTS HAVE SEEN" if seen and not from_test else ""
    return Roles(
        train=kept, val=steering, val_of="test" if from_test else "train", test=last,
        words={
            "train": f"{len(kept):,} of {len(train):,} training images",
            "val": f"{len(steering):,} of {size:,} {source} images (seed {seed}){why}{dirty}",
            "test": f"the other {len(last):,} test images" if from_test else f"all {len(last):,} test images",
        },
    )  # fmt: skip


def check_trained_on(word: str | None) -> None:
    """Nothing, if `word` says what the weights have seen.

    Raises:
        ParetuneError: it is missing or another word.
    """
    if word is None:
        raise ParetuneError(
            "task.model.trained_on must say what the weights have seen: train (all training images of this data, as "
            "published checkpoints have) or other (none of them)"
        )
    if word not in SEEN:
        raise ParetuneError(f"task.model.trained_on cannot be '{word}'.{near_miss(str(word), SEEN)}")


def _check(trained_on: str | None, val: str, val_share: float) -> None:
    check_trained_on(trained_on)
    if val not in VAL:
        raise ParetuneError(f"task.data.val cannot be '{val}'.{near_miss(str(val), VAL)}")
    if type(val_share) not in (int, float) or not 0 < val_share < 1:
        raise ParetuneError(f"task.data.val_share is a share in (0, 1), got {val_share!r}")


def _part(targets: Rows, count: int, seed: int) -> Rows:
    """`count` rows, every class in proportion, ascending; the same for the same targets and seed."""
    chance = np.random.default_rng(seed)
    order = chance.permutation(len(targets))
    # Of the shuffled rows of each class the k-th gets the rank (k + 1/2) / size: the lowest ranks are in proportion.
    ranks = np.empty(len(targets))
    for label in np.unique(targets):
        members = order[targets[order] == label]
        ranks[members] = (np.arange(len(members)) + 0.5) / len(members)
    chosen: Rows = np.sort(order[np.argsort(ranks[order], kind="stable")][:count])
    return chosen


def _without(size: int, rows: Rows) -> Rows:
    kept: Rows = np.setdiff1d(np.arange(size), rows, assume_unique=True)
    return kept


def _thinned(rows: Rows, targets: Rows, count: int | None, role: str, seed: int) -> Rows:
    if count is None:
        return rows
    whole(f"task.data.{role}_images", count, 1, len(rows))
    return rows[_part(targets[rows], count, seed + 1)]
