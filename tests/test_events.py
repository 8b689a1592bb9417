"""What `on_event` is told: every picture's story, whole and in order, however it ends."""

# ruff: noqa: PT012 - crashing a block takes a block

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs.exceptions import FrozenInstanceError
from impatience import HASTY, SOON
from until import until

from krea_async import (
    Abandoned,
    Accepted,
    Completed,
    ContentPolicyError,
    Event,
    Failed,
    ImageRequest,
    InsufficientCreditsError,
    JournalError,
    KreaSession,
    Picture,
    Polled,
    Queued,
    RetryScheduled,
    Saved,
    SubmissionRefused,
    Submitted,
    TakenUp,
    TaskTimeoutError,
    all_of,
)
from krea_async.errors import Charged
from krea_async.orders import IfCancelled
from krea_async.sandbox import Durations, Faults, Limits, Sandbox
from krea_async.storage.journal import Journal

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

WHOLE = ["Queued", "Submitted", "Accepted", "Completed", "Saved"]


def kinds(told: list[Event]) -> list[str]:
    """The events of pictures, by name."""
    return [type(event).__name__ for event in told if hasattr(event, "picture")]


def stories(told: list[Event]) -> dict[int, list[Any]]:
    """The events of each picture, in order."""
    by_number: dict[int, list[Any]] = {}
    for event in told:
        if hasattr(event, "picture"):
            by_number.setdefault(event.picture.number, []).append(event)
    return by_number


