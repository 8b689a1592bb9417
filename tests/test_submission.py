"""The queue in front of the gateway's create: order, places, stops, and one key for all tries of a picture."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from krea_async.control.backoff import RetryPolicy
from krea_async.control.governor import Governor, Limit, PacingPolicy
from krea_async.errors import (
    AccessDeniedError,
    AuthenticationError,
    InsufficientCreditsError,
    InvalidRequestError,
    KreaError,
    RateLimitedError,
    ServiceError,
)
from krea_async.events import Events
from krea_async.gateway.client import Gateway, idempotency_keys
from krea_async.gateway.transport import TimeoutPolicy, open_transport
from krea_async.models import ImageRequest, Task
from krea_async.sandbox import Durations, Faults, Limits, Sandbox
from krea_async.submission import MAX_POSTS_AT_ONCE, Submitter
from krea_async.waiting import NotSubmittedError, Stop

pytestmark = pytest.mark.anyio

SOON = RetryPolicy(attempts=5, first_wait_s=0.001, max_wait_s=0.002)
PACING = PacingPolicy(first_rate=1e9, longest_pause_s=0.02)
PATIENCE_S = 30.0


class News:
    """Wakes those who wait for something to become true."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def tell(self) -> None:
        """Something has happened."""
        self._event.set()
        self._event = anyio.Event()

    async def until(self, true: Callable[[], bool]) -> None:
        """Returns when it is true."""
        with anyio.fail_after(PATIENCE_S):
            while not true():
                await self._event.wait()


class Scripted:
    """A gateway stand-in: each create waits until it is answered, as told by its prompt or by `answer`."""

    def __init__(self, *, hold: bool = False) -> None:
        self.hold = hold
        self.news = News()
        self.script: dict[str, list[KreaError]] = {}
        self.sent: list[tuple[str, str]] = []
        self.waiting: dict[str, asyncio.Future[None]] = {}
        self.most_at_once = 0

    @property
    def prompts(self) -> list[str]:
        return [prompt for prompt, _ in self.sent]

    async def create(self, request: ImageRequest, *, key: str, callback_url: str | None = None) -> Task:  # noqa: ARG002
        self.sent.append((request.prompt, key))
        if self.hold:
            answer = self.waiting[request.prompt] = asyncio.get_running_loop().create_future()
            self.most_at_once = max(self.most_at_once, len(self.waiting))
            self.news.tell()
            try:
                await answer
            finally:
                del self.waiting[request.prompt]
        if errors := self.script.get(request.prompt):
            raise errors.pop(0)
        return Task(id=f"task-unified-{request.prompt}", status="pending")

    def answer(self, prompt: str, error: KreaError | None = None) -> None:
        """Let the create of `prompt` that is under way end."""
        if error is None:
            self.waiting[prompt].set_result(None)
        else:
            self.waiting[prompt].set_exception(error)


def submitter(
    gateway: Scripted | Gateway,
    *,
    max_unfinished: int = 1000,
    rate: float | None = None,
    retries: RetryPolicy = SOON,
    known: Limit | None = None,
) -> Submitter:
    rng = Random(0)
    governor = Governor(PACING, rate=rate, known=known, rng=rng)
    return Submitter(gateway, governor, retries, max_unfinished=max_unfinished, rng=rng, events=Events())  # type: ignore[arg-type]


