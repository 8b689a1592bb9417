"""The backlog: submissions wait before links die, and go on when the downloads have caught up."""

import math
from random import Random

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from krea_async.control.backlog import LINK_LIFETIME_S, Backlog, BacklogPolicy, deadline_s, earliest_deadline_first

NIGHT_S = 1_751_280_000.0
"""A moment in Unix seconds, as links have them."""


def backlog(**policy: float) -> Backlog:
    return Backlog(BacklogPolicy(**policy))


def filled(into: Backlog, pictures: int, *, left_s: float, now: float = NIGHT_S) -> Backlog:
    for number in range(pictures):
        into.completed(f"task-{number}", now + left_s, now)
    return into


def test_with_nothing_to_fetch_nobody_waits() -> None:
    assert backlog().may_submit(NIGHT_S)
    emptied = filled(backlog(), 10, left_s=-1.0)
    for number in range(10):
        emptied.dropped(f"task-{number}", NIGHT_S)
    assert emptied.may_submit(NIGHT_S + 3600.0)


def test_before_anything_was_fetched_the_assumed_rate_decides() -> None:
    assert filled(backlog(), 50, left_s=100.0).may_submit(NIGHT_S)
    assert not filled(backlog(), 51, left_s=100.0).may_submit(NIGHT_S)
    assert filled(backlog(assumed_rate=2.0), 100, left_s=100.0).may_submit(NIGHT_S)


def test_a_fresh_night_s_work_does_not_wait() -> None:
    """A day for 40,000 pictures at the assumed one a second."""
    assert filled(backlog(), 40_000, left_s=LINK_LIFETIME_S).may_submit(NIGHT_S)


def test_the_earliest_deadline_counts_and_not_the_latest() -> None:
    pictures = filled(backlog(), 60, left_s=LINK_LIFETIME_S)
    assert pictures.may_submit(NIGHT_S)
    pictures.completed("old", NIGHT_S + 100.0, NIGHT_S)
    assert not pictures.may_submit(NIGHT_S)
    pictures.saved("old", NIGHT_S)
    assert pictures.may_submit(NIGHT_S)


def test_a_link_that_is_dead_already_stops_submissions_until_it_is_dealt_with() -> None:
    pictures = filled(backlog(), 1, left_s=-5.0)
    assert not pictures.may_submit(NIGHT_S)
    pictures.dropped("task-0", NIGHT_S)
    assert pictures.may_submit(NIGHT_S)


def test_a_new_link_replaces_the_old_one() -> None:
    pictures = filled(backlog(), 1, left_s=-5.0)
    pictures.completed("task-0", NIGHT_S + LINK_LIFETIME_S, NIGHT_S)
    assert len(pictures) == 1
    assert pictures.may_submit(NIGHT_S)


def test_submissions_go_on_only_when_there_is_air() -> None:
    """Between the two margins the answer stays what it was."""
    pictures = filled(backlog(margin=0.5, resume_margin=0.4), 50, left_s=100.0)
    answers = []
    for step in (*range(50, 55), *range(53, 38, -1), *range(40, 53)):
        for number in range(60):
            held = f"task-{number}"
            if number < step:
                pictures.completed(held, NIGHT_S + 100.0, NIGHT_S)
            else:
                pictures.dropped(held, NIGHT_S)
        answers.append((step, pictures.may_submit(NIGHT_S)))
    assert answers == [
        *((step, step <= 50) for step in range(50, 55)),
        *((step, step <= 40) for step in range(53, 38, -1)),
        *((step, step <= 50) for step in range(40, 53)),
    ]


def fetch(pictures: Backlog, rate: float, *, for_s: float, now: float = NIGHT_S) -> float:
    """Fetch evenly, with always more to fetch; returns the moment after."""
    for number in range(1, round(for_s * rate) + 1):
        at_s = now + number / rate
        pictures.completed(f"next-{number}", at_s + LINK_LIFETIME_S, at_s)
        pictures.saved(f"next-{number}", at_s)
    return now + for_s


@given(rate=st.floats(0.1, 50.0), span_s=st.sampled_from([10.0, 60.0]))
def test_the_rate_becomes_what_is_observed(rate: float, span_s: float) -> None:
    pictures = filled(backlog(span_s=span_s), 1, left_s=LINK_LIFETIME_S)
    fetch(pictures, rate, for_s=8 * span_s)
    assert pictures.rate == pytest.approx(rate, rel=0.1, abs=1.5 / span_s)  # one picture more or less in a span


def test_a_rate_that_changes_is_known_after_a_few_spans() -> None:
    pictures = filled(backlog(span_s=60.0), 1, left_s=LINK_LIFETIME_S)
    now = fetch(pictures, 20.0, for_s=600.0)
    fetch(pictures, 2.0, for_s=300.0, now=now)
    assert pictures.rate == pytest.approx(2.0, rel=0.1)


