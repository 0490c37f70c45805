"""A wrong name is answered with the nearest one and the list."""

import pytest

from paretune.errors import ImpossiblePlan, OutOfTime, ParetuneError, UnknownName, near_miss, pick

TABLE = {"l1": 1, "taylor": 2}


def test_a_known_name_is_picked() -> None:
    assert pick(TABLE, "taylor", "criterion") == 2


def test_an_unknown_name_gets_the_near_miss_and_the_list() -> None:
    with pytest.raises(
        UnknownName, match=r"^no criterion is called 'tailor'\. Did you mean 'taylor'\? Known: l1, taylor\.$"
    ):
        pick(TABLE, "tailor", "criterion")


def test_nothing_near_gives_the_list_alone() -> None:
    assert near_miss("zzz", TABLE) == " Known: l1, taylor."


def test_any_iterable_of_names_will_do() -> None:
    assert near_miss("l2", iter(("l1", "hessian"))) == " Did you mean 'l1'? Known: l1, hessian."


def test_an_empty_list_of_names_is_called_that() -> None:
    assert near_miss("l2", ()) == " Known: none."


def test_one_family() -> None:
    assert issubclass(OutOfTime, ImpossiblePlan)
    assert issubclass(ImpossiblePlan, ParetuneError)
    assert issubclass(UnknownName, ParetuneError)
