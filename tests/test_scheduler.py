"""The scheduler: who is due, and that every followed task gets its one outcome. The clock is an argument."""

import heapq
import logging
import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from krea_async import scheduler as module
from krea_async.control.backoff import RetryPolicy
from krea_async.control.polling import PollPolicy
from krea_async.errors import (
    AuthenticationError,
    InvalidRequestError,
    KreaError,
    RateLimitedError,
    ServiceError,
    TaskNotFoundError,
    TaskTimeoutError,
)
from krea_async.gateway.client import MAX_BATCH_IDS, Readings
from krea_async.gateway.replies import UNREADABLE
from krea_async.models import Task, TaskError
from krea_async.poller import Poller
from krea_async.scheduler import Followed, Outcome, Scheduler

STEADY = PollPolicy(first_s=1.0, share=0.2, min_s=1.0, max_s=15.0, jitter=0.0, window_s=0.0, ahead_s=0.0)
LOST = ServiceError("the connection broke")
TIMEOUT_S = 1800.0


def scheduler(policy: PollPolicy = STEADY) -> Scheduler:
    return Scheduler(policy, Random(0))


class Outcomes(dict[str, list[Outcome]]):
    """Every outcome that each task got."""

    def follow(
        self,
        into: Scheduler,
        task_id: str,
        now: float = 0.0,
        *,
        timeout_s: float = TIMEOUT_S,
        status: str | None = "pending",
    ) -> Followed:
        mine = self.setdefault(task_id, [])
        task = None if status is None else Task(id=task_id, status=status)
        followed = Followed(
            task_id=task_id, submitted_s=now, deadline_s=now + timeout_s, on_outcome=mine.append, task=task
        )
        into.follow(followed, now)
        return followed


def processing(*task_ids: str) -> Readings:
    return {task_id: Task(id=task_id, status="processing") for task_id in task_ids}


def done(*task_ids: str) -> Readings:
    return {task_id: Task(id=task_id, status="completed", results=("https://x/y",)) for task_id in task_ids}


def next_due(of: Scheduler) -> tuple[float, list[str]]:
    now = of.next_read_s()
    assert now < math.inf
    return now, of.take_due(now)


def test_ids_come_when_they_are_due_and_in_that_order() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    for n in (3, 1, 2):
        outcomes.follow(tasks, f"t{n}", now=float(n))
    assert tasks.next_read_s() == 2.0
    assert tasks.take_due(1.99) == []
    assert tasks.take_due(2.0) == ["t1"]
    assert tasks.take_due(10.0) == ["t2", "t3"]
    assert tasks.take_due(10.0) == []
    assert tasks.next_read_s() == math.inf


def test_a_task_of_before_a_restart_is_due_at_once() -> None:
    tasks = scheduler()
    Outcomes().follow(tasks, "old", now=7.0, status=None)
    assert next_due(tasks) == (7.0, ["old"])


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_task_that_is_finished_already_is_never_read(status: str) -> None:
    tasks, outcomes = scheduler(), Outcomes()
    outcomes.follow(tasks, "a", status=status)
    assert len(outcomes["a"]) == 1
    assert (len(tasks), tasks.next_read_s()) == (0, math.inf)


def test_at_most_fifty_ids_go_into_one_request_and_each_goes_out_once() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    for n in range(120):
        outcomes.follow(tasks, f"t{n}")
    taken = [tasks.take_due(5.0) for _ in range(4)]
    assert [len(ids) for ids in taken] == [50, 50, 20, 0]
    assert max(Counter(task_id for ids in taken for task_id in ids).values()) == 1
    assert MAX_BATCH_IDS == 50


def test_those_due_a_moment_later_come_along_and_the_first_waits_a_moment_for_them() -> None:
    tasks, outcomes = scheduler(PollPolicy(first_s=1.0, jitter=0.0, window_s=0.2, ahead_s=0.5)), Outcomes()
    outcomes.follow(tasks, "a", now=0.0)
    assert tasks.next_read_s() == 1.0, "one that is alone waits for nobody"
    outcomes.follow(tasks, "b", now=0.6)
    outcomes.follow(tasks, "c", now=0.8)
    assert tasks.next_read_s() == pytest.approx(1.2)
    assert tasks.take_due(1.19) == []
    assert tasks.take_due(1.2) == ["a", "b"]


