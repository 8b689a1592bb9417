"""What the scheduler makes of callbacks: a read soon, seldom more, and none that anybody has to believe."""

import heapq
import math
from itertools import count
from random import Random
from statistics import mean

import pytest
from attrs import define, field
from following import LOST, Outcomes, done, next_due, processing

from krea_async.control.polling import PollPolicy
from krea_async.followed import Followed
from krea_async.gateway.client import MAX_BATCH_IDS
from krea_async.models import Task
from krea_async.scheduler import HINT_EVERY_S, HINT_WINDOW_S, Scheduler

SLOW = PollPolicy(shortest_s=30.0, longest_s=30.0, window_s=0.0, ahead_s=0.0)


def scheduler(policy: PollPolicy = SLOW) -> Scheduler:
    return Scheduler(policy, Random(0))


def test_a_task_is_read_soon_after_its_callback_together_with_those_that_end_with_it() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    for name in "abc":
        outcomes.follow(tasks, name)
    tasks.hint("b", 8.0)
    tasks.hint("c", 8.05)
    assert tasks.next_read_s() == pytest.approx(8.0 + HINT_WINDOW_S)
    now, ids = next_due(tasks)
    assert ids == ["b", "c"]
    tasks.read(ids, done(*ids), now)
    assert [len(outcomes[name]) for name in "abc"] == [0, 1, 1]
    assert next_due(tasks)[1] == ["a"]


def test_one_that_is_alone_waits_for_nobody() -> None:
    tasks = scheduler()
    Outcomes().follow(tasks, "a")
    tasks.hint("a", 8.0)
    assert next_due(tasks) == (8.0, ["a"])


def test_fifty_go_into_one_request_and_a_flood_waits_for_its_turn() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    for n in range(120):
        outcomes.follow(tasks, f"t{n}")
        tasks.hint(f"t{n}", 5.0)
    assert [len(tasks.take_due(5.0 + HINT_WINDOW_S)) for _ in range(4)] == [MAX_BATCH_IDS, MAX_BATCH_IDS, 20, 0]


def test_ids_that_nobody_follows_leave_nothing_behind() -> None:
    tasks = scheduler()
    for n in range(10_000):
        tasks.hint(f"forged-{n}", 1.0)
    assert (len(tasks), tasks.next_read_s(), tasks.take_due(10.0)) == (0, math.inf, [])
    assert len(tasks._hinted) == 0


def test_a_flood_about_one_task_is_one_read_a_second() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    outcomes.follow(tasks, "a")
    reads = 0
    for step in range(1000):  # 10 s
        now = step / 100
        tasks.hint("a", now)
        while ids := tasks.take_due(now):
            reads += len(ids)
            tasks.read(ids, processing(*ids), now)
        assert len(tasks._hinted) <= 1
    assert reads == pytest.approx(10.0 / HINT_EVERY_S, abs=1)


def test_a_callback_during_the_read_of_a_forged_one_is_not_lost() -> None:
    """The read may have been answered just before the task finished."""
    tasks, outcomes = scheduler(), Outcomes()
    outcomes.follow(tasks, "a")
    tasks.hint("a", 5.0)
    _, ids = next_due(tasks)
    tasks.hint("a", 5.05)
    tasks.read(ids, processing("a"), 5.1)
    now, ids = next_due(tasks)
    assert (now, ids) == (5.0 + HINT_EVERY_S, ["a"])
    tasks.read(ids, done("a"), now)
    assert len(outcomes["a"]) == 1


def test_late_and_duplicate_callbacks_change_nothing() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    outcomes.follow(tasks, "a")
    outcomes.follow(tasks, "b")
    tasks.hint("a", 5.0)
    tasks.hint("a", 5.0)
    now, ids = next_due(tasks)
    assert ids == ["a"]
    tasks.read(ids, done("a"), now)
    tasks.hint("a", now)
    tasks.hint("a", now + 100.0)
    assert next_due(tasks)[1] == ["b"]
    assert len(outcomes["a"]) == 1


