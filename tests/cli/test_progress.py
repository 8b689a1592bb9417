"""What a person sees: one live line on a terminal, plain lines elsewhere, and never the key."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from test_commands import COMMAND, environment, pictures, run, run_all

from krea_async import BatchProgress, Limit
from krea_async.cli.progress import clock, described, progress_view
from krea_async.sandbox import Durations, Faults, Sandbox

pytestmark = pytest.mark.anyio

SHOW_CURSOR, HIDE_CURSOR, ERASE_LINE = "\x1b[?25h", "\x1b[?25l", "\x1b[2K"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def batch_at(**facts: Any) -> BatchProgress:
    nothing = dict.fromkeys(("in_flight", "saved", "failed", "skipped", "bytes", "rate_limited"), 0)
    return BatchProgress(**{**nothing, "credits": 0.0, "elapsed_s": 0.0, "limit": None, **facts})


async def on_a_terminal(
    *args: object, env: dict[str, str], cwd: Path, stdout: str, meanwhile: Callable[[subprocess.Popen[bytes]], Any]
) -> tuple[int, str, str]:
    """A run with stderr on a terminal: its exit code, its stdout ("a file", or "the terminal"), and the terminal."""
    ours, theirs = pty.openpty()
    file = cwd / "stdout.txt"

    def watch() -> tuple[int, str]:
        with file.open("wb") as out:
            process = subprocess.Popen(
                [*COMMAND, *map(str, args)],
                stdin=subprocess.DEVNULL,
                stdout=theirs if stdout == "the terminal" else out,
                stderr=theirs,
                env={**env, "TERM": "xterm-256color", "COLUMNS": "120"},
                cwd=cwd,
            )
        os.close(theirs)
        seen = b""
        try:
            while piece := _read(ours):
                seen += piece
                meanwhile(process)
        finally:
            os.close(ours)  # a process that still writes gets an error, and ends
        return process.wait(30), seen.decode()

    with anyio.fail_after(60):
        code, seen = await anyio.to_thread.run_sync(watch)
    return code, file.read_text(), seen


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # on Linux: nobody has the other end open any more
        return b""


def ignore(_: object) -> None:
    """Nothing to do meanwhile."""


# --- piped ------------------------------------------------------------------------------------------------------------


async def test_a_pipe_gets_plain_lines_and_the_key_is_nowhere(tmp_path: Path) -> None:
    key = "sk-evo-very-secret-0123456789"
    sandbox_faults = Faults(drop_after=0.2, garbage=0.1, image_truncated=0.2, error=0.1)
    async with Sandbox(key=key, durations=Durations.instant(), faults=sandbox_faults) as sandbox:
        env = environment(sandbox)
        batch, single, wrong = await run_all(
            partial(
                run, "-vv", "render", "-", stdin="a fox\nein Fuchs\n狐狸\nan owl\n".encode(), env=env, cwd=tmp_path
            ),
            partial(run, "-vv", "generate", "a fox", "--json", env=env, cwd=tmp_path),
            partial(run, "-vv", "credits", env={**env, "EVOLINK_API_KEY": f"{key}-but-wrong"}, cwd=tmp_path),
        )
    assert (batch.code, single.code, wrong.code) == (0, 0, 4), (batch.err, single.err, wrong.err)
    for result in (batch, single, wrong):
        assert key not in result.out + result.err
        assert not CONTROL.search(result.err.replace("\n", ""))
    assert "4 rows, 1.80 credits, $0.03 by the price list" in batch.err.splitlines()
    assert re.search(r"^0/4 saved, \d in flight, 0\.00 credits$", batch.err, re.MULTILINE)
    assert re.search(r"^4 saved in renders, 0 failed; 1\.80 credits \(\$0\.03\) in 0:\d\d$", batch.err, re.MULTILINE)
    assert key not in (tmp_path / "renders" / "manifest.jsonl").read_text()


# --- on a terminal ----------------------------------------------------------------------------------------------------


async def test_a_terminal_shows_a_live_line_and_is_left_clean(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(f"fox {number}" for number in range(6)))
    async with Sandbox(durations=Durations.fixed(0.7)) as sandbox:
        sandbox.script("create", ("fail", "content_policy_violation"))
        code, _, seen = await on_a_terminal(
            "render", "list.txt", env=environment(sandbox), cwd=tmp_path, stdout="the terminal", meanwhile=ignore
        )
    assert code == 3
    live, last = seen.rsplit(SHOW_CURSOR, 1)
    assert HIDE_CURSOR in live
    assert "in flight" in live
    assert "0/6" in live
    assert live.count("in flight") >= 2  # it moved
    assert re.search(r"row \d failed \('fox \d'\): .*content_policy_violation", live)
    assert "in flight" not in last
    assert ERASE_LINE in last or live.rindex(ERASE_LINE) > live.rindex("in flight")
    assert "5 saved in renders, 1 failed" in last
    assert not re.search(r"\x1b\[\?25l", last)
    assert last.endswith("\n")
    assert len(pictures(tmp_path / "renders")) == 5


async def test_a_file_gets_the_paths_while_a_terminal_shows_the_live_line(tmp_path: Path) -> None:
    """`krea-async render list.txt > paths.txt`, as people type it."""
    (tmp_path / "list.txt").write_text("a fox\nan owl\n")
    async with Sandbox(durations=Durations.instant()) as sandbox:
        code, out, seen = await on_a_terminal(
            "render", "list.txt", env=environment(sandbox), cwd=tmp_path, stdout="a file", meanwhile=ignore
        )
    assert code == 0
    assert {tmp_path / line for line in out.splitlines()} == pictures(tmp_path / "renders")
    assert ".png" not in seen


async def test_a_terminal_is_left_clean_after_two_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(f"fox {number}" for number in range(50)))
    stopped: list[int] = []
    async with Sandbox(durations=Durations.fixed(300.0)) as sandbox:

        def press(process: subprocess.Popen[bytes]) -> None:
            if len(sandbox.ledger.tasks) >= 4 and len(stopped) < 2:
                stopped.append(process.pid)
                process.send_signal(2)

        args = ["render", "list.txt", "--concurrency", 4]
        code, _, seen = await on_a_terminal(
            *args, env=environment(sandbox), cwd=tmp_path, stdout="a file", meanwhile=press
        )
    assert code == 130
    assert seen.rindex(SHOW_CURSOR) > seen.rindex(HIDE_CURSOR)
    assert "stopped at once" in seen[seen.rindex(SHOW_CURSOR) :]
    assert "Traceback" not in seen


# --- in words ---------------------------------------------------------------------------------------------------------


def test_progress_says_only_what_there_is_to_say() -> None:
    assert described(batch_at(in_flight=4), 10) == "4 in flight, 0.00 credits"
    assert described(batch_at(in_flight=4), None) == "4 in flight, 0.00 credits"


def test_progress_says_everything_that_matters() -> None:
    progress = batch_at(
        in_flight=8,
        saved=40,
        failed=5,
        skipped=5,
        credits=18.0,
        bytes=1,
        rate_limited=3,
        limit=Limit("rate", 19.84),
        elapsed_s=20.0,
    )
    words = "5 failed, 5 skipped, 8 in flight, 2.0 pictures/s, 18.00 credits, ETA 0:20, 3 answered 429, "
    words += "limit 19.8/s, rate-like"
    assert described(progress, 100) == words
    assert "ETA" not in described(progress, None)  # nobody knows how many there are
    assert "ETA" not in described(progress, 50)  # all have ended


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0:00"), (6.6, "0:07"), (59.6, "1:00"), (754.0, "12:34"), (3_599.9, "1:00:00"), (3_723.0, "1:02:03")],
)
def test_seconds_are_shown_as_people_read_them(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_a_plain_view_has_one_line_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_view(3) as view:
        view.show(batch_at(in_flight=2, saved=1, elapsed_s=1.0, credits=0.45))
        view.say("row 7 failed")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "1/3 saved, 2 in flight, 1.0 pictures/s, 0.45 credits, ETA 0:02\nrow 7 failed\n"
    assert view.every_s >= 1.0  # a log file is not flooded
    assert sys.stderr is not None
