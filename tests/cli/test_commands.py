"""The command line as people and scripts use it: a process of its own, a gateway on a socket, files on the disk."""

import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from attrs import frozen
from PIL import Image

from krea_async.cli.demo import PROMPTS
from krea_async.sandbox import Sandbox

pytestmark = pytest.mark.anyio

T = TypeVar("T")

PROGRAM = "import sys; sys.argv[0] = 'krea-async'; from krea_async.cli import main; main()"
IMPATIENT = """
from krea_async import PollPolicy, RetryPolicy
PollPolicy.__init__.__kwdefaults__.update(shortest_s=0.05, longest_s=0.05, window_s=0.01)
RetryPolicy.__init__.__kwdefaults__.update(first_wait_s=0.05, max_wait_s=0.2)
"""
COMMAND = [sys.executable, "-c", IMPATIENT + PROGRAM]
"""`krea-async` with the same rules as ever, but waits that a test can afford."""

COMMANDS = (
    *("render", "resume", "generate", "estimate", "gallery", "report", "verify", "compact", "task"),
    *("demo", "doctor", "credits", "sandbox", "completion"),
)


@frozen
class Result:
    """What came of one run."""

    code: int
    out: str
    err: str

    @property
    def paths(self) -> list[Path]:
        """What it printed on stdout, line by line, as paths."""
        return [Path(line) for line in self.out.splitlines()]


def environment(sandbox: Sandbox | None = None, **more: str) -> dict[str, str]:
    """This process's, without what it knows of EvoLink; with it, `sandbox` is the gateway."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("EVOLINK_", "PYTHONIO"))}
    known = {} if sandbox is None else {"EVOLINK_API_KEY": sandbox.key, "EVOLINK_BASE_URL": sandbox.url}
    return {**clean, **known, **more}


async def run(*args: object, env: dict[str, str], cwd: Path, stdin: bytes = b"") -> Result:
    """One run of `krea-async` to its end."""
    with anyio.fail_after(120):
        done = await anyio.run_process(
            [*COMMAND, *map(str, args)], input=stdin, env=env, cwd=cwd, check=False, start_new_session=True
        )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


async def run_all(*runs: Callable[[], Awaitable[T]]) -> list[T]:
    """Several at the same time: most of what a run takes is waiting."""
    results: dict[int, T] = {}

    async def one(number: int, start: Callable[[], Awaitable[T]]) -> None:
        results[number] = await start()

    async with anyio.create_task_group() as group:
        for number, start in enumerate(runs):
            group.start_soon(one, number, start)
    return [results[number] for number in range(len(runs))]


@asynccontextmanager
async def started(*args: object, env: dict[str, str], cwd: Path, **more: Any) -> AsyncIterator[Process]:
    """A run to talk to while it goes on; killed at the end if need be."""
    process = await anyio.open_process(
        [*COMMAND, *map(str, args)], env=env, cwd=cwd, start_new_session=True, **{"stdin": subprocess.DEVNULL, **more}
    )
    async with process:
        try:
            with anyio.fail_after(120):
                yield process
        finally:
            if process.returncode is None:
                process.kill()


async def text_of(stream: Any) -> str:
    """The rest of what a process says."""
    return b"".join([chunk async for chunk in stream]).decode()


def size_of(path: Path) -> tuple[int, int]:
    """A picture's pixels; every one of them is read."""
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def pictures(directory: Path) -> set[Path]:
    return {*directory.glob("*.png")}


# --- render -----------------------------------------------------------------------------------------------------------


