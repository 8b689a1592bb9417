"""The books of a directory are those of the gateway: what it charged, gave back and holds, however the runs ended."""

# ruff: noqa: ASYNC240 - looking into a directory takes no time

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from attrs import asdict, evolve
from clocks import Clock
from until import until_tasks

from krea_async import BatchPolicy, BatchReport, KreaSession, RetryPolicy
from krea_async.audit.repair import repair
from krea_async.audit.report import DirectoryReport, directory_report
from krea_async.audit.report_text import report_text
from krea_async.audit.verify import verify
from krea_async.sandbox import Durations, Faults, Sandbox
from krea_async.storage.compact import compact
from krea_async.storage.history import JOURNAL_NAME

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]
POLICY = BatchPolicy(read_balance=True, breaker=None)


def listed(count: int, **facts: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"row {n}", "size": "1:2", **facts} for n in range(count)]


async def report_of(directory: Path) -> DirectoryReport:
    return await to_thread.run_sync(partial(directory_report, directory))


def assert_the_books_agree(report: DirectoryReport, sandbox: Sandbox) -> None:
    """With the gateway's, when nothing is unknown."""
    ledger = sandbox.ledger
    assert report.credits == pytest.approx(ledger.charged_credits)
    assert report.credits_reserved == pytest.approx(ledger.reserved_credits)
    ended_badly = [task for task in ledger.tasks.values() if ledger.status(task.id) in {"failed", "cancelled"}]
    assert report.credits_refunded == pytest.approx(sum(task.request.credits for task in ended_badly))
    assert report.credits_unknown == 0.0
    assert report.unknown == ()
    assert report.usd == pytest.approx(sum(task.request.usd for task in ledger.tasks.values() if task.credits_charged))


def assert_one_story(report: DirectoryReport, batch: BatchReport) -> None:
    """What a single run in a new directory said of itself, the directory says in the same words."""
    for name in ("rows", "saved", "failed", "left", "credits", "usd", "balance_before", "balance_after", "maybe_twice"):
        assert getattr(report, name) == pytest.approx(getattr(batch, name)), name
    assert report.failures == batch.failures
    assert list(report.failures) == list(batch.failures)
    assert {code: error.message for code, error in batch.examples.items()}.keys() == report.examples.keys()
    assert _facts(report.unknown) == _facts(batch.unknown)


def _facts(rows: Iterable[Any]) -> set[tuple[object, ...]]:
    return {(row.index, row.prompt, row.task_id, row.charged) for row in rows}