def test_an_unfinished_task_is_read_again_later_and_later() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    outcomes.follow(tasks, "a")
    times: list[float] = []
    while len(times) < 30:
        now, ids = next_due(tasks)
        assert ids == ["a"]
        times.append(now)
        assert tasks.read(ids, processing("a"), now) == []
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert all(0.999 <= wait <= 15.001 for wait in waits)
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(waits))
    assert waits[-1] == pytest.approx(15.0)


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_finished_task_has_its_outcome_and_never_comes_again(status: str) -> None:
    tasks, outcomes = scheduler(), Outcomes()
    outcomes.follow(tasks, "a")
    outcomes.follow(tasks, "b")
    now, ids = next_due(tasks)
    end = Task(id="a", status=status, error=TaskError(code="c") if status == "failed" else None)
    tasks.read(ids, {"a": end, **processing("b")}, now)
    assert outcomes == {"a": [end], "b": []}
    tasks.read(ids, {"a": end}, now)
    tasks.not_read(["a"], LOST, now)
    assert outcomes["a"] == [end]
    for _ in range(20):
        now, ids = next_due(tasks)
        assert ids == ["b"]
        tasks.read(ids, processing("b"), now)


def test_replies_may_come_in_any_order_and_about_tasks_nobody_asked_for() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    for name in "abc":
        outcomes.follow(tasks, name)
    _, ids = next_due(tasks)
    tasks.read(ids, {**done("c", "x"), **done("a"), **processing("b")}, 2.0)
    assert [len(outcomes[name]) for name in "abc"] == [1, 0, 1]


def test_a_missing_id_is_no_failure_and_is_handed_back_to_be_asked_for_singly() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    for name in "abc":
        outcomes.follow(tasks, name)
    now, ids = next_due(tasks)
    assert tasks.read(ids, processing("b"), now) == ["a", "c"]
    assert tasks.read(["a", "c"], {**processing("a"), **done("c")}, now) == []
    assert [len(outcomes[name]) for name in "abc"] == [0, 0, 1]
    assert sorted(tasks.take_due(1e6)) == ["a", "b"]


def test_a_task_is_lost_only_when_two_single_reads_in_a_row_deny_it() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    outcomes.follow(tasks, "a")
    denial = TaskNotFoundError("no such task", status=404)
    for reading in (denial, Task(id="a", status="processing"), denial, denial):
        assert outcomes["a"] == []
        now, ids = next_due(tasks)
        tasks.read(ids, {"a": reading}, now)
    assert outcomes["a"] == [denial]
    assert tasks.next_read_s() == math.inf


def test_an_id_that_no_task_can_have_ends_at_once() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    outcomes.follow(tasks, "nonsense", status=None)
    now, ids = next_due(tasks)
    error = InvalidRequestError("no task id", code="invalid_task_id", status=400)
    tasks.read(ids, {"nonsense": error}, now)
    assert outcomes["nonsense"] == [error]


def test_an_unknown_status_is_followed_on_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    tasks, outcomes = scheduler(), Outcomes()
    followed = [outcomes.follow(tasks, name) for name in "ab"]
    for _ in range(5):
        now, ids = next_due(tasks)
        tasks.read(ids, {name: Task(id=name, status="on_hold", progress=7) for name in ids}, now)
    assert outcomes == {"a": [], "b": []}
    assert [one.task.status for one in followed if one.task is not None] == ["on_hold", "on_hold"]
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def test_replies_that_stay_unreadable_end_a_task_with_its_charge_unknown() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    outcomes.follow(tasks, "a")
    garbage = ServiceError("cannot be read", code=UNREADABLE)
    reads = 0
    while not outcomes["a"]:
        now, ids = next_due(tasks)
        tasks.read(ids, {"a": garbage}, now)
        reads += 1
    assert reads == module.UNREADABLE_TO_GIVE_UP
    assert outcomes["a"] == [garbage]
    assert garbage.charged == "unknown"


@pytest.mark.parametrize("how", ["processing", "error", "lost"])
def test_a_task_that_takes_too_long_is_given_up_with_its_id(how: str) -> None:
    tasks, outcomes = scheduler(), Outcomes()
    outcomes.follow(tasks, "task-unified-7", timeout_s=60.0)
    now = 0.0
    while not outcomes["task-unified-7"]:
        now, ids = next_due(tasks)
        if how == "lost":
            tasks.not_read(ids, LOST, now)
        else:
            error = ServiceError("bad gateway", status=502)
            tasks.read(ids, processing(*ids) if how == "processing" else dict.fromkeys(ids, error), now)
    [error_] = outcomes["task-unified-7"]
    assert isinstance(error_, TaskTimeoutError)
    assert (error_.task_id, error_.charged) == ("task-unified-7", "unknown")
    assert "task-unified-7" in error_.message
    assert 60.0 <= now <= 60.0 + 30.0 + 1.0, "it was looked at once more when its time was up"
    assert tasks.next_read_s() == math.inf


