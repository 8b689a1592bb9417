"""When the scheduler has tasks read: together, when it pays, as their law was learnt, at a cost that does not grow."""

import math
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random

import pytest
from attrs import evolve
from following import TIMEOUT_S, Outcomes, done, next_due, processing, scheduler

from krea_async.control.polling import PollPolicy
from krea_async.followed import Followed
from krea_async.gateway.client import MAX_BATCH_IDS, Readings
from krea_async.models import Task
from krea_async.scheduler import Scheduler


def test_a_full_request_leaves_as_soon_as_fifty_are_due() -> None:
    tasks, outcomes = scheduler(PollPolicy(shortest_s=1.0, longest_s=1.0, window_s=0.2, ahead_s=0.0)), Outcomes()
    for n in range(60):
        outcomes.follow(tasks, f"t{n}", now=0.002 * n)
    assert tasks.next_read_s() == pytest.approx(1.0 + 0.002 * 49, abs=0.011)
    assert len(tasks.take_due(1.11)) == 50
    assert tasks.next_read_s() == pytest.approx(1.0 + 0.002 * 50 + 0.2, abs=0.011), "the rest wait for company again"


def test_a_task_that_is_waited_for_is_read_before_the_rest() -> None:
    tasks, outcomes = scheduler(PollPolicy(window_s=0.0, ahead_s=0.0)), Outcomes()
    outcomes.follow(tasks, "row")
    outcomes.follow(tasks, "waited for", awaited=True)
    assert next_due(tasks)[1] == ["waited for"]


def test_eagerness_holds_for_reads_from_then_on() -> None:
    waits = []
    for eager in (False, True):
        tasks, outcomes = scheduler(PollPolicy(window_s=0.0, ahead_s=0.0)), Outcomes()
        assert not tasks.eager
        tasks.eager = eager
        outcomes.follow(tasks, "a")
        waits.append(tasks.next_read_s())
    assert waits[1] < 0.9 * waits[0]


def lags(of: Scheduler, seconds: Callable[[int], float], many: int, at_once: int) -> list[float]:
    """How late each of these tasks is known to be finished; so many are unfinished at a time."""
    finishes: dict[str, float] = {}
    late: list[float] = []
    now = 0.0

    def follow() -> None:
        task_id = f"t{len(finishes)}"
        finishes[task_id] = now + seconds(len(finishes))
        task = Task(id=task_id, status="pending", estimated_time_s=8.0)
        of.follow(Followed(task_id, now, now + TIMEOUT_S, lambda _: late.append(now - finishes[task_id]), task), now)

    while len(late) < many:
        while len(of) < at_once:
            follow()
        now = max(now, of.next_read_s())
        ids = of.take_due(now)
        now += 0.02
        ended = [task_id for task_id in ids if finishes[task_id] < now]
        of.read(ids, {**processing(*ids), **done(*ended)}, now)
    return late


