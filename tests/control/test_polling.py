"""How eager reads are: the one knob, the presets, and what changes it for a while."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krea_async.control.hazard import Law
from krea_async.control.polling import EAGER, PRESETS, PROMPTER, PollPolicy, ReadTimes
from krea_async.errors import InvalidRequestError

ESTIMATES = st.none() | st.floats()
"""All that a gateway may announce, and more: nothing, zero, negative, huge, infinite, no number."""


def times(policy: PollPolicy | None = None) -> ReadTimes:
    return ReadTimes(policy or PollPolicy(), Random(0))


def mean_wait_s(
    of: ReadTimes, age_s: float = 8.0, *, estimated_time_s: float | None = 8.0, awaited: bool = False
) -> float:
    law = of.law(estimated_time_s, age_known=True)
    return sum(of.wait_s(law, age_s, awaited=awaited) for _ in range(200)) / 200


def reads_by(of: ReadTimes, law: Law, age_s: float) -> int:
    at_s, many = 0.0, 0
    while at_s < age_s:
        at_s += of.wait_s(law, at_s, awaited=False)
        many += 1
    return many


POLICIES = st.builds(
    lambda worth_s, shortest_s, more_s: PollPolicy(
        lag_per_read_s=worth_s, shortest_s=shortest_s, longest_s=shortest_s + more_s
    ),
    st.floats(1e-9, 1e3),
    st.floats(1e-3, 10.0),
    st.floats(0.0, 100.0),
)


@given(
    policy=POLICIES,
    estimated_time_s=ESTIMATES,
    age_known=st.booleans(),
    ages_s=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=20),
    late_s=st.lists(st.floats(-10.0, 1e4), max_size=5),
    eager=st.booleans(),
    awaited=st.booleans(),
)
def test_whatever_is_announced_and_however_late_the_next_read_comes_within_the_bounds(
    policy: PollPolicy,
    estimated_time_s: float | None,
    age_known: bool,
    ages_s: list[float],
    late_s: list[float],
    eager: bool,
    awaited: bool,
) -> None:
    of = times(policy)
    of.eager = eager
    law = of.law(estimated_time_s, age_known=age_known)
    for each_s in late_s:
        of.sent(each_s)
    for age_s in ages_s:
        law.saw_running(0.0, age_s)
        assert policy.shortest_s <= of.wait_s(law, age_s, awaited=awaited) <= policy.longest_s


def test_equal_bounds_make_the_interval_fixed() -> None:
    of = times(PollPolicy(shortest_s=3.0, longest_s=3.0))
    law = of.law(8.0, age_known=True)
    assert {of.wait_s(law, age_s / 7.0, awaited=False) for age_s in range(2000)} == {3.0}


def test_the_presets_are_in_the_order_of_their_names() -> None:
    frugal, balanced, prompt = (PollPolicy.of(name) for name in ("frugal", "balanced", "prompt"))
    assert frugal.lag_per_read_s > balanced.lag_per_read_s > prompt.lag_per_read_s
    assert balanced == PollPolicy() == PollPolicy.of(None)
    waits_s = [mean_wait_s(times(policy)) for policy in (frugal, balanced, prompt)]
    assert waits_s == sorted(waits_s, reverse=True)
    assert waits_s[0] > 3.0 * waits_s[2]


def test_a_policy_of_ones_own_is_taken_as_it_is() -> None:
    mine = PollPolicy(lag_per_read_s=0.3)
    assert PollPolicy.of(mine) is mine


@pytest.mark.parametrize("wrong", ["quick", "", "Balanced", 3, ["prompt"]])
def test_what_is_no_preset_is_refused_with_the_names_of_those_that_are(wrong: object) -> None:
    with pytest.raises(InvalidRequestError, match="is no preset") as caught:
        PollPolicy.of(wrong)
    assert all(name in str(caught.value.allowed) for name in PRESETS)


@pytest.mark.parametrize("knob", ["lag_per_read_s", "shortest_s", "longest_s", "window_s", "ahead_s"])
@pytest.mark.parametrize("bad", [-1.0, math.inf, math.nan])
def test_a_poll_policy_that_cannot_be_is_refused(knob: str, bad: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        PollPolicy(**{knob: bad})


def test_bounds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValueError, match="at least shortest_s"):
        PollPolicy(shortest_s=5.0, longest_s=4.0)


def test_a_task_that_somebody_waits_for_is_read_more_often_by_the_same_law() -> None:
    of = times()
    law = of.law(8.0, age_known=True)
    ratio = mean_wait_s(of) / mean_wait_s(of, awaited=True)
    assert 0.7 * math.sqrt(PROMPTER) < ratio < 1.5 * math.sqrt(PROMPTER)
    assert of.law(8.0, age_known=True) is law


def test_under_a_limit_on_unfinished_tasks_everything_is_read_more_often() -> None:
    of = times()
    usual_s = mean_wait_s(of)
    of.eager = True
    assert 0.7 * math.sqrt(EAGER) < usual_s / mean_wait_s(of) < 1.5 * math.sqrt(EAGER)
    of.eager = False
    assert mean_wait_s(of) == pytest.approx(usual_s, rel=0.02)


def test_shorter_tasks_are_read_more_eagerly_and_longer_ones_as_usual() -> None:
    of = times()
    assert mean_wait_s(of, 2.0, estimated_time_s=2.0) < 0.6 * mean_wait_s(of, 8.0)
    assert mean_wait_s(of, 32.0, estimated_time_s=32.0) > mean_wait_s(of, 8.0)


def test_while_requests_leave_late_tasks_are_read_less_often_and_then_as_before() -> None:
    of = times()
    usual_s = mean_wait_s(of)
    for _ in range(50):
        of.sent(5.0)
    assert mean_wait_s(of) > 1.5 * usual_s
    for _ in range(1000):
        of.sent(5.0)
    longest_s = mean_wait_s(of)
    assert longest_s < 20.0 * usual_s
    for _ in range(2000):
        of.sent(0.0)
    assert mean_wait_s(of) == pytest.approx(usual_s, rel=0.02)


def test_one_law_serves_estimates_that_are_alike_and_others_have_their_own() -> None:
    of = times()
    law = of.law(8.0, age_known=True)
    assert of.law(9.5, age_known=True) is law
    assert of.law(None, age_known=True) is law
    assert of.law(2.0, age_known=True) is not law
    assert of.law(8.0, age_known=False) is not law


@given(st.lists(ESTIMATES, max_size=200))
def test_there_are_few_laws_however_many_estimates_are_announced(estimates: list[float | None]) -> None:
    of = times()
    assert len({id(of.law(each, age_known=True)) for each in estimates}) <= 14


def test_a_task_of_unknown_age_is_looked_at_sooner_than_a_new_one() -> None:
    """It may be nearly done. And as long as nothing is learnt, no age of it is better than another."""
    of = times()
    new, taken_up = (of.law(8.0, age_known=known) for known in (True, False))
    assert of.wait_s(taken_up, 0.0, awaited=False) < of.wait_s(new, 0.0, awaited=False)
    assert reads_by(of, taken_up, 60.0) < 30


def test_tasks_that_were_submitted_together_do_not_stay_in_step() -> None:
    of = times()
    law = of.law(8.0, age_known=True)
    assert len({of.wait_s(law, 0.0, awaited=False) for _ in range(100)}) == 100


def test_a_task_that_hangs_is_read_ever_more_rarely() -> None:
    """Half an hour of a task that said eight seconds costs a third of what a read every three seconds would."""
    of = times()
    assert reads_by(of, of.law(8.0, age_known=True), 1800.0) <= 200
