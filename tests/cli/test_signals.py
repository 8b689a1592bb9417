"""Ctrl-C: once, and what is paid for is finished and nothing more is bought; twice, and it is over."""

import signal
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteReceiveStream
from anyio.streams.buffered import BufferedByteReceiveStream
from terminals import report_of
from test_commands import environment, pictures, started, text_of
from until import until, until_tasks

from krea_async.sandbox import Durations, Faults, Limits, Sandbox

pytestmark = pytest.mark.anyio


def said_by(stream: ByteReceiveStream | None) -> BufferedByteReceiveStream:
    """What a process says there, to be read in pieces: nothing between them is lost."""
    assert stream is not None
    return BufferedByteReceiveStream(stream)


async def until_said(words: bytes, said: BufferedByteReceiveStream) -> str:
    """Everything up to these words, and they."""
    return (await said.receive_until(words, 100_000) + words).decode()


async def until_asked(sandbox: Sandbox, route: str, count: int) -> None:
    await until(lambda: sandbox.ledger.requests[route] >= count, within_s=20)


def a_list(directory: Path, rows: int = 200) -> str:
    (directory / "list.txt").write_text("\n".join(f"fox number {row}" for row in range(rows)))
    return "list.txt"


async def test_one_signal_finishes_what_is_paid_for_and_buys_nothing_more(tmp_path: Path) -> None:
    async def stop_by(number: signal.Signals, code: int) -> None:
        directory = tmp_path / number.name
        directory.mkdir()
        async with Sandbox(durations=Durations.fixed(0.5)) as sandbox:
            args = ["render", a_list(directory), "--concurrency", 8, "--json"]
            async with started(*args, env=environment(sandbox), cwd=directory) as process:
                await until_tasks(sandbox, 8)
                process.send_signal(number)
                stderr = said_by(process.stderr)
                err = await until_said(b"press Ctrl-C again to stop now", stderr)
                tasks = len(sandbox.ledger.tasks)
                report = report_of(await text_of(process.stdout))
                err += await text_of(stderr)
                assert await process.wait() == code
            assert tasks <= len(sandbox.ledger.tasks) <= tasks + 8  # those that were on their way
            assert len(sandbox.ledger.tasks) < 40
            assert len(pictures(directory / "renders")) == len(sandbox.ledger.tasks) == report["saved"]
            assert report["credits"] == sandbox.ledger.charged_credits
            assert report["failed"] == 0
            assert report["unknown"] == []
            assert sandbox.ledger.duplicates == {}
            assert not list((directory / "renders").glob("*.part"))
            assert "Traceback" not in err
            assert "stopped by a signal" in err

    async with anyio.create_task_group() as group:
        group.start_soon(stop_by, signal.SIGINT, 130)
        group.start_soon(stop_by, signal.SIGTERM, 143)


async def test_a_signal_saves_also_what_finishes_only_after_trouble(tmp_path: Path) -> None:
    """Creates whose answer was lost may be paid for, and broken downloads are: both are seen through."""
    faults = Faults(drop_after=0.3, image_truncated=0.15, missing=0.1)
    async with Sandbox(durations=Durations.instant(), faults=faults) as sandbox:
        sandbox.script("image", "ok", "truncated", "truncated")
        async with started(
            "render", a_list(tmp_path), "--concurrency", 8, env=environment(sandbox), cwd=tmp_path
        ) as process:
            stdout = said_by(process.stdout)
            first = await until_said(b"\n", stdout)
            process.send_signal(signal.SIGINT)
            paths = (first + await text_of(stdout)).splitlines()
            assert await process.wait() == 130
        assert len(sandbox.ledger.tasks) < 200
        assert {tmp_path / path for path in paths} == pictures(tmp_path / "renders")
        assert len(paths) == len(sandbox.ledger.tasks)
        assert sandbox.ledger.duplicates == {}


async def test_one_signal_lets_nobody_wait_for_a_limit(tmp_path: Path) -> None:
    """Rows that wait for their turn are not paid for, so they are not waited for."""
    limits = Limits(per_window=(2, 3_600.0), retry_after="seconds")
    async with Sandbox(durations=Durations.instant(), limits=limits) as sandbox:
        args = ["render", a_list(tmp_path), "--concurrency", 8, "--json"]
        async with started(*args, env=environment(sandbox), cwd=tmp_path) as process:
            await until_tasks(sandbox, 2)
            await until(lambda: sandbox.ledger.rate_limited, within_s=20)
            process.send_signal(signal.SIGINT)
            with anyio.fail_after(10):
                report = report_of(await text_of(process.stdout))
                assert await process.wait() == 130
        assert (report["saved"], report["failed"], len(sandbox.ledger.tasks)) == (2, 0, 2)


async def test_two_signals_end_it_now(tmp_path: Path) -> None:
    async with Sandbox(durations=Durations.fixed(300.0)) as sandbox:
        args = ["render", a_list(tmp_path), "--concurrency", 8]
        async with started(*args, env=environment(sandbox), cwd=tmp_path) as process:
            await until_tasks(sandbox, 8)
            process.send_signal(signal.SIGINT)
            stderr = said_by(process.stderr)
            await until_said(b"press Ctrl-C again to stop now", stderr)
            process.send_signal(signal.SIGINT)
            with anyio.fail_after(5):
                err = await text_of(stderr)
                assert await process.wait() == 130
            assert await text_of(process.stdout) == ""
        assert "Traceback" not in err
        assert "may have been charged" in err
        assert len(sandbox.ledger.tasks) == 8
        assert {path.name for path in (tmp_path / "renders").iterdir()} == {"journal.jsonl", "manifest.jsonl"}


async def test_two_signals_do_not_wait_for_a_picture_that_stalls(tmp_path: Path) -> None:
    async with Sandbox(durations=Durations.instant(), faults=Faults(image_stalled=1.0, stall_s=300.0)) as sandbox:
        args = ["render", a_list(tmp_path), "--concurrency", 4]
        async with started(*args, env=environment(sandbox), cwd=tmp_path) as process:
            await until_asked(sandbox, "image", 4)
            process.send_signal(signal.SIGTERM)
            stderr = said_by(process.stderr)
            await until_said(b"press Ctrl-C again to stop now", stderr)
            process.send_signal(signal.SIGINT)
            with anyio.fail_after(8):
                err = await text_of(stderr)
                assert await process.wait() == 143
        assert "Traceback" not in err
        assert {path.name for path in (tmp_path / "renders").iterdir()} == {"journal.jsonl", "manifest.jsonl"}


async def test_a_signal_ends_a_single_picture_and_names_its_task(tmp_path: Path) -> None:
    """It is paid for: with its id it can be fetched later."""
    async with Sandbox(durations=Durations.fixed(300.0)) as sandbox:
        async with started("generate", "a fox", env=environment(sandbox), cwd=tmp_path) as process:
            await until_asked(sandbox, "read", 1)  # by now the client knows the task
            process.send_signal(signal.SIGINT)
            with anyio.fail_after(5):
                err = await text_of(process.stderr)
                assert await process.wait() == 130
        (task_id,) = sandbox.ledger.tasks
        assert task_id in err
        assert "Traceback" not in err
