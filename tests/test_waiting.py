"""Whose turn it is: the older first, those whose task may exist before all, and one batch's row in five turns."""

import asyncio
from collections.abc import Iterator
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krea_async.waiting import INTERACTIVE_TURNS, Priority, Row, Stop, WaitingRows

PRIORITIES: list[Priority] = ["interactive", "batch"]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def row(loop: asyncio.AbstractEventLoop, number: int, priority: Priority, *, holds_place: bool = False) -> Row:
    new = Row(number, Stop(), priority=priority, holds_place=holds_place)
    new.turn = loop.create_future()
    return new


def turns(waiting: WaitingRows) -> list[Row]:
    taken = []
    while (head := waiting.head()) is not None:
        waiting.pop(head)
        taken.append(head)
    return taken


@given(rows=st.lists(st.tuples(st.sampled_from(PRIORITIES), st.booleans(), st.booleans()), max_size=60))
def test_all_have_their_turn_and_none_is_overtaken_by_more_than_it_should(
    loop: asyncio.AbstractEventLoop, rows: list[tuple[Priority, bool, bool]]
) -> None:
    waiting = WaitingRows()
    made = []
    for number, (priority, holds_place, gone) in enumerate(rows):
        made.append(row(loop, number, priority, holds_place=holds_place))
        waiting.push(made[-1])
        if gone:
            made[-1].turn.cancel()
    staying = [one for one in made if not one.turn.done()]
    assert len(waiting) == len(staying)
    taken = turns(waiting)
    assert sorted(one.number for one in taken) == sorted(one.number for one in staying)
    assert [one.holds_place for one in taken] == sorted((one.holds_place for one in taken), reverse=True)
    for priority in PRIORITIES:
        for holds_place in (True, False):
            alike = [one.number for one in taken if (one.priority, one.holds_place) == (priority, holds_place)]
            assert alike == sorted(alike), "the older first"
    taken = [one for one in taken if not one.holds_place]  # those that do come first in any case
    last_batch = max((place for place, one in enumerate(taken) if one.priority == "batch"), default=0)
    runs = [(priority, len(list(group))) for priority, group in groupby(one.priority for one in taken[:last_batch])]
    assert all(many <= INTERACTIVE_TURNS for priority, many in runs if priority == "interactive")


def test_one_that_comes_late_overtakes_a_thousand_rows_of_a_batch(loop: asyncio.AbstractEventLoop) -> None:
    waiting = WaitingRows()
    for number in range(1000):
        waiting.push(row(loop, number, "batch"))
    late = row(loop, 1000, "interactive")
    waiting.push(late)
    assert waiting.head() is late
