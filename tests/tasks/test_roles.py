"""Who trains, who steers, who confirms: laws of the split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.errors import ParetuneError
from paretune.tasks.roles import VAL, roles_of

TRAIN, TEST = np.repeat(np.arange(5), 40), np.repeat(np.arange(5), 20)
HONEST = [("train", "auto"), ("train", "test"), ("other", "auto"), ("other", "train"), ("other", "test")]


@pytest.mark.parametrize(("trained_on", "val"), [*HONEST, ("train", "contaminated_train")])
def test_no_image_is_in_two_roles(trained_on: str, val: str) -> None:
    roles = roles_of(TRAIN, TEST, trained_on=trained_on, val=val)
    beside = roles.test if roles.val_of == "test" else roles.train
    whole = len(TEST) if roles.val_of == "test" else len(TRAIN)
    assert not set(roles.val) & set(beside)
    assert len(roles.val) + len(beside) == whole
    assert len(roles.test) == (len(TEST) // 2 if roles.val_of == "test" else len(TEST))


@pytest.mark.parametrize(("trained_on", "val"), HONEST)
def test_weights_are_never_steered_by_what_they_have_seen(trained_on: str, val: str) -> None:
    roles = roles_of(TRAIN, TEST, trained_on=trained_on, val=val)
    assert not (trained_on == "train" and roles.val_of == "train")
    assert "HAVE SEEN" not in " ".join(roles.words.values())


def test_a_contaminated_split_is_refused_unless_it_is_named() -> None:
    with pytest.raises(
        ParetuneError, match=r"val=train: the weights have seen all training images.*contaminated_train"
    ):
        roles_of(TRAIN, TEST, trained_on="train", val="train")
    roles = roles_of(TRAIN, TEST, trained_on="train", val="contaminated_train")
    assert roles.val_of == "train"
    assert "WHICH THE WEIGHTS HAVE SEEN" in roles.words["val"]


def test_every_class_is_in_proportion() -> None:
    roles = roles_of(TRAIN, TEST, trained_on="train", train_images=50, val_images=20)
    assert np.bincount(TRAIN[roles.train]).tolist() == [10] * 5
    assert np.bincount(TEST[roles.val]).tolist() == [4] * 5
    assert np.bincount(TEST[roles.test]).tolist() == [10] * 5, "the test images are never thinned out"
    cut = roles_of(TRAIN, TEST, trained_on="other", val_share=0.25)
    assert np.bincount(TRAIN[cut.val]).tolist() == [10] * 5


@given(st.lists(st.integers(0, 3), min_size=4, max_size=60), st.integers(0, 5), st.sampled_from(HONEST))
def test_the_split_is_the_same_for_the_same_seed(labels: list[int], seed: int, honest: tuple[str, str]) -> None:
    targets = np.array(labels)
    one, other = (roles_of(targets, targets, trained_on=honest[0], val=honest[1], seed=seed) for _ in range(2))
    assert [a.tolist() for a in (one.train, one.val, one.test)] == [
        a.tolist() for a in (other.train, other.val, other.test)
    ]
    assert all((np.diff(rows) > 0).all() for rows in (one.train, one.val, one.test))


def test_another_seed_takes_other_images_and_fewer_images_are_some_of_them() -> None:
    one, other = (roles_of(TRAIN, TEST, trained_on="train", seed=seed) for seed in (0, 1))
    assert set(one.val) != set(other.val)
    few = roles_of(TRAIN, TEST, trained_on="train", val_images=10, train_images=15)
    assert set(few.val) < set(one.val)
    assert few.test.tolist() == one.test.tolist()


def test_the_words_count() -> None:
    words = roles_of(TRAIN, TEST, trained_on="train", train_images=50).words
    assert words["train"] == "50 of 200 training images"
    assert words["val"] == "50 of 100 test images (seed 0), because the weights have seen all training images"
    assert words["test"] == "the other 50 test images"
    assert roles_of(TRAIN, TEST, trained_on="other").words["test"] == "all 100 test images"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trained_on": None}, "task.model.trained_on must say what the weights have seen: train .* or other"),
        ({"trained_on": "trian"}, "task.model.trained_on cannot be 'trian'. Did you mean 'train'"),
        ({"val": "tset"}, "task.data.val cannot be 'tset'. Did you mean 'test'"),
        ({"val_share": 0}, r"task.data.val_share is a share in \(0, 1\), got 0"),
        ({"val_share": 1.0}, "task.data.val_share is a share"),
        ({"val_share": "abc"}, r"task.data.val_share is a share in \(0, 1\), got 'abc'"),
        ({"val_share": True}, r"task.data.val_share is a share in \(0, 1\), got True"),
        (
            {"val_share": 0.999, "trained_on": "other"},
            "task.data.val_share=0.999 leaves none of 200 images to train on",
        ),
        ({"train_images": 201}, "task.data.train_images must be a whole number, 1 to 200, got 201"),
        ({"train_images": True}, "task.data.train_images must be a whole number, 1 to 200, got True"),
        ({"val_images": 0}, "task.data.val_images must be a whole number, 1 to 50, got 0"),
        ({"val_images": 1.5}, "task.data.val_images must be a whole number, 1 to 50, got 1.5"),
        ({"seed": -1}, "task.data.seed must be a whole number, 0 or more, got -1"),
        ({"seed": "a"}, "task.data.seed must be a whole number, 0 or more, got 'a'"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ParetuneError, match=message):
        roles_of(TRAIN, TEST, **{"trained_on": "train", **changes})  # type: ignore[arg-type]


def test_one_test_image_cannot_be_halved() -> None:
    with pytest.raises(ParetuneError, match="val and test are halves of the test images, of which there is only 1"):
        roles_of(TRAIN, TEST[:1], trained_on="train")
    assert len(roles_of(TRAIN, TEST[:1], trained_on="other").test) == 1


def test_every_word_for_val_is_tried() -> None:
    assert {val for _, val in HONEST} | {"contaminated_train"} == set(VAL)