def test_a_standstill_is_seen_though_nothing_is_reported() -> None:
    pictures = filled(backlog(), 100, left_s=LINK_LIFETIME_S)
    now = fetch(pictures, 20.0, for_s=600.0)
    assert pictures.may_submit(now)
    assert not pictures.may_submit(now + 900.0)


def test_time_without_anything_to_fetch_says_nothing_of_the_rate() -> None:
    pictures = filled(backlog(), 1, left_s=LINK_LIFETIME_S)
    now = fetch(pictures, 20.0, for_s=600.0)
    pictures.saved("task-0", now)
    before = pictures.rate
    pictures.may_submit(now + 6 * 3600.0)
    pictures.completed("late", now + 12 * 3600.0, now + 7 * 3600.0)
    assert pictures.rate == before


def test_pictures_that_come_one_at_a_time_are_as_slow_as_each_of_them() -> None:
    pictures = backlog(span_s=60.0)
    for number in range(100):
        begin_s = NIGHT_S + 1000.0 * number
        pictures.completed("next", begin_s + LINK_LIFETIME_S, begin_s)
        pictures.saved("next", begin_s + 20.0)
    assert pictures.rate == pytest.approx(1 / 20.0, rel=0.2)


def test_a_clock_that_is_set_back_breaks_nothing() -> None:
    pictures = filled(backlog(), 1, left_s=LINK_LIFETIME_S)
    before = pictures.rate
    assert pictures.may_submit(NIGHT_S)
    assert pictures.may_submit(NIGHT_S - 3600.0)
    assert pictures.rate == before
    assert pictures.may_submit(NIGHT_S - 3540.0)
    assert pictures.rate == pytest.approx(before / math.e), "a minute passed without a picture"


def test_a_week_without_a_download_ends_in_a_wait_and_not_in_an_overflow() -> None:
    pictures = filled(backlog(span_s=1.0), 1, left_s=30 * 86_400.0)
    assert not pictures.may_submit(NIGHT_S + 7 * 86_400.0)
    pictures.saved("task-0", NIGHT_S + 7 * 86_400.0)
    assert pictures.may_submit(NIGHT_S + 7 * 86_400.0)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["completed", "saved", "dropped"]),
        st.integers(0, 8),
        st.floats(-100.0, 1000.0),
        st.floats(0.0, 50.0),
    ),
    max_size=200,
)


@given(events=EVENTS)
def test_no_order_of_events_confuses_the_earliest_deadline(
    events: list[tuple[str, int, float, float]],
) -> None:
    """Without a second margin the answer is one inequality."""
    pictures = backlog(margin=0.5, resume_margin=0.5)
    links: dict[str, float] = {}
    now = NIGHT_S
    for event, number, left_s, passed_s in events:
        now += passed_s
        task_id = f"task-{number}"
        if event == "completed":
            links[task_id] = now + left_s
            pictures.completed(task_id, now + left_s, now)
        else:
            links.pop(task_id, None)
            (pictures.saved if event == "saved" else pictures.dropped)(task_id, now)
        assert len(pictures) == len(links)
        left_of_all_s = max(0.0, min(links.values(), default=math.inf) - now)
        assert pictures.may_submit(now) == (not links or len(links) <= pictures.rate * 0.5 * left_of_all_s)


def test_a_picture_that_is_never_fetched_does_not_keep_the_others_in_memory() -> None:
    pictures = filled(backlog(), 1, left_s=100.0)
    for number in range(100_000):
        pictures.completed(f"next-{number}", NIGHT_S + 200.0 + number, NIGHT_S)
        pictures.saved(f"next-{number}", NIGHT_S)
    assert len(pictures._heap) < 100


@frozen
class Row:
    accepted_s: float
    expires_s: float | None


def test_pictures_are_fetched_in_the_order_in_which_their_links_die() -> None:
    """A task that was not seen completed may have been so since it was accepted."""
    rows = [Row(50.0, None), Row(0.0, 50.0 + LINK_LIFETIME_S - 1.0), Row(0.0, None), Row(0.0, 10.0)]
    shuffled = Random(0).sample(rows, len(rows))
    assert earliest_deadline_first(shuffled) == [rows[3], rows[2], rows[1], rows[0]]
    assert deadline_s(rows[2]) == 86_400.0


@pytest.mark.parametrize(
    "bad",
    [
        {"margin": 0.0},
        {"margin": 1.1},
        {"margin": 0.3},
        {"resume_margin": 0.0},
        {"resume_margin": 0.6},
        {"assumed_rate": 0.0},
        {"span_s": 0.0},
        {"span_s": float("nan")},
    ],
)
def test_a_policy_that_cannot_be_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        BacklogPolicy(**bad)
