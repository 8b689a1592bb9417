"""The scheduler: every followed task gets its one outcome, whatever is read of it. The clock is an argument."""

import logging
import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from following import LOST, Outcomes, done, next_due, processing, scheduler
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from krea_async import scheduler as module
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
from krea_async.followed import Followed
from krea_async.gateway.client import MAX_BATCH_IDS
from krea_async.gateway.replies import UNREADABLE
from krea_async.models import Task, TaskError
from krea_async.scheduler import Scheduler


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


def test_a_reply_about_another_task_is_one_that_could_not_be_read() -> None:
    """A cache or a proxy mixed something up; the task that was asked for must not be forgotten over that."""
    tasks, outcomes = scheduler(), Outcomes()
    outcomes.follow(tasks, "a")
    _, ids = next_due(tasks)
    assert tasks.read(ids, {"a": Task(id="b", status="completed", results=("https://x/y",))}, 1.0) == []
    assert outcomes["a"] == []
    now, ids = next_due(tasks)
    assert ids == ["a"]
    tasks.read(ids, done("a"), now)
    assert [type(outcome) for outcome in outcomes["a"]] == [Task]


def test_at_most_fifty_ids_go_into_one_request_and_each_goes_out_once() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    for n in range(120):
        outcomes.follow(tasks, f"t{n}")
    taken = [tasks.take_due(5.0) for _ in range(4)]
    assert [len(ids) for ids in taken] == [50, 50, 20, 0]
    assert max(Counter(task_id for ids in taken for task_id in ids).values()) == 1
    assert MAX_BATCH_IDS == 50


def test_those_due_a_moment_later_come_along_and_the_first_waits_a_moment_for_them() -> None:
    tasks, outcomes = scheduler(PollPolicy(shortest_s=1.0, longest_s=1.0, window_s=0.2, ahead_s=0.5)), Outcomes()
    outcomes.follow(tasks, "a", now=0.0)
    assert tasks.next_read_s() == 1.0, "one that is alone waits for nobody"
    outcomes.follow(tasks, "b", now=0.6)
    outcomes.follow(tasks, "c", now=0.8)
    assert tasks.next_read_s() == pytest.approx(1.2)
    assert tasks.take_due(1.19) == []
    assert tasks.take_due(1.2) == ["a", "b"]


def test_an_unfinished_task_is_read_again_and_when_it_is_overdue_later_and_later() -> None:
    policy = PollPolicy(shortest_s=0.5, longest_s=10.0)
    tasks, outcomes = scheduler(policy), Outcomes()
    outcomes.follow(tasks, "a")
    times: list[float] = [0.0]
    while times[-1] < 1000.0:
        now, ids = next_due(tasks)
        assert ids == ["a"]
        times.append(now)
        assert tasks.read(ids, processing("a"), now) == []
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert all(0.5 <= wait <= 10.01 for wait in waits)
    assert sum(time < 30.0 for time in times) > 2 * sum(time > 970.0 for time in times)


def test_the_loop_of_an_unfinished_task_has_a_fixed_interval_if_the_policy_says_so() -> None:
    tasks, outcomes = scheduler(), Outcomes()
    outcomes.follow(tasks, "a")
    for expected in (1.0, 2.0, 3.0, 4.0):
        now, ids = next_due(tasks)
        assert now == pytest.approx(expected)
        tasks.read(ids, processing("a"), now)


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

    @initialize(seed=st.integers(0, 99), worth_s=st.sampled_from([0.001, 0.25, 10.0]))
    def begin(self, seed: int, worth_s: float) -> None:
        self.tasks = Scheduler(PollPolicy(lag_per_read_s=worth_s), Random(seed))

    @rule(eager=st.booleans())
    def change_eagerness(self, eager: bool) -> None:
        self.tasks.eager = eager

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