class Ends(dict[str, Task | BaseException]):
    """How each submission ended."""

    def __init__(self, queue: Submitter, tasks: TaskGroup) -> None:
        super().__init__()
        self.queue = queue
        self.tasks = tasks
        self.news = News()
        self.scopes: dict[str, anyio.CancelScope] = {}

    async def submit(self, *prompts: str, stop: Stop | None = None) -> None:
        """Begin these, in this order; returns when everybody waits for something."""
        for prompt in prompts:
            self.scopes[prompt] = anyio.CancelScope()
            self.tasks.start_soon(self._one, prompt, stop)
        await anyio.wait_all_tasks_blocked()

    async def _one(self, prompt: str, stop: Stop | None) -> None:
        with self.scopes[prompt]:
            try:
                self[prompt] = await self.queue.submit(ImageRequest(prompt), key=f"krea-{prompt:>020}", stop=stop)
            except (KreaError, NotSubmittedError) as error:
                self[prompt] = error
            self.news.tell()

    async def ended(self, *prompts: str) -> None:
        """Returns when these have ended."""
        await self.news.until(lambda: set(prompts) <= set(self))

    def error(self, prompt: str) -> KreaError:
        end = self[prompt]
        assert isinstance(end, KreaError)
        return end


@asynccontextmanager
async def submissions(queue: Submitter) -> AsyncIterator[Ends]:
    async with anyio.create_task_group() as tasks:
        yield Ends(queue, tasks)
        tasks.cancel_scope.cancel()


def names(many: int) -> list[str]:
    return [f"p{n}" for n in range(many)]


# order and places


async def test_requests_leave_in_the_order_they_came() -> None:
    gateway = Scripted()
    async with submissions(submitter(gateway)) as ends:
        await ends.submit(*names(50))
        assert gateway.prompts == names(50)
        assert all(isinstance(end, Task) for end in ends.values())


async def test_at_most_so_many_are_unfinished_and_a_finished_one_makes_room_for_the_next() -> None:
    gateway = Scripted()
    queue = submitter(gateway, max_unfinished=3)
    async with submissions(queue) as ends:
        await ends.submit(*names(8))
        assert gateway.prompts == names(3)
        for done in range(5):
            queue.finished()
            await anyio.wait_all_tasks_blocked()
            assert gateway.prompts == names(4 + done)


async def test_requests_that_are_being_posted_take_a_place_too() -> None:
    gateway = Scripted(hold=True)
    queue = submitter(gateway, max_unfinished=3)
    async with submissions(queue) as ends:
        await ends.submit(*names(5))
        assert gateway.prompts == names(3)
        gateway.answer("p0")
        await anyio.wait_all_tasks_blocked()
        assert gateway.prompts == names(3), "it is unfinished now"
        gateway.answer("p1", InvalidRequestError("no"))
        await anyio.wait_all_tasks_blocked()
        assert gateway.prompts == names(4)


async def test_only_so_many_are_posted_at_once() -> None:
    gateway = Scripted(hold=True)
    async with submissions(submitter(gateway)) as ends:
        await ends.submit(*names(MAX_POSTS_AT_ONCE + 20))
        assert len(gateway.waiting) == MAX_POSTS_AT_ONCE
        for prompt in names(10):
            gateway.answer(prompt)
        await anyio.wait_all_tasks_blocked()
        assert gateway.prompts == names(MAX_POSTS_AT_ONCE + 10)
        assert gateway.most_at_once == MAX_POSTS_AT_ONCE


async def test_a_429_is_no_failure_and_the_same_request_goes_first_again() -> None:
    gateway = Scripted()
    gateway.script["p0"] = [RateLimitedError("slow down") for _ in range(20)]
    queue = submitter(gateway, max_unfinished=1)
    async with submissions(queue) as ends:
        await ends.submit(*names(3))
        await ends.ended("p0")
        assert gateway.prompts == ["p0"] * 21
        assert isinstance(ends["p0"], Task)
        assert queue.rate_limited == 20
        queue.finished()
        await ends.ended("p1")
        assert gateway.prompts[21:] == ["p1"]


async def test_many_that_are_refused_together_keep_their_order() -> None:
    gateway = Scripted(hold=True)
    queue = submitter(gateway)
    async with submissions(queue) as ends:
        await ends.submit(*names(10))
        for prompt in reversed(names(10)):
            gateway.answer(prompt, RateLimitedError("slow down"))
        gateway.hold = False
        await ends.submit("late")
        await ends.ended(*names(10), "late")
        assert gateway.prompts[10:] == [*names(10), "late"]


