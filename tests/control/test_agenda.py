"""What is due when, in steps of 10 ms."""

import math
from itertools import count, pairwise

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from krea_async.control.agenda import Agenda

STEP_S = 0.01
NUMBERS = count()


@define(eq=False)
class Item:
    due_s: float
    ended: bool = False
    number: int = field(factory=lambda: next(NUMBERS))


def agenda(*due_s: float) -> Agenda[Item]:
    made: Agenda[Item] = Agenda()
    for each_s in due_s:
        made.add(Item(each_s), each_s)
    return made


def test_nothing_is_due_ever_in_an_empty_one() -> None:
    assert (len(agenda()), agenda().first_s(), agenda().full_s(50, 1.0)) == (0, math.inf, math.inf)
    assert agenda().take(50, 1e9) == []


def test_it_is_full_when_so_many_are_due_or_when_the_first_has_waited_long_enough() -> None:
    of = agenda(1.0, 1.05, 1.1, 5.0)
    assert [of.full_s(many, 0.2) for many in (1, 2, 3, 4)] == [1.0, 1.05, 1.1, 1.2]
    assert of.full_s(4, 0.0) == 1.0


def test_what_ended_is_due_never() -> None:
    of: Agenda[Item] = Agenda()
    gone, there = Item(1.0), Item(2.0)
    of.add(gone, 1.0)
    of.add(there, 2.0)
    gone.ended = True
    assert of.first_s() == 2.0
    there.ended = True
    assert (of.first_s(), len(of)) == (math.inf, 0)


TIMES = st.floats(0.0, 1e7)


@given(due_s=st.lists(TIMES, max_size=120), many=st.integers(1, 60), until_s=TIMES)
def test_entries_come_when_they_are_due_the_oldest_first_and_each_once(
    due_s: list[float], many: int, until_s: float
) -> None:
    of = agenda(*due_s)
    taken = of.take(many, until_s)
    assert all(item.due_s <= until_s + 1e-5 for item in taken), "never before its time"
    left = sum(each_s <= until_s - STEP_S - 1e-5 for each_s in due_s) - len(taken)
    assert left <= 0 or len(taken) == many, "and a step later at the most"
    assert len(of) == len(due_s) - len(taken)
    rest = of.take(1000, 1e8)
    assert sorted(item.due_s for item in taken + rest) == sorted(due_s)
    steps = [math.ceil(item.due_s / STEP_S - 1e-4) for item in taken + rest]
    assert all(later >= earlier - 1 for earlier, later in pairwise(steps))


@given(due_s=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=80), many=st.integers(1, 60), within_s=st.floats(0, 3))
def test_who_waits_until_it_is_full_waits_no_longer_than_allowed(
    due_s: list[float], many: int, within_s: float
) -> None:
    of = agenda(*due_s)
    first_s, full_s = of.first_s(), of.full_s(many, within_s)
    assert first_s <= full_s <= first_s + within_s
    assert of.take(1, full_s)
    if full_s < first_s + within_s:
        assert 1 + len(of.take(1000, full_s)) >= many
