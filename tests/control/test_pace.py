"""The pace of submissions: never above the rate, one pause for all after a 429, and no way to get stuck."""

import math
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krea_async.control.pace import Pace, PausePolicy

LATE_S = 0.02
"""What the docstring of `pace` lets a late start be made up for."""

POLICY = PausePolicy(first_s=1.0, max_s=8.0, spread_s=0.5)

RATES = st.floats(0.05, 500.0)
ANSWERS = st.sampled_from(["accepted", "rejected", "named", "unanswered"])
STEPS = st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 30), ANSWERS), max_size=150)


def pace(rate: float | None = None, *, seed: int = 0, policy: PausePolicy = POLICY) -> Pace:
    return Pace(rate, policy, Random(seed))


def starts_of(paced: Pace, many: int, now: float = 0.0, late: list[float] | None = None) -> list[float]:
    """When `many` submissions leave that are all accepted at once; each as late as `late` says."""
    starts = []
    for n in range(many):
        wait_s = paced.wait_s(now)
        assert wait_s is not None
        now += wait_s + (late[n % len(late)] if late else 0.0)
        paced.sent(now)
        paced.accepted(now, now)
        starts.append(now)
    return starts


@given(rate=RATES, many=st.integers(2, 200), begin=st.floats(0.0, 1e6))
def test_punctual_starts_are_one_interval_apart_from_the_first_on(rate: float, many: int, begin: float) -> None:
    """Nothing was late, so there is nothing to make up for: a window of n intervals sees n starts."""
    starts = starts_of(pace(rate), many, begin)
    for earlier, later in pairwise(starts):
        assert later - earlier >= (1.0 / rate) * (1 - 1e-6) - 1e-9 * max(1.0, begin) / 1e3


def test_sixty_per_minute_are_not_sixty_one_in_the_first_minute() -> None:
    assert sum(start < 60.0 for start in starts_of(pace(1.0), 70)) == 60


def test_an_idle_time_is_not_saved_up_for_later() -> None:
    paced = pace(20.0)
    starts_of(paced, 5)
    assert sum(start < 1001.0 - 1e-6 for start in starts_of(paced, 40, now=1000.0)) == 20


@given(rate=RATES, late=st.lists(st.floats(0.0, 2.0), min_size=1, max_size=20))
def test_no_window_sees_more_than_the_rate_but_for_what_a_late_timer_makes_up(rate: float, late: list[float]) -> None:
    starts = starts_of(pace(rate), 80, late=late)
    interval_s = 1.0 / rate
    for i, first in enumerate(starts):
        for n, last in enumerate(starts[i:]):
            assert last - first >= n * interval_s - LATE_S - 1e-6


def test_small_delays_of_timers_do_not_add_up() -> None:
    starts = starts_of(pace(10.0), 101, late=[0.005])
    assert starts[-1] - starts[0] == pytest.approx(10.0, abs=0.05)


def test_without_a_rate_and_a_429_nobody_waits() -> None:
    paced = pace()
    for _ in range(1000):
        assert paced.wait_s(0.0) == 0.0
        paced.sent(0.0)


@given(rate=st.none() | RATES, steps=STEPS, seed=st.integers(0, 9))
def test_no_order_of_events_brings_a_senseless_wait_or_a_standstill(
    rate: float | None, steps: list[tuple[float, int, str]], seed: int
) -> None:
    """Waits are finite and not negative, `None` only while something is under way, and in the end one may leave."""
    paced = pace(rate, seed=seed)
    now = 0.0
    under_way: list[float] = []
    starts: list[float] = []

    def checked_wait() -> float | None:
        wait_s = paced.wait_s(now)
        if wait_s is None:
            assert under_way, "nobody is under way whose answer could end this wait"
            return None
        assert 0.0 <= wait_s < math.inf
        return wait_s

    for passed_s, which, answer in steps:
        now += passed_s
        if checked_wait() == 0.0 and (which % 2 or not under_way):
            paced.sent(now)
            under_way.append(now)
            starts.append(now)
        elif under_way:
            sent_s = under_way.pop(which % len(under_way))
            if answer == "accepted":
                paced.accepted(now, sent_s)
            elif answer == "unanswered":
                paced.unanswered()
            else:
                paced.rejected(now, sent_s, 5.0 if answer == "named" else None)
        checked_wait()
    while under_way:
        paced.accepted(now, under_way.pop())
    for _ in range(3):
        for _ in range(2):  # the pause, then what is left of the interval
            now += (checked_wait() or 0.0) * (1 + 1e-9) + 1e-6
        assert checked_wait() == 0.0, "after the waits that were asked for, one may leave"
        paced.sent(now)
        paced.accepted(now, now)
    if rate is not None:
        for i, first in enumerate(starts):
            for n, last in enumerate(starts[i:]):
                assert last - first >= n / rate - LATE_S - 1e-6


@given(seed=st.integers(0, 1000), others=st.integers(0, 50))
def test_a_429_pauses_everybody(seed: int, others: int) -> None:
    paced = pace(seed=seed)
    for _ in range(others + 1):
        paced.sent(10.0)
    paced.rejected(11.0, 10.0, None)
    wait_s = paced.wait_s(11.0)
    assert wait_s is not None
    assert 0.5 <= wait_s <= 1.0


def test_pauses_of_different_clients_differ() -> None:
    waits = set()
    for seed in range(50):
        paced = pace(seed=seed)
        paced.sent(0.0)
        paced.rejected(0.0, 0.0, 10.0)
        waits.add(paced.wait_s(0.0))
    assert len(waits) == 50
    assert all(wait_s is not None and 10.0 <= wait_s <= 10.5 for wait_s in waits)