def test_how_long_tasks_take_is_learnt_from_their_reads() -> None:
    """They take 20 s and are said to take 8: the first are read early and often, the later ones when they are due."""
    reads = Counter[int]()

    class Counting(Scheduler):
        def read(self, asked: Iterable[str], readings: Readings, now: float) -> list[str]:
            asked = list(asked)
            reads.update(int(task_id[1:]) // 500 for task_id in asked)
            return super().read(asked, readings, now)

    late = lags(Counting(PollPolicy(), Random(1)), lambda n: 20.0 + n % 10 / 10, 1500, 100)
    assert reads[2] < 0.65 * reads[0]
    assert sum(late[1000:]) / 500 < 0.6


def test_tasks_of_before_a_restart_teach_nothing_of_how_long_tasks_take() -> None:
    """A thousand that are finished when they are taken up do not make the next ones seem instant."""
    tasks, outcomes = scheduler(PollPolicy()), Outcomes()
    for n in range(1000):
        outcomes.follow(tasks, f"old{n}", status=None)
    while len(tasks):
        now, ids = next_due(tasks)
        tasks.read(ids, done(*ids), now)
    outcomes.follow(tasks, "new", now=10.0)
    first_s = tasks.next_read_s()
    fresh = scheduler(PollPolicy())
    outcomes.follow(fresh, "new", now=10.0)
    assert first_s == pytest.approx(fresh.next_read_s(), rel=0.05)


@pytest.mark.parametrize("how", ["said so", "replayed"])
def test_a_task_that_ran_before_it_was_taken_up_is_looked_at_sooner_than_a_new_one(how: str) -> None:
    first_s = []
    for taken_up in (False, True):
        tasks = scheduler(PollPolicy())
        task = Task(id="a", status="processing", replayed=taken_up and how == "replayed", estimated_time_s=8.0)
        said = taken_up and how == "said so"
        tasks.follow(Followed("a", 0.0, TIMEOUT_S, print, task, taken_up=said), 0.0)
        first_s.append(tasks.next_read_s())
    assert first_s[1] < 0.95 * first_s[0]


@pytest.mark.parametrize("estimated_time_s", [0.0, -5.0, 1e300, math.inf, math.nan, None])
def test_an_estimate_that_makes_no_sense_does_no_harm(estimated_time_s: float | None) -> None:
    tasks, outcomes = scheduler(PollPolicy()), Outcomes()
    mine = outcomes.setdefault("a", [])
    task = Task(id="a", status="pending", estimated_time_s=estimated_time_s)
    tasks.follow(Followed("a", 0.0, TIMEOUT_S, mine.append, task), 0.0)
    now, many = 0.0, 0
    while now < 60.0:
        now, ids = next_due(tasks)
        tasks.read(ids, {"a": evolve(task, status="processing")}, now)
        many += 1
    assert 5 < many < 60


def calls_of_three_turns(many: int) -> int:
    """Calls of functions that three turns of reading take with so many tasks in flight, when some of them finish."""
    tasks, outcomes = scheduler(PollPolicy(window_s=0.0)), Outcomes()
    for n in range(many):
        outcomes.follow(tasks, f"t{n}", now=n / many)
    readings = {**processing(*outcomes), **done(*list(outcomes)[::5])}
    seen = Counter[str]()

    def turn() -> None:
        ids = tasks.take_due(20.0)
        assert len(ids) == MAX_BATCH_IDS
        tasks.next_read_s()
        tasks.read(ids, readings, 20.0)

    turn()  # plans are made
    sys.setprofile(lambda _frame, event, _arg: seen.update([event]))
    try:
        for _ in range(3):
            turn()
    finally:
        sys.setprofile(None)
    return seen["call"] + seen["c_call"]


def test_a_read_costs_the_same_with_twenty_thousand_tasks_as_with_two_hundred() -> None:
    assert calls_of_three_turns(20_000) <= 1.3 * calls_of_three_turns(200)


def test_a_task_that_is_followed_takes_little_memory() -> None:
    tasks = scheduler(PollPolicy())
    known = [Task(id=f"task-unified-{n}", status="pending", estimated_time_s=8.0) for n in range(5000)]
    tracemalloc.start()
    try:
        for n, task in enumerate(known):
            tasks.follow(Followed(task.id, n / 100, n / 100 + TIMEOUT_S, print, task), n / 100)
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used_bytes / len(known) < 500


def test_twenty_thousand_tasks_all_get_their_outcome_in_few_requests() -> None:
    tasks, outcomes = scheduler(PollPolicy()), Outcomes()
    for n in range(20_000):
        outcomes.follow(tasks, f"t{n}", now=n / 20_000)
    requests = 0
    now = 0.0
    while len(tasks):
        now = max(now, tasks.next_read_s())
        ids = tasks.take_due(now)
        requests += 1
        tasks.read(ids, done(*ids), now)
    assert all(len(ends) == 1 for ends in outcomes.values())
    assert requests <= 450
