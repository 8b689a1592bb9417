"""One directory, more than one owner: another process, a killed one, a later version, damage. Nobody pays for it."""

import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import pytest
from clocks import Clock
from paid_once import assert_all_is_saved_and_paid_once
from test_commands import environment, pictures, run, run_all, started, text_of
from test_interrupted import a_list, slow_sandbox
from until import until, until_tasks

from krea_async import BatchPolicy, JournalError, KreaSession
from krea_async.cli.exits import Exit, exit_of_error
from krea_async.sandbox import Durations, Sandbox
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.lock import LOCK_NAME
from krea_async.storage.records import JOURNAL_VERSION

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

ROWS = 12
PROMPTS = [{"prompt": f"fox number {row}", "size": "1:2"} for row in range(ROWS)]


def quick_sandbox() -> Sandbox:
    return Sandbox(durations=Durations.instant(), scenes=1)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def until_noted(directory: Path, words: str, times: int) -> None:
    """Until the journal says so; what is noted comes to disk a moment later."""
    await until(lambda: (directory / JOURNAL_NAME).read_text().count(words) >= times, within_s=20)


# --- another process --------------------------------------------------------------------------------------------------


async def test_a_second_process_is_told_who_is_there_and_pays_nothing(tmp_path: Path) -> None:
    clock = Clock()
    async with slow_sandbox(clock) as sandbox:
        rows = a_list(tmp_path, ROWS)
        (tmp_path / "other-name").symlink_to("renders")
        async with started("render", rows, env=environment(sandbox), cwd=tmp_path) as first:
            await until_tasks(sandbox, ROWS)
            await until_noted(tmp_path / "renders", '"e":"accepted"', ROWS)
            requests = sandbox.ledger.requests["create"]
            before = contents(tmp_path / "renders")
            second = partial(run, env=environment(sandbox), cwd=tmp_path)
            refused = await run_all(
                partial(second, "render", rows),
                partial(second, "resume", "renders"),
                partial(second, "resume", "other-name"),
                partial(second, "resume", "renders", "--skip-damaged", "--retry-unknown"),
            )
            for result in refused:
                assert (result.code, result.out) == (Exit.DISK, ""), result.err
                assert f"process {first.pid} " in result.err
                assert "in use" in result.err
                assert "Traceback" not in result.err
            assert sandbox.ledger.requests["create"] == requests
            assert contents(tmp_path / "renders") == before
            clock.ahead_s = 1_000.0
            err = await text_of(first.stderr)
            assert await first.wait() == Exit.ALL_SAVED, err
        assert_all_is_saved_and_paid_once(sandbox, tmp_path / "renders", ROWS)


async def test_of_processes_that_start_at_once_only_one_pays(tmp_path: Path) -> None:
    clock = Clock()
    async with slow_sandbox(clock) as sandbox:
        rows = a_list(tmp_path, ROWS)
        codes: list[int] = []

        async def one() -> None:
            result = await run("render", rows, env=environment(sandbox), cwd=tmp_path)
            assert "Traceback" not in result.err
            codes.append(result.code)
            if len(codes) == 2:  # nobody else is left to start
                await until_tasks(sandbox, ROWS)  # they leave one after the other
                clock.ahead_s = 1_000.0

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(one)
        assert codes == [Exit.DISK, Exit.DISK, Exit.ALL_SAVED]
        assert_all_is_saved_and_paid_once(sandbox, tmp_path / "renders", ROWS)


async def test_the_lock_of_a_killed_process_keeps_nobody_out(tmp_path: Path) -> None:
    clock = Clock()
    async with slow_sandbox(clock) as sandbox:
        async with started("render", a_list(tmp_path, ROWS), env=environment(sandbox), cwd=tmp_path) as killed:
            await until_tasks(sandbox, ROWS)
            killed.send_signal(signal.SIGKILL)
            assert await killed.wait() == -signal.SIGKILL
        lock = (tmp_path / "renders" / LOCK_NAME).read_text()
        assert str(killed.pid) in lock  # it had no time to tidy up
        clock.ahead_s, sandbox.durations = 1_000.0, Durations.instant()
        result = await run("resume", "renders", env=environment(sandbox), cwd=tmp_path)
        assert result.code == Exit.ALL_SAVED, result.err
        assert_all_is_saved_and_paid_once(sandbox, tmp_path / "renders", ROWS)


# --- another version --------------------------------------------------------------------------------------------------


async def rendered(session_of: SessionOf, sandbox: Sandbox, directory: Path) -> None:
    async with session_of(sandbox, concurrency=ROWS) as session:
        assert (await session.render(PROMPTS, directory)).saved == ROWS