async def test_one_that_is_refused_after_the_pause_still_goes_before_those_behind_it() -> None:
    gateway = Scripted(hold=True)
    queue = submitter(gateway)
    async with submissions(queue) as ends:
        await ends.submit("p0", "p1")
        gateway.answer("p1", RateLimitedError("slow down"))
        await anyio.wait_all_tasks_blocked()
        await anyio.sleep(PACING.longest_pause_s + 0.02)  # the pause itself, not a guess at how long something takes
        assert gateway.prompts == ["p0", "p1"], "one probe at a time, and p0 is still under way"
        gateway.hold = False
        gateway.answer("p0", RateLimitedError("slow down"))
        await ends.ended("p0", "p1")
        assert gateway.prompts[2:] == ["p0", "p1"]


async def test_lost_answers_do_not_hold_each_other_up_when_the_limit_falls_below_their_number() -> None:
    """Two keep places, for their tasks may exist; neither may count against the other, or nobody would ever ask."""
    gateway = Scripted()
    gateway.script["p0"] = [ServiceError("lost", charged="unknown"), RateLimitedError("slow down")]
    gateway.script["p1"] = [ServiceError("lost", charged="unknown", retry_after_s=0.2)]
    queue = submitter(gateway, known=Limit("unfinished", 2.0))
    async with submissions(queue) as ends:
        await ends.submit("p0", "p1")
        await ends.ended("p0")
        queue.finished()
        await ends.ended("p1")
        assert all(isinstance(end, Task) for end in ends.values())
        assert gateway.prompts.count("p0") == 3


async def test_a_request_that_waits_for_its_next_try_holds_nobody_up() -> None:
    gateway = Scripted(hold=True)
    async with submissions(submitter(gateway, max_unfinished=1)) as ends:
        await ends.submit(*names(2))
        gateway.answer("p0", ServiceError("the host could not be reached", charged="no", retry_after_s=300.0))
        await anyio.wait_all_tasks_blocked()
        assert gateway.prompts == ["p0", "p1"]


async def test_a_task_that_may_have_been_made_keeps_its_place_until_that_is_known() -> None:
    """With a lost answer the task may be unfinished on the gateway; beside it only so many others may be."""
    async with Sandbox(durations=Durations.fixed(600.0)) as sandbox, gateway_at(sandbox) as gateway:
        sandbox.script("create", "drop_after", "drop_after")
        async with submissions(submitter(gateway, max_unfinished=2)) as ends:
            await ends.submit(*names(6))
            await ends.news.until(lambda: len(ends) == 2)
            assert sandbox.ledger.max_unfinished == 2
            assert set(ends) == {"p0", "p1"}


# keys, tries and charges


@asynccontextmanager
async def gateway_at(sandbox: Sandbox) -> AsyncIterator[Gateway]:
    timeouts = TimeoutPolicy(connect_s=10.0, read_s=10.0)
    async with open_transport(sandbox.url, sandbox.key, connections=64, timeouts=timeouts) as transport:
        yield Gateway(transport)


async def test_every_try_of_a_picture_carries_the_same_key() -> None:
    gateway = Scripted()
    gateway.script["p0"] = [
        ServiceError("lost", charged="unknown"),
        RateLimitedError("slow down"),
        ServiceError("502", charged="unknown"),
        ServiceError("unreachable", charged="no"),
    ]
    async with submissions(submitter(gateway)) as ends:
        await ends.submit("p0")
        await ends.ended("p0")
    assert isinstance(ends["p0"], Task)
    assert len(gateway.sent) == 5
    assert len({key for _, key in gateway.sent}) == 1


