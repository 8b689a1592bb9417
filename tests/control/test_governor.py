"""The governor whatever comes: never above the caps, never stuck, one probe at a time, named pauses kept."""

import math
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krea_async.control.governor import (
    CATCH_UP_S,
    PROBE_PATIENCE_S,
    TOGETHER_S,
    Governor,
    Limit,
    PacingPolicy,
    Sent,
    State,
)

RATES = st.floats(0.05, 500.0)
KNOWN = st.none() | st.builds(Limit, st.sampled_from(["rate", "unfinished"]), st.floats(0.01, 1000.0))
RETRY_AFTER = st.none() | st.sampled_from([0.0, 1.0, 2.0, 30.0, math.inf, math.nan, -1.0]) | st.floats(0.0, 300.0)
ANSWERS = st.sampled_from(["accepted", "accepted", "rejected", "rejected", "unanswered"])
STEPS = st.lists(
    st.tuples(st.just(0.0) | st.floats(0.0, 0.2) | st.floats(0.0, 100.0), st.integers(0, 30), ANSWERS, RETRY_AFTER),
    max_size=120,
)


def governor(
    rate: float | None = None, known: Limit | None = None, *, seed: int = 0, policy: PacingPolicy | None = None
) -> Governor:
    return Governor(policy or PacingPolicy(), rate=rate, known=known, rng=Random(seed))


def waited(governed: Governor, now: float, in_flight: int = 0) -> float:
    """When the next may leave, for who waits as long as it is told."""
    for _ in range(10):
        wait_s = governed.wait_s(now, in_flight)
        assert wait_s is not None
        if wait_s == 0.0:
            return now
        assert 0.0 < wait_s < math.inf
        now = max(now + wait_s, math.nextafter(now, math.inf))
    raise AssertionError("it is told to wait again and again")


def send(governed: Governor, now: float, in_flight: int = 0) -> Sent:
    assert governed.wait_s(now, in_flight) == 0.0
    return governed.sent(now, in_flight)


def accept(governed: Governor, many: int, now: float, *, every_s: float = 0.0) -> float:
    """`many` are accepted at once, each when it may leave, but no sooner than `every_s` after the one before."""
    for _ in range(many):
        now = waited(governed, now)
        governed.accepted(now, send(governed, now))
        now += every_s
    return now


def starts_of(governed: Governor, many: int, now: float = 0.0, late: list[float] | None = None) -> list[float]:
    starts = []
    for n in range(many):
        now = waited(governed, now) + (late[n % len(late)] if late else 0.0)
        starts.append(now)
        governed.accepted(now, send(governed, now))
    return starts


def refuse(governed: Governor, now: float, retry_after_s: float | None = None) -> float:
    """One is sent when it may be, and refused 0.1 s later. Returns when that was."""
    now = waited(governed, now)
    governed.rejected(now + 0.1, send(governed, now), retry_after_s)
    return now + 0.1


def saturated(rate: float, *, seconds: float = 60.0) -> tuple[Governor, float]:
    """A governor that has found `rate`: a bucket without burst refuses what comes early."""
    governed = governor()
    now, full_s = 0.0, 0.0
    while now < seconds:
        now = waited(governed, now)
        sent = send(governed, now)
        if now >= full_s:
            full_s = max(full_s, now - 5.0 / rate) + 1.0 / rate
            governed.accepted(now + 0.01, sent)
        else:
            governed.rejected(now + 0.01, sent, None)
        now += 0.011
    return governed, now


