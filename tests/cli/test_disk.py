"""Disks as the system makes them, full, read-only, gone, out of files: exit 9, and after mending nothing is paid again.

A real small disk is a tmpfs in a namespace of its own; where the system lets nobody mount one, a limit on the size of
files stands for it, as it does in the tests beside it. Permission bits bind root as well once its capabilities are
dropped, which everybody may do. So nothing here is skipped anywhere.
"""

import json
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from clocks import Clock
from paid_once import assert_all_is_saved_and_paid_once, assert_the_journal_knows_all_that_was_sent
from test_commands import IMPATIENT, PROGRAM, Result, environment, run, started, text_of
from test_signals import said_by, until_said
from until import until_tasks

from krea_async import KreaSession
from krea_async.cli.exits import Exit
from krea_async.sandbox import Durations, Sandbox

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]
Resume = Callable[[Sandbox], Awaitable[None]]

ROWS = 60
LIST = "".join(f'{{"prompt": "fox number {row}", "size": "1:2"}}\n' for row in range(ROWS))

BOUND_BY_PERMISSIONS = """
import ctypes
version, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capset(version, none) == 0
"""
"""Gives up all capabilities: root too may then write only where permission bits say so."""


def command_after(preamble: str) -> list[str]:
    """`krea-async` in a process that first runs `preamble`."""
    return [sys.executable, "-c", preamble + IMPATIENT + PROGRAM]


def small_sandbox(**options: Any) -> Sandbox:
    return Sandbox(**{"durations": Durations.instant(), "scenes": 1, **options})


@pytest.fixture
def rows(tmp_path: Path) -> str:
    (tmp_path / "rows.jsonl").write_text(LIST)
    return "rows.jsonl"


def assert_a_clear_disk_error(result: Result) -> None:
    assert result.code == Exit.DISK, result.err
    assert "Traceback" not in result.err
    assert "renders" in result.err


@pytest.fixture
def assert_resume_finishes(session_of: SessionOf, tmp_path: Path) -> Resume:
    """The disk is mended: the next run finishes all, and pays nothing again."""

    async def finishes(sandbox: Sandbox) -> None:
        sandbox.durations = Durations.instant()
        async with session_of(sandbox, concurrency=ROWS) as session:
            report = await session.render(map(json.loads, LIST.splitlines()), tmp_path / "renders")
        assert report.ok, report
        assert_all_is_saved_and_paid_once(sandbox, tmp_path / "renders", ROWS)

    return finishes