async def test_a_journal_of_a_later_version_is_left_as_it_is(session_of: SessionOf, tmp_path: Path) -> None:
    async with quick_sandbox() as sandbox:
        await rendered(session_of, sandbox, tmp_path / "renders")
        journal = tmp_path / "renders" / JOURNAL_NAME
        header, newline, rest = journal.read_bytes().partition(b"\n")
        later = header.replace(b'"v":%d' % JOURNAL_VERSION, b'"v":%d' % (JOURNAL_VERSION + 1))
        journal.write_bytes(later + newline + rest)
        before = contents(tmp_path / "renders")
        again = partial(run, env=environment(sandbox), cwd=tmp_path)
        for result in [
            await again("render", a_list(tmp_path, ROWS)),
            await again("resume", "renders", "--skip-damaged"),
        ]:
            assert (result.code, result.out) == (Exit.DISK, ""), result.err
            assert f"version {JOURNAL_VERSION + 1}" in result.err
            assert "update krea-async" in result.err
            assert "Traceback" not in result.err
        assert contents(tmp_path / "renders") == before
        assert sandbox.ledger.requests["create"] == ROWS


# --- damage -----------------------------------------------------------------------------------------------------------


def damage(journal: Path, start: str) -> int:
    """Change one byte in the middle of the first line that starts so; returns the line's number, from 1."""
    lines = journal.read_bytes().splitlines(keepends=True)
    number = next(n for n, line in enumerate(lines) if line.startswith(start.encode()))
    middle = len(lines[number]) // 2
    lines[number] = lines[number][:middle] + b"#" + lines[number][middle + 1 :]
    journal.write_bytes(b"".join(lines))
    return number + 1


async def test_the_command_line_names_a_damaged_line_and_goes_on_when_told_to(
    session_of: SessionOf, tmp_path: Path
) -> None:
    async with quick_sandbox() as sandbox:
        await rendered(session_of, sandbox, tmp_path / "renders")
        number = damage(tmp_path / "renders" / JOURNAL_NAME, '{"e":"completed","n":5,')
        before = contents(tmp_path / "renders")
        again = partial(run, env=environment(sandbox), cwd=tmp_path)
        refused = await again("render", a_list(tmp_path, ROWS))
        assert (refused.code, refused.out) == (Exit.DISK, ""), refused.err
        assert re.search(rf"\bline {number}\b", refused.err), refused.err
        assert contents(tmp_path / "renders") == before
        told = await again("resume", "renders", "--skip-damaged")
        assert told.code == Exit.ALL_SAVED, told.err
        assert len(told.paths) == ROWS
        assert re.search(rf"\bline {number}\b", told.err), told.err  # it is not left out in silence
        assert "Traceback" not in refused.err + told.err
        assert sandbox.ledger.requests["create"] == ROWS


@pytest.mark.parametrize("event", ["row", "intent", "accepted", "completed", "saved"])
async def test_damage_in_what_is_settled_costs_nothing_until_its_owner_agrees(
    session_of: SessionOf, tmp_path: Path, caplog: pytest.LogCaptureFixture, event: str
) -> None:
    async with quick_sandbox() as sandbox:
        await rendered(session_of, sandbox, tmp_path)
        number = damage(tmp_path / JOURNAL_NAME, f'{{"e":"{event}","n":5,')
        before = contents(tmp_path)
        async with session_of(sandbox, concurrency=ROWS) as session:
            for batch in (session.render(PROMPTS, tmp_path), session.resume(tmp_path)):
                with pytest.raises(JournalError, match=rf"\bline {number}\b") as caught:
                    await batch
                assert exit_of_error(caught.value) is Exit.DISK
            assert contents(tmp_path) == before
            agreed = BatchPolicy(skip_damaged=True)
            assert (await session.resume(tmp_path, policy=agreed)).ok
            assert sandbox.ledger.requests["create"] == ROWS
            assert re.search(rf"\bline {number}\b", caplog.text)
            assert (await session.render(PROMPTS, tmp_path, policy=agreed)).ok
        # a row that is lost looks like a new one; the lines around any other one tell enough
        assert len(pictures(tmp_path)) == len(sandbox.ledger.tasks) == ROWS + (event == "row")


@pytest.mark.parametrize("event", ["row", "intent", "accepted"])
async def test_damage_in_what_is_under_way_holds_up_only_its_own_row(
    session_of: SessionOf, tmp_path: Path, caplog: pytest.LogCaptureFixture, event: str
) -> None:
    """Its picture may be lost; that it was paid for is not kept from anybody."""
    clock = Clock()
    async with slow_sandbox(clock) as sandbox:
        async with session_of(sandbox, concurrency=ROWS) as session:
            async with session.render(PROMPTS, tmp_path) as batch:
                await until_noted(tmp_path, '"e":"accepted"', ROWS)
                batch.stop(drain_s=0.0)
            number = damage(tmp_path / JOURNAL_NAME, f'{{"e":"{event}","n":5,')
            clock.ahead_s, sandbox.durations = 1_000.0, Durations.instant()
            await session.resume(tmp_path, policy=BatchPolicy(skip_damaged=True))
        assert len(sandbox.ledger.tasks) == ROWS
        assert re.search(rf"\bline {number}\b", caplog.text)
        assert len(pictures(tmp_path)) == ROWS - (event == "row")
        if event == "row":
            (lost,) = (task.id for task in sandbox.ledger.tasks.values() if task.prompt == PROMPTS[5]["prompt"])
            assert lost in caplog.text
