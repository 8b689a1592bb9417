"""The law of how long tasks take: it is learnt from reads, and says when a read is worth its while."""

import math
from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krea_async.control.hazard import HORIZON_S, Law

WORTH_S = 0.2
AGES = st.floats(0.0, 1e7)


def taught(law: Law, seconds: Callable[[Random], float], tasks: int, *, every_s: float = 0.5, seed: int = 0) -> Law:
    """`law` after `tasks` tasks, each read every `every_s` seconds of its age."""
    rng = Random(seed)
    for _ in range(tasks):
        ends_s, age_s = seconds(rng), 0.0
        while age_s + every_s < ends_s:
            law.saw_running(age_s, age_s + every_s)
            age_s += every_s
        law.saw_finished(age_s, age_s + every_s)
    return law


def reads(law: Law, until_s: float, worth_s: float = WORTH_S) -> list[float]:
    """The ages at which a task that does not finish is read."""
    ages_s = [0.0]
    while ages_s[-1] < until_s:
        ages_s.append(ages_s[-1] + law.plan(worth_s).wait_s(ages_s[-1]))
    return ages_s[1:]


def expected(law: Law, seconds: Callable[[Random], float], worth_s: float = WORTH_S) -> tuple[float, float]:
    """Mean lag in seconds and mean reads of tasks that take so long."""
    rng = Random(99)
    drawn = sorted(seconds(rng) for _ in range(2000))
    ages_s = reads(law, drawn[-1], worth_s)
    lag_s, many, n = 0.0, 0, 0
    for ends_s in drawn:
        while ages_s[n] < ends_s:
            n += 1
        lag_s += ages_s[n] - ends_s
        many += n + 1
    return lag_s / len(drawn), many / len(drawn)


def log_normal(median_s: float, sigma: float) -> Callable[[Random], float]:
    return lambda rng: median_s * math.exp(sigma * rng.gauss(0.0, 1.0))


@pytest.mark.parametrize("typical_s", [0.5, 2.0, 8.0, 64.0, 3600.0])
@pytest.mark.parametrize("shape", [1.0, 5.0])
def test_a_task_that_never_finishes_is_read_for_ever_at_growing_ages(typical_s: float, shape: float) -> None:
    ages_s = reads(Law(typical_s, shape), HORIZON_S + 600.0)
    assert all(math.isfinite(age_s) for age_s in ages_s)
    assert all(later > earlier for earlier, later in pairwise(ages_s))
    assert len(ages_s) < 700


def test_beforehand_a_task_is_expected_around_its_estimate() -> None:
    ages_s = reads(Law(8.0, 5.0), 16.0)
    assert 1.5 < ages_s[0] < 4.0, "a first look comes early: the estimate may be wrong"
    waits_s = [later - earlier for earlier, later in pairwise(ages_s)]
    assert min(waits_s) < 1.2 < waits_s[0]


def test_an_estimate_that_is_far_too_long_does_not_keep_a_task_waiting() -> None:
    """A task that is said to take five minutes and takes eight seconds is late by three at the worst."""
    ages_s = reads(Law(300.0, 5.0), 60.0)
    assert min(age_s for age_s in ages_s if age_s >= 8.0) - 8.0 < 3.0


@pytest.mark.parametrize("typical_s", [2.0, 8.0, 32.0])
def test_the_law_is_learnt_whatever_was_expected(typical_s: float) -> None:
    """Tasks of about 12 s: reads and lag come to what they do for those who knew it, or little more."""
    seconds = log_normal(12.0, 0.2)
    law = taught(Law(typical_s, 5.0), seconds, 500)
    lag_s, many = expected(law, seconds)
    known_lag_s, known_many = expected(taught(Law(12.0, 5.0), seconds, 5000), seconds)
    assert lag_s + WORTH_S * many < 1.25 * (known_lag_s + WORTH_S * known_many)


def test_the_hazard_that_is_learnt_is_the_true_one() -> None:
    """Tasks that finish at any age with the same odds, one in five seconds."""
    law = taught(Law(8.0, 5.0), lambda rng: rng.expovariate(0.2), 6000, every_s=0.1)
    hazard = law.hazard()
    seen = hazard[8:28]  # ages of 1 to 10 s
    assert sum(seen) / len(seen) == pytest.approx(0.2, rel=0.15)
    assert all(0.1 < each < 0.32 for each in seen)


def test_tasks_that_still_run_teach_too() -> None:
    """Nobody has finished; and yet what was expected at 8 s is expected no longer when it did not happen to anybody."""
    law = Law(8.0, 5.0)
    before_s = law.plan(WORTH_S).wait_s(8.0)
    for _ in range(200):
        law.saw_running(0.0, 12.0)
    assert law.plan(WORTH_S).wait_s(8.0) > 2.0 * before_s


def test_what_was_learnt_long_ago_is_forgotten() -> None:
    law = taught(Law(8.0, 5.0), log_normal(4.0, 0.2), 2000)
    taught(law, log_normal(20.0, 0.2), 2000, seed=1)
    afresh = taught(Law(8.0, 5.0), log_normal(20.0, 0.2), 2000, seed=1)
    now, then = (expected(each, log_normal(20.0, 0.2)) for each in (law, afresh))
    assert now[0] + WORTH_S * now[1] < 1.15 * (then[0] + WORTH_S * then[1])


def test_tasks_that_are_followed_by_the_thousand_are_remembered_for_longer() -> None:
    few, many = Law(8.0, 5.0), Law(8.0, 5.0)
    many.following = 10_000
    for law in (few, many):
        taught(law, log_normal(4.0, 0.2), 1000)
        taught(law, log_normal(20.0, 0.2), 1000, seed=1)
    middle = 19  # the bin of 4.2 s
    assert few.hazard()[middle] < many.hazard()[middle]


@given(worth_s=st.floats(1e-6, 10.0), more=st.floats(1.01, 10.0), age_s=st.floats(0.0, 100.0))
def test_a_read_that_is_worth_more_lag_comes_later(worth_s: float, more: float, age_s: float) -> None:
    law = Law(8.0, 5.0)
    assert law.plan(worth_s).wait_s(age_s) <= law.plan(worth_s * more).wait_s(age_s)


SEEN = st.lists(st.tuples(st.booleans(), AGES, AGES), max_size=60)


@given(
    seen=SEEN,
    typical_s=st.floats(0.5, 3600.0),
    shape=st.sampled_from([1.0, 5.0]),
    worth_s=st.floats(1e-9, 1e3),
    age_s=st.floats(-1.0, 1e9),
)
def test_whatever_was_seen_the_next_read_comes(
    seen: list[tuple[bool, float, float]], typical_s: float, shape: float, worth_s: float, age_s: float
) -> None:
    """Also with ages that go backwards, or are those of months: no wait is negative, infinite, or no number."""
    law = Law(typical_s, shape)
    for finished, since_s, until_s in seen:
        (law.saw_finished if finished else law.saw_running)(since_s, until_s)
    assert all(0.0 < each < math.inf for each in law.hazard())
    wait_s = law.plan(worth_s).wait_s(age_s)
    assert 0.0 <= wait_s < math.inf


def test_a_plan_is_kept_while_little_is_new() -> None:
    law = Law(8.0, 5.0)
    plan = law.plan(WORTH_S)
    law.saw_running(0.0, 4.0)
    assert law.plan(WORTH_S) is plan
    for _ in range(20):
        law.saw_running(0.0, 4.0)
    assert law.plan(WORTH_S) is not plan
