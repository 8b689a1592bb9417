"""What is damaged or gone is fetched again for nothing while the gateway has it; the rest is listed with its cost.

Each test renders through the sandbox, so that tasks, links and charges are those of a gateway.
"""

# ruff: noqa: ASYNC240 - looking into a directory takes no time

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from audited import by_manifest_only, picture

from krea_async import AuthenticationError, BatchPolicy, BatchReport, JournalError, KreaSession
from krea_async.audit.repair import RepairReport, repair
from krea_async.audit.verify import VerifyReport, verify
from krea_async.sandbox import Durations, Faults, Sandbox
from krea_async.sandbox.album import Album
from krea_async.sandbox.tasks import TaskRecord
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.lock import LOCKED
from krea_async.storage.manifest import MANIFEST_NAME, rebuild_manifest
from krea_async.storage.scan import DAMAGED

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]
ROWS = 4


async def rendered(session: KreaSession, directory: Path, rows: int = ROWS) -> BatchReport:
    report = await session.render([{"prompt": f"row {n}", "size": "1:2"} for n in range(rows)], directory)
    assert report.saved == rows
    return report


async def verified(directory: Path) -> VerifyReport:
    return await to_thread.run_sync(partial(verify, directory))


async def repaired(session: KreaSession | None, directory: Path) -> RepairReport:
    return await repair(session, directory, (await verified(directory)).problems)


def picture_of(directory: Path, row: int) -> Path:
    (path,) = directory.glob(f"{row:05d}-*.png")
    return path