@pytest.mark.parametrize(
    ("errors", "charged"),
    [
        ([ServiceError("unreachable", charged="no")] * 5, "no"),
        ([ServiceError("lost", charged="unknown")] * 5, "unknown"),
        ([ServiceError("lost", charged="unknown"), *[ServiceError("unreachable", charged="no")] * 4], "unknown"),
        ([*[ServiceError("unreachable", charged="no")] * 4, ServiceError("lost", charged="unknown")], "unknown"),
        ([ServiceError("lost", charged="unknown"), InvalidRequestError("no")], "unknown"),
        ([ServiceError("lost", charged="unknown"), RateLimitedError("slow"), InvalidRequestError("no")], "unknown"),
        ([InvalidRequestError("no")], "no"),
        ([RateLimitedError("slow"), InvalidRequestError("no")], "no"),
        ([InsufficientCreditsError("no")], "no"),
    ],
)
async def test_the_last_error_says_what_all_tries_together_may_have_charged(
    errors: list[KreaError], charged: str
) -> None:
    gateway = Scripted()
    gateway.script["p0"] = [*errors]
    async with submissions(submitter(gateway)) as ends:
        await ends.submit("p0")
        await ends.ended("p0")
        assert ends.error("p0").charged == charged
    assert len(gateway.sent) == len(errors)


async def test_what_is_not_worth_another_try_gets_none_and_others_go_on() -> None:
    gateway = Scripted()
    gateway.script["p1"] = [InvalidRequestError("no")]
    async with submissions(submitter(gateway, max_unfinished=3)) as ends:
        await ends.submit(*names(4))
        assert gateway.prompts == names(4)
        assert [isinstance(ends[prompt], Task) for prompt in names(4)] == [True, False, True, True]


async def test_faults_at_every_step_never_pay_twice() -> None:
    faults = Faults(drop_before=0.1, drop_after=0.1, error=0.1, error_after=0.1, garbage=0.1)
    limits = Limits(unfinished=8)
    patient = RetryPolicy(attempts=40, first_wait_s=0.001, max_wait_s=0.002)
    async with (
        Sandbox(durations=Durations.instant(), faults=faults, limits=limits, seed=3) as sandbox,
        gateway_at(sandbox) as gateway,
    ):
        queue = submitter(gateway, max_unfinished=8, retries=patient)
        made: list[Task] = []

        async def make(prompt: str) -> None:
            made.append(await queue.submit(ImageRequest(prompt), key=next(idempotency_keys())))
            queue.finished()

        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                for prompt in names(60):
                    tasks.start_soon(make, prompt)
        assert len({task.id for task in made}) == 60
        assert len(sandbox.ledger.tasks) == 60
        assert sandbox.ledger.duplicates == {}
        assert sandbox.ledger.replays > 0


async def test_a_reply_too_large_to_read_leaves_the_charge_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("krea_async.gateway.transport.MAX_REPLY_BYTES", 10)
    async with Sandbox() as sandbox, gateway_at(sandbox) as gateway:
        async with submissions(submitter(gateway, retries=RetryPolicy(attempts=1))) as ends:
            await ends.submit("p0")
            await ends.ended("p0")
            assert ends.error("p0").charged == "unknown"
        assert len(sandbox.ledger.tasks) == 1


# stops


@pytest.mark.parametrize(
    "error", [AuthenticationError("401"), InsufficientCreditsError("402"), AccessDeniedError("403")]
)
async def test_a_refused_key_account_or_model_stops_everything_that_has_not_left(error: KreaError) -> None:
    gateway = Scripted()
    gateway.script["p1"] = [error]
    queue = submitter(gateway, max_unfinished=2)
    async with submissions(queue) as ends:
        await ends.submit(*names(6))
        assert gateway.prompts == ["p0", "p1"]
        assert isinstance(ends["p0"], Task)
        assert ends["p1"] is error
        for prompt in names(6)[2:]:
            end = ends[prompt]
            assert isinstance(end, NotSubmittedError)
            assert (type(end.reason), end.reason.message) == (type(error), error.message)
        queue.finished()
        await ends.submit("late")
        assert isinstance(ends["late"], NotSubmittedError)
        assert queue.stopped_by() is error
        assert gateway.prompts == ["p0", "p1"]