@given(rate=st.none() | RATES, known=KNOWN, window=st.booleans(), steps=STEPS, seed=st.integers(0, 9))
def test_no_order_of_events_brings_a_senseless_wait_a_standstill_or_more_than_the_cap(
    rate: float | None, known: Limit | None, window: bool, steps: list[tuple[float, int, str, float | None]], seed: int
) -> None:
    governed = governor(rate, known, seed=seed, policy=PacingPolicy(window=window))
    now = 1000.0
    under_way: list[Sent] = []
    probes: list[Sent] = []
    unfinished = 0
    starts: list[float] = []

    def checked_wait() -> float | None:
        wait_s = governed.wait_s(now, unfinished + len(under_way))
        if wait_s is None:
            assert under_way or unfinished, "there is nothing whose end could end this wait"
            return None
        assert 0.0 <= wait_s < math.inf
        return wait_s

    for passed_s, which, answer, retry_after_s in steps:
        now += passed_s
        if checked_wait() == 0.0 and (which % 2 or not under_way):
            probing = governed.state is State.BLOCKED
            assert not probing or all(now >= probe.at_s + PROBE_PATIENCE_S for probe in probes), "one at a time"
            sent = governed.sent(now, unfinished + len(under_way))
            under_way.append(sent)
            probes += [sent] * probing
            starts.append(now)
        elif under_way:
            sent = under_way.pop(which % len(under_way))
            probes = [probe for probe in probes if probe is not sent]
            if answer == "accepted":
                unfinished += 1
                governed.accepted(now, sent)
            elif answer == "unanswered":
                governed.unanswered(now, sent)
            else:
                own_wait_s = governed.rejected(now, sent, retry_after_s)
                assert 0.0 <= own_wait_s < math.inf
        else:
            unfinished -= which % (unfinished + 1)
        assert 0.0 < governed.rate <= (rate or math.inf)
        assert governed.rate < math.inf
        assert governed.limit is None or str(governed.limit)
        checked_wait()
    for sent in under_way:
        governed.unanswered(now, sent)
    under_way.clear()
    unfinished = 0
    for _ in range(3):
        begin_s, now = now, waited(governed, now)
        assert now - begin_s <= 300.0 + 10.0 / (rate or 0.1), "after a bounded time one may leave, whatever came before"
        governed.accepted(now, send(governed, now))
        starts.append(now)
    if rate is not None:
        assert_never_above(rate, starts)


def assert_never_above(rate: float, starts: list[float]) -> None:
    for i, first in enumerate(starts):
        for n, last in enumerate(starts[i:]):
            assert last - first >= n / rate - CATCH_UP_S - TOGETHER_S - 1e-6


@given(rate=RATES, late=st.lists(st.floats(0.0, 2.0), min_size=1, max_size=20))
def test_no_window_sees_more_than_the_callers_rate_but_for_what_a_late_timer_makes_up(
    rate: float, late: list[float]
) -> None:
    assert_never_above(rate, starts_of(governor(rate), 80, late=late))


@given(rate=RATES, begin=st.floats(0.0, 1e6))
def test_punctual_starts_are_an_interval_apart_from_the_first_on(rate: float, begin: float) -> None:
    """But for those that are so close that they leave together, and for what a float can tell at such an hour."""
    starts = starts_of(governor(rate), 100, begin)
    for n, start in enumerate(starts):
        assert start - begin >= n / rate * (1 - 1e-6) - TOGETHER_S - 1e-7
    for earlier, later in pairwise(starts):
        assert later - earlier >= 1.0 / rate * (1 - 1e-6) - TOGETHER_S - 1e-7


def test_a_cap_of_50_is_50_with_timers_that_are_late_by_milliseconds() -> None:
    starts = starts_of(governor(50.0), 1001, late=[0.004, 0.001, 0.007, 0.0])
    steady = [start for start in starts if start > 5.0]
    assert (len(steady) - 1) / (steady[-1] - steady[0]) == pytest.approx(50.0, rel=0.005)


def test_a_cap_is_not_passed_in_slow_start_and_nothing_false_is_learnt_from_it() -> None:
    governed = governor(3.0)
    now = accept(governed, 100, 0.0)
    assert governed.rate == 3.0
    now = accept(governed, 1, refuse(governed, now))
    assert governed.state is State.CRUISING
    assert governed.limit is None, "3/s is what the caller allows, and may be no limit of the gateway"


def test_the_pace_doubles_until_the_first_refusal_and_then_is_what_was_accepted() -> None:
    governed = governor()
    assert governed.state is State.SLOW_START
    accept(governed, 20, 0.0)
    assert governed.rate == pytest.approx(20.0 + 20 * 5.0, rel=0.1)
    governed, _ = saturated(10.0)
    assert governed.limit is not None
    assert governed.limit.kind == "rate"
    assert governed.limit.value == pytest.approx(10.0, rel=0.1)
    assert str(governed.limit).endswith("/s, rate-like")


def test_after_a_refusal_one_at_a_time_asks_until_one_is_accepted() -> None:
    governed = governor()
    now = accept(governed, 10, 0.0)
    for _ in range(5):
        now = refuse(governed, now)
        assert governed.state is State.BLOCKED
        now = waited(governed, now)
        sent = send(governed, now)
        assert governed.wait_s(now + 1.0, 1) == pytest.approx(PROBE_PATIENCE_S - 1.0)
        governed.rejected(now + 0.1, sent, None)
    now = waited(governed, now)
    governed.accepted(now, send(governed, now))
    assert governed.state is State.CRUISING


