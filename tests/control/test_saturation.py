"""What is concluded from one saturation to the next."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krea_async.control.saturation import LONGEST_CYCLE_S, LOWEST_RATE, Cycle, growth

ANCHORS = st.none() | st.floats(LOWEST_RATE, 1e4)
TIMES = st.floats(0.0, 1e5)


def seen(accepts: int, anchor: float | None = None, since_s: float = 0.0) -> Cycle:
    cycle = Cycle.starting(since_s, anchor)
    for _ in range(accepts):
        cycle.accept()
    return cycle


@given(anchor=ANCHORS, accepts=st.integers(0, 500), passed_s=TIMES, blocked_s=TIMES, idle_s=TIMES)
def test_every_conclusion_is_a_sensible_number(
    anchor: float | None, accepts: int, passed_s: float, blocked_s: float, idle_s: float
) -> None:
    cycle = seen(accepts, anchor)
    cycle.grew_to(1e6, now=passed_s / 2)
    cycle.accept()
    cycle.skip(idle_s)
    limit = cycle.limit(passed_s, min(blocked_s, passed_s))
    assert LOWEST_RATE <= limit < math.inf
    assert anchor is None or limit >= anchor / 2, "at most halved by one saturation"
    assert 0.0 < cycle.next_s(passed_s, blocked_s, limit) <= LONGEST_CYCLE_S or limit < 10.0 / LONGEST_CYCLE_S


@given(rate=st.floats(0.5, 500.0), seconds=st.floats(60.0, 3600.0))
def test_what_was_accepted_over_the_time_is_the_limit(rate: float, seconds: float) -> None:
    assert seen(int(rate * seconds)).limit(seconds, 0.0) == pytest.approx(rate, rel=0.05)


def test_a_short_cycle_does_not_overthrow_what_was_known() -> None:
    assert seen(1, anchor=10.0).limit(1.0, 0.0) == pytest.approx(5.5)


def test_a_limit_that_rose_is_not_averaged_with_what_it_was() -> None:
    cycle = seen(100, anchor=1.0)
    cycle.grew_to(2.0, now=100.0)
    for _ in range(1000):
        cycle.accept()
    assert cycle.limit(150.0, 0.0) == pytest.approx(20.0, rel=0.05)


def test_idle_time_is_cut_out() -> None:
    cycle = seen(100, anchor=10.0)
    cycle.skip(990.0)
    assert cycle.limit(1000.0, 0.0) == pytest.approx(10.0)


def test_few_accepted_make_no_long_cycle() -> None:
    """An outage of ten minutes and one accepted after it say little of the limit."""
    assert seen(1).next_s(600.0, 600.0, limit=0.1) <= 6.0
    assert seen(1).next_s(200.0, 200.0, limit=1.0) <= 20.0 < seen(10).next_s(200.0, 200.0, limit=1.0)


def test_the_pace_never_falls_while_it_grows_and_is_slowest_near_the_anchor() -> None:
    factors = [growth(x / 20) for x in range(400)]
    assert all(later >= earlier for earlier, later in pairwise(factors))
    assert factors[0] == pytest.approx(0.95)
    assert growth(1.0) == 1.0
    assert growth(1e9) < 1e5