# --- full -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit_bytes", [24_000, 20_000], ids=["the-journal-fills", "the-first-picture-fills"])
async def test_a_disk_that_takes_no_more_ends_the_run_and_a_larger_one_goes_on(
    tmp_path: Path, rows: str, monkeypatch: pytest.MonkeyPatch, limit_bytes: int, assert_resume_finishes: Resume
) -> None:
    """Pictures have 23,506 bytes here. Whatever reaches the limit is cut in the middle of a write."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, {limit_bytes}))\n"
    async with small_sandbox() as sandbox:
        with monkeypatch.context() as patched:
            patched.setattr("test_commands.COMMAND", command_after(limited))
            result = await run("render", rows, "--concurrency", 4, env=environment(sandbox), cwd=tmp_path)
        assert_a_clear_disk_error(result)
        assert "File too large" in result.err
        assert 0 < len(sandbox.ledger.tasks) < ROWS
        assert_the_journal_knows_all_that_was_sent(sandbox, tmp_path / "renders")
        await assert_resume_finishes(sandbox)


SMALL_DISK = """
set -u
mkdir renders
if [ "$1" = mount ]; then mount -t tmpfs -o size=512k none renders; else ulimit -S -f 46; fi
shift
"$@" render rows.jsonl --concurrency 4 >&2
echo $?
if mountpoint -q renders; then mount -o remount,size=64m renders; else ulimit -S -f unlimited; fi
cp renders/journal.jsonl journal-of-the-full-disk.jsonl
"$@" resume renders >&2
echo $?
cp -R renders copy
"""
"""Fills a disk of 512 KiB, enlarges it, and goes on. The limit that stands for it is in blocks of 512 bytes."""


async def test_a_small_disk_fills_up_and_is_enlarged(tmp_path: Path, rows: str) -> None:
    own = ["unshare", "--map-root-user", "--mount"]
    with_mount = [*own, "mount", "-t", "tmpfs", "none", str(tmp_path)]
    may_mount = bool(shutil.which(own[0])) and not (await anyio.run_process(with_mount, check=False)).returncode
    script = [*(own if may_mount else []), "sh", "-c", SMALL_DISK, "sh", "mount" if may_mount else "limit"]
    async with small_sandbox() as sandbox:
        with anyio.fail_after(60):
            done = await anyio.run_process(
                [*script, *command_after("")], env=environment(sandbox), cwd=tmp_path, check=False
            )
        err = done.stderr.decode()
        assert done.stdout.decode().split() == [str(int(Exit.DISK)), str(int(Exit.ALL_SAVED))], err
        assert "Traceback" not in err
        assert ("No space left on device" if may_mount else "File too large") in err
        assert_all_is_saved_and_paid_once(sandbox, tmp_path / "copy", ROWS)


# --- read-only --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("locked", ["renders", "renders/journal.jsonl"])
async def test_nothing_is_sent_when_the_directory_or_its_journal_is_read_only(
    tmp_path: Path, rows: str, monkeypatch: pytest.MonkeyPatch, locked: str, assert_resume_finishes: Resume
) -> None:
    (tmp_path / "renders").mkdir()
    (tmp_path / "renders" / "journal.jsonl").touch()
    mode = (tmp_path / locked).stat().st_mode
    (tmp_path / locked).chmod(0o555 if (tmp_path / locked).is_dir() else 0o444)
    async with small_sandbox() as sandbox:
        with monkeypatch.context() as patched:
            patched.setattr("test_commands.COMMAND", command_after(BOUND_BY_PERMISSIONS))
            result = await run("render", rows, env=environment(sandbox), cwd=tmp_path)
        assert_a_clear_disk_error(result)
        assert "Permission denied" in result.err
        assert sandbox.ledger.requests["create"] == 0
        (tmp_path / locked).chmod(mode)
        await assert_resume_finishes(sandbox)


async def test_a_directory_that_becomes_read_only_ends_the_run(
    tmp_path: Path, rows: str, monkeypatch: pytest.MonkeyPatch, assert_resume_finishes: Resume
) -> None:
    monkeypatch.setattr("test_commands.COMMAND", command_after(BOUND_BY_PERMISSIONS))
    async with small_sandbox(durations=Durations.fixed(0.3)) as sandbox:
        args = ["render", rows, "--concurrency", 4]
        async with started(*args, env=environment(sandbox), cwd=tmp_path) as process:
            stdout = said_by(process.stdout)
            await until_said(b"\n", stdout)
            (tmp_path / "renders").chmod(0o555)
            result = Result(await process.wait(), await text_of(stdout), await text_of(process.stderr))
        assert_a_clear_disk_error(result)
        assert "Permission denied" in result.err
        assert 0 < len(sandbox.ledger.tasks) < ROWS
        assert_the_journal_knows_all_that_was_sent(sandbox, tmp_path / "renders")
        (tmp_path / "renders").chmod(0o755)
        await assert_resume_finishes(sandbox)


# --- gone, or in the way ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_its_place", ["nothing", "a file", "another directory"])
async def test_a_directory_that_is_moved_away_ends_the_run_and_is_not_made_again(
    tmp_path: Path, rows: str, in_its_place: str, assert_resume_finishes: Resume
) -> None:
    """As when a drive is unplugged or a share is lost: the journal is not where the pictures go any more."""
    renders, away = tmp_path / "renders", tmp_path / "away"
    async with small_sandbox(durations=Durations.fixed(0.3)) as sandbox:
        args = ["render", rows, "--concurrency", 4]
        async with started(*args, env=environment(sandbox), cwd=tmp_path) as process:
            stdout = said_by(process.stdout)
            await until_said(b"\n", stdout)
            renders.rename(away)
            if in_its_place == "a file":
                renders.write_text("mine")
            elif in_its_place == "another directory":
                renders.mkdir()
            result = Result(await process.wait(), await text_of(stdout), await text_of(process.stderr))
        assert_a_clear_disk_error(result)
        assert len(sandbox.ledger.tasks) < ROWS
        assert_the_journal_knows_all_that_was_sent(sandbox, away)
        if in_its_place == "nothing":
            assert not renders.exists()
        elif in_its_place == "a file":
            assert renders.read_text() == "mine"
            renders.unlink()
        else:
            shutil.rmtree(renders)
        away.rename(renders)
        await assert_resume_finishes(sandbox)


async def test_a_directory_that_is_deleted_ends_the_run_and_names_what_was_paid(tmp_path: Path, rows: str) -> None:
    """The journal went with it, so the ids on the screen are all that is left of it."""
    clock = Clock()
    async with small_sandbox(durations=Durations.fixed(300.0), clock=clock) as sandbox:
        args = ["render", rows, "--concurrency", 4]
        async with started(*args, env=environment(sandbox), cwd=tmp_path) as process:
            await until_tasks(sandbox, 4)
            shutil.rmtree(tmp_path / "renders")
            clock.ahead_s, sandbox.durations = 1_000.0, Durations.fixed(0.5)
            result = Result(await process.wait(), await text_of(process.stdout), await text_of(process.stderr))
        assert_a_clear_disk_error(result)
        assert len(sandbox.ledger.tasks) <= 8
        assert [t for t in sandbox.ledger.tasks if t not in result.err] == [], result.err
        assert not (tmp_path / "renders").exists()


@pytest.mark.parametrize("name", ["journal.jsonl", "manifest.jsonl", ".journal.lock"])
async def test_a_directory_where_a_file_should_be_costs_nothing(tmp_path: Path, rows: str, name: str) -> None:
    (tmp_path / "renders" / name).mkdir(parents=True)
    async with small_sandbox() as sandbox:
        result = await run("render", rows, env=environment(sandbox), cwd=tmp_path)
        assert_a_clear_disk_error(result)
        assert name in result.err
        assert sandbox.ledger.requests["create"] == 0


# --- too many open files ----------------------------------------------------------------------------------------------

FEW_FILES = """
import os, resource
from krea_async.cli import main
used = len(os.listdir("/proc/self/fd")) - 1
resource.setrlimit(resource.RLIMIT_NOFILE, (used + {more}, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
"""


@pytest.mark.parametrize("more", [5, 7, 9, 16, 20])
async def test_a_limit_of_open_files_is_named_wherever_it_is_reached(
    tmp_path: Path, rows: str, monkeypatch: pytest.MonkeyPatch, more: int, assert_resume_finishes: Resume
) -> None:
    """So many more may be opened, sockets among them: the journal fails, an import, a connection, or a picture."""
    async with small_sandbox() as sandbox:
        with monkeypatch.context() as patched:
            patched.setattr("test_commands.COMMAND", command_after(FEW_FILES.format(more=more)))
            result = await run("render", rows, "--concurrency", 24, env=environment(sandbox), cwd=tmp_path)
        assert result.code == Exit.DISK, result.err
        assert "Traceback" not in result.err
        assert "oo many open files (raise the limit, ulimit -n, or lower the concurrency)" in result.err
        assert len(sandbox.ledger.tasks) < ROWS
        assert_the_journal_knows_all_that_was_sent(sandbox, tmp_path / "renders")
        await assert_resume_finishes(sandbox)