def test_a_read_that_fails_slows_everybody_and_loses_nobody(caplog: pytest.LogCaptureFixture) -> None:
    tasks, outcomes = scheduler(), Outcomes()
    for n in range(100):
        outcomes.follow(tasks, f"t{n}")
    now, waits = 1.0, []
    for _ in range(8):
        now = tasks.next_read_s()
        ids = tasks.take_due(now)
        assert len(ids) == 50
        tasks.not_read(ids, LOST, now)
        waits.append(tasks.next_read_s() - now)
        assert tasks.take_due(now) == []
    assert all(0.0 <= wait <= 31.0 for wait in waits)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    seen = set()
    now = 1000.0
    while ids := tasks.take_due(now):
        seen |= set(ids)
    assert len(seen) == 100
    assert all(not ends for ends in outcomes.values())


def test_a_pause_that_the_gateway_names_is_kept_by_the_whole_loop() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    for n in range(60):
        outcomes.follow(tasks, f"t{n}")
    now, ids = next_due(tasks)
    tasks.not_read(ids, RateLimitedError("slow down", retry_after_s=40.0), now)
    assert tasks.next_read_s() >= now + 40.0


def test_a_429_for_some_single_reads_slows_everybody_too() -> None:
    """Where there is no batch route, some reads of a turn may succeed and the rest be told to slow down."""
    tasks, outcomes = scheduler(), Outcomes()
    for name in "ab":
        outcomes.follow(tasks, name)
    now, ids = next_due(tasks)
    tasks.read(ids, {**processing("a"), "b": RateLimitedError("slow down", retry_after_s=40.0)}, now)
    assert tasks.next_read_s() >= now + 40.0


def test_a_refused_key_is_asked_about_until_the_tasks_time_out() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    outcomes.follow(tasks, "a", timeout_s=100.0)
    reads = 0
    while not outcomes["a"]:
        now, ids = next_due(tasks)
        tasks.not_read(ids, AuthenticationError("no", status=401), now)
        reads += 1
    assert isinstance(outcomes["a"][0], TaskTimeoutError)
    assert reads < 60


def test_a_forgotten_task_has_no_outcome_and_is_read_no_more() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    a, b = (outcomes.follow(tasks, name) for name in "ab")
    assert tasks.forget(a)
    assert not tasks.forget(a)
    now, ids = next_due(tasks)
    assert ids == ["b"]
    tasks.read(ids, done("b"), now)
    assert not tasks.forget(b)
    assert (outcomes["a"], len(outcomes["b"])) == ([], 1)


def test_the_end_tells_everybody_once_also_those_that_are_being_read() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    for name in "abc":
        outcomes.follow(tasks, name, now=float(ord(name)))
    ids = tasks.take_due(98.0)
    tasks.end_all(lambda task_id: KreaError("over", task_id=task_id))
    tasks.read(ids, done(*ids), 99.0)
    assert all(len(ends) == 1 for ends in outcomes.values())
    assert (len(tasks), tasks.next_read_s()) == (0, math.inf)


def test_two_that_follow_the_same_task_both_get_its_outcome() -> None:
    """As with `session.attach` of a task that is being followed already."""
    tasks, first, second = scheduler(), Outcomes(), Outcomes()
    first.follow(tasks, "a")
    second.follow(tasks, "a", now=0.5)
    reads = 0
    while not (first["a"] and second["a"]) and reads < 5:
        now = tasks.next_read_s()
        if now == math.inf:
            break
        ids = tasks.take_due(now)
        tasks.read(ids, done(*ids), now)
        reads += 1
    assert (len(first["a"]), len(second["a"])) == (1, 1)
    assert len(tasks) == 0


def test_to_forget_one_follower_of_a_task_does_not_take_it_from_the_other() -> None:
    tasks, first, second = scheduler(), Outcomes(), Outcomes()
    leaving = first.follow(tasks, "a")
    second.follow(tasks, "a")
    assert tasks.forget(leaving)
    now, ids = next_due(tasks)
    assert ids == ["a"]
    tasks.read(ids, done("a"), now)
    assert (first["a"], len(second["a"])) == ([], 1)


