"""Run after run on the command line: resumed without the list, capped, tried on canaries, asked at a terminal."""

# ruff: noqa: ASYNC240 - looking into a directory takes no time

import codecs
import json
import os
import pty
import signal
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from resuming import intent, killed_run, row
from test_commands import Result, environment, pictures, run, run_all, started, text_of
from until import until_tasks

from krea_async.sandbox import Durations, Faults, Sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
        yield sandbox


def a_list(directory: Path, rows: int) -> str:
    (directory / "list.txt").write_text("\n".join(f"fox number {row}" for row in range(rows)))
    return "list.txt"


def report_of(result: Result) -> dict[str, Any]:
    """The last line on stdout, where every line is an event."""
    *events, report = map(json.loads, result.out.splitlines())
    assert report["event"] == "report"
    assert all(isinstance(event, dict) for event in events)
    return dict(report)


async def test_a_killed_run_is_finished_without_its_list(sandbox: Sandbox, tmp_path: Path) -> None:
    """The rows that were never sent are known too: the whole list is in the journal before the first one leaves."""
    sandbox.durations = Durations.fixed(0.3)
    env = environment(sandbox)
    async with started(
        "render", a_list(tmp_path, 30), "out", "--concurrency", 4, env=env, cwd=tmp_path, stderr=subprocess.DEVNULL
    ) as process:
        await until_tasks(sandbox, 7)
        process.kill()
        await process.wait()
    (tmp_path / "list.txt").unlink()
    sandbox.durations = Durations.instant()
    done = await run("resume", "out", "--json", env=env, cwd=tmp_path)
    assert done.code == 0, done.err
    report = report_of(done)
    assert report["saved"] + report["already_saved"] == 30
    assert (report["failed"], report["unknown"], report["maybe_twice"]) == (0, [], [])
    assert len(pictures(tmp_path / "out")) == len(sandbox.ledger.tasks) == 30
    assert sandbox.ledger.duplicates == {}
    assert not list((tmp_path / "out").glob("*.part"))


async def test_a_cap_ends_a_run_with_5_and_a_higher_one_goes_on(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(sandbox)
    go = partial(run, env=env, cwd=tmp_path)
    first = await go("render", a_list(tmp_path, 6), "out", "--max-credits", 0.9, "--json")
    assert (first.code, report_of(first)["saved"]) == (5, 2)
    assert report_of(first)["left"] == 4
    assert "max_credits is 0.9: 0.9 are spent, and the next picture would cost 0.45" in first.err
    assert "go on with: krea-async resume out" in first.err
    same = await go("resume", "out", "--max-credits", 0.9)
    assert (same.code, len(same.paths), len(sandbox.ledger.tasks)) == (5, 2, 2)
    dollars = await go("resume", "out", "--max-usd", 0.0275, "--json")
    assert (dollars.code, report_of(dollars)["already_saved"]) == (5, 2)
    assert len(sandbox.ledger.tasks) == 4
    last = await go("resume", "out")
    assert (last.code, len(last.paths), len(sandbox.ledger.tasks)) == (0, 6, 6)


async def test_options_that_contradict_each_other_are_usage_errors(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    go = partial(run, env=environment(sandbox), cwd=tmp_path)
    results = await run_all(
        partial(go, "render", a_list(tmp_path, 2), "out", "--code", "generation_timeout"),
        partial(go, "resume", "empty", "--code", "generation_timeout"),
        partial(go, "resume", "empty"),
        partial(go, "resume", "nowhere"),
        partial(go, "render", "list.txt", "out", "--max-credits", -1),
        partial(go, "render", "list.txt", "out", "--canary", -1),
    )
    assert [result.code for result in results] == [2] * 6
    assert ["--retry-failed" in result.err for result in results] == [True, True, False, False, False, False]
    assert "nothing was rendered into it" in results[2].err
    assert [result.out for result in results] == [""] * 6
    assert sandbox.ledger.requests["create"] == 0
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "empty").iterdir())