async def test_other_errors_stop_nobody() -> None:
    gateway = Scripted()
    gateway.script["p0"] = [InvalidRequestError("400")]
    gateway.script["p1"] = [ServiceError("500", retryable=False)]
    queue = submitter(gateway, max_unfinished=1)
    async with submissions(queue) as ends:
        await ends.submit(*names(3))
        await ends.ended("p2")
        assert queue.stopped_by() is None
        assert isinstance(ends["p2"], Task)


async def test_a_stop_does_not_give_up_what_may_be_paid_for() -> None:
    gateway = Scripted()
    gateway.script["lost"] = [ServiceError("lost", charged="unknown", retry_after_s=0.02)]
    gateway.script["unsent"] = [ServiceError("unreachable", charged="no", retry_after_s=0.02)]
    queue = submitter(gateway)
    async with submissions(queue) as ends:
        await ends.submit("lost", "unsent")
        queue.stop(InvalidRequestError("enough"))
        await ends.ended("lost", "unsent")
        assert isinstance(ends["lost"], Task)
        assert isinstance(ends["unsent"], NotSubmittedError)
    assert gateway.prompts == ["lost", "unsent", "lost"]


async def test_a_stop_ends_the_wait_for_another_try() -> None:
    gateway = Scripted()
    gateway.script["down"] = [ServiceError("down", charged="no", retry_after_s=3600.0)]
    gateway.script["busy"] = [RateLimitedError("slow down", retry_after_s=3600.0)]
    queue = submitter(gateway)
    async with submissions(queue) as ends:
        await ends.submit("down", "busy")
        assert queue.waiting == 2
        queue.stop(InvalidRequestError("enough"))
        await ends.ended("down", "busy")
        assert all(isinstance(end, NotSubmittedError) for end in ends.values())
        assert queue.waiting == queue.in_flight == 0


async def test_a_refusal_that_arrives_after_a_stop_is_not_waited_out() -> None:
    gateway = Scripted(hold=True)
    queue = submitter(gateway)
    async with submissions(queue) as ends:
        await ends.submit("busy")
        queue.stop(InvalidRequestError("enough"))
        gateway.answer("busy", RateLimitedError("slow down", retry_after_s=3600.0))
        await ends.ended("busy")
        assert isinstance(ends["busy"], NotSubmittedError)


async def test_one_that_is_told_to_wait_long_does_not_hold_up_the_others() -> None:
    gateway = Scripted()
    gateway.script["busy"] = [RateLimitedError("slow down", retry_after_s=3600.0)]
    queue = submitter(gateway, max_unfinished=1)
    async with submissions(queue) as ends:
        await ends.submit("busy", "other")
        await ends.ended("other")
        assert gateway.prompts == ["busy", "other"]
        assert isinstance(ends["other"], Task)


async def test_one_that_may_be_paid_for_and_waits_for_a_place_still_gets_it_after_a_stop() -> None:
    gateway = Scripted()
    gateway.script["p0"] = [ServiceError("lost", charged="unknown")]
    queue = submitter(gateway, max_unfinished=1, retries=RetryPolicy(attempts=3, first_wait_s=0.01, max_wait_s=0.01))
    async with submissions(queue) as ends:
        await ends.submit("p0", "p1", "p2")
        await ends.news.until(lambda: "p0" in ends or "p1" in ends)
        queue.stop(InvalidRequestError("enough"))
        await anyio.wait_all_tasks_blocked()
        queue.finished()
        await ends.ended("p0", "p2")
        assert isinstance(ends["p0"], Task)
        assert isinstance(ends["p2"], NotSubmittedError)