class Counting:
    """Stands in for `heapq` and counts the entries that are moved."""

    def __init__(self) -> None:
        self.pushes = self.pops = 0

    def heappush(self, heap: list[Any], entry: Any) -> None:
        self.pushes += 1
        heapq.heappush(heap, entry)

    def heappop(self, heap: list[Any]) -> Any:
        self.pops += 1
        return heapq.heappop(heap)


def test_a_read_costs_the_same_with_twenty_thousand_tasks_as_with_a_hundred(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    for many in (100, 20_000):
        tasks, outcomes = scheduler(), Outcomes()
        for n in range(many):
            outcomes.follow(tasks, f"t{n}", now=n / many)
        work = Counting()
        monkeypatch.setattr(module, "heapq", work)
        now = 5.0
        for _ in range(3):
            ids = tasks.take_due(now)
            assert len(ids) == 50 or many == 100
            tasks.next_read_s()
            tasks.read(ids, {**done(*ids[:10]), **processing(*ids[10:])}, now)
        monkeypatch.undo()
        moved.append(work.pushes + work.pops)
    assert moved[1] <= 300
    assert moved[1] <= 3 * moved[0]


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


READINGS = st.sampled_from(
    [
        "pending",
        "processing",
        "completed",
        "failed",
        "cancelled",
        "on_hold",
        "absent",
        "denied",
        "bad_id",
        "502",
        "garbage",
        "429",
    ]
)


class Following(RuleBasedStateMachine):
    """Whatever comes in whatever order: ids go out once at a time, and every followed task gets exactly one outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.tasks = Scheduler(PollPolicy(), Random(0))
        self.outcomes = Outcomes()
        self.followed: dict[str, Followed] = {}
        self.forgotten: set[str] = set()
        self.out: list[list[str]] = []

    @initialize(seed=st.integers(0, 99), jitter=st.sampled_from([0.0, 0.1, 0.9]))
    def begin(self, seed: int, jitter: float) -> None:
        self.tasks = Scheduler(PollPolicy(jitter=jitter), Random(seed))

    @rule(
        many=st.integers(1, 70), status=st.sampled_from([None, "pending", "completed"]), timeout_s=st.floats(0.1, 100.0)
    )
    def follow(self, many: int, status: str | None, timeout_s: float) -> None:
        for _ in range(many):
            task_id = f"t{len(self.followed)}"
            self.followed[task_id] = self.outcomes.follow(
                self.tasks, task_id, self.now, timeout_s=timeout_s, status=status
            )

    @rule(passed_s=st.floats(0.0, 40.0))
    def wait(self, passed_s: float) -> None:
        self.now += passed_s

    @rule()
    def wait_as_told(self) -> None:
        if self.tasks.next_read_s() < math.inf:
            self.now = max(self.now, self.tasks.next_read_s())
            assert self.taken(), "the scheduler said that something is due"

    @rule()
    def take(self) -> None:
        self.taken()

    def taken(self) -> list[str]:
        ids = self.tasks.take_due(self.now)
        assert len(ids) <= 50
        assert not set(ids) & {task_id for asked in self.out for task_id in asked}
        assert not any(self.outcomes[task_id] for task_id in ids)
        assert not set(ids) & self.forgotten
        if ids:
            self.out.append(ids)
        return ids

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 99), readings=st.lists(READINGS, min_size=1, max_size=50))
    def reply(self, which: int, readings: list[str]) -> None:
        ids = self.out.pop(which % len(self.out))
        found = {task_id: _reading(task_id, readings[n % len(readings)]) for n, task_id in enumerate(ids)}
        missing = self.tasks.read(ids, {task_id: it for task_id, it in found.items() if it is not None}, self.now)
        assert set(missing) <= {task_id for task_id, it in found.items() if it is None}
        if missing and which % 2:
            self.tasks.not_read(missing, LOST, self.now)
        elif missing:
            singly = [name if name != "absent" else "denied" for name in readings]
            answers = {task_id: _reading(task_id, singly[n % len(singly)]) for n, task_id in enumerate(missing)}
            self.tasks.read(missing, {task_id: it for task_id, it in answers.items() if it is not None}, self.now)

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 99), retry_after_s=st.none() | st.floats(0.0, 60.0))
    def fail(self, which: int, retry_after_s: float | None) -> None:
        ids = self.out.pop(which % len(self.out))
        self.tasks.not_read(ids, ServiceError("x", retry_after_s=retry_after_s), self.now)

    @precondition(lambda self: self.followed)
    @rule(which=st.integers(0, 999))
    def forget(self, which: int) -> None:
        task_id = f"t{which % len(self.followed)}"
        if self.tasks.forget(self.followed[task_id]):
            assert not self.outcomes[task_id]
            self.forgotten.add(task_id)

    @invariant()
    def nobody_gets_two_outcomes_and_the_rest_are_followed(self) -> None:
        ended = sum(len(ends) for ends in self.outcomes.values())
        assert all(len(ends) <= 1 for ends in self.outcomes.values())
        assert not any(self.outcomes[task_id] for task_id in self.forgotten)
        assert len(self.tasks) == len(self.followed) - ended - len(self.forgotten)

    def teardown(self) -> None:
        """From here on every read succeeds: nobody is left over."""
        for ids in self.out:
            for task_id in self.tasks.read(ids, {}, self.now):
                self.tasks.read([task_id], processing(task_id), self.now)
        for _ in range(10_000):
            if not len(self.tasks):
                break
            self.now = max(self.now, self.tasks.next_read_s())
            assert self.now < math.inf, "a task is followed and never due"
            ids = self.tasks.take_due(self.now)
            self.tasks.read(ids, done(*ids), self.now)
        assert {task_id for task_id, ends in self.outcomes.items() if len(ends) != 1} == self.forgotten


def _reading(task_id: str, name: str) -> Task | KreaError | None:
    errors: dict[str, Callable[[], KreaError]] = {
        "denied": lambda: TaskNotFoundError("x", status=404),
        "bad_id": lambda: InvalidRequestError("x", code="invalid_task_id"),
        "502": lambda: ServiceError("x", status=502),
        "garbage": lambda: ServiceError("x", code=UNREADABLE),
        "429": lambda: RateLimitedError("x", retry_after_s=2.0),
    }
    if name == "absent":
        return None
    return errors[name]() if name in errors else Task(id=task_id, status=name)


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# the loop that acts on it


class Answers:
    """A gateway stand-in: answers reads as told, from memory."""

    def __init__(self, *turns: Readings | KreaError) -> None:
        self.turns = list(turns)
        self.batches: list[list[str]] = []
        self.singles: list[list[str]] = []

    async def read_many(self, ids: list[str]) -> Readings:
        self.batches.append(ids)
        turn = self.turns.pop(0) if self.turns else done(*ids)
        if isinstance(turn, KreaError):
            raise turn
        return turn

    async def read_singly(self, ids: list[str]) -> Readings:
        self.singles.append(ids)
        turn = self.turns.pop(0) if self.turns else done(*ids)
        if isinstance(turn, KreaError):
            raise turn
        return turn


AT_ONCE = PollPolicy(first_s=0.0, min_s=0.001, max_s=0.001, window_s=0.0, ahead_s=0.0)


async def outcomes_of(answers: Answers, *task_ids: str) -> Outcomes:
    """What the poll loop makes of these answers."""
    outcomes = Outcomes()
    poller = Poller(answers, Scheduler(AT_ONCE, Random(0)))  # type: ignore[arg-type]
    now = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(poller.run)
        for task_id in task_ids:
            mine = outcomes.setdefault(task_id, [])
            poller.follow(Followed(task_id=task_id, submitted_s=now, deadline_s=now + 60, on_outcome=mine.append))
        with anyio.fail_after(30):
            await poller.drain()
        tasks.cancel_scope.cancel()
    return outcomes


@pytest.mark.anyio
async def test_the_loop_asks_singly_for_what_a_reply_does_not_mention() -> None:
    answers = Answers(done("a"), processing("b"))
    outcomes = await outcomes_of(answers, "a", "b")
    assert [len(outcomes[name]) for name in "ab"] == [1, 1]
    assert answers.singles == [["b"]]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "error",
    [ServiceError("x", retry_after_s=0.01), RateLimitedError("x"), AuthenticationError("x"), TaskNotFoundError("x")],
)
async def test_the_loop_survives_every_error(error: KreaError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_BACKOFF", RetryPolicy(first_wait_s=0.001, max_wait_s=0.001))
    outcomes = await outcomes_of(Answers(error, {}, error, error), "a", "b")
    assert [len(outcomes[name]) for name in "ab"] == [1, 1]


@pytest.mark.anyio
async def test_the_loop_follows_thousands() -> None:
    outcomes = await outcomes_of(Answers(), *(f"t{n}" for n in range(3000)))
    assert all(len(ends) == 1 for ends in outcomes.values())