async def test_canaries_and_the_breaker_end_a_run_with_7(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults = Faults(fail={"invalid_parameters": 1.0})
    go = partial(run, env=environment(sandbox), cwd=tmp_path)
    canary, breaker, off = await run_all(
        partial(go, "render", a_list(tmp_path, 60), "a", "--canary", 2, "--json"),
        partial(go, "render", "list.txt", "b", "--concurrency", 4, "--json"),
        partial(go, "render", "list.txt", "c", "--no-breaker", "--json"),
    )
    assert (canary.code, report_of(canary)["failed"]) == (7, 2)
    assert "all 2 canary rows failed" in canary.err
    assert breaker.code == 7
    assert 20 <= report_of(breaker)["failed"] <= 24
    assert "stopped early" in breaker.err
    assert (off.code, report_of(off)["failed"]) == (3, 60)


async def test_failed_rows_are_sent_again_only_on_request(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.script("create", ("fail", "generation_timeout"), ("fail", "content_policy_violation"))
    go = partial(run, env=environment(sandbox), cwd=tmp_path)
    runs = (
        ("render", a_list(tmp_path, 4), "out", "--concurrency", 1),
        ("resume", "out"),
        ("resume", "out", "--retry-failed"),
        ("resume", "out", "--retry-failed", "--code", "invalid_parameters"),
        ("resume", "out", "--retry-failed", "--code", "invalid_parameters", "--code", "content_policy_violation"),
    )
    codes = [((await go(*more)).code, len(sandbox.ledger.tasks)) for more in runs]
    assert codes == [(3, 4), (3, 4), (3, 5), (3, 5), (0, 6)]


async def test_a_row_of_which_nobody_knows_waits_for_consent(sandbox: Sandbox, tmp_path: Path) -> None:
    killed_run(tmp_path / "out", row(0, "fox 0"), intent(0, age_s=90_000.0), row(1, "fox 1"))
    go = partial(run, env=environment(sandbox), cwd=tmp_path)
    unasked = await go("resume", "out", "--json")
    assert unasked.code == 3
    assert [row["charged"] for row in report_of(unasked)["unknown"]] == ["unknown"]
    assert "may have been charged without a picture" in unasked.err
    assert [task.prompt for task in sandbox.ledger.tasks.values()] == ["fox 1"]
    agreed = await go("resume", "out", "--retry-unknown")
    assert (agreed.code, len(sandbox.ledger.tasks)) == (0, 2)


# --- at a terminal ----------------------------------------------------------------------------------------------------


async def at_a_terminal(*args: object, answer: bytes | signal.Signals, env: dict[str, str], cwd: Path) -> Result:
    """One run with a person in front of it, who answers the first question; `err` is what the terminal showed."""
    ours, theirs = pty.openpty()
    try:
        async with started(*args, env=env, cwd=cwd, stdin=theirs, stderr=theirs) as process:
            os.close(theirs)
            shown = ""
            async for words in said_on(ours):
                shown += words
                if "[y/N]" in shown and answer:
                    if isinstance(answer, signal.Signals):
                        process.send_signal(answer)
                    else:
                        os.write(ours, answer)
                    answer = b""
            out = await text_of(process.stdout)
            return Result(await process.wait(), out, shown)
    finally:
        os.close(ours)


async def said_on(terminal: int) -> AsyncIterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    while True:
        await anyio.wait_readable(terminal)
        try:
            yield decoder.decode(os.read(terminal, 65_536))
        except OSError:  # nobody has the other end any more
            return


async def test_a_person_is_asked_before_much_is_spent(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(sandbox)
    a_list(tmp_path, 5)
    go = partial(at_a_terminal, "render", "list.txt", env=env, cwd=tmp_path)
    asked: list[Result] = await run_all(
        *(partial(go, name, "--ask-above", 0.01, answer=answer) for name, answer in ANSWERS.items())
    )
    *refused, interrupted, agreed = asked
    for result in asked:
        assert "Spend up to $0.03 on 5 pictures (2.25 credits)?" in result.err
    for result in refused:
        assert (result.code, result.out) == (2, "")
        assert "nothing was submitted" in result.err
    assert (interrupted.code, interrupted.out) == (130, "")  # by the first Ctrl-C
    assert "nothing was submitted" in interrupted.err
    assert (agreed.code, len(agreed.paths), len(sandbox.ledger.tasks)) == (0, 5, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agreed", "list.txt"]


ANSWERS: dict[str, bytes | signal.Signals] = {
    "refused": b"n\n",
    "default": b"\n",
    "end-of-input": b"\x04",
    "interrupted": signal.SIGINT,
    "agreed": b"y\n",
}


async def test_nobody_is_asked_for_little_or_after_yes_or_without_a_terminal(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(sandbox)
    a_list(tmp_path, 3)
    terminal = partial(at_a_terminal, "render", "list.txt", answer=b"", env=env, cwd=tmp_path)
    results = await run_all(
        partial(terminal, "little"),
        partial(terminal, "yes", "--ask-above", 0, "--yes", "--json"),
        partial(run, "render", "list.txt", "piped", "--ask-above", 0, env=env, cwd=tmp_path),
    )
    assert [result.code for result in results] == [0, 0, 0]
    assert not any("[y/N]" in result.err for result in results)
    assert report_of(results[1])["saved"] == 3
    assert len(sandbox.ledger.tasks) == 9
