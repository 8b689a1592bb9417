"""The window on unfinished tasks: switched on by a wall, not by a rate; it opens, falls and goes again."""

import math

from hypothesis import given
from hypothesis import strategies as st

from krea_async.control.window import REFUSED_IN_A_ROW, STRIKES, VOTES, Window

EVENTS = st.lists(st.tuples(st.booleans(), st.integers(0, 200), st.integers(0, 50)), max_size=300)


def walled(at: int = 20) -> Window:
    """A window that has seen a wall: as many as `at` - 1 were accepted beside the new one, and `at` never were."""
    window = Window(enabled=True)
    for _ in range(VOTES):
        for in_flight in range(at):
            window.accepted(in_flight, since_refusal=True)
        window.refused(at, accepts=at)
    return window


@given(enabled=st.booleans(), size=st.just(math.inf) | st.floats(0.01, 300.0), events=EVENTS)
def test_it_never_closes_altogether(enabled: bool, size: float, events: list[tuple[bool, int, int]]) -> None:
    window = Window(enabled=enabled, size=size)
    for accepted, in_flight, accepts in events:
        if accepted:
            window.accepted(in_flight, since_refusal=True)
        else:
            assert window.refused(in_flight, accepts) is window.on
        assert window.size >= 1.0
        assert enabled or not window.on


def test_refusals_at_a_number_that_is_never_passed_switch_it_on() -> None:
    window = walled(20)
    assert window.on
    assert window.size == 20


def test_refusals_at_numbers_that_are_often_passed_do_not() -> None:
    window = Window(enabled=True)
    for _ in range(50):
        for in_flight in range(40):
            window.accepted(in_flight, since_refusal=True)
        window.refused(20, accepts=40)
    assert not window.on


def test_refusals_after_few_accepted_do_not() -> None:
    window = Window(enabled=True)
    for _ in range(50):
        window.accepted(3, since_refusal=True)
        window.refused(20, accepts=1)
    assert not window.on


def test_one_that_is_accepted_well_above_the_wall_takes_the_votes_back() -> None:
    window = Window(enabled=True)
    for _ in range(VOTES - 1):
        for in_flight in range(20):
            window.accepted(in_flight, since_refusal=True)
        window.refused(20, accepts=20)
    window.accepted(30, since_refusal=True)
    window.refused(20, accepts=20)
    assert not window.on


def test_it_opens_again_while_all_is_accepted_and_ever_faster() -> None:
    window = walled(20)
    steps = []
    for _ in range(4):
        size, accepts = window.size, 0
        while window.size == size:
            window.accepted(int(size) - 1, since_refusal=True)
            accepts += 1
        steps.append(accepts)
    assert steps == [256, 128, 64, 32]


def test_it_does_not_open_where_it_does_not_limit() -> None:
    window = walled(20)
    for _ in range(10_000):
        window.accepted(3, since_refusal=True)
    assert window.size == 20


def test_a_fall_to_a_lower_limit_is_one_strike() -> None:
    window = walled(20)
    for _ in range(100):
        window.accepted(10, since_refusal=True)
    for in_flight in range(19, 19 - REFUSED_IN_A_ROW, -1):
        window.refused(in_flight, accepts=0)
    assert window.on
    assert window.size == 20 - REFUSED_IN_A_ROW


def test_refusals_without_end_switch_it_off() -> None:
    window = walled(20)
    for _ in range(REFUSED_IN_A_ROW + 1):
        window.refused(10, accepts=0)
    assert not window.on


def test_quick_refusals_inside_it_switch_it_off() -> None:
    window = walled(20)
    for _ in range(STRIKES):
        assert window.on
        window.accepted(5, since_refusal=True)
        window.refused(18, accepts=1)
    assert not window.on


def test_a_wall_that_creeps_down_is_none() -> None:
    window = walled(20)
    for in_flight in range(19, 12, -1):
        assert window.on
        for _ in range(100):
            window.accepted(5, since_refusal=True)
        window.refused(in_flight, accepts=100)
    assert not window.on
