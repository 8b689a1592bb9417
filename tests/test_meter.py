"""The figures of a batch: the pace of now and not of the whole, and no estimate before there is something to go by."""

import math
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from krea_async import (
    Abandoned,
    Accepted,
    BatchProgress,
    BatchReport,
    Completed,
    ContentPolicyError,
    Event,
    Failed,
    GeneratedImage,
    KreaError,
    Limit,
    Picture,
    Queued,
    TakenUp,
)
from krea_async.meter import ETA_WINDOW_S, RATE_WINDOW_S, Figures, Meter, clock, described

NOTHING = BatchProgress(
    in_flight=0, saved=0, failed=0, skipped=0, credits=0.0, bytes=0, rate_limited=0, limit=None, elapsed_s=0.0
)


def figures_at(meter: Meter, elapsed_s: float, report: BatchReport | None = None, **facts: Any) -> Figures:
    return meter.figures(evolve(NOTHING, elapsed_s=elapsed_s, **facts), report or BatchReport())


# --- pace -------------------------------------------------------------------------------------------------------------


def test_the_rate_is_that_of_now_and_not_of_the_whole_run() -> None:
    meter = Meter(rows=10_000)
    saved = 0
    for second in range(600):
        saved += 10 if second < 500 else 1
        figures = figures_at(meter, float(second), saved=saved, in_flight=50)
    assert figures.rate == pytest.approx(1.0)
    assert saved / 600 > 8


def test_nothing_is_claimed_before_it_is_known() -> None:
    meter = Meter(rows=100)
    start = figures_at(meter, 0.0, in_flight=20)
    waiting = figures_at(meter, 15.0, in_flight=20)  # the first pictures are being made
    first = figures_at(meter, 15.2, in_flight=20, saved=1)
    assert [(figures.rate, figures.eta_s) for figures in (start, waiting)] == [(None, None)] * 2
    assert first.eta_s is None
    assert "ETA" not in described(first)
    assert "pictures/s" not in described(waiting)


def test_the_time_left_is_not_distorted_by_the_wait_for_the_first_picture() -> None:
    """60 s without a picture, then two a second: 100 rows that are left take 50 s."""
    meter = Meter(rows=140)
    for tick in range(60):
        figures_at(meter, float(tick), in_flight=20)
    for tick in range(21):
        figures = figures_at(meter, 60.0 + tick, saved=2 * tick, in_flight=20)
    assert figures.eta_s == pytest.approx(50.0, rel=0.1)


def test_the_time_left_follows_a_pace_that_has_changed() -> None:
    meter = Meter(rows=5_000)
    saved = 0
    for second in range(300):
        saved += 10 if second < 100 else 2
        figures = figures_at(meter, float(second), saved=saved)
    assert figures.eta_s == pytest.approx((5_000 - saved) / 2, rel=0.05)


def test_a_batch_that_stands_still_has_a_rate_of_nothing_and_no_estimate() -> None:
    meter = Meter(rows=100)
    for second in range(20):
        figures_at(meter, float(second), saved=2 * second, in_flight=9)
    for second in range(20, 20 + int(ETA_WINDOW_S) + 2):
        figures = figures_at(meter, float(second), saved=38, in_flight=9)
    assert (figures.rate, figures.eta_s) == (0.0, None)


def test_rows_that_were_there_already_say_nothing_of_the_pace() -> None:
    meter = Meter(rows=10_000)
    there = BatchReport(already_saved=9_000)
    figures = figures_at(meter, 6.0, there, skipped=9_000, in_flight=20)
    assert (figures.rate, figures.eta_s, figures.ended) == (None, None, 9_000)


def test_no_estimate_where_nobody_knows_how_many_there_are_or_all_have_ended() -> None:
    for rows in (None, 40):
        meter = Meter(rows=rows)
        for second in range(21):
            figures = figures_at(meter, float(second), saved=2 * second)
        assert figures.eta_s is None


@given(
    st.lists(
        st.tuples(st.floats(0.0, 50.0), st.integers(0, 30), st.integers(0, 3), st.integers(0, 5)),
        min_size=1,
        max_size=60,
    ),
    st.integers(0, 500) | st.none(),
)
def test_no_history_makes_a_figure_that_cannot_be(steps: list[tuple[float, int, int, int]], rows: int | None) -> None:
    meter = Meter(rows=rows)
    now_s, saved, failed, skipped = 0.0, 0, 0, 0
    for pause_s, more, fewer, others in steps:
        now_s, saved, failed, skipped = now_s + pause_s, saved + more, failed + fewer, skipped + others
        figures = figures_at(meter, now_s, saved=saved, failed=failed, skipped=skipped, credits=saved * 0.45)
        assert figures.rate is None or 0.0 <= figures.rate < math.inf
        assert figures.eta_s is None or 0.0 < figures.eta_s < math.inf
        assert figures.credits_projected is None or figures.credits_projected >= round(figures.credits, 2)
        assert described(figures)
    assert len(meter._samples) <= 2 * ETA_WINDOW_S + 3  # half a second apart
    assert RATE_WINDOW_S < ETA_WINDOW_S