async def test_a_picture_tells_its_story_in_order(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    told: list[Event] = []
    async with session_of(sandbox, on_event=told.append) as session:
        image = await session.generate(ImageRequest("a fox", id="my-fox"), to=tmp_path)
    assert kinds(told) == WHOLE
    (story,) = stories(told).values()
    queued, submitted, accepted, completed, saved = story
    assert {event.picture.id for event in story} == {"my-fox"}
    assert queued.picture.task_id is submitted.picture.task_id is None
    assert accepted.picture.task_id == completed.picture.task_id == saved.picture.task_id == image.task_id
    assert [event.at_s for event in told] == sorted(event.at_s for event in told)
    assert submitted.queued_s == pytest.approx(image.timings.queued_s)
    assert accepted.waiting_s == pytest.approx(image.timings.waiting_s)
    assert completed.generating_s == pytest.approx(image.timings.generating_s)
    assert 0.0 < saved.downloading_s <= saved.at_s - completed.at_s + 0.05
    assert (saved.bytes, saved.credits, completed.credits) == (image.bytes, 0.45, 0.45)
    assert accepted.credits_reserved == 0.45
    assert not accepted.replayed


async def test_reads_are_told_before_what_they_bring(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    sandbox.durations = Durations.fixed(0.3)
    told: list[Event] = []
    async with session_of(sandbox, on_event=told.append) as session:
        image = await session.generate("a fox", to=tmp_path)
    reads = [event for event in told if isinstance(event, Polled)]
    assert len(reads) == sandbox.ledger.tasks[str(image.task_id)].reads >= 2
    assert all(read.task_ids == (image.task_id,) and read.error is None and read.seconds > 0.0 for read in reads)
    assert [read.finished for read in reads] == [()] * (len(reads) - 1) + [(image.task_id,)]
    (completed,) = (event for event in told if isinstance(event, Completed))
    assert told.index(reads[-1]) == told.index(completed) - 1
    assert completed.lag_s is not None
    assert completed.lag_s == pytest.approx(completed.generating_s - 0.3, abs=0.01)


async def test_every_row_of_a_storm_has_one_whole_story(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """429s, lost answers, broken transfers: what is told of them adds up to what the gateway and the report say."""
    rows = 40
    sandbox.limits = Limits(unfinished=8)
    sandbox.durations = Durations(queue_s=0.01, run_s=0.02, sigma=0.5)
    sandbox.faults = Faults(drop_before=0.05, drop_after=0.05, error=0.05, image_truncated=0.1, image_error=0.1)
    told: list[Event] = []
    async with session_of(sandbox, on_event=told.append) as session:
        report = await session.render([f"row {number}" for number in range(rows)], tmp_path)
    assert report.saved == rows
    by_number = stories(told)
    assert sorted(story[0].picture.index for story in by_number.values()) == list(range(rows))
    for story in by_number.values():
        milestones = [name for name in kinds(story) if name not in {"SubmissionRefused", "RetryScheduled"}]
        assert milestones == WHOLE
    count = Counter(kinds(told))
    assert count["SubmissionRefused"] == sandbox.ledger.rate_limited == report.calls["rate_limited"] > 0
    tries = (
        count["Submitted"]
        + count["SubmissionRefused"]
        + sum(isinstance(event, RetryScheduled) and event.stage == "submission" for event in told)
    )
    assert tries == report.calls["create"]
    fetches = count["Completed"] + sum(
        isinstance(event, RetryScheduled) and event.stage == "download" for event in told
    )
    assert fetches == report.calls["image"]
    assert sum(event.credits for event in told if isinstance(event, Saved)) == pytest.approx(report.credits)
    assert sum(event.bytes for event in told if isinstance(event, Saved)) == report.bytes


async def test_a_failed_task_says_so_once(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    sandbox.script("create", ("fail", "content_policy_violation"))
    told: list[Event] = []
    async with session_of(sandbox, on_event=told.append) as session:
        with pytest.raises(ContentPolicyError) as caught:
            await session.generate("a fox", to=tmp_path)
    assert kinds(told) == ["Queued", "Submitted", "Accepted", "Failed"]
    failed = told[-1]
    assert isinstance(failed, Failed)
    assert (failed.stage, failed.error, failed.charged) == ("generation", "content_policy_violation", "no")
    assert failed.reason == str(caught.value)
    assert failed.picture.task_id == caught.value.task_id


async def test_a_refused_submission_fails_and_those_that_waited_are_abandoned(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.script("create", ("status", 402))
    told: list[Event] = []
    async with session_of(sandbox, concurrency=1, on_event=told.append) as session, asyncio.TaskGroup() as calls:
        for number in range(3):
            calls.create_task(_refused(session, tmp_path / f"{number}.png"))
    first, *others = stories(told).values()
    assert kinds(first) == ["Queued", "Submitted", "Failed"]
    assert (first[-1].stage, first[-1].charged) == ("submission", "no")
    assert [kinds(story) for story in others] == [["Queued", "Abandoned"]] * 2
    assert {story[-1].charged for story in others} == {"no"}


async def _refused(session: KreaSession, to: Path) -> None:
    with pytest.raises(InsufficientCreditsError):
        await session.generate("a fox", to=to)


async def test_a_picture_that_cannot_be_fetched_fails_at_its_download(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.faults = Faults(image_gone=1.0)
    told: list[Event] = []
    async with session_of(sandbox, on_event=told.append) as session:
        report = await session.render(["a fox"], tmp_path)
    assert report.failed == 1
    assert kinds(told)[-1] == "Failed"
    failed = told[-1]
    assert isinstance(failed, Failed)
    assert (failed.stage, failed.charged, failed.picture.index) == ("download", "yes", 0)
    retries = [event for event in told if isinstance(event, RetryScheduled)]
    assert {(retry.stage, retry.status) for retry in retries} == {("download", 410)}
    assert [retry.failures for retry in retries] == list(range(1, SOON.attempts))


@pytest.mark.parametrize("left", [False, True])
async def test_what_its_caller_gives_up_is_abandoned(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, left: bool
) -> None:
    sandbox.durations = Durations.fixed(60.0)
    told: list[Event] = []
    async with session_of(sandbox, concurrency=1, on_event=told.append) as session:
        blocker = await session.submit("in front") if not left else None
        call = asyncio.create_task(session.generate("a fox", to=tmp_path))
        number = 0 if left else 1
        last = "Accepted" if left else "Queued"
        await until(lambda: len(stories(told)) > number and kinds(list(stories(told).values())[number])[-1] == last)
        call.cancel()
        await asyncio.wait([call])
        abandoned = list(stories(told).values())[number][-1]
        if blocker is not None:
            blocker.give_up(is_noted=True)
    assert isinstance(abandoned, Abandoned)
    assert abandoned.stage == ("generation" if left else "submission")
    assert abandoned.charged == ("unknown" if left else "no")


@pytest.mark.parametrize("if_cancelled", ["leave", "finish"])
async def test_a_picture_that_is_given_up_while_it_is_fetched(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, if_cancelled: IfCancelled
) -> None:
    """It is paid for; left to others it is abandoned, finished all the same it is saved later."""
    sandbox.script("image", "stalled")
    told: list[Event] = []
    async with session_of(sandbox, timeouts=HASTY, on_event=told.append) as session:
        call = asyncio.create_task(session.generate("a fox", to=tmp_path, if_cancelled=if_cancelled))
        await until(lambda: session.stats.calls["image"])
        call.cancel()
        await asyncio.wait([call])
    ended = told[-1]
    assert [kind for kind in kinds(told)[:-1] if kind != "RetryScheduled"] == WHOLE[:-1]
    if if_cancelled == "leave":
        assert isinstance(ended, Abandoned)
        assert (ended.stage, ended.charged) == ("download", "yes")
    else:
        assert isinstance(ended, Saved)


async def test_a_closed_session_abandons_what_it_followed(sandbox: Sandbox, session_of: SessionOf) -> None:
    sandbox.durations = Durations.fixed(60.0)
    told: list[Event] = []
    with pytest.raises(ZeroDivisionError):
        async with session_of(sandbox, on_event=told.append) as session:
            await session.submit("a fox")
            raise ZeroDivisionError
    assert kinds(told) == ["Queued", "Submitted", "Accepted", "Abandoned"]


async def test_a_task_that_takes_too_long_fails(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    sandbox.durations = Durations.fixed(60.0)
    told: list[Event] = []
    async with session_of(sandbox, task_timeout_s=0.1, on_event=told.append) as session:
        with pytest.raises(TaskTimeoutError):
            await session.generate("a fox", to=tmp_path)
    failed = told[-1]
    assert isinstance(failed, Failed)
    assert (failed.stage, failed.error, failed.charged) == ("generation", "TaskTimeoutError", "unknown")


async def test_an_attached_task_is_taken_up(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    told: list[Event] = []
    async with session_of(sandbox) as session:
        task_id = (await session.submit("a fox")).task_id
    async with session_of(sandbox, on_event=told.append) as session:
        await session.attach(task_id).save(tmp_path / "fox.png")
    assert kinds(told) == ["TakenUp", "Completed", "Saved"]
    taken_up, completed, _ = stories(told).popitem()[1]
    assert isinstance(taken_up, TakenUp)
    assert taken_up.picture.task_id == task_id
    assert completed.lag_s is None, "nobody knows for how long it had been running"


@pytest.mark.parametrize(("step", "charged"), [("Intent", "no"), ("Accepted", "unknown")])
async def test_a_journal_that_fails_is_told_with_what_it_may_cost(
    sandbox: Sandbox,
    session_of: SessionOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    charged: Charged,
) -> None:
    note = Journal.note

    def noted(journal: Journal, record: Any) -> None:
        if type(record).__name__ == step:
            raise JournalError("the disk is full")
        note(journal, record)

    monkeypatch.setattr(Journal, "note", noted)
    told: list[Event] = []
    async with session_of(sandbox, on_event=told.append) as session, session.render(["a fox"], tmp_path) as batch:
        (image,) = [image async for image in batch]
    (story,) = stories(told).values()
    assert kinds(story) == (["Queued", "Failed"] if charged == "no" else ["Queued", "Submitted", "Failed"])
    assert image.error is not None
    assert story[-1].charged == image.error.charged == charged
    assert len(sandbox.ledger.tasks) == (charged != "no")


async def test_reads_that_fail_are_told(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    sandbox.script("read", ("status", 429))
    told: list[Event] = []
    async with session_of(sandbox, on_event=told.append) as session:
        await session.generate("a fox", to=tmp_path)
    reads = [event for event in told if isinstance(event, Polled)]
    assert [(read.refused, read.error is None) for read in reads] == [(True, False), (False, True)]


async def test_a_listener_that_crashes_costs_no_picture(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At every single event."""
    told: list[Event] = []

    def crashes(event: Event) -> None:
        raise ZeroDivisionError(type(event).__name__)

    async with session_of(sandbox, on_event=all_of(crashes, told.append)) as session:
        report = await session.render([f"row {number}" for number in range(5)], tmp_path)
    assert report.saved == 5
    assert Counter(kinds(told)) == Counter(dict.fromkeys(WHOLE, 5))
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(failures) == len(told)


async def test_without_a_listener_no_event_is_made(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    for kind in (Picture, Queued, Submitted, SubmissionRefused, RetryScheduled, Accepted, Polled, Completed, Saved):
        monkeypatch.setattr(kind, "__init__", lambda self, **_: made.append(self))
    sandbox.script("create", "drop_after", ("status", 429))
    sandbox.script("image", "truncated")
    async with session_of(sandbox) as session:
        report = await session.render([f"row {number}" for number in range(10)], tmp_path)
    assert report.saved == 10
    assert report.calls["rate_limited"] > 0
    assert made == []


def test_events_are_frozen() -> None:
    event = Queued(picture=Picture())
    with pytest.raises(FrozenInstanceError):
        event.at_s = 0.0  # type: ignore[misc]


def test_pictures_have_numbers_of_their_own() -> None:
    assert len({Picture().number for _ in range(100)}) == 100


def test_an_async_listener_is_turned_away() -> None:
    """Nobody would await it."""

    async def listen(event: Event) -> None: ...

    with pytest.raises(TypeError, match=r"plain function"):
        KreaSession("sk-evo-x", on_event=listen)