async def test_a_batch_s_stop_concerns_that_batch_only() -> None:
    gateway = Scripted()
    queue = submitter(gateway, max_unfinished=1)
    mine, other = Stop(), Stop()
    async with submissions(queue) as ends:
        await ends.submit("first")
        await ends.submit("a", stop=mine)
        await ends.submit("b", stop=other)
        await ends.submit("c")
        queue.stop(InvalidRequestError("enough"), mine)
        await anyio.wait_all_tasks_blocked()
        assert isinstance(ends["a"], NotSubmittedError)
        assert set(ends) == {"first", "a"}
        queue.finished()
        await ends.ended("b")
        queue.finished()
        await ends.ended("c")
        assert queue.stopped_by(mine) is not None
        assert queue.stopped_by(other) is None
    assert gateway.prompts == ["first", "b", "c"]


async def test_the_first_reason_of_a_stop_stays() -> None:
    queue = submitter(Scripted())
    first = InvalidRequestError("first")
    queue.stop(first)
    queue.stop(InvalidRequestError("second"))
    assert queue.stopped_by() is first


@pytest.mark.parametrize(("status", "credits"), [(401, 1000.0), (402, 0.5), (403, 1000.0)])
async def test_the_gateway_s_own_refusals_stop_the_session_and_nothing_is_charged(status: int, credits: float) -> None:  # noqa: A002
    async with Sandbox(credits=credits, durations=Durations.fixed(600.0)) as sandbox, gateway_at(sandbox) as gateway:
        sandbox.script("create", "ok", "ok" if status == 402 else ("status", status))
        async with submissions(submitter(gateway, max_unfinished=2)) as ends:
            await ends.submit(*names(9))
            await ends.ended(*names(9))
            assert sum(isinstance(end, Task) for end in ends.values()) == 1
            assert [end.status for prompt in names(2) if isinstance(end := ends[prompt], KreaError)] == [status]
            assert sum(isinstance(end, NotSubmittedError) for end in ends.values()) == 7
        assert sandbox.ledger.requests["create"] == 2


# cancellation


async def nothing_is_lost(queue: Submitter, gateway: Scripted, ends: Ends, places: int) -> None:
    """All places are free: as many new requests as there are places leave at once."""
    gateway.hold = False
    await ends.submit(*(f"new{n}" for n in range(places)))
    await ends.ended(*(f"new{n}" for n in range(places)))


async def test_cancelling_one_in_the_queue_disturbs_no_other() -> None:
    gateway = Scripted()
    queue = submitter(gateway, max_unfinished=1)
    async with submissions(queue) as ends:
        await ends.submit(*names(4))
        ends.scopes["p1"].cancel()
        await anyio.wait_all_tasks_blocked()
        queue.finished()
        await ends.ended("p2")
        queue.finished()
        await ends.ended("p3")
    assert gateway.prompts == ["p0", "p2", "p3"]


async def test_cancelling_one_that_is_being_sent_gives_its_place_back() -> None:
    gateway = Scripted(hold=True)
    queue = submitter(gateway, max_unfinished=2)
    async with submissions(queue) as ends:
        await ends.submit(*names(3))
        assert gateway.prompts == ["p0", "p1"]
        ends.scopes["p0"].cancel()
        await anyio.wait_all_tasks_blocked()
        assert gateway.prompts == names(3)
        ends.scopes["p1"].cancel()
        ends.scopes["p2"].cancel()
        await anyio.wait_all_tasks_blocked()
        await nothing_is_lost(queue, gateway, ends, 2)


async def test_cancelling_one_between_its_turn_and_its_sending_gives_its_place_back() -> None:
    gateway = Scripted()
    queue = submitter(gateway, max_unfinished=1)
    async with submissions(queue) as ends:
        await ends.submit("p0")
        p1 = asyncio.create_task(queue.submit(ImageRequest("p1"), key=next(idempotency_keys())))
        await ends.submit("p2")
        queue.finished()  # p1 has its turn now, but has not run yet
        p1.cancel()
        with pytest.raises(asyncio.CancelledError):
            await p1
        await anyio.wait_all_tasks_blocked()
        assert gateway.prompts == ["p0", "p2"]
        queue.finished()
        await nothing_is_lost(queue, gateway, ends, 1)