# --- money ------------------------------------------------------------------------------------------------------------


def test_what_it_will_have_cost_is_what_is_spent_and_what_is_left_by_the_list() -> None:
    listed = Meter(rows=100, credits_listed=90.0)
    assert figures_at(listed, 1.0).credits_projected == 90.0
    assert figures_at(listed, 2.0, saved=40, credits=36.0).credits_projected == 90.0
    assert figures_at(listed, 3.0, saved=40, failed=10, credits=36.0).credits_projected == 81.0
    assert figures_at(listed, 4.0, saved=90, failed=10, credits=81.0).credits_projected == 81.0


def test_without_a_price_the_pictures_so_far_tell_it() -> None:
    meter = Meter(rows=10)
    assert figures_at(meter, 1.0).credits_projected is None
    assert figures_at(meter, 2.0, saved=4, credits=1.8).credits_projected == pytest.approx(4.5)
    assert figures_at(Meter(), 2.0, saved=4, credits=1.8).credits_projected is None  # of a list without a length


# --- counts -----------------------------------------------------------------------------------------------------------


def test_the_sessions_events_tell_the_steps_apart() -> None:
    meter = Meter(rows=10)
    told: list[Event] = []
    meter.forward = told.append
    picture = Picture(index=1)
    accepted = Accepted(picture=picture, waiting_s=0.0, credits_reserved=None, replayed=False)
    completed = Completed(picture=picture, generating_s=1.0, lag_s=None, credits=0.45)
    failed = Failed(picture=picture, stage="generation", error="?", reason="?", charged="no")
    not_sent = Failed(picture=picture, stage="submission", error="?", reason="?", charged="no")
    left = Abandoned(picture=picture, stage="generation", charged="unknown")
    events = [Queued(picture=picture), *[accepted] * 6, TakenUp(picture=picture), completed, completed, failed]
    for event in [*events, not_sent, left]:
        meter.hear(event)
    figures = figures_at(meter, 5.0, saved=1, failed=2, in_flight=4)
    assert (figures.submitted, figures.generating, figures.generated, figures.saved) == (7, 3, 2, 1)
    assert len(told) == 13


def test_without_events_the_batch_itself_tells_what_it_can() -> None:
    figures = figures_at(Meter(rows=10), 5.0, saved=3, failed=1, in_flight=4)
    assert (figures.submitted, figures.generating, figures.generated) == (8, 4, 3)


def test_the_length_of_a_list_comes_from_what_is_unread() -> None:
    figures = figures_at(Meter(), 1.0, BatchReport(unread=90), saved=3, failed=1, in_flight=6)
    assert figures.rows == 100
    assert figures_at(Meter(rows=7), 1.0, BatchReport(unread=90)).rows == 7


def test_the_most_frequent_of_the_last_failures_are_named() -> None:
    meter = Meter()
    for number in range(300):
        old = KreaError("?", code="old")
        new = ContentPolicyError("?") if number % 3 else KreaError("?", code="timeout")
        meter.ended(GeneratedImage(status="failed", error=old if number < 150 else new))
    meter.ended(GeneratedImage(status="saved"))
    meter.ended(GeneratedImage(status="skipped", error=KreaError("?")))
    reasons = figures_at(meter, 1.0, failed=300).reasons
    assert [name for name, _ in reasons] == ["ContentPolicyError", "timeout"]
    assert sum(count for _, count in reasons) == 100


# --- in words ---------------------------------------------------------------------------------------------------------


def test_progress_says_only_what_there_is_to_say() -> None:
    assert described(figures_at(Meter(rows=10), 0.0, in_flight=4)) == "0/10 saved, 4 in flight, 0.00 credits"
    assert described(figures_at(Meter(), 0.0, in_flight=4)) == "0 saved, 4 in flight, 0.00 credits"


def test_progress_says_everything_that_matters() -> None:
    meter = Meter(rows=2_000, credits_listed=900.0)
    meter.ended(GeneratedImage(status="failed", error=KreaError("?", code="timeout")))
    report = BatchReport(already_saved=3, calls={"create": 60})
    for second in range(21):
        figures = figures_at(
            meter,
            float(second),
            report,
            in_flight=8,
            saved=2 * second,
            failed=5,
            skipped=5,
            credits=18.0,
            rate_limited=3,
            limit=Limit("rate", 19.84),
        )
    assert described(figures) == (
        "40/2,000 saved, 5 failed (1 timeout), 3 were there already, 2 skipped, 8 in flight, 2.0 pictures/s, "
        "18.00 of about 895.50 credits, ETA 16:15, 3 answered 429 (5%), limit 19.8/s, rate-like"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0:00"), (6.6, "0:07"), (59.6, "1:00"), (754.0, "12:34"), (3_599.9, "1:00:00"), (3_723.0, "1:02:03")],
)
def test_seconds_are_shown_as_people_read_them(seconds: float, words: str) -> None:
    assert clock(seconds) == words
