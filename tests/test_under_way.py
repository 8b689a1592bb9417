"""Rows that a run had sent and not ended: followed, fetched by their deadlines, and never ordered twice."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from clocks import Clock
from resuming import (
    ONE_TRY,
    SessionOf,
    accepted,
    completed,
    foxes,
    intent,
    journal,
    key_of,
    keys_of,
    killed_run,
    manifest,
    ordered,
    pictures,
    prompts_made,
    row,
)

from krea_async import (
    BacklogPolicy,
    BatchPolicy,
    DownloadPolicy,
    JournalPolicy,
    RetryPolicy,
    TaskNotFoundError,
)
from krea_async.sandbox import Durations, Faults, Sandbox

pytestmark = pytest.mark.anyio

EVENTS = ("intent", "completed", "saved")


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
        yield sandbox


# --- rows under way ---------------------------------------------------------------------------------------------------


async def test_tasks_that_are_known_are_followed_and_never_sent_again(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    prompts = ["finished", "running", "failed", "forgotten", "forgotten when finished"]
    async with session_of(sandbox) as session:
        sandbox.script("create", "ok", "ok", ("fail", "content_policy_violation"))
        (finished,) = await ordered(session, prompts[:1])
        sandbox.durations = Durations.fixed(0.3)
        (running,) = await ordered(session, prompts[1:2])
        sandbox.durations = Durations.instant()
        rest = await ordered(session, prompts[2:])
        for task_id in rest[1:]:
            sandbox.forget(task_id)
        ids = [finished, running, *rest]
        lines = [line for n, prompt in enumerate(prompts) for line in (row(n, prompt), intent(n), accepted(n, ids[n]))]
        killed_run(tmp_path / "out", *lines, completed(4, expires_in_s=3600.0))
        created = sandbox.ledger.requests["create"]
        async with session.render(prompts, tmp_path / "out") as batch:
            images = {image.index: image async for image in batch}
        again = await session.render(prompts, tmp_path / "out")
    assert sandbox.ledger.requests["create"] == created
    assert [images[n].status for n in range(5)] == ["saved", "saved", "failed", "failed", "failed"]
    assert [images[n].task_id for n in range(5)] == ids
    assert {unknown.task_id: unknown.charged for unknown in batch.report.unknown} == {ids[3]: "unknown", ids[4]: "yes"}
    error = images[3].error
    assert isinstance(error, TaskNotFoundError)
    assert "does not know" in error.message
    assert (again.already_saved, again.failed, again.calls["create"]) == (2, 3, 0)


async def test_a_row_whose_answer_was_lost_is_sent_again_under_its_key(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """Whether or not the gateway had got it: there is one task, and it has the first key."""
    sandbox.script("create", "drop_after", "drop_before")
    async with session_of(sandbox, retries=ONE_TRY, concurrency=1) as session:
        lost = await session.render(["fox", "owl"], tmp_path)
        report = await session.render(["new", "owl", "fox"], tmp_path)
    assert (lost.failed, lost.saved) == (2, 0)
    assert (report.saved, report.calls["create"]) == (3, 3)
    assert sandbox.ledger.replays == 1
    assert sorted(prompts_made(sandbox)) == ["fox", "new", "owl"]
    assert all(len(set(keys_of(tmp_path, n))) == 1 for n in range(3))
    assert set(sandbox.ledger.charges_by_key.values()) == {1}
    assert report.maybe_twice == ()


async def test_an_intent_that_was_never_sent_is_sent_under_its_key(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    killed_run(tmp_path, *(line for n in range(3) for line in (row(n, f"fox {n}"), intent(n))))
    async with session_of(sandbox) as session:
        report = await session.render(foxes(3), tmp_path)
    assert report.saved == 3
    assert {task.prompt: task.key for task in sandbox.ledger.tasks.values()} == {
        f"fox {n}": key_of(n) for n in range(3)
    }


@pytest.mark.parametrize("age_s", [3700.0, 61.0])
async def test_a_key_that_may_be_forgotten_is_used_again_only_with_consent(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, age_s: float
) -> None:
    policy = BatchPolicy(journal=JournalPolicy(keys_live_s=60.0)) if age_s < 3600.0 else BatchPolicy()
    killed_run(tmp_path, row(0, "fox 0"), intent(0, age_s=age_s), row(1, "fox 1"), intent(1, age_s=50.0))
    async with session_of(sandbox) as session:
        async with session.render(foxes(2), tmp_path, policy=policy) as batch:
            images = {image.index: image async for image in batch}
        again = await session.render(foxes(2), tmp_path, policy=policy)
        assert prompts_made(sandbox) == ["fox 1"]
        agreed = await session.render(foxes(2), tmp_path, policy=BatchPolicy(retry_unknown=True))
    error = images[0].error
    assert error is not None
    assert (error.code, error.charged, images[0].status) == ("unknown_outcome", "unknown", "failed")
    for report in (batch.report, again):
        assert [(unknown.index, unknown.charged) for unknown in report.unknown] == [(0, "unknown")]
        assert not report.ok
    assert (agreed.saved, agreed.already_saved, agreed.unknown) == (1, 1, ())
    assert [task.key for task in sandbox.ledger.tasks.values()] == [key_of(1), key_of(0)]


async def test_a_timeout_is_no_end(session_of: SessionOf, tmp_path: Path) -> None:
    clock = Clock()
    async with Sandbox(durations=Durations.fixed(300.0), scenes=1, clock=clock) as sandbox:
        async with session_of(sandbox, task_timeout_s=0.2) as session:
            first = await session.render(["fox"], tmp_path)
        clock.ahead_s = 1_000.0
        async with session_of(sandbox) as session:
            second = await session.render(["fox"], tmp_path)
    assert (first.failures, second.saved, second.calls["create"]) == ({"TaskTimeoutError": 1}, 1, 0)
    assert [line["status"] for line in manifest(tmp_path)] == ["saved"]


async def test_every_fault_in_the_second_run_costs_time_only(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    prompts = foxes(30)
    tries = RetryPolicy(attempts=25, first_wait_s=0.01, max_wait_s=0.05)
    async with session_of(sandbox, downloading=DownloadPolicy(retries=tries, timeout_s=5.0)) as session:
        await session.render(prompts[:10], tmp_path)
        for name in pictures(tmp_path)[::2]:
            (tmp_path / name).unlink()
        sandbox.faults = Faults.everywhere(0.04, stall_s=0.1, slow_s=0.02)
        report = await session.render(prompts[::-1], tmp_path)
    assert (report.saved, report.already_saved, report.failed) == (25, 5, 0)
    assert len(sandbox.ledger.tasks) == 30
    assert sandbox.ledger.duplicates == {}
    assert len(pictures(tmp_path)) == 30


async def test_a_bug_ends_the_run_at_once_and_the_next_one_goes_on(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for a drain when what would drain is what broke."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr("krea_async.batch.books.Books.completed", broken)
        with anyio.fail_after(5.0), pytest.raises(ZeroDivisionError):
            async with session_of(sandbox) as session:
                await session.render(foxes(1), tmp_path)
    async with session_of(sandbox) as session:
        report = await session.render(foxes(5), tmp_path)
    assert (report.saved, report.ok, len(sandbox.ledger.tasks)) == (5, True, 5)


# --- the backlog ------------------------------------------------------------------------------------------------------


async def test_finished_pictures_are_fetched_by_their_deadlines_before_anything_is_ordered(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """All of the backlog, the urgent first, then the first new intent."""
    expires_in_s = [5_000.0, 1_000.0, 4_000.0, 2_000.0, 6_000.0, 3_000.0]
    async with session_of(sandbox, downloads=1) as session:
        ids = await ordered(session, foxes(6))
        lines = [(row(n, f"fox {n}"), intent(n), accepted(n, ids[n])) for n in range(6)]
        ends = [completed(n, expires_in_s=wait_s) for n, wait_s in enumerate(expires_in_s)]
        killed_run(tmp_path, *(line for some in lines for line in some), *ends)
        report = await session.render([*foxes(3, start=100), *foxes(6)], tmp_path)
    assert report.saved == 9
    run = sorted(journal(tmp_path)[2 + 6 * 4 :], key=lambda line: (line.get("t", 0.0), line["e"] == "intent"))
    backlog = [line["n"] for line in run if line["e"] == "saved" and line["n"] < 6]
    assert backlog == sorted(range(6), key=expires_in_s.__getitem__)
    events = [(line["e"], line["n"] < 6) for line in run if line["e"] in {"saved", "intent"}]
    assert events[:6] == [("saved", True)] * 6
    old = [sandbox.ledger.tasks[task_id] for task_id in ids]
    assert {task.fetched for task in old} == {1}
    new_s = min(task.created for task in sandbox.ledger.tasks.values() if task not in old)
    assert new_s > max(line["t"] for line in run if line["e"] == "saved" and line["n"] < 6) - 0.001


async def test_submissions_wait_while_the_downloads_could_miss_a_deadline(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """Told that a download may take a day, the batch orders nothing while one is under way."""
    policy = BatchPolicy(backlog=BacklogPolicy(assumed_rate=1e-6, span_s=1e9))
    sandbox.script("image", ("slow", 0.4))
    async with session_of(sandbox, concurrency=4, downloads=4) as session:
        report = await session.render(foxes(16), tmp_path, policy=policy)
    assert (report.saved, report.stopped_by) == (16, None)
    times = {event: {line["n"]: line["t"] for line in journal(tmp_path) if line["e"] == event} for event in EVENTS}
    done_s, saved_s = times["completed"], times["saved"]
    slow = max(done_s, key=lambda n: saved_s[n] - done_s[n])
    assert saved_s[slow] - done_s[slow] > 0.35
    during = [sent_s for sent_s in times["intent"].values() if done_s[slow] < sent_s < saved_s[slow]]
    assert len(during) <= 3, "those that had been let go before"