def test_pauses_double_up_to_the_longest() -> None:
    governed = governor(policy=PacingPolicy(longest_pause_s=6.0))
    now = accept(governed, 50, 0.0)
    pauses = []
    for _ in range(12):
        now = refuse(governed, now)
        pauses.append(waited(governed, now) - now)
    assert pauses[0] <= 0.32
    assert max(pauses) <= 6.0 * 1.25 + 1e-6
    assert min(pauses[-5:]) >= 6.0 * 0.75


def test_refusals_of_what_left_before_the_first_one_are_the_same_episode() -> None:
    governed = governor()
    now = accept(governed, 30, 0.0)
    herd: list[Sent] = []
    for _ in range(8):
        now = waited(governed, now, len(herd))
        herd.append(send(governed, now, len(herd)))
    for sent in herd:
        assert governed.rejected(now + 0.05, sent, None) == 0.0
    assert waited(governed, now + 0.05) - now <= 0.05 + 0.25 * 1.25 + 1e-6


@given(retry_after_s=st.floats(0.001, 2.0), seed=st.integers(0, 20))
def test_a_short_named_pause_is_kept_by_everybody(retry_after_s: float, seed: int) -> None:
    governed = governor(seed=seed)
    now = accept(governed, 10, 0.0)
    sent = send(governed, waited(governed, now))
    assert governed.rejected(sent.at_s + 0.1, sent, retry_after_s) == 0.0
    assert waited(governed, sent.at_s + 0.1) >= sent.at_s + 0.1 + retry_after_s


def test_a_pause_of_nothing_is_no_leave_to_hammer() -> None:
    governed = governor()
    now = refuse(governed, accept(governed, 10, 0.0), 0.0)
    assert waited(governed, now) - now >= 0.75 * 0.25


def test_a_long_named_pause_is_kept_by_its_prompt_while_another_asks() -> None:
    governed = governor()
    now = waited(governed, accept(governed, 10, 0.0))
    assert governed.rejected(now + 0.1, send(governed, now), 30.0) == 30.0
    assert 2.0 <= waited(governed, now + 0.1) - now <= 10.0


@pytest.mark.parametrize("extends", [False, True])
def test_a_ban_that_is_meant_ends_even_if_every_call_inside_it_begins_it_anew(extends: bool) -> None:
    """Ten bans of 30 s: the early calls become fewer, and none of the bans lasts for ever."""
    governed = governor()
    now = accept(governed, 50, 0.0)
    early = []
    for _ in range(10):
        banned_until_s = now = refuse(governed, now, 30.0)
        banned_until_s += 30.0
        early.append(0)
        while (now := waited(governed, now)) < banned_until_s:
            early[-1] += 1
            assert early[-1] <= 8, "it never gets out"
            banned_until_s = now + 30.0 if extends else banned_until_s
            governed.rejected(now, send(governed, now), banned_until_s - now)
        governed.accepted(now, send(governed, now))
        now = accept(governed, 50, now)
    assert sum(early[4:]) <= 2, early


def test_a_pause_that_counts_down_is_believed_from_the_second_time_on() -> None:
    governed = governor()
    now = refuse(governed, accept(governed, 50, 0.0), 40.0)
    first = waited(governed, now)
    assert first - now < 40.0
    assert governed.rejected(first, send(governed, first), math.ceil(now + 40.0 - first)) == 0.0
    assert waited(governed, first) >= now + 40.0 - 1e-6


def test_idle_time_counts_neither_in_what_was_found_nor_in_the_growth() -> None:
    busy, now = saturated(10.0)
    rate, limit = busy.rate, busy.limit
    assert limit is not None
    now = accept(busy, 1, now + 3600.0)
    assert busy.rate <= 1.1 * rate, "an hour in which nobody wanted to send is no hour of growth"
    now = accept(busy, 20, now)
    now = accept(busy, 1, refuse(busy, now))
    assert busy.limit is not None
    assert busy.limit.value >= 0.6 * limit.value, "nor has the gateway accepted little in it"


def test_senders_that_are_held_back_by_something_else_do_not_let_the_pace_run_away() -> None:
    governed = governor()
    accept(governed, 2000, 0.0, every_s=1.0)
    assert governed.rate <= 30.0


@given(many=st.integers(1, 50))
def test_unanswered_submissions_change_nothing_but_leave(many: int) -> None:
    governed = governor()
    now = accept(governed, 3, 0.0)
    rate, state = governed.rate, governed.state
    for _ in range(many):
        now = waited(governed, now)
        governed.unanswered(now + 1.0, send(governed, now))
    assert (governed.rate, governed.state, governed.limit) == (rate, state, None)