async def test_every_kind_of_list_is_rendered_and_only_the_paths_are_on_stdout(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("# mine\na fox\n\n  a lighthouse at dusk\n")
    (tmp_path / "b.jsonl").write_text('\ufeff{"prompt": "a fox", "size": "16:9", "id": "hero"}\n"a bare text"\n')
    with (tmp_path / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "seed", "size"], ["a fox, sitting", "7", "1:2"], ["two\nlines", "", ""]])
    (tmp_path / "d.tsv").write_text("prompt\tquality\n狐狸\t2K\n")
    runs = [partial(run, "render", name, "-o", name[0]) for name in ("a.txt", "b.jsonl", "c.csv", "d.tsv")]
    runs.append(partial(run, "render", "-", "-o", "e", stdin=b"from a pipe\n"))
    runs.append(partial(run, "render", "-", "--out", "f", stdin=b'{"prompt": "json from a pipe"}\n'))
    results = await run_all(*(partial(start, env=environment(sandbox), cwd=tmp_path) for start in runs))
    for folder, result in zip("abcdef", results, strict=True):
        assert result.code == 0, result.err
        assert {tmp_path / path for path in result.paths} == pictures(tmp_path / folder)
        assert len(result.paths) == len({*result.paths})
        assert (tmp_path / folder / "manifest.jsonl").read_text().count("\n") == len(result.paths)
        assert "Traceback" not in result.err
    assert size_of(tmp_path / "b" / "hero.png") == (1344, 768)
    assert size_of(tmp_path / "c" / "00000-a-fox-sitting.png") == (704, 1472)
    assert size_of(tmp_path / "d" / "00000-狐狸.png") == (2048, 2048)
    asked = sorted(task.prompt for task in sandbox.ledger.tasks.values())
    pairs = ["a fox", "a lighthouse at dusk", "a fox", "a bare text", "a fox, sitting", "two\nlines"]
    assert asked == sorted([*pairs, "狐狸", "from a pipe", "json from a pipe"])
    assert sandbox.ledger.leaks == []