async def test_what_is_damaged_is_fetched_from_fresh_links_and_kept_beside(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """The links are a day old and dead by now, so the tasks are read anew. The ledger does not notice."""
    async with session_of(sandbox) as session:
        await rendered(session, tmp_path)
        manifest = (tmp_path / MANIFEST_NAME).read_bytes()
        whole = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
        gone, cut, flipped, fine = (picture_of(tmp_path, row) for row in range(ROWS))
        gone.unlink()
        cut.write_bytes(whole[cut.name][:1000])
        flipped.write_bytes(whole[flipped.name][:-1] + b"\0")
        fine_was = fine.stat()
        sandbox.script("image", "expired", "gone")
        before = sandbox.ledger.charged_credits, len(sandbox.ledger.tasks), sandbox.ledger.requests["create"]
        report = await repaired(session, tmp_path)
        assert sorted(one.kind for one in report.repaired) == ["missing", "sha256", "size"]
        assert report.left == ()
        assert report.rerender_credits == 0.0
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.png")} == whole
    assert cut.with_name(f"{cut.name}.damaged-1").read_bytes() == whole[cut.name][:1000]
    assert flipped.with_name(f"{flipped.name}.damaged-1").read_bytes() == whole[flipped.name][:-1] + b"\0"
    assert fine.stat().st_mtime_ns == fine_was.st_mtime_ns
    after = sandbox.ledger.charged_credits, len(sandbox.ledger.tasks), sandbox.ledger.requests["create"]
    assert after == before
    assert not list(tmp_path.glob("*.part"))
    assert (now := await verified(tmp_path)).ok
    assert now.strays == ()
    assert (tmp_path / MANIFEST_NAME).read_bytes() == manifest


async def test_a_task_that_the_gateway_forgot_is_listed_with_what_another_picture_costs(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        await rendered(session, tmp_path)
        first, second = picture_of(tmp_path, 0), picture_of(tmp_path, 1)
        second.write_bytes(b"damaged")
        first.unlink()
        for task in sandbox.ledger.tasks.values():
            if task.prompt in {"row 0", "row 1"}:
                sandbox.forget(task.id)
        charged = sandbox.ledger.charged_credits
        report = await repaired(session, tmp_path)
        left = sorted((one.problem.index, one.problem.kind, one.outlook) for one in report.left)
        assert left == [(0, "missing", "gone"), (1, "size", "gone")]
        assert report.repaired == ()
        assert (report.rerender_credits, report.rerender_usd) == (0.9, 0.0134)
    assert sandbox.ledger.charged_credits == charged
    assert second.read_bytes() == b"damaged"  # it is where it was
    assert not list(tmp_path.glob("*.damaged-*"))
    assert not first.exists()


async def test_one_that_is_gone_does_not_keep_the_others_from_being_fetched(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        await rendered(session, tmp_path, 40)
        for path in tmp_path.glob("*.png"):
            path.unlink()
        lost = next(task.id for task in sandbox.ledger.tasks.values() if task.prompt == "row 7")
        sandbox.forget(lost)
        charged = sandbox.ledger.charged_credits
        report = await repaired(session, tmp_path)
        assert len(report.repaired) == 39
        assert [one.problem.task_id for one in report.left] == [lost]
    assert len(list(tmp_path.glob("*.png"))) == 39
    assert sandbox.ledger.charged_credits == charged


async def test_a_picture_that_comes_no_better_leaves_the_one_that_was_there(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its structure is whole, so that it was saved, but nothing can decode it: only another picture helps."""
    async with session_of(sandbox) as session:
        await rendered(session, tmp_path, 1)
        path = picture_of(tmp_path, 0)
        (task,) = sandbox.ledger.tasks.values()
        data = bytearray(await sandbox.picture(task.id))
        data[len(data) // 2] ^= 0xFF

        async def damaged(_album: Album, _task: TaskRecord) -> bytes:
            return bytes(data)

        monkeypatch.setattr(Album, "picture", damaged)
        path.unlink()
        report = await repaired(session, tmp_path)
        assert [(one.problem.kind, one.outlook) for one in report.left] == [("missing", "gone")]
        assert "what the gateway has is damaged as well" in report.left[0].reason
        path.write_bytes(b"mine")
        report = await repaired(session, tmp_path)
        assert report.rerender_credits == 0.45
    assert path.read_bytes() == b"mine"
    assert not list(tmp_path.glob("*.damaged-*"))


async def test_a_copy_comes_back_from_the_task_of_its_twin(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        twins = [{"prompt": "fox", "size": "1:2", "seed": 7, "id": name} for name in ("a", "b")]
        assert (await session.render(twins, tmp_path)).saved == 2
        assert len(sandbox.ledger.tasks) == 1
        data = (tmp_path / "a.png").read_bytes()
        (tmp_path / "b.png").unlink()
        report = await repaired(session, tmp_path)
        assert (len(report.repaired), report.left) == (1, ())
    assert (tmp_path / "b.png").read_bytes() == data
    assert len(sandbox.ledger.tasks) == 1
    assert (await verified(tmp_path)).ok


async def test_a_name_that_another_row_took_is_not_taken_back(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """The row gets its picture under another name, and the books say which."""
    async with session_of(sandbox) as session:
        await rendered(session, tmp_path, 1)
        first = picture_of(tmp_path, 0)
        mine = first.read_bytes()
        first.unlink()
        await session.render([{"prompt": "row 0", "size": "1:2", "id": first.stem}], tmp_path)
        others = first.read_bytes()
        assert others != mine
        report = await repaired(session, tmp_path)
        assert [one.kind for one in report.repaired] == ["shared_name"]
    assert first.read_bytes() == others
    assert first.with_name(f"{first.stem}-2.png").read_bytes() == mine
    assert (await verified(tmp_path)).ok
    by_manifest_only(tmp_path)
    by_manifest = await verified(tmp_path)
    assert (by_manifest.ok, by_manifest.rows) == (True, 2)  # it was written anew


async def test_an_older_damaged_file_is_not_overwritten(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        await rendered(session, tmp_path, 1)
        path = picture_of(tmp_path, 0)
        for words in (b"one", b"two"):
            path.write_bytes(words)
            assert (await repaired(session, tmp_path)).left == ()
    kept = [path.with_name(f"{path.name}.damaged-{number}").read_bytes() for number in (1, 2)]
    assert kept == [b"one", b"two"]


async def test_what_cannot_be_fetched_is_said_without_asking(tmp_path: Path) -> None:
    """No session, so no key, is needed to hear that there is no journal to note a new picture in."""
    (tmp_path / "0.png").write_bytes(picture())
    (tmp_path / MANIFEST_NAME).write_text('{"status": "saved", "file": "1.png", "prompt": "fox", "task_id": "t"}\n')
    report = await repaired(None, tmp_path)
    assert [(one.problem.kind, one.outlook) for one in report.left] == [("missing", "later")]
    assert not (tmp_path / JOURNAL_NAME).exists()


async def test_the_manifest_that_is_rebuilt_is_the_one_that_the_run_wrote(
    session_of: SessionOf, tmp_path: Path
) -> None:
    """But for the order, as a run tells of rows as they end, and for how long rows took that failed."""

    def told() -> dict[int, dict[str, Any]]:
        lines = map(json.loads, (tmp_path / MANIFEST_NAME).read_text().splitlines())
        return {line["index"]: {**line, **(untimed if line["status"] == "failed" else {})} for line in lines}

    untimed = {"queued_s": None, "waiting_s": None, "generating_s": None, "downloading_s": None}
    faults = Faults(fail={"content_policy_violation": 0.3, "generation_timeout": 0.1}, drop_after=0.1)
    async with (
        Sandbox(durations=Durations.instant(), faults=faults, scenes=3) as sandbox,
        session_of(sandbox) as session,
    ):
        rows = [{"prompt": f"row {n} \u202e\n🦊", "size": "1:2", "seed": n % 5 or None} for n in range(25)]
        twins = [{"prompt": "fox", "size": "1:2", "quality": "2K", "seed": 9, "id": name} for name in "ab"]
        report = await session.render([*rows, *twins], tmp_path, policy=BatchPolicy(breaker=None))
    assert report.saved > 5
    assert report.failed > 3
    written = told()
    with History(tmp_path / JOURNAL_NAME) as history:
        assert rebuild_manifest(tmp_path, history) == 27
    assert told() == written
    assert len(written) == 27
    assert list(told()[0]) == list(written[0])
    assert verify(tmp_path).ok


# --- when it may not be done ------------------------------------------------------------------------------------------


async def test_a_directory_in_use_is_left_alone(session_of: SessionOf, tmp_path: Path) -> None:
    async with Sandbox(durations=Durations.instant()) as sandbox, session_of(sandbox) as session:
        await rendered(session, tmp_path, 2)
        path = picture_of(tmp_path, 0)
        path.write_bytes(b"damaged")
        problems = (await verified(tmp_path)).problems
        sandbox.durations = Durations.fixed(300.0)
        async with session.render(["another"], tmp_path) as batch:
            with pytest.raises(JournalError) as refused:
                await repair(session, tmp_path, problems)
            batch.stop(drain_s=0.0)
        assert refused.value.code == LOCKED
        assert path.read_bytes() == b"damaged"
        assert not list(tmp_path.glob("*.damaged-*"))


async def test_a_damaged_journal_is_not_written_to(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    async with session_of(sandbox) as session:
        await rendered(session, tmp_path, 2)
        picture_of(tmp_path, 0).unlink()
        journal = tmp_path / JOURNAL_NAME
        data = journal.read_bytes().replace(b'"e":"intent","n":1', b'"e":"intent","n":0')
        journal.write_bytes(data)
        problems = (report := await verified(tmp_path)).problems
        assert report.damaged_lines
        with pytest.raises(JournalError) as refused:
            await repair(session, tmp_path, problems)
        assert refused.value.code == DAMAGED
        assert journal.read_bytes() == data
    assert not list(tmp_path.glob("00000-*"))


async def test_a_refused_key_touches_nothing(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    async with session_of(sandbox) as session:
        await rendered(session, tmp_path, 1)
        path = picture_of(tmp_path, 0)
        path.write_bytes(b"damaged")
        problems = (await verified(tmp_path)).problems
        sandbox.settings.key = "sk-evo-another"
        with pytest.raises(AuthenticationError):
            await repair(session, tmp_path, problems)
    assert [entry.name for entry in tmp_path.glob("0*")] == [path.name]
    assert path.read_bytes() == b"damaged"


async def test_what_a_run_has_mended_meanwhile_is_left_alone(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """Problems may be old by the time they are repaired."""
    async with session_of(sandbox) as session:
        await rendered(session, tmp_path, 1)
        path = picture_of(tmp_path, 0)
        data = path.read_bytes()
        path.unlink()
        problems = (await verified(tmp_path)).problems
        path.write_bytes(data)
        images = sandbox.ledger.requests["image"]
        report = await repair(session, tmp_path, problems)
        assert (len(report.repaired), report.left) == (1, ())
        assert sandbox.ledger.requests["image"] == images
    assert [entry.name for entry in tmp_path.glob("0*")] == [path.name]
