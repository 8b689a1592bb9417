"""What a run shows: bars where a person watches, plain lines elsewhere, as little as was asked for, never the key."""

import os
import re
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from attrs import evolve
from terminals import CONTROL, HIDE_CURSOR, SHOW_CURSOR, Screen, on_a_terminal, resized
from test_commands import IMPATIENT, PROGRAM, environment, pictures, run, run_all, started, text_of
from until import until_tasks

from krea_async.cli.watching.progress import PLAIN_EVERY_S, PLAIN_SLOWEST_S, Mode, is_painted, progress_view
from krea_async.meter import Figures
from krea_async.sandbox import Durations, Faults, Limits, Sandbox

pytestmark = pytest.mark.anyio

FIGURES = Figures(
    rows=3,
    submitted=2,
    generating=1,
    generated=1,
    in_flight=2,
    saved=1,
    failed=0,
    skipped=0,
    already_saved=0,
    credits=0.45,
    credits_projected=1.35,
    rate=1.0,
    eta_s=2.0,
    posts=2,
    rate_limited=0,
    limit=None,
    reasons=(),
    elapsed_s=1.0,
)


PERSISTENT = "RetryPolicy.__init__.__kwdefaults__.update(attempts=40)\n"


def a_list(directory: Path, rows: int) -> str:
    (directory / "list.txt").write_text("\n".join(f"fox {number}" for number in range(rows)))
    return "list.txt"


# --- piped ------------------------------------------------------------------------------------------------------------


async def test_a_pipe_gets_plain_lines_and_the_key_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_commands.COMMAND", [sys.executable, "-c", IMPATIENT + PERSISTENT + PROGRAM])
    key = "sk-evo-very-secret-0123456789"
    sandbox_faults = Faults(drop_after=0.2, garbage=0.1, image_truncated=0.2, error=0.1)
    async with Sandbox(key=key, durations=Durations.fixed(1.5), faults=sandbox_faults) as sandbox:
        env = environment(sandbox)
        wrong = await run("-vv", "credits", env={**env, "EVOLINK_API_KEY": f"{key}-but-wrong"}, cwd=tmp_path)
        batch, single = await run_all(
            partial(
                run, "-vv", "render", "-", stdin="a fox\nein Fuchs\n狐狸\nan owl\n".encode(), env=env, cwd=tmp_path
            ),
            partial(run, "-vv", "generate", "a fox", "--json", env=env, cwd=tmp_path),
        )
    assert (batch.code, single.code, wrong.code) == (0, 0, 4), (batch.err, single.err, wrong.err)
    for result in (batch, single, wrong):
        assert key not in result.out + result.err
        assert not CONTROL.search(result.err.replace("\n", ""))
    assert "4 rows, 1.80 credits, $0.03 by the price list" in batch.err.splitlines()
    assert re.search(r"^\d/4 saved, \d in flight, \d\.\d\d of about 1\.80 credits$", batch.err, re.MULTILINE)
    assert re.search(r"^4 saved in renders, 0 failed; 1\.80 credits \(\$0\.03\) in 0:\d\d$", batch.err, re.MULTILINE)
    assert key not in (tmp_path / "renders" / "manifest.jsonl").read_text()


