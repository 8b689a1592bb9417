"""One picture at a time: generate, submit, attach, credits, and what leaving a session means."""

# ruff: noqa: PT012 - that an exception passes a block unharmed needs a block

import asyncio
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from time import monotonic

import anyio
import pytest
from clocks import Clock
from impatience import HASTY
from until import until, until_tasks

from krea_async import (
    AccessDeniedError,
    AuthenticationError,
    ContentPolicyError,
    DownloadError,
    GeneratedImage,
    ImageRequest,
    InsufficientCreditsError,
    InvalidRequestError,
    Job,
    KreaError,
    KreaSession,
    PollPolicy,
    RateLimitedError,
    RetryPolicy,
    SessionClosedError,
    TaskFailedError,
    TaskNotFoundError,
    TaskTimeoutError,
)
from krea_async.sandbox import Durations, Fault, Faults, Limits, Sandbox

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

AT_ONCE_S = 5.0
"""What "at once" means on a loaded machine, against tasks that run for a minute."""


def digest(path: Path | None) -> str:
    assert path is not None
    return sha256(path.read_bytes()).hexdigest()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize(
    ("size", "quality"), [("1:1", "1K"), ("16:9", "2K"), ("9:16", "1K"), ("1:2", "1K"), ("4:3", "1K")]
)
async def test_generate_saves_the_picture_that_the_gateway_made(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, size: str, quality: str
) -> None:
    request = ImageRequest("a lighthouse at dusk", size=size, quality=quality)  # type: ignore[arg-type]
    async with session_of(sandbox) as session:
        image = await session.generate(request, to=tmp_path / "lighthouse.png")
    assert image.path == tmp_path / "lighthouse.png"
    assert image.paths == (image.path,)
    assert (image.width, image.height) == request.pixels
    assert image.as_requested
    assert image.status == "saved"
    assert image.error is None
    task = sandbox.ledger.tasks[str(image.task_id)]
    assert (task.size, task.quality) == (size, quality)
    assert image.sha256 == task.sha256 == digest(image.path)
    assert image.bytes == task.picture_bytes == image.path.stat().st_size
    assert image.credits == task.credits_charged == request.credits
    assert names(tmp_path) == ["lighthouse.png"]


