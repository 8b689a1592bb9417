"""Promises of docs/durability.md that were broken once: what is synced, what damage costs, what is never paid twice."""

# ruff: noqa: ASYNC240 - looking into a directory takes no time

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from killed_runs import open_nursery
from resuming import (
    SessionOf,
    accepted,
    completed,
    foxes,
    intent,
    keys_of,
    killed_run,
    manifest,
    ordered,
    pictures,
    row,
    spent,
)

from krea_async import BatchPolicy, DownloadPolicy, ImageExpiredError, ImageRequest, JournalPolicy, RetryPolicy
from krea_async.audit.report import directory_report
from krea_async.sandbox import Durations, Sandbox
from krea_async.storage.disk import make_directory
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.manifest import MANIFEST_NAME
from krea_async.storage.records import Failed, Left, Saved

pytestmark = pytest.mark.anyio

SKIP_DAMAGED = BatchPolicy(skip_damaged=True, retry_failed=True)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
        yield sandbox


def damage(directory: Path, event: str) -> None:
    """Flip a bit in the first line of this event."""
    lines = (directory / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    number = next(number for number, line in enumerate(lines) if line.startswith(b'{"e":"%b"' % event.encode()))
    lines[number] = lines[number].replace(b'"n":', b'"m":')
    (directory / JOURNAL_NAME).write_bytes(b"".join(lines))


# --- what is synced ---------------------------------------------------------------------------------------------------


async def test_new_directories_are_synced_where_their_names_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[Path] = set()
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.add(Path(f"/proc/self/fd/{fd}").readlink())
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    await make_directory(tmp_path / "a" / "b" / "c")
    assert synced == {tmp_path, tmp_path / "a", tmp_path / "a" / "b"}
    synced.clear()
    await make_directory(tmp_path / "a" / "b" / "c")
    assert synced == set()


async def test_the_manifest_is_on_disk_before_the_run_says_that_it_ended(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the next run would believe a manifest that a power cut emptied."""
    lines_synced, ended = [0], []
    fsync = os.fsync

    def noted(fd: int) -> None:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        fsync(fd)
        if name == MANIFEST_NAME:
            lines_synced.append(len(manifest(tmp_path)))
        if name == JOURNAL_NAME and b'{"e":"end"' in (tmp_path / JOURNAL_NAME).read_bytes():
            ended.append(lines_synced[-1])

    monkeypatch.setattr(os, "fsync", noted)
    async with session_of(sandbox) as session:
        await session.render(foxes(3), tmp_path)
    assert ended
    assert set(ended) == {3}


# --- damage -----------------------------------------------------------------------------------------------------------


async def test_a_run_that_goes_on_without_damaged_lines_ends_well(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """Also where it has to read the journal again, because a row of an earlier run has another end now."""
    sandbox.script("create", "ok", ("fail", "service_error"))
    async with session_of(sandbox, concurrency=1) as session:
        await session.render(foxes(3), tmp_path)
        damage(tmp_path, "completed")
        report = await session.render(foxes(3), tmp_path, policy=SKIP_DAMAGED)
    assert (report.saved, report.already_saved, report.stopped_by) == (1, 2, None)
    assert [line["status"] for line in manifest(tmp_path)] == ["saved"] * 3


@pytest.mark.parametrize("with_completed", [True, False])
async def test_a_row_whose_accepted_line_is_lost_is_not_sent_once_its_key_may_be_forgotten(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, with_completed: bool
) -> None:
    async with session_of(sandbox) as session:
        (task_id,) = await ordered(session, ["fox"])
        made = [completed(0, expires_in_s=3600.0)] if with_completed else []
        killed_run(tmp_path, row(0, "fox"), intent(0, age_s=4000.0), accepted(0, task_id, age_s=3999.0), *made)
        damage(tmp_path, "accepted")
        report = await session.render(["fox"], tmp_path, policy=SKIP_DAMAGED)
    assert report.calls["create"] == 0
    assert report.failures == {"unknown_outcome": 1}
    assert [unknown.charged for unknown in report.unknown] == ["unknown"]


# --- what is paid and not here ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [403, 404])
async def test_an_image_host_that_refuses_a_link_of_today_does_not_end_a_row_that_is_paid(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, status: int
) -> None:
    if status == 403:
        sandbox.settings.link_life_s = 0.0
    else:
        sandbox.script("image", ("status", 404), ("status", 404))
    twice = RetryPolicy(attempts=2, first_wait_s=0.01, max_wait_s=0.02)
    async with session_of(sandbox, downloading=DownloadPolicy(retries=twice)) as session:
        first = await session.render(["fox"], tmp_path)
        assert (first.saved, first.failed) == (0, 1)
    sandbox.settings.link_life_s = 86_400.0
    async with session_of(sandbox) as session:
        second = await session.render(["fox"], tmp_path)
    assert (second.saved, second.calls["create"], len(sandbox.ledger.tasks)) == (1, 0, 1)
    assert spent(tmp_path) == (0.45, 0.0)


async def test_a_copy_that_is_gone_comes_from_the_others_task_also_where_equal_rows_are_paid_for_each(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    rows = [ImageRequest("fox", seed=7)] * 2
    async with session_of(sandbox, concurrency=1) as session:
        await session.render(rows, tmp_path)
        (tmp_path / "00001-fox.png").unlink()
        report = await session.render(rows, tmp_path, policy=BatchPolicy(dedupe=False))
    assert (report.saved, report.already_saved, report.calls["create"]) == (1, 1, 0)
    assert pictures(tmp_path) == ["00000-fox.png", "00001-fox.png"]


@pytest.mark.parametrize("dedupe", [True, False])
async def test_a_copy_that_nobody_has_any_more_is_no_new_order_unless_somebody_asks_for_one(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, dedupe: bool
) -> None:
    """A row that was saved cannot be sent: nobody could read the journal any more."""
    facts: dict[str, Any] = {"credits": 0.0, "bytes": 3, "sha256": "0" * 64, "width": 1, "height": 1, "at_s": 1.0}
    copy = Saved(n=0, task_id=None, files=["00000-fox.png"], **facts)
    killed_run(tmp_path, row(0, ImageRequest("fox", seed=7)), copy)
    async with session_of(sandbox) as session:
        async with session.resume(tmp_path, policy=BatchPolicy(dedupe=dedupe)) as batch:
            errors = [image.error async for image in batch]
        assert [type(error) for error in errors] == [ImageExpiredError]
        assert batch.report.calls["create"] == 0
        anew = BatchPolicy(dedupe=dedupe, retry_failed=True, retry_codes={"ImageExpiredError"})
        assert (await session.resume(tmp_path, policy=anew)).saved == 1
    assert len(sandbox.ledger.tasks) == len(keys_of(tmp_path, 0)) == 1
    assert pictures(tmp_path) == ["00000-fox.png"]


# --- what may be paid twice -------------------------------------------------------------------------------------------


async def test_a_repeat_after_the_keys_life_is_told_though_another_key_was_honoured(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """The gateway has forgotten the first row's key and knows the second's; the third, sent just now, never arrived."""
    async with session_of(sandbox, concurrency=1) as session:
        keys = [sandbox.ledger.tasks[task_id].key or "" for task_id in await ordered(session, foxes(2))]
        old = [line for n in range(2) for line in (row(n, f"fox {n}"), evolve(intent(n, age_s=4000.0), key=keys[n]))]
        killed_run(tmp_path, *old, row(2, "fox 2"), intent(2))
        sandbox.settings.idempotency = False
        async with session.render(foxes(3), tmp_path, policy=BatchPolicy(retry_unknown=True)) as batch:
            ended = []
            async for image in batch:
                ended.append(image.index)
                sandbox.settings.idempotency = True
    assert (ended, sandbox.ledger.replays, len(sandbox.ledger.tasks)) == ([0, 1, 2], 1, 4)
    assert [twice.index for twice in batch.report.maybe_twice] == [0]
    assert [twice.index for twice in directory_report(tmp_path).maybe_twice] == [0]


@pytest.mark.parametrize(
    ("age_s", "keys_known", "told"),
    [(3500.0, True, []), (3700.0, True, [0]), (3500.0, False, [0]), (3700.0, False, [0])],
)
def test_of_repeats_those_are_told_whose_keys_may_have_been_forgotten_then(
    tmp_path: Path, age_s: float, keys_known: bool, told: list[int]
) -> None:
    """However old the journal is now; and a retry that went well does not hide what became of the first try."""
    repeated = evolve(accepted(0, "task-1", age_s=0.0), replayed=False)
    other = evolve(accepted(1, "task-2", age_s=0.0), replayed=keys_known or None)
    retry = (intent(0, age_s=0.0), evolve(accepted(0, "task-3", age_s=0.0), replayed=None))
    failed = Failed(n=0, credits=0.45, charged="no", error="E", message="m", retryable=True, at_s=1.0)
    lines = (row(0, "fox"), row(1, "owl"), intent(0, age_s=age_s), intent(0, age_s=1.0), repeated, failed, *retry)
    killed_run(tmp_path, *lines, intent(1), other)
    assert [(twice.index, twice.task_id) for twice in directory_report(tmp_path).maybe_twice] == [
        (n, "task-1") for n in told
    ]


async def test_a_repeat_after_the_keys_life_within_one_run_is_told_too(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """The machine slept meanwhile, or 429 went on for long."""
    sandbox.script("create", "drop_after", "ok", "drop_before")
    forgotten = BatchPolicy(journal=JournalPolicy(keys_live_s=0.0))
    async with session_of(sandbox, concurrency=1) as session:
        report = await session.render(foxes(3), tmp_path, policy=forgotten)
    assert (report.saved, sandbox.ledger.replays) == (3, 1)
    assert [twice.index for twice in report.maybe_twice] == [1]


async def test_a_try_that_surely_was_not_accepted_makes_no_key_old(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    told = Left(n=0, charged="no", error="RateLimitedError", message="m", at_s=1.0)
    killed_run(tmp_path, row(0, "fox 0"), intent(0, age_s=4000.0), told, row(1, "fox 1"), intent(1))
    async with session_of(sandbox, concurrency=1) as session:
        sandbox.script("create", "drop_after", "ok", "drop_before")
        report = await session.render(foxes(2), tmp_path)
    assert (report.saved, sandbox.ledger.replays) == (2, 1)
    assert report.maybe_twice == ()


# --- what is left over ------------------------------------------------------------------------------------------------


async def test_a_part_of_a_saved_row_is_removed_after_a_killed_run(tmp_path: Path) -> None:
    """Its picture was lost, and the run was killed while it was fetched again. What is somebody else's stays."""
    rows = [{"prompt": "fox", "size": "1:2"}, {"prompt": "owl", "size": "1:2", "id": "my owl"}]
    async with open_nursery(at_once=1) as nursery, Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
        await nursery.run(sandbox, tmp_path, rows)
        names = pictures(tmp_path)
        for name in names:
            (tmp_path / name).unlink()
        for _ in names:
            assert (await nursery.run(sandbox, tmp_path, rows, ("Linked .png", "before"), concurrency=1)).killed
        (tmp_path / "00000-owl.part").write_bytes(b"mine")
        assert len([*tmp_path.glob("*.part")]) > 1
        await nursery.run(sandbox, tmp_path, rows)
    assert pictures(tmp_path) == sorted([*names, "00000-owl.part"])
    assert len(sandbox.ledger.tasks) == 2
