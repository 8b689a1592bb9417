"""A run that is interrupted says what is left, within its bounds, and the next one fetches it without paying again."""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from clocks import Clock
from paid_once import assert_all_is_saved_and_paid_once, assert_the_journal_knows_all_that_was_sent
from test_commands import environment, run, started, text_of
from test_signals import said_by, until_said
from until import until, until_tasks

from krea_async import KreaSession
from krea_async.cli.exits import Exit
from krea_async.sandbox import Durations, Sandbox

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

ROWS = 24
AT_ONCE = 6
STOPPING = b"press Ctrl-C again to stop now"


def a_list(directory: Path, rows: int = ROWS) -> str:
    lines = [f'{{"prompt": "fox number {row}", "size": "1:2"}}\n' for row in range(rows)]
    (directory / "rows.jsonl").write_text("".join(lines))
    return "rows.jsonl"


def slow_sandbox(clock: Clock) -> Sandbox:
    """Tasks run for longer than any test, unless its clock is put forward."""
    return Sandbox(durations=Durations.fixed(300.0), scenes=1, clock=clock)


def assert_the_last_lines_say_how_to_go_on(err: str, task_ids: set[str]) -> None:
    last_lines = "\n".join(err.rstrip().splitlines()[-2:])
    assert "krea-async resume renders" in last_lines
    assert {*re.findall(r"task-unified-\w+-\w+", last_lines)} == task_ids
    assert "Traceback" not in err


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [False, True], ids=["the-drain-ends", "a-second-signal"])
async def test_what_a_stopped_run_leaves_is_named_and_fetched_by_the_next_without_paying(
    tmp_path: Path, again: bool
) -> None:
    clock = Clock()
    async with slow_sandbox(clock) as sandbox:
        args = ["render", a_list(tmp_path), "--concurrency", AT_ONCE, "--drain", 120 if again else 1]
        async with started(*args, env=environment(sandbox), cwd=tmp_path) as process:
            await until_tasks(sandbox, AT_ONCE)
            stopped_s = time.monotonic()
            process.send_signal(signal.SIGTERM)
            stderr = said_by(process.stderr)
            err = await until_said(STOPPING, stderr)
            if again:
                process.send_signal(signal.SIGTERM)
            err += await text_of(stderr)
            assert await process.wait() == 143
            took_s = time.monotonic() - stopped_s
        assert took_s < 5.0
        assert again or took_s > 0.9
        assert_the_last_lines_say_how_to_go_on(err, {*sandbox.ledger.tasks})
        assert_the_journal_knows_all_that_was_sent(sandbox, tmp_path / "renders")

        clock.ahead_s, sandbox.durations = 1_000.0, Durations.instant()
        requests = sandbox.ledger.requests["create"]
        result = await run("resume", "renders", env=environment(sandbox), cwd=tmp_path)
        assert result.code == Exit.ALL_SAVED, result.err
        assert sandbox.ledger.requests["create"] - requests == ROWS - AT_ONCE  # not even asked for again
        assert_all_is_saved_and_paid_once(sandbox, tmp_path / "renders", ROWS)


async def test_many_open_tasks_are_counted_and_only_some_are_named(tmp_path: Path) -> None:
    async with slow_sandbox(Clock()) as sandbox:
        args = ["render", a_list(tmp_path, 60), "--concurrency", 40, "--drain", 0]
        async with started(*args, env=environment(sandbox), cwd=tmp_path) as process:
            await until_tasks(sandbox, 40)
            process.send_signal(signal.SIGTERM)
            err = await text_of(process.stderr)
            assert await process.wait() == 143
        last_lines = err.rstrip().splitlines()[-2:]
        named = {*re.findall(r"task-unified-\w+-\w+", "\n".join(last_lines))}
        assert 10 <= len(named) <= 20
        assert named <= {*sandbox.ledger.tasks}
        assert any("40" in line for line in last_lines)
        assert len(err) < 5_000


async def test_a_run_that_waits_for_the_drain_of_a_picture_that_stalls_ends_in_time(
    session_of: SessionOf, tmp_path: Path
) -> None:
    """A download has no end of its own here; the drain is one for it as well."""
    async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
        sandbox.script("image", *["stalled"] * AT_ONCE)
        args = ["render", a_list(tmp_path), "--concurrency", AT_ONCE, "--drain", 0.5]
        async with started(*args, env=environment(sandbox), cwd=tmp_path) as process:
            await until(lambda: sandbox.ledger.requests["image"] >= AT_ONCE, within_s=20)
            process.send_signal(signal.SIGTERM)
            with anyio.fail_after(15):
                err = await text_of(process.stderr)
                assert await process.wait() == 143
        assert_the_last_lines_say_how_to_go_on(err, {*sandbox.ledger.tasks})
        async with session_of(sandbox, concurrency=ROWS) as session:
            assert (await session.resume(tmp_path / "renders")).ok
        assert_all_is_saved_and_paid_once(sandbox, tmp_path / "renders", ROWS)


async def test_a_signal_while_nothing_is_answered_ends_in_time_and_resumes_under_the_same_keys(
    session_of: SessionOf, tmp_path: Path
) -> None:
    """Every answer to a create is lost, so the run knows no task; the gateway has made them all the same."""
    async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
        sandbox.script("create", *["stalled"] * AT_ONCE)
        args = ["render", a_list(tmp_path), "--concurrency", AT_ONCE, "--drain", 0.5]
        async with started(*args, env=environment(sandbox), cwd=tmp_path) as process:
            await until_tasks(sandbox, AT_ONCE)
            process.send_signal(signal.SIGTERM)
            with anyio.fail_after(15):
                err = await text_of(process.stderr)
                assert await process.wait() == 143
        assert "krea-async resume renders" in err
        assert "Traceback" not in err
        assert_the_journal_knows_all_that_was_sent(sandbox, tmp_path / "renders")
        async with session_of(sandbox, concurrency=ROWS) as session:
            assert (await session.resume(tmp_path / "renders")).ok
        assert sandbox.ledger.replays == AT_ONCE
        assert_all_is_saved_and_paid_once(sandbox, tmp_path / "renders", ROWS)


# --- credits ----------------------------------------------------------------------------------------------------------


async def test_a_run_whose_credits_ran_out_goes_on_after_topping_up(tmp_path: Path) -> None:
    paid = 7
    async with Sandbox(durations=Durations.fixed(0.2), scenes=1, credits=paid * 0.45 + 0.1) as sandbox:
        args = ["render", a_list(tmp_path), "--concurrency", AT_ONCE]
        result = await run(*args, env=environment(sandbox), cwd=tmp_path)
        assert result.code == Exit.NO_CREDITS
        assert len(result.paths) == len(sandbox.ledger.tasks) == paid  # all that was paid for is saved
        assert "krea-async resume renders" in result.err.splitlines()[-1]
        assert "Traceback" not in result.err

        again = await run("resume", "renders", env=environment(sandbox), cwd=tmp_path)
        assert (again.code, {*again.paths}) == (Exit.NO_CREDITS, {*result.paths})
        assert len(sandbox.ledger.tasks) == paid

        sandbox._account.granted = 100.0  # the sandbox sells none
        result = await run("resume", "renders", env=environment(sandbox), cwd=tmp_path)
        assert result.code == Exit.ALL_SAVED, result.err
        assert len({*result.paths}) == ROWS
        assert_all_is_saved_and_paid_once(sandbox, tmp_path / "renders", ROWS)