async def test_the_json_report_is_all_that_is_on_stdout(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.script("create", "ok", ("fail", "content_policy_violation"))
    (tmp_path / "list.txt").write_text("a fox\nan owl\na hare\n")
    result = await run("render", "list.txt", "--json", env=environment(sandbox), cwd=tmp_path)
    report = json.loads(result.out.splitlines()[-1])
    assert report["event"] == "report"
    assert (report["rows"], report["saved"], report["failed"], report["skipped"]) == (3, 2, 1, 0)
    assert report["failures"] == {"content_policy_violation": 1}
    assert report["credits"] == sandbox.ledger.charged_credits == 0.9
    assert report["bytes"] == sum(path.stat().st_size for path in pictures(tmp_path / "renders"))
    assert (report["unknown"], report["stopped_by"]) == ([], None)


async def test_every_bad_row_is_named_before_anything_is_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    rows = [f"a fox number {line},1:1,{line}" for line in range(2, 10_001)]
    rows[3 - 2] = "a fox,16x9,1"
    rows[700 - 2] = "a fox,1:1,1048577"
    rows[9_999 - 2] = ",1:1,3"
    (tmp_path / "list.csv").write_text("\n".join(["prompt,size,seed", *rows]))
    result = await run("render", "list.csv", env=environment(sandbox), cwd=tmp_path)
    assert (result.code, result.out) == (2, "")
    third, seven_hundredth, last, summary = result.err.splitlines()
    assert third.startswith("list.csv:3: ")
    assert "'16x9'" in third
    assert "16:9" in third
    assert seven_hundredth.startswith("list.csv:700: ")
    assert "1048577" in seven_hundredth
    assert last.startswith("list.csv:9999: ")
    assert "prompt" in last
    assert "3 problems" in summary
    assert not sandbox.ledger.requests
    assert not (tmp_path / "renders").exists()


async def test_a_second_run_of_a_list_pays_for_nothing_again(sandbox: Sandbox, tmp_path: Path) -> None:
    again = partial(run, "render", "-", stdin=b"a fox\na hare\n", env=environment(sandbox), cwd=tmp_path)
    first, second = await again(), await again()
    assert (first.code, second.code) == (0, 0), (first, second)
    assert set(first.paths) == set(second.paths)
    assert "2 were there already" in second.err
    assert len(sandbox.ledger.tasks) == 2


async def test_a_path_that_stdout_cannot_encode_costs_no_picture(sandbox: Sandbox, tmp_path: Path) -> None:
    """As on Windows, where a pipe has the ANSI code page, or with an old locale."""
    prompts = "\n".join(f"狐狸 {number}" for number in range(6)).encode()
    env = partial(environment, sandbox)
    results = await run_all(
        *(
            partial(run, "render", "-", "-o", coding, stdin=prompts, env=env(PYTHONIOENCODING=coding), cwd=tmp_path)
            for coding in ("ascii", "cp1252")
        )
    )
    for coding, result in zip(("ascii", "cp1252"), results, strict=True):
        assert "Traceback" not in result.err
        assert (result.code, len(pictures(tmp_path / coding))) == (0, 6)


async def test_a_reader_who_leaves_costs_no_picture(sandbox: Sandbox, tmp_path: Path) -> None:
    """As in `krea-async render list.txt | head -1`: what was submitted is paid for, so it is saved."""
    (tmp_path / "list.txt").write_text("\n".join(f"fox {number}" for number in range(8)))
    reading, writing = os.pipe()
    env = environment(sandbox)
    async with started("render", "list.txt", "--concurrency", 4, env=env, cwd=tmp_path, stdout=writing) as process:
        os.close(writing)
        assert await anyio.to_thread.run_sync(os.read, reading, 1_000)
        os.close(reading)
        err = await text_of(process.stderr)
        await process.wait()
    assert "Traceback" not in err
    assert len(pictures(tmp_path / "renders")) == len(sandbox.ledger.tasks)


# --- generate, credits, sandbox, demo ---------------------------------------------------------------------------------


async def test_generate_makes_one_picture_as_asked_for_and_prints_its_path(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "taken.png").write_bytes(b"mine")
    options = ["--size", "16:9", "--quality", "2K", "--seed", "7", "--nsfw-check"]
    runs = [
        partial(run, "generate", "a fox", *options, "--to", "new/folder/"),
        partial(run, "generate", "an owl", "--to", "owl.png", "--json"),
        partial(run, "generate", "a hare", "--to", "taken.png"),
        partial(run, "generate", "a lighthouse at dusk"),
    ]
    results = await run_all(*(partial(start, env=environment(sandbox), cwd=tmp_path) for start in runs))
    assert [result.code for result in results] == [0, 0, 0, 0], results
    folder, as_json, taken, plain = results
    assert folder.out == "new/folder/a-fox.png\n"
    assert size_of(tmp_path / "new" / "folder" / "a-fox.png") == (2688, 1472)
    (task,) = sandbox.ledger.tasks_by_prompt["a fox"]
    assert (task.size, task.quality, task.seed_used, task.body["nsfw_check"]) == ("16:9", "2K", 7, True)
    row = json.loads(as_json.out)
    assert (row["status"], row["file"], row["prompt"], row["credits"]) == ("saved", "owl.png", "an owl", 0.45)
    assert taken.out == "taken-2.png\n"
    assert (tmp_path / "taken.png").read_bytes() == b"mine"
    assert plain.out == "a-lighthouse-at-dusk.png\n"
    assert [result.err for result in results] == ["", "", "", ""]


async def test_credits_prints_the_balance_as_json(sandbox: Sandbox, tmp_path: Path) -> None:
    result = await run("credits", env=environment(sandbox), cwd=tmp_path)
    assert (result.code, json.loads(result.out)["remaining"]) == (0, 1_000.0)
    assert result.err == "1000.00 credits left\n"
    only_json = await run("credits", "--json", env=environment(sandbox), cwd=tmp_path)
    assert (only_json.code, only_json.out, only_json.err) == (0, result.out, "")


async def test_credits_are_told_in_words_on_a_terminal(sandbox: Sandbox, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        for args, start in (((), "1000.00 credits left: 2,222 pictures at 1K"), (("--json",), '{"remaining": 1000.0')):
            async with started("credits", *args, env=environment(sandbox), cwd=tmp_path, stdout=theirs) as process:
                assert await process.wait() == 0
            assert os.read(ours, 10_000).decode().startswith(start)
    finally:
        os.close(theirs)
        os.close(ours)


async def test_the_sandbox_says_where_it_is_serves_and_ends_cleanly(tmp_path: Path) -> None:
    args = ["sandbox", "--port", 0, "--run", 0, "--queue", 0, "--key", "sk-mine", "--credits", 5]

    async def serve_until(number: signal.Signals) -> None:
        async with started(*args, env=environment(), cwd=tmp_path) as process:
            assert process.stdout is not None
            out = BufferedByteReceiveStream(process.stdout)
            told = json.loads(await out.receive_until(b"\n", 10_000))
            assert (told["key"], {*told}) == ("sk-mine", {"url", "image_url", "key"})
            env = environment(EVOLINK_API_KEY=told["key"], EVOLINK_BASE_URL=told["url"])
            made = await run("generate", "a fox", "--to", f"{number.name}.png", env=env, cwd=tmp_path)
            assert (made.code, made.out) == (0, f"{number.name}.png\n"), made.err
            async with aiohttp.ClientSession() as http, http.get(told["url"] + "/sandbox/ledger") as reply:
                ledger = await reply.json()
            assert (ledger["task_count"], ledger["remaining_credits"], ledger["leaks"]) == (1, 4.55, [])
            process.send_signal(number)
            with anyio.fail_after(5):
                assert await process.wait() == 0
            assert (await text_of(out), "Traceback" in await text_of(process.stderr)) == ("", False)

    async with anyio.create_task_group() as group:
        group.start_soon(serve_until, signal.SIGTERM)
        group.start_soon(serve_until, signal.SIGINT)


@pytest.fixture(scope="module", autouse=True)
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The demo, begun before the other tests, because it takes its time; and where it runs."""
    directory = tmp_path_factory.mktemp("demo")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "demo"],
        env=environment(),
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process, directory
        process.kill()


def test_the_demo_needs_nothing_and_makes_twelve_pictures(demo: tuple[subprocess.Popen[str], Path]) -> None:
    process, directory = demo
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert {directory / path for path in out.splitlines()} == pictures(directory / "krea-demo")
    sizes = {number: size_of(path) for number, path in enumerate(sorted(pictures(directory / "krea-demo")))}
    assert sizes == {number: request.pixels for number, request in enumerate(PROMPTS)}
    assert len(sizes) == 12
    assert len({*sizes.values()}) >= 6  # several sizes


# --- help, and what goes wrong before anything starts -----------------------------------------------------------------


async def test_every_command_explains_itself(tmp_path: Path) -> None:
    runs = [partial(run, "-h"), *(partial(run, command, "--help") for command in COMMANDS)]
    results = await run_all(*(partial(start, env=environment(), cwd=tmp_path) for start in runs))
    assert [(result.code, result.err) for result in results] == [(0, "")] * len(runs)
    group, *each = (result.out for result in results)
    for command, text in zip(COMMANDS, each, strict=True):
        assert f"  {command}  " in group
        assert f"Usage: krea-async {command}" in text
    assert "EVOLINK_API_KEY" in group
    assert all(re.search(rf"\b{code}\s", group) for code in (0, 1, 2, 3, 4, 5, 6, 7, 9, "130/143"))
    assert (
        "\n  A list of prompts:         krea-async render prompts.txt --out renders/\n" in group
    )  # as it was laid out
    assert "Ctrl-C" in each[0]
    assert all(len(line) <= 100 for text in (group, *each) for line in text.splitlines())


async def test_what_cannot_start_says_why_in_one_line(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a fox\n")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "list.docx").write_text("a fox\n")
    keyless, with_key = environment(EVOLINK_BASE_URL=sandbox.url), environment(sandbox)
    plain_http = environment(EVOLINK_API_KEY="sk-secret", EVOLINK_BASE_URL="http://api.example.com")
    quoted = {**with_key, "EVOLINK_API_KEY": '"sk-with quotes"'}
    cases: list[tuple[partial[Any], int, str]] = [
        (partial(run, "generate", "a fox", env=keyless), 4, "EVOLINK_API_KEY"),
        (partial(run, "generate", "a fox", env=quoted), 4, "copied with its quotes"),
        (partial(run, "generate", "a fox", env=plain_http), 2, "https"),
        (partial(run, "generate", "a fox", "--seed", "-1", env=with_key), 2, "seed -1"),
        (partial(run, "render", "missing.txt", env=with_key), 2, "missing.txt does not exist"),
        (partial(run, "render", "list.docx", env=with_key), 2, ".jsonl"),
    ]
    results = await run_all(*(partial(start, cwd=tmp_path) for start, _, _ in cases))
    for result, (start, code, words) in zip(results, cases, strict=True):
        assert (result.code, result.out) == (code, ""), (start.args, result.err)
        (line,) = result.err.splitlines()
        assert line.startswith("krea-async: ")
        assert words in line
        assert "sk-secret" not in line
    keyless_render, empty = await run_all(
        partial(run, "render", "list.txt", env=keyless, cwd=tmp_path),
        partial(run, "render", "empty.txt", env=with_key, cwd=tmp_path),
    )
    assert (keyless_render.code, empty.code) == (4, 2)
    assert "EVOLINK_API_KEY" in keyless_render.err.splitlines()[-1]
    assert "empty.txt:1: " in empty.err
    assert not sandbox.ledger.requests


async def test_a_taken_port_is_said_in_words(sandbox: Sandbox, tmp_path: Path) -> None:
    port = sandbox.url.rpartition(":")[2]
    result = await run("sandbox", "--port", port, env=environment(), cwd=tmp_path)
    assert result.code != 0
    assert port in result.err
    assert "Traceback" not in result.err