def test_a_task_whose_callback_was_read_in_vain_is_polled_as_if_none_would_come() -> None:
    """Forged, or read at a stale replica: whatever it was, there will not be another one."""
    policy = PollPolicy()
    waits_s = []
    for forged in (False, True):
        tasks, outcomes = scheduler(policy), Outcomes()
        rely(tasks, outcomes)
        follow_called_back(tasks, outcomes, "a", 0.0)
        if forged:
            tasks.hint("a", 1.0)
            now, ids = next_due(tasks)
            tasks.read(ids, processing("a"), now)
        waits_s.append(next_due(tasks)[0])
    relying_s, polling_s = waits_s
    assert polling_s < 10.0 < relying_s


def test_forged_callbacks_are_no_reason_to_rely_on_callbacks() -> None:
    """Somebody who knows the address announces every task at once; the true callbacks never come."""
    forged, alone = (Account(lost=1.0, forged=forged).run(300) for forged in (True, False))
    assert mean(forged.lags_s) < 1.2 * mean(alone.lags_s)
    assert forged.reads < alone.reads + 1.2 * 300, "and each costs one read"


def test_a_read_after_a_callback_that_fails_is_made_again_and_polling_goes_on() -> None:
    tasks, outcomes = scheduler(PollPolicy()), Outcomes()
    rely(tasks, outcomes)
    follow_called_back(tasks, outcomes, "a", 0.0)
    tasks.hint("a", 8.0)
    now, ids = next_due(tasks)
    tasks.not_read(ids, LOST, now)
    again_s, ids = next_due(tasks)
    assert ids == ["a"]
    assert again_s < now + 4.0
    tasks.read(ids, done("a"), again_s)
    assert len(outcomes["a"]) == 1


def test_the_deadline_ends_a_task_whatever_was_relied_on() -> None:
    tasks, outcomes = scheduler(PollPolicy()), Outcomes()
    rely(tasks, outcomes)
    follow_called_back(tasks, outcomes, "a", 0.0, timeout_s=12.0)
    while not outcomes["a"]:
        now, ids = next_due(tasks)
        tasks.read(ids, processing(*ids), now)
    assert now == pytest.approx(12.0, abs=PollPolicy().window_s + 0.01)


def test_with_every_callback_there_is_one_read_a_task() -> None:
    found = Account(lost=0.0).run(1000)
    assert found.reads <= 1100
    assert found.p95_lag_s < 0.3


@pytest.mark.parametrize("every_s", [0.05, 0.005])
def test_with_every_callback_lost_it_is_no_worse_than_polling_alone(every_s: float) -> None:
    """Lag is counted at what the policy says that a read is worth: it begins a little later, with fewer reads."""
    lost, alone = (Account(lost=1.0, called_back=called_back).run(1000, every_s) for called_back in (True, False))
    worth_s = PollPolicy().lag_per_read_s
    assert mean(lost.lags_s) + worth_s * lost.reads / 1000 < 1.02 * (mean(alone.lags_s) + worth_s * alone.reads / 1000)
    assert mean(lost.lags_s) < 1.1 * mean(alone.lags_s)
    assert lost.reads < 1.02 * alone.reads


@pytest.mark.parametrize("every_s", [0.05, 0.02])
def test_with_a_part_lost_reads_and_mean_lag_are_in_between(every_s: float) -> None:
    none, some, alone = (Account(lost=lost).run(2000, every_s) for lost in (0.0, 0.3, 1.0))
    assert none.reads < some.reads < alone.reads
    assert mean(none.lags_s) < mean(some.lags_s) < mean(alone.lags_s)


def test_polling_takes_over_when_callbacks_stop_and_gives_way_when_they_come_back() -> None:
    """Away from 100 s to 200 s. One lag at the beginning is long; after that, it is polling's."""
    account = Account(lost=0.0, away_s=(100.0, 200.0)).run(3000, every_s=0.1)
    alone = Account(called_back=False).run(3000, every_s=0.1)

    def lags_s(of: "Account", from_s: float, to_s: float) -> list[float]:
        return [lag_s for ended_s, lag_s in zip(of.ended_s, of.lags_s, strict=True) if from_s <= ended_s < to_s]

    assert max(lags_s(account, 20.0, 100.0)) < 0.3
    assert max(lags_s(account, 100.0, 130.0)) < 30.0
    assert mean(lags_s(account, 130.0, 200.0)) < 1.2 * mean(lags_s(alone, 130.0, 200.0))
    assert mean(lags_s(account, 220.0, 300.0)) < 0.3