@pytest.mark.parametrize("charged", ["no", "unknown"])
async def test_cancelling_one_that_waits_for_its_next_try_gives_its_place_back(charged: Any) -> None:
    gateway = Scripted()
    gateway.script["p0"] = [ServiceError("x", charged=charged, retry_after_s=300.0)]
    queue = submitter(gateway, max_unfinished=1)
    async with submissions(queue) as ends:
        await ends.submit("p0")
        ends.scopes["p0"].cancel()
        await anyio.wait_all_tasks_blocked()
        await nothing_is_lost(queue, gateway, ends, 1)


async def test_cancelling_the_probe_of_a_429_lets_the_next_one_probe() -> None:
    gateway = Scripted(hold=True)
    queue = submitter(gateway)
    async with submissions(queue) as ends:
        await ends.submit("p0", "p1")
        gateway.answer("p0", RateLimitedError("slow down"))
        gateway.answer("p1", RateLimitedError("slow down"))
        await gateway.news.until(lambda: len(gateway.sent) == 3)
        assert gateway.prompts == ["p0", "p1", "p0"]
        ends.scopes["p0"].cancel()
        await gateway.news.until(lambda: len(gateway.sent) == 4)
        gateway.answer("p1")
        await ends.ended("p1")
        await nothing_is_lost(queue, gateway, ends, 5)


async def test_a_bug_in_the_gateway_gives_the_place_back() -> None:
    gateway = Scripted(hold=True)
    queue = submitter(gateway, max_unfinished=1)

    async def submit_and_fail() -> None:
        with pytest.raises(ZeroDivisionError):
            await queue.submit(ImageRequest("bug"), key=next(idempotency_keys()))

    async with submissions(queue) as ends:
        ends.tasks.start_soon(submit_and_fail)
        await gateway.news.until(lambda: "bug" in gateway.waiting)
        gateway.waiting["bug"].set_exception(ZeroDivisionError())
        await anyio.wait_all_tasks_blocked()
        await nothing_is_lost(queue, gateway, ends, 1)


async def test_random_ends_of_every_kind_leave_no_place_taken() -> None:
    rng = Random(5)
    gateway = Scripted(hold=True)
    queue = submitter(gateway, max_unfinished=4)
    async with submissions(queue) as ends:
        begun = 0
        for _ in range(400):
            match rng.randrange(4):
                case 0:
                    await ends.submit(f"p{begun}")
                    begun += 1
                case 1 if begun:
                    ends.scopes[f"p{rng.randrange(begun)}"].cancel()
                case _ if gateway.waiting:
                    prompt = rng.choice(list(gateway.waiting))
                    ends_as: list[KreaError | None] = [
                        None,
                        InvalidRequestError("x"),
                        ServiceError("x"),
                        RateLimitedError("x"),
                    ]
                    gateway.answer(prompt, rng.choice(ends_as))
            finished = sum(isinstance(end, Task) for end in ends.values())
            await anyio.wait_all_tasks_blocked()
            for _ in range(sum(isinstance(end, Task) for end in ends.values()) - finished):
                queue.finished()
            assert len(gateway.waiting) <= 4
        gateway.hold = False
        for prompt in list(gateway.waiting):
            gateway.answer(prompt)
        for scope in ends.scopes.values():
            scope.cancel()
        await anyio.wait_all_tasks_blocked()


def test_a_reason_without_a_request_is_told() -> None:
    reason = InsufficientCreditsError("the account has run out of credits", task_id="task-7", charged="unknown")
    told = NotSubmittedError(reason).reason
    assert "run out" in str(told)
    assert (type(told), told.charged, told.task_id) == (InsufficientCreditsError, "no", None)
    assert (reason.charged, reason.task_id) == ("unknown", "task-7")
