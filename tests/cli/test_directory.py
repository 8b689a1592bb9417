"""`verify`, `report` and `compact` as people and scripts use them: exit codes, streams, and what is said there."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from attrs import asdict
from audited import row, saved, write_journal
from test_commands import IMPATIENT, Result, environment, run_all

from krea_async import BatchPolicy, KreaSession, PollPolicy
from krea_async.audit.report import directory_report
from krea_async.audit.report_text import plain
from krea_async.audit.verify import verify
from krea_async.sandbox import Durations, Faults, Sandbox
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.manifest import MANIFEST_NAME
from krea_async.storage.records import Accepted, Failed, Intent, Left, Line, RunEnded

pytestmark = pytest.mark.anyio

PROGRAM = """
import sys
from krea_async.cli.commands import krea_async
from krea_async.cli.directory import compact_command, report_command, verify_command
for command in (compact_command, report_command, verify_command):
    krea_async.add_command(command)
sys.argv[0] = "krea-async"
krea_async()
"""
HOSTILE = "fox \x1b[2J\x1b]0;pwned\x07 \u202e\x9b31m\r\nrow 99 saved"
"""A prompt that would clear the screen, name the window, turn the text around, and make up a line."""


async def run(*args: object, env: dict[str, str], cwd: Path) -> Result:
    """One run of `krea-async` to its end."""
    command = [sys.executable, "-c", IMPATIENT + PROGRAM, *map(str, args)]

    def call() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command, capture_output=True, env=env, cwd=cwd, check=False, timeout=60)

    done = await to_thread.run_sync(call)
    return Result(done.returncode, done.stdout.decode(errors="surrogateescape"), done.stderr.decode())


async def rendered(sandbox: Sandbox, directory: Path, prompts: list[Any]) -> None:
    polling = PollPolicy(shortest_s=0.05, longest_s=0.05, window_s=0.01)
    async with KreaSession(sandbox.key, base_url=sandbox.url, polling=polling) as session:
        await session.render(prompts, directory, policy=BatchPolicy(read_balance=True, breaker=None))


def rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"row {n}", "size": "1:2"} for n in range(count)]


def assert_printable(text: str) -> None:
    assert [ch for ch in text if not ch.isprintable() and ch != "\n"] == []


async def test_verify_is_silent_on_stdout_when_all_is_well(sandbox: Sandbox, tmp_path: Path) -> None:
    await rendered(sandbox, tmp_path / "renders", rows(3))
    as_json, fast = await run_all(
        partial(run, "verify", "renders", "--json", env=environment(), cwd=tmp_path),
        partial(run, "verify", "renders", "--no-decode", env=environment(), cwd=tmp_path),
    )
    facts = json.loads(as_json.out)
    assert (as_json.code, as_json.err, facts["ok"], facts["decoded"], facts["repair"]) == (0, "", True, 3, None)
    assert (fast.code, fast.out) == (0, "")
    assert fast.err == "3 saved rows by the journal, 3 files, none decoded\n"


async def test_verify_prints_the_paths_of_what_is_bad_and_exits_3(sandbox: Sandbox, tmp_path: Path) -> None:
    directory = tmp_path / "renders"
    await rendered(sandbox, directory, rows(4))
    first, second, *_ = sorted(directory.glob("*.png"))
    first.unlink()
    second.write_bytes(b"damaged")
    (directory / "stray\x1b[2J.png").write_bytes(b"x")
    text, as_json = await run_all(
        partial(run, "verify", "renders", env=environment(), cwd=tmp_path),
        partial(run, "verify", "renders", "--json", env=environment(), cwd=tmp_path),
    )
    assert (text.code, as_json.code) == (3, 3)
    assert text.paths == [path.relative_to(tmp_path) for path in (first, second)]
    assert "the file is not there" in text.err
    assert "4 saved rows by the journal, 3 files, 2 decoded with Pillow" in text.err
    assert "2 rows may be fetched again with --repair, at no cost" in text.err
    assert "1 picture files belong to no row: stray\\x1b[2J.png" in text.err
    assert_printable(text.err)
    facts = json.loads(as_json.out)
    report = verify(directory)
    assert facts["problems"] == [asdict(problem) for problem in report.problems]
    assert facts["strays"] == ["stray\x1b[2J.png"]
    assert facts["ok"] is False
    assert facts["directory"] == "renders"


async def test_repair_mends_what_it_can_and_tells_what_the_rest_costs(sandbox: Sandbox, tmp_path: Path) -> None:
    directory = tmp_path / "renders"
    await rendered(sandbox, directory, rows(3))
    charged = sandbox.ledger.charged_credits
    first, second, _ = sorted(directory.glob("*.png"))
    first.unlink()
    second.write_bytes(b"damaged")
    sandbox.forget(next(task.id for task in sandbox.ledger.tasks.values() if task.prompt == "row 1"))
    done = await run("verify", "renders", "--repair", env=environment(sandbox), cwd=tmp_path)
    assert done.code == 3
    assert done.paths == [second.relative_to(tmp_path)]
    assert "repaired; the file is not there" in done.err
    assert "gone: " in done.err
    assert "rendering again what is gone costs 0.45 credits, $0.01 by the price list" in done.err
    assert first.exists()
    again = await run("verify", "renders", "--repair", "--json", env=environment(sandbox), cwd=tmp_path)
    facts = json.loads(again.out)
    assert again.code == 3
    assert [one["outlook"] for one in facts["repair"]["left"]] == ["gone"]
    assert (facts["repair"]["rerender_credits"], facts["repair"]["rerender_usd"]) == (0.45, 0.0067)
    assert sandbox.ledger.charged_credits == charged
    assert len(sandbox.ledger.tasks) == 3


async def test_each_command_says_in_one_line_why_it_cannot(sandbox: Sandbox, tmp_path: Path) -> None:
    (empty := tmp_path / "empty").mkdir()
    (newer := tmp_path / "newer").mkdir()
    (newer / JOURNAL_NAME).write_bytes(b'{"e":"journal","v":99,"t":1.0,"crc":"00000000"}\n')
    await rendered(sandbox, tmp_path / "bad", rows(1))
    next((tmp_path / "bad").glob("*.png")).unlink()
    cases: list[tuple[list[object], dict[str, str], int, str]] = [
        (["verify", empty], {}, 2, "nothing was rendered into it"),
        (["report", tmp_path / "none"], {}, 2, "nothing was rendered into it"),
        (["compact", empty], {}, 2, "nothing was rendered into it"),
        (["report", newer], {}, 9, "update krea-async"),
        (["verify", tmp_path / "bad", "--repair"], {}, 4, "EVOLINK_API_KEY"),
        (["verify", tmp_path / "bad", "--repair"], environment(sandbox, EVOLINK_API_KEY="sk-evo-wrong"), 4, "key"),
    ]
    calls = [partial(run, *args, env=env or environment(), cwd=tmp_path) for args, env, _, _ in cases]
    for (args, _, code, words), done in zip(cases, await run_all(*calls), strict=True):
        assert (done.code, done.out) == (code, ""), args
        assert words in done.err, args
        assert len(done.err.splitlines()) <= 3, args
        assert "Traceback" not in done.err


async def test_a_directory_in_use_is_neither_compacted_nor_repaired_but_read(tmp_path: Path) -> None:
    directory = tmp_path / "renders"
    async with Sandbox(durations=Durations.instant()) as sandbox:
        await rendered(sandbox, directory, rows(2))
        next(directory.glob("*.png")).unlink()
        sandbox.durations = Durations.fixed(300.0)
        async with (
            KreaSession(sandbox.key, base_url=sandbox.url) as session,
            session.render(["another"], directory) as batch,
        ):
            before = (directory / JOURNAL_NAME).read_bytes()
            compacted, mended, report = await run_all(
                partial(run, "compact", "renders", env=environment(), cwd=tmp_path),
                partial(run, "verify", "renders", "--repair", env=environment(sandbox), cwd=tmp_path),
                partial(run, "report", "renders", env=environment(), cwd=tmp_path),
            )
            batch.stop(drain_s=0.0)
        assert (directory / JOURNAL_NAME).read_bytes().startswith(before)
    for refused in (compacted, mended):
        assert (refused.code, refused.out) == (9, "")
        assert f"renders is in use by process {os.getpid()}" in refused.err
    assert report.code == 0


async def test_compact_makes_the_journal_smaller_and_changes_no_figure(sandbox: Sandbox, tmp_path: Path) -> None:
    directory = tmp_path / "renders"
    await rendered(sandbox, directory, rows(10))
    before, size = directory_report(directory), (directory / JOURNAL_NAME).stat().st_size
    done = await run("compact", "renders", env=environment(), cwd=tmp_path)
    smaller = (directory / JOURNAL_NAME).stat().st_size
    assert (done.code, done.out) == (0, "")
    assert done.err == f"renders/{JOURNAL_NAME}: {size} bytes before, {smaller} after\n"
    assert smaller < size
    after = directory_report(directory)
    assert (after.credits, after.saved, after.compacted) == (before.credits, 10, True)


async def test_a_report_says_the_same_to_people_and_to_programs(tmp_path: Path) -> None:
    directory = tmp_path / "renders"
    faults = Faults(fail={"content_policy_violation": 0.5})
    async with Sandbox(durations=Durations.instant(), faults=faults) as sandbox:
        await rendered(sandbox, directory, rows(12))
    text, as_json = await run_all(
        partial(run, "report", "renders", env=environment(), cwd=tmp_path),
        partial(run, "report", "renders", "--json", env=environment(), cwd=tmp_path),
    )
    assert (text.code, text.err, as_json.code, as_json.err) == (0, "", 0, "")
    facts = json.loads(as_json.out)
    report = directory_report(directory)
    assert {**facts, "directory": str(directory)} == json.loads(json.dumps(report.as_json()))
    assert facts["saved"] + facts["failed"] == facts["rows"] == 12
    assert f"rows      {facts['saved']} saved, {facts['failed']} failed" in text.out
    assert f"charged  {facts['credits']:>12.2f}  (${facts['usd']:.2f} by the price list)" in text.out
    assert f"refunded {facts['credits_refunded']:>12.2f}" in text.out
    assert f"{facts['failed']} x content_policy_violation: " in text.out
    assert f"{facts['balance_before']:.2f} before, {facts['balance_after']:.2f} after" in text.out
    assert "difference 0.00" in text.out


async def test_hostile_words_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    """Of prompts, ids, and whatever a gateway may say."""
    told: dict[str, Any] = {"error": "E", "code": HOSTILE, "message": HOSTILE, "at_s": 5.0}
    lines: list[Line] = [row(0, HOSTILE), row(1, HOSTILE), row(2, HOSTILE), row(3, id=HOSTILE)]
    lines += [Intent(n=n, key=f"key-{n}", at_s=3.0) for n in range(4)]
    lines += [Left(n=0, charged="unknown", **told), Accepted(n=1, task_id=HOSTILE, replayed=False, at_s=4.0)]
    lines += [Failed(n=2, credits=1.0, charged="unknown", task_id=HOSTILE, retryable=False, **told)]
    lines += [saved(3, b"", task_id=HOSTILE, sha256=HOSTILE), RunEnded(stopped_by=HOSTILE, at_s=6.0)]
    write_journal(tmp_path, *lines)
    text, report, as_json = await run_all(
        partial(run, "verify", ".", env=environment(), cwd=tmp_path),
        partial(run, "report", ".", env=environment(), cwd=tmp_path),
        partial(run, "report", ".", "--json", env=environment(), cwd=tmp_path),
    )
    for said in (text.out, text.err, report.out, report.err, as_json.out):
        assert_printable(said)
    assert (text.code, text.out, report.code) == (3, "3.png\n", 0)
    shown = plain(HOSTILE)
    assert shown.startswith("fox \\x1b[2J\\x1b]0;pwned\\x07 \\u202e\\x9b31m\\r\\nrow 99")
    assert report.out.count(shown) >= 8
    assert json.loads(as_json.out)["unknown"][0]["prompt"] == HOSTILE


async def test_names_that_lead_out_of_the_directory_are_told_but_never_printed_as_paths(tmp_path: Path) -> None:
    """Somebody may remove what is printed."""
    names = ["../victim.png", "/etc/passwd", "a\nb.png", "\ud800.png"]
    lines = [json.dumps({"status": "saved", "file": name}) for name in [*names, "gone.png"]]
    (tmp_path / MANIFEST_NAME).write_text("\n".join(lines) + "\n")
    text = await run("verify", ".", env=environment(), cwd=tmp_path)
    assert (text.code, text.out) == (3, "gone.png\n")
    assert text.err.count("the record names no picture of this directory") == 4
    assert_printable(text.err)


async def test_a_reader_who_leaves_is_no_error(sandbox: Sandbox, tmp_path: Path) -> None:
    await rendered(sandbox, tmp_path, rows(1))
    command = [sys.executable, "-c", IMPATIENT + PROGRAM, "report", "."]

    def left() -> tuple[int, bytes]:
        reading, writing = os.pipe()
        os.close(reading)
        try:
            done = subprocess.run(
                command, stdout=writing, stderr=subprocess.PIPE, env=environment(), cwd=tmp_path, check=False
            )
        finally:
            os.close(writing)
        return done.returncode, done.stderr

    assert await to_thread.run_sync(left) == (0, b"")