async def test_what_is_asked_for_by_keyword_is_what_is_sent(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        await session.generate("a fox", size="2:1", quality="2K", seed=7, nsfw_check=True, to=tmp_path)
    (task,) = sandbox.ledger.tasks.values()
    assert (task.body["size"], task.body["quality"], task.body["seed"], task.body["nsfw_check"]) == (
        "2:1",
        "2K",
        7,
        True,
    )


async def test_a_directory_gets_a_file_named_after_the_prompt(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        there = await session.generate("A red Fox!", to=tmp_path)
        made = await session.generate(ImageRequest("x", id="my-id"), to=f"{tmp_path}/new/deep/")
    assert there.path == tmp_path / "a-red-fox.png"
    assert made.path == tmp_path / "new" / "deep" / "my-id.png"


@pytest.mark.parametrize(
    ("wanted", "got"), [("fox.jpg", "fox.png"), ("fox.WEBP", "fox.png"), ("v1.2", "v1.2.png"), ("fox", "fox.png")]
)
async def test_the_extension_follows_the_content(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, wanted: str, got: str
) -> None:
    async with session_of(sandbox) as session:
        image = await session.generate("a fox", to=tmp_path / wanted)
    assert image.path == tmp_path / got
    assert names(tmp_path) == [got]


async def test_a_file_that_exists_is_never_overwritten(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    precious = tmp_path / "fox.png"
    precious.write_text("mine")
    async with session_of(sandbox) as session, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(lambda: session.generate("a fox", to=precious))
    assert precious.read_text() == "mine"
    assert len(names(tmp_path)) == 4


@pytest.mark.parametrize("to", ["file/fox.png", "file/", "file/deeper/fox.png"])
async def test_a_directory_that_cannot_be_costs_nothing(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, to: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    async with session_of(sandbox) as session:
        with pytest.raises(DownloadError) as caught:
            await session.generate("a fox", to=f"{tmp_path}/{to}")
    assert caught.value.charged == "no"
    assert caught.value.code == "disk_error"
    assert not sandbox.ledger.tasks


async def test_a_request_that_cannot_be_costs_nothing(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    async with session_of(sandbox) as session:
        with pytest.raises(InvalidRequestError):
            await session.generate("  ", to=tmp_path)
        with pytest.raises(InvalidRequestError):
            await session.generate("a fox", size="7:3", to=tmp_path)  # type: ignore[arg-type]
    assert not sandbox.ledger.requests["create"]


async def test_a_submitted_job_is_waited_for_and_saved(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    async with session_of(sandbox) as session:
        job = await session.submit(ImageRequest(prompt="a fox", seed=7))
        task = await job.wait()
        image = await job.save(f"{tmp_path}/out/")
        again = await job.save(f"{tmp_path}/out/")
    assert task.status == job.status == "completed"
    assert job.progress == 100
    assert image.task_id == task.id == job.task_id
    assert {image.path, again.path} == {tmp_path / "out" / "a-fox.png", tmp_path / "out" / "a-fox-2.png"}
    assert image.sha256 == again.sha256 == sandbox.ledger.tasks[task.id].sha256
    assert len(sandbox.ledger.tasks) == 1


async def test_status_and_progress_follow_the_task(session_of: SessionOf) -> None:
    clock = Clock()
    async with Sandbox(durations=Durations.fixed(300.0), clock=clock) as sandbox, session_of(sandbox) as session:
        job = await session.submit("a fox")
        assert job.status in {"pending", "processing"}
        assert job.progress < 100
        clock.ahead_s = 150.0
        await until(lambda: job.status == "processing" and 0 < job.progress < 100)
        clock.ahead_s = 1_000.0
        await job.wait()
        assert (job.status, job.progress) == ("completed", 100)


async def test_a_task_is_attached_from_another_session_even_twice_at_once(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """Following costs nothing, and each follower gets the picture."""
    sandbox.durations = Durations.fixed(0.2)
    async with session_of(sandbox) as first:
        task_id = (await first.submit("a fox")).task_id
        images: list[GeneratedImage] = []

        async def save(job: Job) -> None:
            images.append(await job.save(tmp_path))

        async with session_of(sandbox) as second, anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(save, second.attach(task_id))
    assert len(sandbox.ledger.tasks) == 1
    assert len({image.path for image in images}) == 2
    assert {image.sha256 for image in images} == {sandbox.ledger.tasks[task_id].sha256}
    assert [image.request for image in images] == [None, None]
    assert names(tmp_path) == sorted([f"{task_id}.png", f"{task_id}-2.png"])


async def test_attached_and_submitted_jobs_do_not_take_each_others_place(
    sandbox: Sandbox, session_of: SessionOf
) -> None:
    """An attached task ends without freeing a place that it never held: the cap holds."""
    sandbox.durations = Durations.fixed(0.15)
    async with session_of(sandbox) as other, session_of(sandbox, concurrency=2) as session:
        foreign = (await other.submit("elsewhere")).task_id
        for _ in range(2):
            await session.attach(foreign).wait()
        before = sandbox.ledger.max_unfinished
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(session.submit, f"fox {number}")
    assert before == 1
    assert sandbox.ledger.max_unfinished == 2


async def test_a_refused_prompt_is_a_content_policy_error_and_free(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.script("create", ("fail", "content_policy_violation"))
    async with session_of(sandbox) as session:
        with pytest.raises(ContentPolicyError) as caught:
            await session.generate("something", to=tmp_path)
    error = caught.value
    assert (error.charged, error.retryable, error.code) == ("no", False, "content_policy_violation")
    assert error.task_id in sandbox.ledger.tasks
    assert len(sandbox.ledger.tasks) == 1
    assert not names(tmp_path)


@pytest.mark.parametrize("end", ["generation_timeout", "resource_exhausted", "cancelled"])
async def test_a_task_that_ends_badly_says_so_and_is_not_resubmitted(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, end: str
) -> None:
    sandbox.script("create", "cancelled" if end == "cancelled" else ("fail", end))
    async with session_of(sandbox) as session:
        with pytest.raises(TaskFailedError) as caught:
            await session.generate("a fox", to=tmp_path)
    assert caught.value.charged == "no"
    assert caught.value.task_id in sandbox.ledger.tasks
    assert len(sandbox.ledger.tasks) == 1


async def test_a_task_that_takes_too_long_is_named_and_not_resubmitted(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(60.0)
    async with session_of(sandbox, task_timeout_s=0.2) as session:
        with pytest.raises(TaskTimeoutError) as caught:
            await session.generate("a fox", to=tmp_path)
    (task_id,) = sandbox.ledger.tasks
    assert caught.value.task_id == task_id
    assert task_id in str(caught.value)
    assert caught.value.charged == "unknown"


async def test_a_place_comes_back_when_its_task_times_out(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(60.0)
    async with session_of(sandbox, task_timeout_s=0.2, concurrency=1) as session:
        with anyio.fail_after(10.0):
            for _ in range(2):
                with pytest.raises(TaskTimeoutError):
                    await session.generate("a fox", to=tmp_path)
    assert len(sandbox.ledger.tasks) == 2


@pytest.mark.parametrize("task_id", ["task-unified-1-aaaaaaaa", "", "../v1/credits", "a b\n", "ü" * 300])
async def test_a_task_that_the_gateway_does_not_know_is_an_error(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, task_id: str
) -> None:
    async with session_of(sandbox) as session:
        with anyio.fail_after(10.0), pytest.raises((TaskNotFoundError, InvalidRequestError)):
            await session.attach(task_id).save(tmp_path)
    assert not names(tmp_path)


async def test_credits_are_the_balance(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    async with session_of(sandbox) as session:
        before = await session.credits()
        image = await session.generate("a fox", to=tmp_path)
        after = await session.credits()
    assert before.remaining is not None
    assert after.remaining is not None
    assert before.remaining - after.remaining == pytest.approx(image.credits)


async def test_a_thousand_at_once_all_end_and_none_twice(session_of: SessionOf, tmp_path: Path) -> None:
    async with Sandbox(durations=Durations.instant(), scenes=2, credits=None) as sandbox:
        images: list[GeneratedImage] = []

        async def generate(number: int) -> None:
            images.append(await session.generate(f"fox {number}", size="1:2", to=tmp_path))

        async with session_of(sandbox) as session, anyio.create_task_group() as tasks:
            for number in range(1000):
                tasks.start_soon(generate, number)
        assert len(sandbox.ledger.tasks) == 1000
        assert not sandbox.ledger.duplicates
        assert sandbox.ledger.max_unfinished <= 64
        assert {image.sha256 for image in images} == {task.sha256 for task in sandbox.ledger.tasks.values()}
        assert not sandbox.ledger.leaks
    assert len({image.path for image in images}) == len(names(tmp_path)) == 1000


async def test_cancelling_one_generate_disturbs_no_other(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(0.3)
    async with session_of(sandbox) as session:
        calls = [asyncio.create_task(session.generate(f"fox {n}", to=tmp_path)) for n in range(6)]
        await until(lambda: len(sandbox.ledger.tasks) == 6)
        calls[2].cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(ended[2], asyncio.CancelledError)
    assert sum(isinstance(end, GeneratedImage) for end in ended) == 5
    assert len(sandbox.ledger.tasks) == 6
    assert len(names(tmp_path)) == 5


async def test_a_cancelled_generate_does_not_hold_up_the_exit_and_gives_its_place_back(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(60.0)
    started = monotonic()
    async with session_of(sandbox, concurrency=1) as session:
        for number in range(3):
            call = asyncio.create_task(session.generate(f"fox {number}", to=tmp_path))
            await until_tasks(sandbox, number + 1, within_s=10)
            assert len(sandbox.ledger.tasks) == number + 1
            await anyio.wait_all_tasks_blocked()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
    assert monotonic() - started < AT_ONCE_S


async def test_a_time_out_around_generate_is_the_callers_time_out(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(60.0)
    async with session_of(sandbox) as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15):
                await session.generate("a fox", to=tmp_path)
        with anyio.move_on_after(0.15) as scope:
            await session.generate("a fox", to=tmp_path)
        assert scope.cancelled_caught
    assert not names(tmp_path)


async def test_cancelling_a_wait_ends_the_waiting_only(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    sandbox.durations = Durations.fixed(0.3)
    async with session_of(sandbox) as session:
        job = await session.submit("a fox")
        with anyio.move_on_after(0.01):
            await job.wait()
        image = await job.save(tmp_path)
    assert image.status == "saved"


async def test_leaving_normally_waits_for_submitted_jobs(sandbox: Sandbox, session_of: SessionOf) -> None:
    sandbox.durations = Durations.fixed(0.4)
    async with session_of(sandbox) as session:
        jobs = [await session.submit(f"fox {number}") for number in range(3)]
        assert all(job.status != "completed" for job in jobs)
    assert [job.status for job in jobs] == ["completed"] * 3
    assert [(await job.wait()).id for job in jobs] == [job.task_id for job in jobs]


async def test_leaving_normally_waits_for_calls_in_other_tasks(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(0.1)
    async with session_of(sandbox, concurrency=2) as session:
        calls = [asyncio.create_task(session.generate(f"fox {number}", to=tmp_path)) for number in range(4)]
        await anyio.wait_all_tasks_blocked()
    assert all(call.done() for call in calls)
    assert [call.result().status for call in calls] == ["saved"] * 4


class MyError(Exception):
    """The caller's own."""


async def test_leaving_by_an_exception_ends_at_once_and_it_comes_out_bare(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(60.0)
    thrown = MyError("mine")
    started = monotonic()
    with pytest.raises(MyError) as caught:
        async with session_of(sandbox) as session:
            await session.submit("a fox")
            call = asyncio.create_task(session.generate("a hare", to=tmp_path))
            await until(lambda: len(sandbox.ledger.tasks) == 2)
            raise thrown
    assert monotonic() - started < AT_ONCE_S
    assert caught.value is thrown
    with pytest.raises(SessionClosedError):
        await call


async def test_an_exception_keeps_its_cause_and_its_context(sandbox: Sandbox, session_of: SessionOf) -> None:
    """A traceback still tells what happened before."""
    with pytest.raises(MyError) as caught:
        async with session_of(sandbox):
            try:
                raise KeyError("first")
            except KeyError:
                raise MyError("second")  # noqa: B904 - the implicit context is what is looked at
    assert isinstance(caught.value.__context__, KeyError)
    assert not caught.value.__suppress_context__


async def test_the_callers_own_exception_group_comes_out_as_it_is(sandbox: Sandbox, session_of: SessionOf) -> None:
    thrown = ExceptionGroup("mine", [MyError("only one")])
    with pytest.raises(ExceptionGroup) as caught:
        async with session_of(sandbox):
            raise thrown
    assert caught.value is thrown


async def test_cancelling_the_task_that_holds_the_session_cancels_it_at_once(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(60.0)

    async def work() -> None:
        async with session_of(sandbox) as session:
            await session.generate("a fox", to=tmp_path)

    task = asyncio.create_task(work())
    await until(lambda: sandbox.ledger.tasks)
    started = monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert monotonic() - started < AT_ONCE_S


async def test_a_call_in_another_task_learns_that_the_session_ended_and_its_task_id(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(60.0)
    with pytest.raises(MyError):
        async with session_of(sandbox) as session:
            call = asyncio.create_task(session.generate("a fox", to=tmp_path))
            job = await session.submit("a hare")
            wait = asyncio.create_task(job.wait())
            await until(lambda: len(sandbox.ledger.tasks) == 2)
            await anyio.wait_all_tasks_blocked()
            raise MyError
    with pytest.raises(SessionClosedError) as of_wait:
        await wait
    with pytest.raises(SessionClosedError) as of_call:
        await call
    assert of_wait.value.task_id == job.task_id
    assert {of_call.value.task_id, job.task_id} == set(sandbox.ledger.tasks)
    assert of_call.value.charged == "unknown"


async def test_a_job_accepted_while_the_session_ends_is_not_waited_for_without_end(
    sandbox: Sandbox, session_of: SessionOf
) -> None:
    """The answer to its create comes after the exception and before the last calls are cancelled."""
    sandbox.durations = Durations.fixed(60.0)
    sandbox.script("create", Fault("slow", wait_s=0.05))

    async def submit_and_wait() -> None:
        job = await session.submit("a fox")
        await job.wait()

    with pytest.raises(MyError):
        async with session_of(sandbox) as session:
            call = asyncio.create_task(submit_and_wait())
            await until(lambda: sandbox.ledger.requests["create"])
            raise MyError
    try:
        with anyio.fail_after(2.0), pytest.raises(SessionClosedError):
            await call
    finally:
        call.cancel()


async def test_a_session_is_for_use_inside_its_block_and_once(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    session = session_of(sandbox)

    async def refused() -> None:
        for call in (session.generate("a fox", to=tmp_path), session.submit("a fox"), session.credits()):
            with pytest.raises(SessionClosedError):
                await call
        with pytest.raises(SessionClosedError):
            session.attach("task-unified-1-aaaaaaaa")
        with pytest.raises(SessionClosedError):
            session.render(["a fox"], tmp_path)

    await refused()
    async with session:
        await session.credits()
    await refused()
    with pytest.raises(SessionClosedError):
        async with session:
            raise AssertionError("entered twice")
    assert sandbox.ledger.requests.total() == 1


async def test_a_job_outlives_its_session_as_a_value_only(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        job = await session.submit("a fox")
    assert (await job.wait()).id == job.task_id
    with pytest.raises(SessionClosedError):
        await job.save(tmp_path)


@pytest.mark.parametrize(
    ("status", "kind"), [(401, AuthenticationError), (402, InsufficientCreditsError), (403, AccessDeniedError)]
)
async def test_a_refused_account_stops_new_submissions_while_accepted_tasks_are_saved(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, status: int, kind: type[KreaError]
) -> None:
    sandbox.durations = Durations.fixed(0.3)
    async with session_of(sandbox) as session:
        paid = asyncio.create_task(session.generate("paid", to=tmp_path))
        await until(lambda: sandbox.ledger.tasks)
        sandbox.script("create", ("status", status))
        with pytest.raises(kind) as first:
            await session.generate("refused", to=tmp_path)
        sent = sandbox.ledger.requests["create"]
        with pytest.raises(kind) as second:
            await session.submit("not even sent")
        assert sandbox.ledger.requests["create"] == sent == 2
        assert (await paid).status == "saved"
    assert (first.value.charged, first.value.status) == ("no", status)
    assert (second.value.charged, second.value.status) == ("no", status)
    assert second.value is not first.value
    assert "not submitted" in str(second.value)


async def test_those_that_wait_for_a_place_are_told_when_submissions_stop(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(0.3)
    sandbox.script("create", "ok", "ok", ("status", 402))
    async with session_of(sandbox, concurrency=2) as session:
        calls = [asyncio.create_task(session.generate(f"fox {number}", to=tmp_path)) for number in range(12)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
    saved = sum(isinstance(end, GeneratedImage) for end in ended)
    assert saved == len(sandbox.ledger.tasks)
    assert saved in {2, 3}  # one more if it was under way when the other was refused
    assert sum(isinstance(end, InsufficientCreditsError) and end.charged == "no" for end in ended) == 12 - saved


async def test_a_request_never_sent_is_not_charged_though_the_one_that_stopped_it_may_be(
    sandbox: Sandbox, session_of: SessionOf
) -> None:
    """The first one's answer was lost and then it was refused: its task may exist. The second was never sent."""
    sandbox.script("create", "drop_after", ("status", 401))
    async with session_of(sandbox) as session:
        with pytest.raises(AuthenticationError) as first:
            await session.submit("a fox")
        with pytest.raises(AuthenticationError) as second:
            await session.submit("a hare")
    assert first.value.charged == "unknown"
    assert second.value.charged == "no"


@pytest.mark.parametrize(
    "fault",
    [
        "drop_before",
        "drop_after",
        "garbage",
        "error",
        "error_after",
        "stalled",
        ("garbage", "{}"),
        ("garbage", "null"),
        ("garbage", '{"id": ""}'),
        ("garbage", "<html>"),
    ],
)
async def test_a_lost_answer_is_asked_for_again_and_pays_once(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, fault: str | tuple[str, str | int]
) -> None:
    sandbox.faults = Faults(stall_s=30.0)
    losses = 1 if fault == "stalled" else 2  # a stalled one takes the whole read time-out
    sandbox.script("create", *[fault] * losses)
    async with session_of(sandbox, timeouts=HASTY) as session:
        image = await session.generate("a fox", to=tmp_path)
    assert list(sandbox.ledger.tasks) == [image.task_id]
    assert sandbox.ledger.requests["create"] >= losses + 1
    assert not sandbox.ledger.duplicates
    assert sandbox.ledger.replays >= (0 if fault in {"drop_before", "error"} else losses)
    assert sandbox.ledger.charged_credits == pytest.approx(image.credits)


async def test_an_answer_lost_for_good_says_that_its_charge_is_unknown(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.script("create", *["drop_after"] * 3)
    async with session_of(sandbox, retries=RetryPolicy(attempts=3, first_wait_s=0.01, max_wait_s=0.01)) as session:
        with pytest.raises(KreaError) as caught:
            await session.generate("a fox", to=tmp_path)
    assert caught.value.charged == "unknown"
    assert caught.value.retryable
    assert len(sandbox.ledger.tasks) == 1


async def test_being_told_to_slow_down_is_never_the_prompts_failure(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """More refusals than a failing request has tries."""
    sandbox.script("create", *[("status", 429)] * 3)
    retries = RetryPolicy(attempts=2, first_wait_s=0.01, max_wait_s=0.01)
    async with session_of(sandbox, retries=retries) as session:
        image = await session.generate("a fox", to=tmp_path)
    assert image.status == "saved"
    assert sandbox.ledger.rate_limited == 3


async def test_credits_that_are_rate_limited_are_asked_for_again(sandbox: Sandbox, session_of: SessionOf) -> None:
    sandbox.script("credits", ("status", 429), "garbage", "drop_before")
    async with session_of(sandbox) as session:
        assert (await session.credits()).remaining == 1000.0
    with pytest.raises(RateLimitedError):
        async with session_of(sandbox, retries=RetryPolicy(attempts=1)) as session:
            sandbox.script("credits", ("status", 429))
            await session.credits()


async def test_a_rate_spaces_the_submissions(sandbox: Sandbox, session_of: SessionOf) -> None:
    async with session_of(sandbox, rate=5.0) as session, anyio.create_task_group() as tasks:
        await session.credits()  # the first submission does not pay for the connection
        for number in range(5):
            tasks.start_soon(session.submit, f"fox {number}")
    created = sorted(task.created for task in sandbox.ledger.tasks.values())
    assert created[-1] - created[0] >= 4 / 5.0 - 0.2


@pytest.mark.parametrize("fault", ["expired", "gone", "wrong_type", "short", "truncated", "empty", "drop", "error"])
async def test_a_broken_download_is_mended_and_the_key_stays_here(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, fault: str
) -> None:
    sandbox.script("image", fault)
    async with session_of(sandbox) as session:
        image = await session.generate("a fox", to=tmp_path)
    (task,) = sandbox.ledger.tasks.values()
    assert digest(image.path) == task.sha256
    assert names(tmp_path) == ["a-fox.png"]
    assert sandbox.ledger.leaks == []


async def test_a_picture_that_cannot_be_fetched_is_paid_and_can_be_attached(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.faults = Faults(image_short=1.0)
    async with session_of(sandbox) as session:
        with pytest.raises(DownloadError) as caught:
            await session.generate("a fox", to=tmp_path)
        assert not names(tmp_path)
        sandbox.faults = Faults()
        image = await session.attach(str(caught.value.task_id)).save(tmp_path)
    assert caught.value.charged == "yes"
    assert image.sha256 == sandbox.ledger.tasks[str(image.task_id)].sha256
    assert len(sandbox.ledger.tasks) == 1


async def test_the_cap_on_unfinished_tasks_holds(sandbox: Sandbox, session_of: SessionOf) -> None:
    sandbox.durations = Durations.fixed(0.1)
    sandbox.limits = Limits(unfinished=3)
    async with session_of(sandbox, concurrency=3) as session, anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(session.submit, f"fox {number}")
    assert len(sandbox.ledger.tasks) == 12
    assert sandbox.ledger.max_unfinished == 3
    assert sandbox.ledger.rate_limited == 0


async def test_many_tasks_are_read_in_few_requests(sandbox: Sandbox, session_of: SessionOf) -> None:
    sandbox.durations = Durations.fixed(0.5)
    polling = PollPolicy(shortest_s=0.3, longest_s=0.6, window_s=0.1, ahead_s=0.3)
    async with session_of(sandbox, polling=polling, concurrency=100) as session, anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(session.submit, f"fox {number}")
    assert sandbox.ledger.requests["batch"] + sandbox.ledger.requests["read"] <= 20