@given(retry_after_s=st.floats(0.0, 300.0), seed=st.integers(0, 100))
def test_a_named_pause_is_kept(retry_after_s: float, seed: int) -> None:
    paced = pace(seed=seed)
    paced.sent(0.0)
    paced.rejected(0.5, 0.0, retry_after_s)
    wait_s = paced.wait_s(0.5)
    assert wait_s is not None
    assert retry_after_s <= wait_s <= max(retry_after_s + 0.5, 1.0)


def test_answers_of_the_same_episode_do_not_lengthen_the_pause() -> None:
    paced = pace()
    for _ in range(30):
        paced.sent(0.0)
    paced.rejected(0.1, 0.0, None)
    end_s = 0.1 + (paced.wait_s(0.1) or 0.0)
    for n in range(29):
        now = 0.1 + n / 100
        paced.rejected(now, 0.0, None)
        assert now + (paced.wait_s(now) or 0.0) == pytest.approx(end_s)
    assert paced.wait_s(end_s + 1e-6) == 0.0


def after_a_429(paced: Pace) -> float:
    """A moment at which the pause after a first 429 is over."""
    paced.sent(0.0)
    paced.rejected(0.0, 0.0, None)
    return 2.0


def test_one_probe_at_a_time_goes_after_the_pause() -> None:
    paced = pace()
    now = after_a_429(paced)
    for _ in range(5):
        assert paced.wait_s(now) == 0.0
        paced.sent(now)
        assert paced.wait_s(now) is None
        paced.unanswered()
        now += 0.01


def test_requests_still_under_way_count_as_probes() -> None:
    paced = pace()
    paced.sent(0.0)
    now = after_a_429(paced)
    assert paced.wait_s(now) is None
    paced.accepted(now, 0.0)
    assert paced.wait_s(now) == 0.0


def test_the_others_come_back_spread_out() -> None:
    """Each accepted one lets one more leave beside it: never a herd."""
    paced = pace()
    now = after_a_429(paced)
    waves = []
    for _ in range(6):
        now += 1.0
        wave = 0
        while paced.wait_s(now) == 0.0:
            paced.sent(now)
            wave += 1
        waves.append(wave)
        for _ in range(wave):
            paced.accepted(now, now)
    assert waves[0] == 1
    assert all(later <= 2 * earlier for earlier, later in pairwise(waves))
    assert waves[-1] == 32


@given(seed=st.integers(0, 100))
def test_a_refused_probe_doubles_the_pause_up_to_its_cap_and_an_accepted_one_ends_that(seed: int) -> None:
    paced = pace(seed=seed)
    now = 0.0
    longest = [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    for most_s in longest:
        paced.sent(now)
        paced.rejected(now, now, None)
        wait_s = paced.wait_s(now)
        assert wait_s is not None
        assert most_s / 2 <= wait_s <= most_s
        now += wait_s + 0.001
    paced.sent(now)
    paced.accepted(now, now)
    now += 1.0
    paced.sent(now)
    paced.rejected(now, now, None)
    assert (paced.wait_s(now) or 0.0) <= 1.0


def test_a_late_acceptance_of_before_the_429_lets_nobody_more_leave() -> None:
    paced = pace()
    for _ in range(10):
        paced.sent(0.0)
    paced.rejected(0.1, 0.0, None)
    for _ in range(9):
        paced.accepted(0.2, 0.0)
    now = 5.0
    assert paced.wait_s(now) == 0.0
    paced.sent(now)
    assert paced.wait_s(now) is None


def test_a_thousand_refusals_in_a_row_overflow_nothing() -> None:
    paced = pace(policy=PausePolicy(first_s=0.001, max_s=0.002, spread_s=0.0))
    now = 0.0
    for _ in range(3000):
        now += 1.0
        paced.sent(now)
        paced.rejected(now, now, None)
        assert 0.0 < (paced.wait_s(now) or 0.0) <= 0.002


@pytest.mark.parametrize("bad", [{"first_s": 0.0}, {"first_s": -1.0}, {"max_s": 0.0}, {"spread_s": -0.1}])
def test_a_pause_that_cannot_be_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        PausePolicy(**bad)


def test_two_429s_hours_apart_do_not_make_a_session_crawl() -> None:
    """The gateway took few between them because few were asked for: that says nothing about its limit."""
    paced = pace()
    after_a_429(paced)
    now = 5.0
    paced.sent(now)
    paced.accepted(now, now)
    now = 6 * 3600.0
    for _ in range(10):
        paced.sent(now)
    paced.rejected(now, now, None)
    for _ in range(9):
        paced.rejected(now, now, None)
    starts: list[float] = []
    while len(starts) < 10:
        wait_s = paced.wait_s(now)
        assert wait_s is not None
        assert wait_s <= 60.0
        now += wait_s + 1e-6
        paced.sent(now)
        paced.accepted(now + 0.1, now)
        now += 0.1
        starts.append(now)


@given(rate=st.none() | st.floats(0.5, 100.0), accepts=st.integers(1, 200), seed=st.integers(0, 9))
def test_speed_comes_back_to_what_the_caller_allows(rate: float | None, accepts: int, seed: int) -> None:
    paced = pace(rate, seed=seed)
    now = after_a_429(paced)
    for _ in range(accepts):
        now += 0.1
        paced.sent(now)
        paced.accepted(now, now)
    paced.sent(now)
    paced.rejected(now, now, None)
    interval_s = 0.0 if rate is None else 1.0 / rate
    for _ in range(2000):
        wait_s = paced.wait_s(now)
        assert wait_s is not None
        now += wait_s
        paced.sent(now)
        paced.accepted(now, now)
    assert (paced.wait_s(now) or 0.0) <= interval_s * 1.01 + 0.02
