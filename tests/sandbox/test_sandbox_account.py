import tracemalloc
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krea_async.models import ImageRequest, Quality
from krea_async.sandbox import Durations, Limits
from krea_async.sandbox.account import Account
from krea_async.sandbox.replies import Refusal
from krea_async.sandbox.settings import Settings
from krea_async.sandbox.tasks import TaskRecord


def account(granted: float | None = 1000.0, **settings: Any) -> Account:
    return Account(granted, Settings(**{"durations": Durations.fixed(10.0), **settings}), Random(1))


def make(
    of: Account, now: float, *, quality: Quality = "1K", seed: int | None = None, end: str = "completed"
) -> TaskRecord:
    return of.make(ImageRequest("x", quality=quality, seed=seed), {}, key=None, callback_url=None, end=end, now=now)


def test_a_task_is_pending_then_processing_then_finished_by_the_clock_alone() -> None:
    ours = account(durations=Durations(queue_s=2.0, run_s=10.0, sigma=0.0))
    task = make(ours, 100.0)
    seen = [(task.status(now), task.progress(now)) for now in (100.0, 101.9, 102.0, 107.0, 111.99, 112.0)]
    assert seen == [
        ("pending", 0), ("pending", 0), ("processing", 0), ("processing", 50), ("processing", 99), ("completed", 100),
    ]  # fmt: skip


def test_durations_are_lognormal_around_their_medians() -> None:
    rng, durations = Random(1), Durations(queue_s=1.0, run_s=4.0, sigma=0.5)
    drawn = sorted(durations.draw(rng)[1] for _ in range(4001))
    assert drawn[2000] == pytest.approx(4.0, rel=0.05)
    assert drawn[int(4001 * 0.8413)] == pytest.approx(4.0 * 2.718281828**0.5, rel=0.1)


@pytest.mark.parametrize(("end", "used"), [("completed", 1.8), ("generation_timeout", 0.0), ("cancelled", 0.0)])
def test_credits_are_reserved_at_once_and_charged_only_for_a_picture(end: str, used: float) -> None:
    ours = account(10.0)
    task = make(ours, 0.0, quality="2K", end=end)
    assert (ours.remaining, ours.reserved, ours.used) == (8.2, 1.8, 0.0)
    ours.settle(9.999)
    assert ours.reserved == 1.8
    ours.settle(10.0)
    assert (ours.remaining, ours.reserved, ours.used) == (10.0 - used, 0.0, used)
    assert task.credits_charged == used


def test_a_task_that_the_balance_does_not_cover_is_refused_with_402() -> None:
    ours = account(0.9)
    make(ours, 0.0)
    make(ours, 0.0)
    with pytest.raises(Refusal) as refused:
        make(ours, 0.0)
    assert refused.value.reply.status == 402
    assert len(ours.tasks) == 2


def test_a_failed_task_gives_its_credits_back_to_the_next() -> None:
    ours = account(0.45)
    make(ours, 0.0, end="service_error")
    assert make(ours, 10.0).id in ours.tasks


def test_the_limit_of_unfinished_tasks_is_exact_and_its_wait_is_true() -> None:
    ours = account(limits=Limits(unfinished=2, retry_after="fraction"))
    make(ours, 0.0)
    make(ours, 4.0)
    with pytest.raises(Refusal) as refused:
        make(ours, 9.5)
    assert refused.value.reply.status == 429
    assert refused.value.reply.headers["Retry-After"] == "0.500"
    make(ours, 10.0)
    assert (ours.unfinished, ours.max_unfinished) == (2, 2)


def test_seed_0_or_none_lets_the_gateway_choose_one() -> None:
    ours = account()
    seeds = [make(ours, 0.0, seed=seed).seed_used for seed in (None, 0, None, 7)]
    assert seeds[3] == 7
    assert len(set(seeds[:3])) == 3
    assert min(seeds) > 0


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 5.0),
            st.sampled_from(["completed", "cancelled", "service_error"]),
            st.sampled_from(["1K", "2K"]),
        ),
        max_size=60,
    )
)
def test_the_books_balance_at_every_moment(steps: list[tuple[float, str, Quality]]) -> None:
    """Compared with recounting all tasks, which is what the heap saves."""
    ours, now, most = account(durations=Durations(queue_s=1.0, run_s=5.0, sigma=0.8)), 0.0, 0
    for gap_s, end, quality in steps:
        now += gap_s
        make(ours, now, quality=quality, end=end)
        tasks = ours.tasks.values()
        running = [task for task in tasks if task.finishes > now]
        most = max(most, len(running))
        charged = sum(task.request.credits for task in tasks if task.finishes <= now and task.end == "completed")
        assert ours.unfinished == len(running)
        assert ours.used == pytest.approx(charged)
        assert ours.reserved == pytest.approx(sum(task.request.credits for task in running))
        assert ours.remaining == pytest.approx(1000.0 - ours.used - ours.reserved)
    ours.settle(now + 1e6)
    assert (ours.unfinished, ours.reserved, ours.max_unfinished) == (0, 0.0, most)
    assert ours.used == round(sum(task.credits_charged for task in ours.tasks.values()), 6)


def test_a_task_costs_under_two_kilobytes() -> None:
    """So 100,000 of them stay far below a gigabyte."""
    ours, count = account(None), 2000
    tracemalloc.start()
    try:
        for number in range(count):
            body = {"model": "krea-2-turbo", "prompt": f"prompt {number}", "size": "1:1", "quality": "1K"}
            request = ImageRequest(f"prompt {number}")
            ours.make(request, body, key=f"key-{number:020}", callback_url=None, end="completed", now=float(number))
        assert tracemalloc.get_traced_memory()[0] < count * 2000
    finally:
        tracemalloc.stop()