def test_a_probe_that_is_never_answered_gives_its_place_to_the_next() -> None:
    governed = governor()
    now = waited(governed, refuse(governed, accept(governed, 10, 0.0)))
    sent = send(governed, now)
    governed.unanswered(now + 1.0, sent)
    assert governed.state is State.BLOCKED
    assert waited(governed, now + 1.0) == now + 1.0


def test_a_probe_that_hangs_holds_nobody_up_for_long() -> None:
    governed = governor()
    now = waited(governed, refuse(governed, accept(governed, 10, 0.0)))
    hanging = send(governed, now)
    later = waited(governed, now)
    assert later == pytest.approx(now + PROBE_PATIENCE_S)
    governed.accepted(later + 0.1, send(governed, later))
    assert governed.state is State.CRUISING
    governed.unanswered(later + 30.0, hanging)
    assert governed.state is State.CRUISING


def test_one_that_hangs_since_before_the_refusal_is_no_reason_not_to_ask() -> None:
    """Else the block would last as long as that one hangs, and be taken for the gateway's."""
    governed = governor()
    now = accept(governed, 200, 0.0)
    rate = governed.rate
    hanging = send(governed, waited(governed, now))
    now = refuse(governed, now)
    asked = waited(governed, now)
    assert asked - now < 1.0
    governed.accepted(asked + 0.1, send(governed, asked))
    assert governed.state is State.CRUISING
    assert governed.rate > rate / 10
    governed.unanswered(asked + 60.0, hanging)


def test_an_idle_time_after_somebody_waited_for_a_probe_and_left_is_no_block() -> None:
    """The one that waited behind the probe was cancelled, so nobody asks for an hour."""
    paces = []
    for somebody_waits in (False, True):
        governed = governor()
        now = waited(governed, refuse(governed, accept(governed, 200, 0.0)))
        probe = send(governed, now)
        if somebody_waits:
            assert governed.wait_s(now + 0.05, 1) != 0.0
        governed.unanswered(now + 0.1, probe)
        now = waited(governed, now + 3600.0)
        governed.accepted(now + 0.1, send(governed, now))
        paces.append(governed.rate)
    assert paces[1] > paces[0] / 2


def test_one_accepted_after_a_long_outage_does_not_make_the_pace_slow_for_minutes() -> None:
    governed = governor()
    now = 0.0
    for _ in range(100):
        now = refuse(governed, now)
    assert now > 300.0
    begin_s = now
    while governed.rate < 20.0:
        now = accept(governed, 1, now)
    assert now - begin_s < 60.0


def test_what_an_earlier_run_found_is_where_this_one_begins() -> None:
    governed = governor(known=Limit("rate", 5.0))
    assert governed.limit is None, "found by this run, that is"
    starts = starts_of(governed, 5)
    assert (len(starts) - 1) / (starts[-1] - starts[0]) == pytest.approx(5.0, rel=0.1)
    assert governed.state is State.CRUISING


def test_a_stale_low_rate_is_left_within_seconds() -> None:
    governed = governor(known=Limit("rate", 5.0))
    now = 0.0
    while governed.rate < 50.0:
        now = accept(governed, 1, now)
    assert now < 15.0


def test_a_stale_high_rate_is_reached_as_without_it() -> None:
    fresh, stale = governor(), governor(known=Limit("rate", 400.0))
    assert starts_of(fresh, 50) == starts_of(stale, 50)


def test_a_known_window_opens_if_it_is_stale() -> None:
    governed = governor(known=Limit("unfinished", 4.0))
    assert governed.state is State.WINDOWED
    now = 0.0
    in_flight = 0
    for _ in range(200):
        wait_s = governed.wait_s(now, in_flight)
        if wait_s is None:
            in_flight -= 1  # a task ends
            continue
        now += wait_s
        governed.accepted(now, send(governed, now, in_flight))
        in_flight += 1
    assert in_flight > 20


def test_with_the_window_off_unfinished_tasks_do_not_matter() -> None:
    governed = governor(known=Limit("unfinished", 4.0), policy=PacingPolicy(window=False))
    assert governed.wait_s(0.0, 1_000_000) == 0.0


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_senseless_knobs_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        Governor(PacingPolicy(), rate=value, rng=Random(0))
    with pytest.raises(ValueError, match="first_rate"):
        PacingPolicy(first_rate=value)
    with pytest.raises(ValueError, match="longest_pause_s"):
        PacingPolicy(longest_pause_s=value)


def test_limits_are_said_in_words() -> None:
    assert str(Limit("rate", 19.83)) == "19.8/s, rate-like"
    assert str(Limit("unfinished", 8)) == "8 unfinished tasks"
    assert str(Limit("unfinished", 1)) == "1 unfinished task"
