"""`--json`: every line is a whole, known event, whatever happens to run and reader; the last is the report."""

import json
import os
import signal
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from terminals import CONTROL, on_a_terminal, report_of
from test_commands import COMMAND, environment, pictures, run, started, text_of
from test_signals import said_by, until_said
from until import until, until_tasks

from krea_async import Completed, Limit, LimitFound, Picture
from krea_async.cli.exits import Exit
from krea_async.cli.watching.event_lines import EventLines
from krea_async.cli.watching.running import report_json
from krea_async.cli.watching.stdout_writer import MAX_WAITING_BYTES
from krea_async.results import BatchReport
from krea_async.sandbox import Durations, Faults, Limits, Sandbox

pytestmark = pytest.mark.anyio

WHICH: Final = {"index", "id", "task_id"}
ROW: Final = {
    *WHICH,
    *("status", "file", "prompt", "size", "quality", "seed", "bytes", "sha256", "width", "height", "credits"),
    *("queued_s", "waiting_s", "generating_s", "downloading_s", "error", "message", "charged"),
}
KEYS: Final[dict[str, set[str]]] = {
    "started": {"directory", "rows", "credits_listed", "version"},
    "accepted": WHICH,
    "completed": {*WHICH, "credits"},
    "saved": ROW,
    "failed": ROW,
    "skipped": ROW,
    "limit_found": {"kind", "value"},
    "progress": {
        *("rows", "submitted", "generating", "generated", "in_flight", "ended", "saved", "failed", "skipped"),
        *("already_saved", "credits", "credits_projected", "rate", "eta_s", "posts", "rate_limited"),
        *("rate_limited_share", "limit", "reasons", "elapsed_s"),
    },
    "stopping": {"signal", "in_flight", "drain_s"},
    "error": {"code", "message"},
    "report": {*report_json(BatchReport()), "directory", "exit_code"},
}
"""What the documentation promises of version 1. New keys may come; none of these may go or change its name."""


def events_of(out: str) -> list[dict[str, Any]]:
    """Each line, checked: one whole object with the keys of its event, in the order of time."""
    assert out.endswith("\n")
    events = [json.loads(line) for line in out.splitlines()]
    for event in events:
        assert event["v"] == 1
        assert {"v", "event", "at", *KEYS[event["event"]]} <= event.keys(), event
        assert abs(event["at"] - time.time()) < 600
    assert events[0]["event"] == "started"
    assert [event["event"] for event in events].count("started") == 1
    return events


def a_list(directory: Path, rows: int) -> str:
    (directory / "list.txt").write_text("\n".join(f"fox {number}" for number in range(rows)))
    return "list.txt"


async def test_a_run_tells_each_rows_steps_in_order_and_ends_with_the_report(tmp_path: Path) -> None:
    async with Sandbox(durations=Durations.fixed(1.2), limits=Limits(unfinished=5)) as sandbox:
        sandbox.script("create", "ok", ("fail", "content_policy_violation"))
        args = ["render", a_list(tmp_path, 10), "--json"]
        result = await run(*args, env=environment(sandbox), cwd=tmp_path)
        events = events_of(result.out)
        assert result.code == Exit.SOME_FAILED
        assert events[-1]["credits"] == sandbox.ledger.charged_credits
        ids = {*sandbox.ledger.tasks}
    names = Counter(event["event"] for event in events)
    assert (names["accepted"], names["completed"], names["saved"], names["failed"]) == (10, 9, 9, 1)
    assert names["progress"] >= 1
    assert names["limit_found"] >= 1
    steps = defaultdict(list)
    for event in events:
        if event["event"] in {"accepted", "completed", "saved", "failed"}:
            steps[event["index"]].append(event["event"])
            assert event["task_id"] in ids
    assert sorted(steps) == list(range(10))
    assert {*map(tuple, steps.values())} == {("accepted", "completed", "saved"), ("accepted", "failed")}
    manifest = [json.loads(line) for line in (tmp_path / "renders" / "manifest.jsonl").read_text().splitlines()]
    told = [{name: event[name] for name in ROW} for event in events if event["event"] in {"saved", "failed"}]
    assert sorted(told, key=lambda row: row["index"]) == sorted(
        ({name: row[name] for name in ROW} for row in manifest), key=lambda row: row["index"]
    )
    (report,) = [event for event in events if event["event"] == "report"]
    assert report is events[-1]
    assert (report["saved"], report["failed"], report["exit_code"], report["directory"]) == (9, 1, 3, "renders")
    assert (events[0]["rows"], events[0]["credits_listed"]) == (10, 4.5)
    assert not CONTROL.search(result.err)
    assert "9 saved in renders, 1 failed" in result.err  # people still read stderr