def test_once_they_have_stopped_no_task_waits_for_its_callback_any_longer() -> None:
    tasks, outcomes = scheduler(PollPolicy()), Outcomes()
    rely(tasks, outcomes)
    for n in range(6):
        follow_called_back(tasks, outcomes, f"t{n}", -12.0)
    follow_called_back(tasks, outcomes, "a", 0.0)
    for n in range(6):  # before any of them is due
        tasks.read([f"t{n}"], done(f"t{n}"), 0.0)
    now, ids = next_due(tasks)
    assert ids == ["a"]
    assert now < 9.0


@define
class Account:
    """A gateway, a scheduler and a clock of their own: tasks of 8 s, a callback 20 ms after each end."""

    lost: float = 0.0
    forged: bool = False
    called_back: bool = True
    away_s: tuple[float, float] = (math.inf, math.inf)
    reads: int = 0
    lags_s: list[float] = field(factory=list)
    ended_s: list[float] = field(factory=list)

    @property
    def p95_lag_s(self) -> float:
        return sorted(self.lags_s)[int(0.95 * len(self.lags_s))]

    def run(self, many: int, every_s: float = 0.05) -> "Account":
        rng, drops = Random(7), Random(8)
        tasks, numbers = scheduler(PollPolicy()), count()
        coming: list[tuple[float, int, str, str]] = []
        ends_s: dict[str, float] = {}
        outcomes = Outcomes()
        for n in range(many):
            heapq.heappush(coming, (n * every_s, next(numbers), "made", f"t{n}"))
        now = 0.0
        while coming or len(tasks):
            event_s = coming[0][0] if coming else math.inf
            if tasks.next_read_s() < event_s:
                now = max(now, tasks.next_read_s())
                for task_id in (ids := tasks.take_due(now)):
                    self.reads += 1
                    if ends_s[task_id] <= now:
                        self.lags_s.append(now - ends_s[task_id])
                        self.ended_s.append(ends_s[task_id])
                finished = [task_id for task_id in ids if ends_s[task_id] <= now]
                running = [task_id for task_id in ids if ends_s[task_id] > now]
                tasks.read(ids, {**done(*finished), **processing(*running)}, now)
                continue
            now, _, what, name = heapq.heappop(coming)
            if what == "told":
                tasks.hint(name, now)
                continue
            ends_s[name] = now + 8.0 * math.exp(rng.gauss(0.0, 0.3))
            follow_called_back(tasks, outcomes, name, now, called_back=self.called_back)
            if self.forged:
                heapq.heappush(coming, (now + 0.5, next(numbers), "told", name))
            away = self.away_s[0] <= ends_s[name] < self.away_s[1]
            if self.called_back and drops.random() >= self.lost and not away:
                heapq.heappush(coming, (ends_s[name] + 0.02, next(numbers), "told", name))
        assert all(len(ends) == 1 for ends in outcomes.values())
        return self


def follow_called_back(
    tasks: Scheduler, outcomes: Outcomes, name: str, now: float, *, called_back: bool = True, timeout_s: float = 1800.0
) -> Followed:
    mine = outcomes.setdefault(name, [])
    followed = Followed(
        task_id=name,
        submitted_s=now,
        deadline_s=now + timeout_s,
        on_outcome=mine.append,
        task=Task(id=name, status="pending", estimated_time_s=8),
        called_back=called_back,
    )
    tasks.follow(followed, now)
    return followed


def rely(tasks: Scheduler, outcomes: Outcomes) -> None:
    """So many callbacks that came when the task had finished that others are waited for. Before time 0."""
    for n in range(200):
        follow_called_back(tasks, outcomes, f"before {n}", -100.0)
        tasks.hint(f"before {n}", -92.0)
        while len(tasks):
            now, ids = next_due(tasks)
            tasks.read(ids, done(*ids), now)