async def test_a_run_that_went_well(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    async with session_of(sandbox) as session:
        prompts = [*listed(6), *listed(2, quality="2K"), *listed(2, seed=7, id=None)]
        batch = await session.render(prompts, tmp_path, policy=POLICY)
        report = await report_of(tmp_path)
        assert_the_books_agree(report, sandbox)
        assert_one_story(report, batch)
        assert (await session.credits()).remaining == report.balance_after
    assert report.credits == pytest.approx(8 * 0.45 + 2 * 1.8)
    assert report.states == {"planned": 0, "intent": 0, "accepted": 0, "completed": 0, "saved": 10, "failed": 0}
    assert (report.balance_before, report.balance_difference) == (1000.0, 0.0)
    assert report.balance_after == pytest.approx(1000.0 - report.credits)
    assert (report.runs, report.pictures, report.stopped_by, report.compacted) == (1, 10, None, False)
    assert 0.0 < report.wall_s < 60.0
    assert all(seconds > 0.0 for step, seconds in asdict(report.seconds).items() if step != "queued_s")
    assert report.pictures_per_minute == pytest.approx(600 / report.wall_s, rel=0.01)
    assert report.first_s is not None
    assert report.last_s is not None
    assert 0.0 <= report.last_s - report.first_s < 60.0


async def test_failed_rows_are_refunded_and_counted_by_code(session_of: SessionOf, tmp_path: Path) -> None:
    faults = Faults(fail={"content_policy_violation": 0.3, "generation_timeout": 0.2}, cancelled=0.1)
    gateway = Sandbox(durations=Durations.instant(), faults=faults, scenes=4)
    async with gateway as sandbox, session_of(sandbox) as session:
        batch = await session.render(listed(60), tmp_path, policy=POLICY)
        report = await report_of(tmp_path)
        assert batch.failed == report.failed > 20
        assert_the_books_agree(report, sandbox)
        assert_one_story(report, batch)
        assert report.balance_difference == 0.0
        ends = [task.end for task in sandbox.ledger.tasks.values()]
        assert report.failures["content_policy_violation"] == ends.count("content_policy_violation")
        assert report.failures["generation_timeout"] == ends.count("generation_timeout")
        assert report.examples["content_policy_violation"].endswith("The prompt violates the content policy")
        # Later runs send again what may be sent again; what was given back before stays in the books.
        retrying = BatchPolicy(retry_failed=True, read_balance=True, breaker=None)
        await session.render(listed(60), tmp_path, policy=retrying)
        sandbox.faults = Faults()
        await session.resume(tmp_path, policy=retrying)
        report = await report_of(tmp_path)
    assert report.runs == 3
    assert_the_books_agree(report, sandbox)
    assert report.balance_difference == 0.0
    assert report.failures.get("generation_timeout", 0) == 0
    assert report.saved + report.failed == 60


async def test_twins_and_rows_of_several_prices_and_pictures_fetched_twice_are_charged_once(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        twins = [{"prompt": "fox", "size": "1:2", "seed": 7, "id": name} for name in "abc"]
        prompts = [*twins, *listed(3, quality="2K"), *listed(3)]
        await session.render(prompts, tmp_path, policy=POLICY)
        assert len(sandbox.ledger.tasks) == 7
        for path in [*tmp_path.glob("0*.png")][:3]:
            path.unlink()
        batch = await session.render(prompts, tmp_path, policy=POLICY)  # which fetches them again
        assert (batch.saved, batch.already_saved, batch.credits) == (3, 6, 0.0)
        before = await report_of(tmp_path)
        (tmp_path / "a.png").write_bytes(b"damaged")
        await repair(session, tmp_path, (await to_thread.run_sync(partial(verify, tmp_path))).problems)
        report = await report_of(tmp_path)
    assert_the_books_agree(report, sandbox)
    assert (report.saved, report.pictures, report.runs) == (9, 7, 2)
    assert report.wall_s == before.wall_s  # a repair is no run
    assert report.seconds == before.seconds
    assert report.balance_difference == 0.0


@pytest.mark.parametrize("forgotten", [True, False])
async def test_a_picture_that_was_paid_for_and_is_lost_for_ever_stays_charged(
    session_of: SessionOf, tmp_path: Path, forgotten: bool
) -> None:
    """Saved in one run, gone from the disk in the next, and the gateway does not have it any more."""
    async with Sandbox(durations=Durations.instant()) as sandbox, session_of(sandbox) as session:
        await session.render(listed(2), tmp_path, policy=POLICY)
        next(tmp_path.glob("00001-*.png")).unlink()
        task_id = next(task.id for task in sandbox.ledger.tasks.values() if task.prompt == "row 1")
        if forgotten:
            sandbox.forget(task_id)
        else:
            sandbox.settings.link_life_s = -1.0
        batch = await session.render(listed(2), tmp_path, policy=POLICY)
        report = await report_of(tmp_path)
        assert (batch.failed, report.failed) == (1, 1)
        assert report.credits + report.credits_unknown == pytest.approx(sandbox.ledger.charged_credits)
        assert report.credits == pytest.approx(sandbox.ledger.charged_credits)
        assert [(row.index, row.task_id, row.charged) for row in report.unknown] == [(1, task_id, "yes")]


async def test_a_copy_that_is_gone_with_its_original_leaves_a_journal_that_can_be_read(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """It was saved without a task of its own. Whether it is sent after all or not, the books say what was charged."""
    twins = [{"prompt": "fox", "size": "1:2", "seed": 7, "id": name} for name in "ab"]
    async with session_of(sandbox) as session:
        await session.render(twins, tmp_path, policy=POLICY)
        for path in tmp_path.glob("*.png"):
            path.unlink()
        (task_id,) = sandbox.ledger.tasks
        sandbox.forget(task_id)
        for _ in range(2):
            batch = await session.render(twins, tmp_path, policy=POLICY)
            report = await report_of(tmp_path)
            assert report.damaged_lines == ()
            assert report.saved == batch.saved + batch.already_saved
            assert report.credits == pytest.approx(sandbox.ledger.charged_credits)


@pytest.mark.parametrize("for_good", [True, False])
async def test_a_link_that_is_refused_leaves_a_charge_and_no_picture(
    session_of: SessionOf, tmp_path: Path, for_good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row has failed once its link is too old to live; before, a later run tries again."""
    if for_good:
        monkeypatch.setattr("krea_async.batch.books.LINK_LIFETIME_S", -1.0)
    async with Sandbox(durations=Durations.instant(), link_life_s=-1.0) as sandbox, session_of(sandbox) as session:
        batch = await session.render(listed(3), tmp_path, policy=POLICY)
        report = await report_of(tmp_path)
        assert report.credits == pytest.approx(sandbox.ledger.charged_credits) == pytest.approx(1.35)
        assert report.usd == pytest.approx(3 * 0.0067)
        assert report.balance_difference == 0.0
        assert (report.credits_reserved, report.credits_unknown) == (0.0, 0.0)
        without_picture = report.unknown if for_good else report.open_tasks
        assert {(row.task_id, row.charged) for row in without_picture} == {(id_, "yes") for id_ in sandbox.ledger.tasks}
        assert (report.failed, report.left) == ((3, 0) if for_good else (0, 3))
        if for_good:
            assert_one_story(report, batch)


async def test_open_tasks_of_a_stopped_run_are_reserved_and_are_charged_once_they_are_saved(
    session_of: SessionOf, tmp_path: Path
) -> None:
    clock = Clock()
    async with (
        Sandbox(durations=Durations.fixed(300.0), clock=clock) as sandbox,
        session_of(sandbox, concurrency=6) as session,
    ):
        async with session.render(listed(20), tmp_path, policy=POLICY) as batch:
            await until_tasks(sandbox, 6, within_s=5)
            running = await report_of(tmp_path)  # which a run does not keep from being read
            batch.stop(drain_s=0.0)
        assert running.credits == 0.0
        report = await report_of(tmp_path)
        open_tasks = {row.task_id for row in report.open_tasks}
        unanswered = {row.index for row in report.unknown}
        assert len(open_tasks) + len(unanswered) == 6
        assert open_tasks <= set(sandbox.ledger.tasks)
        assert report.credits_reserved == pytest.approx(0.45 * len(open_tasks))
        assert report.credits_unknown == pytest.approx(0.45 * len(unanswered))
        assert report.left == report.rows >= 6
        clock.ahead_s, sandbox.durations = 1_000.0, Durations.instant()
        await session.render(listed(20), tmp_path, policy=POLICY)
        report = await report_of(tmp_path)
        assert (report.saved, report.left, report.open_tasks) == (20, 0, ())
        assert_the_books_agree(report, sandbox)
        assert report.balance_difference == 0.0


async def test_a_run_killed_at_any_moment_leaves_books_that_explain_the_balance(
    session_of: SessionOf, tmp_path: Path
) -> None:
    """The journal up to each of its lines is what a killed run leaves: charged and unknown cover what was taken."""
    (whole := tmp_path / "whole").mkdir()
    (cut := tmp_path / "cut").mkdir()
    faults = Faults(fail={"generation_timeout": 0.3}, drop_after=0.2)
    async with Sandbox(durations=Durations.instant(), faults=faults, scenes=2) as sandbox:
        async with session_of(sandbox, concurrency=3) as session:
            await session.render(listed(12), whole, policy=POLICY)
        tasks = sandbox.ledger.tasks
    lines = (whole / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        (cut / JOURNAL_NAME).write_bytes(b"".join(lines[:count]))
        report = directory_report(cut)
        events = [json.loads(line) for line in lines[:count]]
        known = {event["task"] for event in events if event["e"] == "accepted"}
        charged = sum(tasks[task_id].credits_charged for task_id in known)
        sent = len({event["n"] for event in events if event["e"] == "intent"})
        assert report.credits <= charged + 1e-9
        covered = report.credits + report.credits_reserved + report.credits_unknown
        assert charged <= covered + 1e-9
        assert covered + report.credits_refunded == pytest.approx(0.45 * sent)
        assert report.damaged_lines == ()
        assert report.rows == sum(event["e"] == "row" for event in events)
        assert report.runs == sum(event["e"] == "run" for event in events)
    assert report == evolve(directory_report(whole), directory=cut)


# --- what nobody knows ------------------------------------------------------------------------------------------------


async def test_lost_answers_are_unknown_credits_until_they_are_found(session_of: SessionOf, tmp_path: Path) -> None:
    hasty = RetryPolicy(attempts=2, first_wait_s=0.01, max_wait_s=0.02)
    async with Sandbox(durations=Durations.instant(), faults=Faults(drop_after=1.0)) as sandbox:
        async with session_of(sandbox, retries=hasty) as session:
            batch = await session.render(listed(3), tmp_path, policy=BatchPolicy(breaker=None))
        report = await report_of(tmp_path)
        assert len(sandbox.ledger.tasks) == 3
        assert report.credits == 0.0
        assert report.credits_unknown == pytest.approx(sandbox.ledger.charged_credits)
        assert [(row.index, row.prompt, row.task_id) for row in report.unknown] == [
            (n, f"row {n}", None) for n in range(3)
        ]
        assert _facts(report.unknown) == _facts(batch.unknown)
        sandbox.faults = Faults()
        async with session_of(sandbox) as session:
            await session.render(listed(3), tmp_path, policy=POLICY)
        report = await report_of(tmp_path)
        assert len(sandbox.ledger.tasks) == 3
        assert_the_books_agree(report, sandbox)
        assert report.maybe_twice == ()


async def test_without_idempotency_the_rows_that_may_be_charged_twice_are_named(
    session_of: SessionOf, tmp_path: Path
) -> None:
    async with Sandbox(durations=Durations.instant(), idempotency=False) as sandbox:
        async with session_of(sandbox, concurrency=1) as session:
            sandbox.script("create", "ok", "drop_after", "ok", "drop_before", "ok")
            batch = await session.render(listed(4), tmp_path, policy=POLICY)
        report = await report_of(tmp_path)
        charged = sandbox.ledger.charged_credits
    assert charged == pytest.approx(5 * 0.45)
    assert report.credits == pytest.approx(4 * 0.45)
    assert [row.index for row in report.maybe_twice] == [1, 2]
    assert _facts(report.maybe_twice) == _facts(batch.maybe_twice)
    assert report.balance_difference == pytest.approx(0.45)  # and the balance says that one was
    assert "may have been charged twice" in "\n".join(report_text(report))


# --- after compaction -------------------------------------------------------------------------------------------------


async def test_a_compacted_journal_has_the_same_books_but_for_what_it_says_it_has_lost(
    session_of: SessionOf, tmp_path: Path
) -> None:
    faults = Faults(fail={"generation_timeout": 0.4}, drop_after=0.2)
    async with Sandbox(durations=Durations.instant(), faults=faults, scenes=4) as sandbox:
        async with session_of(sandbox) as session:
            await session.render(listed(20), tmp_path, policy=POLICY)
            retrying = BatchPolicy(retry_failed=True, read_balance=True, breaker=None)
            await session.render(listed(20), tmp_path, policy=retrying)
        before = await report_of(tmp_path)
        assert_the_books_agree(before, sandbox)
    await to_thread.run_sync(partial(compact, tmp_path))
    after = await report_of(tmp_path)
    lost: Sequence[str] = ("credits_refunded", "compacted", "wall_s", "pictures_per_minute")
    known = [name for name in before.as_json() if name not in lost]
    assert {name: after.as_json()[name] for name in known} == {name: before.as_json()[name] for name in known}
    assert (before.compacted, after.compacted) == (False, True)
    assert after.credits_refunded <= before.credits_refunded
    assert "is not known any more" in "\n".join(report_text(after))