async def test_a_resume_tells_what_was_there_already(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(sandbox)
    await run("render", a_list(tmp_path, 4), "--max-credits", 0.95, env=env, cwd=tmp_path)
    result = await run("resume", "renders", "--json", env=env, cwd=tmp_path)
    events = events_of(result.out)
    names = Counter(event["event"] for event in events)
    assert (names["skipped"], names["saved"], result.code) == (2, 2, 0)
    assert events[0]["rows"] is None
    assert report_of(result.out)["already_saved"] == 2


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
async def test_a_signal_leaves_whole_lines_and_a_report(tmp_path: Path, again: bool) -> None:
    async with Sandbox(durations=Durations.fixed(300.0 if again else 1.0)) as sandbox:
        args = ["render", a_list(tmp_path, 200), "--concurrency", 8, "--json"]
        async with started(*args, env=environment(sandbox), cwd=tmp_path) as process:
            await until_tasks(sandbox, 8)
            stdout = said_by(process.stdout)
            process.send_signal(signal.SIGTERM)
            begun = await stdout.receive_until(b'"event": "stopping"', 100_000)
            if again:
                process.send_signal(signal.SIGTERM)
            out = begun + b'"event": "stopping"' + (await text_of(stdout)).encode()
            await text_of(process.stderr)
            assert await process.wait() == 143
    events = events_of(out.decode())
    (stopping,) = [event for event in events if event["event"] == "stopping"]
    assert (stopping["signal"], stopping["drain_s"]) == ("SIGTERM", 30.0)
    report = events[-1]
    assert (report["event"], report["exit_code"]) == ("report", 143)
    assert report["saved"] == (0 if again else len(sandbox.ledger.tasks))
    assert len(report["open_tasks"]) == (8 if again else 0)


@pytest.mark.parametrize("mode", [[], ["--json"]], ids=["paths", "events"])
async def test_a_reader_who_leaves_does_not_end_the_run(tmp_path: Path, mode: list[str]) -> None:
    read, write = os.pipe()
    async with Sandbox(durations=Durations.fixed(0.5)) as sandbox:
        args = ["render", a_list(tmp_path, 30), *mode]
        async with started(*args, env=environment(sandbox), cwd=tmp_path, stdout=write) as process:
            os.close(write)
            await until_tasks(sandbox, 1)
            os.close(read)
            err = await text_of(process.stderr)
            assert await process.wait() == 0
        assert len(pictures(tmp_path / "renders")) == len(sandbox.ledger.tasks) == 30
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


async def test_a_full_disk_behind_stdout_does_not_end_the_run(sandbox: Sandbox, tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 - a device
        args = ["render", a_list(tmp_path, 5), "--json"]
        async with started(*args, env=environment(sandbox), cwd=tmp_path, stdout=full) as process:
            err = await text_of(process.stderr)
            assert await process.wait() == 0
    assert len(pictures(tmp_path / "renders")) == 5
    assert err.count("stdout takes no more") == 1


async def test_a_run_without_any_stdout_goes_on(sandbox: Sandbox, tmp_path: Path) -> None:
    """Some service managers close it."""
    a_list(tmp_path, 3)
    for mode in ([], ["--json"]):
        command = ["sh", "-c", '"$@" >&-', "sh", *COMMAND, "render", "list.txt", *mode]
        done = await anyio.run_process(command, env=environment(sandbox), cwd=tmp_path, check=False)
        assert (done.returncode, done.stdout) == (0, b""), done.stderr.decode()
        assert b"Traceback" not in done.stderr
    assert len(pictures(tmp_path / "renders")) == 3


async def test_a_reader_who_reads_nothing_holds_up_no_picture_that_is_paid_for(tmp_path: Path) -> None:
    """What is printed waits in memory up to a bound, and signals are obeyed all the same."""
    rows = 400  # 300 KB: more than the pipe holds
    args = ["render", a_list(tmp_path, rows), "--json"]
    async with (
        Sandbox(durations=Durations.instant(), scenes=1) as sandbox,
        started(*args, env=environment(sandbox), cwd=tmp_path) as process,
    ):
        await until(lambda: len(pictures(tmp_path / "renders")) >= rows, within_s=90)
        events = events_of(await text_of(process.stdout))  # and nothing is lost
        assert await process.wait() == 0
    assert Counter(event["event"] for event in events)["saved"] == rows
    assert sum(len(json.dumps(event)) for event in events) < MAX_WAITING_BYTES


async def test_two_signals_end_a_run_whose_reader_reads_nothing(tmp_path: Path) -> None:
    read, write = os.pipe()
    try:
        async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
            args = ["render", a_list(tmp_path, 5_000), "--json"]
            async with started(*args, env=environment(sandbox), cwd=tmp_path, stdout=write) as process:
                await until_tasks(sandbox, 300)
                said = said_by(process.stderr)
                process.send_signal(signal.SIGINT)
                with anyio.fail_after(10):
                    err = await until_said(b"press Ctrl-C again to stop now", said)
                    process.send_signal(signal.SIGINT)
                    err += await text_of(said)
                    assert await process.wait() == 130
        assert "Traceback" not in err
        assert "Fatal Python error" not in err
        text = os.read(read, 1 << 20).decode()
        events_of(text[: text.rindex("\n") + 1])
    finally:
        os.close(read)
        os.close(write)


async def test_a_run_without_a_report_ends_with_the_error(tmp_path: Path) -> None:
    async with Sandbox(durations=Durations.fixed(300.0)) as sandbox:
        env = environment(sandbox)
        async with started("render", a_list(tmp_path, 2), env=env, cwd=tmp_path):
            await until_tasks(sandbox, 2)
            result = await run("resume", "renders", "--json", env=env, cwd=tmp_path)
    assert result.code == Exit.DISK
    events = events_of(result.out)
    assert [event["event"] for event in events] == ["started", "error"]
    assert events[-1]["code"] == "directory_locked"
    assert events[-1]["message"] in result.err


async def test_no_line_holds_a_key_or_a_link(tmp_path: Path) -> None:
    key = "sk-evo-very-secret-0123456789"
    faults = Faults(drop_after=0.2, garbage=0.1, image_truncated=0.3, missing=0.2, error=0.1)
    async with Sandbox(key=key, durations=Durations.instant(), faults=faults) as sandbox:
        args = ["render", a_list(tmp_path, 12), "--json"]
        result = await run("-v", *args, env=environment(sandbox), cwd=tmp_path)
        links = sandbox.url
    events_of(result.out)
    assert key not in result.out
    assert links not in result.out
    assert "http" not in result.out


async def test_on_a_terminal_the_lines_are_not_mixed_with_bars_and_quiet_leaves_them_alone(tmp_path: Path) -> None:
    for name in ("shown", "quiet"):
        (tmp_path / name).mkdir()
        a_list(tmp_path / name, 3)
    async with Sandbox(durations=Durations.fixed(0.5)) as sandbox:
        env = environment(sandbox)
        args = ["render", "list.txt", "--json"]
        shown = await on_a_terminal(*args, env=env, cwd=tmp_path / "shown", stdout="the terminal")
        quiet = await run(*args, "-q", env=env, cwd=tmp_path / "quiet")
    seen = shown.seen
    assert "\x1b[?25l" not in seen
    assert "so far" not in seen
    lines = [line for line in seen.replace("\r\n", "\n").split("\n") if line.startswith("{")]
    assert json.loads(lines[-1])["saved"] == 3
    assert quiet.err == ""
    assert report_of(quiet.out)["saved"] == 3


# --- without a process ------------------------------------------------------------------------------------------------


def test_what_a_session_tells_becomes_lines() -> None:
    said: list[str] = []
    lines = EventLines(said.append)
    picture = Picture(index=3, id="fox\u2028\n", task_id="task-unified-1-a")
    lines.hear(Completed(picture=picture, generating_s=1.0, lag_s=None, credits=0.45))
    lines.hear(LimitFound(limit=Limit("unfinished", 5.0)))
    lines.hear(LimitFound(limit=None))
    assert all(text.isascii() and text.endswith("\n") and text.count("\n") == 1 for text in said)
    events = [json.loads(text) for text in said]
    assert [event["event"] for event in events] == ["completed", "limit_found", "limit_found"]
    assert (events[0]["id"], events[0]["credits"]) == ("fox\u2028\n", 0.45)
    assert [(event["kind"], event["value"]) for event in events[1:]] == [("unfinished", 5.0), (None, None)]


def test_the_report_has_every_key_that_scripts_know() -> None:
    """Those of 0.4, whose one line was the whole output."""
    assert {*report_json(BatchReport())} >= {
        *("rows", "saved", "failed", "skipped", "already_saved", "left", "credits", "credits_refunded"),
        *("credits_reserved", "credits_unknown", "usd", "bytes", "wall_s", "seconds", "pictures_per_minute"),
        *("failures", "open_tasks", "unknown", "maybe_twice", "balance_before", "balance_after"),
        *("balance_difference", "stopped_by", "limit", "calls"),
    }