def test_a_log_file_gets_a_line_when_there_is_something_new_and_ever_fewer_of_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A night's run leaves some hundreds of lines, one of three seconds none."""
    with progress_view("plain") as view:
        for second in range(8 * 3_600):
            view.show(evolve(FIGURES, elapsed_s=float(second), saved=second, rows=100_000))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert 200 < len(lines) < 400
    assert lines[0] == "1/100,000 saved, 2 in flight, 1.0 pictures/s, 0.45 of about 1.35 credits, ETA 0:02"
    said_s = [int(line.split("/")[0].replace(",", "")) for line in lines]
    pauses = [later - earlier for earlier, later in pairwise(said_s)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (PLAIN_EVERY_S, PLAIN_SLOWEST_S)


def test_a_log_file_is_spared_what_it_has_already(capsys: pytest.CaptureFixture[str]) -> None:
    """But some CI services end a job that says nothing for ten minutes."""
    with progress_view("plain") as view:
        for second in range(1_000):
            view.show(evolve(FIGURES, elapsed_s=float(second)))
        view.say("row 7 failed")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 + 3 + 1
    assert lines[-1] == "row 7 failed"


async def test_a_reader_of_stderr_who_leaves_does_not_end_the_run(tmp_path: Path) -> None:
    """`krea-async render list.txt 2>&1 | head`."""
    async with Sandbox(durations=Durations.fixed(1.2), limits=Limits(unfinished=3)) as sandbox:
        sandbox.script("create", ("fail", "content_policy_violation"))
        args = ["-v", "render", a_list(tmp_path, 9), "--concurrency", 3]
        read, write = os.pipe()
        async with started(*args, env=environment(sandbox), cwd=tmp_path, stderr=write) as process:
            os.close(write)
            await until_tasks(sandbox, 1)
            os.close(read)
            paths = (await text_of(process.stdout)).splitlines()
            assert await process.wait() == 3
        assert len(paths) == len(pictures(tmp_path / "renders")) == 8
        assert len(sandbox.ledger.tasks) == 9


# --- which view it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tty", "mode", "variables", "painted"),
    [
        (True, "auto", {"TERM": "xterm"}, True),
        (True, "auto", {"TERM": "xterm", "NO_COLOR": "1"}, True),
        (True, "auto", {"TERM": "xterm", "CI": "false"}, True),
        (True, "auto", {"TERM": "dumb"}, False),
        (True, "auto", {}, False),
        (True, "auto", {"TERM": "xterm", "CI": "true"}, False),
        (True, "auto", {"TERM": "xterm", "TF_BUILD": "True"}, False),
        (True, "auto", {"TERM": "xterm", "JENKINS_URL": "http://ci"}, False),
        (True, "plain", {"TERM": "xterm"}, False),
        (True, "quiet", {"TERM": "xterm"}, False),
        (False, "auto", {"TERM": "xterm"}, False),
        (False, "auto", {"TERM": "xterm", "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}, False),
    ],
)
def test_bars_are_painted_only_where_somebody_watches_a_terminal(
    monkeypatch: pytest.MonkeyPatch, tty: bool, mode: Mode, variables: dict[str, str], painted: bool
) -> None:
    for name in ("TERM", "CI", "TF_BUILD", "JENKINS_URL", "TEAMCITY_VERSION", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr.isatty", lambda: tty)
    assert is_painted(mode) is painted


def test_without_rich_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert is_painted("auto")
    monkeypatch.setitem(sys.modules, "rich", None)
    assert not is_painted("auto")


async def test_a_ci_service_a_dumb_terminal_and_plain_get_lines_although_it_is_a_terminal(tmp_path: Path) -> None:
    a_list(tmp_path, 3)
    async with Sandbox(durations=Durations.fixed(1.4)) as sandbox:
        env = environment(sandbox)
        watched = partial(on_a_terminal, "render", "list.txt", env=env)
        for name in ("ci", "dumb", "plain"):
            (tmp_path / name).mkdir()
            a_list(tmp_path / name, 3)
        runs = await run_all(
            partial(watched, cwd=tmp_path / "ci", variables={"CI": "true"}),
            partial(watched, cwd=tmp_path / "dumb", variables={"TERM": "dumb"}),
            partial(watched, "--plain", cwd=tmp_path / "plain"),
        )
    for result in runs:
        seen = result.seen.replace("\r\n", "\n")
        assert result.code == 0
        assert not CONTROL.search(seen), seen
        assert re.search(r"^\d/3 saved, \d in flight", seen, re.MULTILINE)
        assert "3 saved in renders, 0 failed" in seen


async def test_quiet_says_nothing_unless_somebody_has_to_act_on_it(tmp_path: Path) -> None:
    async with Sandbox(durations=Durations.instant()) as sandbox:
        env = environment(sandbox)
        good = await run("render", a_list(tmp_path, 3), "-q", "--out", "good", env=env, cwd=tmp_path)
        sandbox.script("create", *[("fail", "content_policy_violation")] * 3)
        bad = await run("render", "list.txt", "--quiet", "--out", "bad", env=env, cwd=tmp_path)
    assert (good.code, good.err) == (0, "")
    assert len(good.paths) == len(pictures(tmp_path / "good")) == 3  # the results are no chatter
    assert (bad.code, bad.out) == (3, "")
    assert bad.err.startswith("0 saved in bad, 3 failed")
    assert "rewrite the prompt" in bad.err
    assert "row 0" not in bad.err


# --- on a terminal ----------------------------------------------------------------------------------------------------


async def test_a_terminal_shows_bars_and_is_left_clean(tmp_path: Path) -> None:
    async with Sandbox(durations=Durations.fixed(0.7)) as sandbox:
        sandbox.script("create", ("fail", "content_policy_violation"))
        result = await on_a_terminal(
            "render", a_list(tmp_path, 6), env=environment(sandbox), cwd=tmp_path, stdout="the terminal", size=(200, 40)
        )
    assert result.code == 3
    live, last = result.seen.rsplit(SHOW_CURSOR, 1)
    assert HIDE_CURSOR in live
    assert HIDE_CURSOR not in last
    for words in ("submitted", "generating", "0/6", "so far", "2.70 credits"):
        assert words in live, words
    assert live.count("so far") >= 2  # it moved
    screen = result.screen(200)
    left = screen.text.splitlines()
    assert re.match(r"row \d failed \('fox \d'\): .*content_policy_violation", left[1])
    assert left[2].startswith("5 saved in renders, 1 failed")
    assert not screen.cursor_hidden
    assert "generating" not in screen.text
    assert "content_policy_violation" in left[4]  # the table
    assert "not charged; rewrite the prompt" in left[4]
    assert left[-1] == "  look at the pictures: krea-async gallery renders"
    assert len(pictures(tmp_path / "renders")) == 5


async def test_a_terminal_that_is_resized_shows_one_frame_and_keeps_what_was_said(tmp_path: Path) -> None:
    """Its old lines are broken anew when it gets narrower; none of them stays behind."""
    sizes = [(120, 40), (45, 40), (200, 40), (40, 40), (28, 40)]
    steps: list[int] = []

    def resize(process: subprocess.Popen[bytes], terminal: int, seen: str) -> None:
        if len(steps) < len(sizes) - 1 and seen.count("so far") > 2 * (len(steps) + 1):
            steps.append(len(seen.replace("\r\n", "\n")))
            resized(terminal, *sizes[len(steps)])

    async with Sandbox(durations=Durations(queue_s=0.1, run_s=5.0)) as sandbox:
        sandbox.script("create", ("fail", "content_policy_violation"))
        result = await on_a_terminal(
            "render", a_list(tmp_path, 12), env=environment(sandbox), cwd=tmp_path, size=sizes[0], meanwhile=resize
        )
    assert len(steps) == len(sizes) - 1
    assert result.code == 3
    screen, text = Screen(sizes[0][0]), result.seen.replace("\r\n", "\n")
    for (width, _), start, end in zip(sizes, [0, *steps], [*steps, len(text)], strict=True):
        screen.resize(width)
        screen.feed(text[start:end])
    screen.resize(200)
    left = screen.text.splitlines()
    assert left[0].startswith("12 rows, 5.40 credits")
    assert re.match(r"row \d+ failed", left[1])
    assert left[2].startswith("11 saved in renders, 1 failed")
    assert "generating" not in screen.text


async def test_a_file_gets_the_paths_while_a_terminal_shows_the_bars(tmp_path: Path) -> None:
    """`krea-async render list.txt > paths.txt`, as people type it."""
    async with Sandbox(durations=Durations.instant()) as sandbox:
        result = await on_a_terminal("render", a_list(tmp_path, 2), env=environment(sandbox), cwd=tmp_path)
    assert result.code == 0
    assert {tmp_path / line for line in result.out.splitlines()} == pictures(tmp_path / "renders")
    assert ".png" not in result.seen


async def test_a_terminal_is_left_clean_after_two_ctrl_c(tmp_path: Path) -> None:
    stopped: list[int] = []
    async with Sandbox(durations=Durations.fixed(300.0)) as sandbox:

        def press(process: subprocess.Popen[bytes], terminal: int, seen: str) -> None:
            first = not stopped and len(sandbox.ledger.tasks) >= 4
            second = len(stopped) == 1 and "press Ctrl-C again" in seen  # two that wait are one to the system
            if first or second:
                stopped.append(process.pid)
                process.send_signal(2)

        args = ["render", a_list(tmp_path, 50), "--concurrency", 4]
        result = await on_a_terminal(*args, env=environment(sandbox), cwd=tmp_path, meanwhile=press)
    assert result.code == 130
    assert result.seen.rindex(SHOW_CURSOR) > result.seen.rindex(HIDE_CURSOR)
    assert "stopped at once" in result.seen[result.seen.rindex(SHOW_CURSOR) :]
    assert "Traceback" not in result.seen
    assert "generating" not in result.screen().text


async def test_a_limit_and_what_it_refuses_are_shown(tmp_path: Path) -> None:
    async with Sandbox(durations=Durations.fixed(0.3), limits=Limits(unfinished=2)) as sandbox:
        result = await on_a_terminal("render", a_list(tmp_path, 10), env=environment(sandbox), cwd=tmp_path)
    assert result.code == 0
    assert re.search(r"\d+ answered 429 \(\d+%\)", result.seen)
    assert re.search(r"limit \d", result.seen)


async def test_no_color_is_obeyed_and_the_bars_stay(tmp_path: Path) -> None:
    async with Sandbox(durations=Durations.fixed(0.6)) as sandbox:
        result = await on_a_terminal(
            "render",
            a_list(tmp_path, 3),
            env=environment(sandbox),
            cwd=tmp_path,
            variables={"NO_COLOR": "1"},
        )
    assert "━" in result.seen
    assert not re.search(r"\x1b\[[\d;]*3\dm|\x1b\[[\d;]*9\dm", result.seen)
