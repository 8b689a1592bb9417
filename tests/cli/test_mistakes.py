"""Ten mistakes that people make: each message says what happened and what to do; nothing is paid, no traceback.

The disks are real ones, as far as the system lets anybody make one (see test_disk).
"""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
from attrs import frozen
from test_commands import IMPATIENT, PROGRAM, Result, environment, run, run_all
from test_disk import BOUND_BY_PERMISSIONS, command_after

from krea_async.cli.exits import Exit
from krea_async.sandbox import Durations, Sandbox

pytestmark = pytest.mark.anyio


@frozen
class Mistake:
    """What was typed, over which files; the exit code, what happened and what to do, in the words of the message."""

    args: list[str]
    code: Exit
    what: str
    to_do: str
    file: bytes = b"a fox\nan owl\n"
    name: str = "list.txt"
    key: str = "sk-evo-sandbox"
    url: str | None = None


MISTAKES = {
    "a wrong key": Mistake(
        ["render", "list.txt"], Exit.KEY_REFUSED, "the key was refused", "check EVOLINK_API_KEY", key="sk-wrong"
    ),
    "no key": Mistake(["generate", "a fox"], Exit.KEY_REFUSED, "there is no API key", "set EVOLINK_API_KEY", key=""),
    "a wrong size": Mistake(
        ["generate", "a fox", "--size", "16x9"], Exit.USAGE, "'16x9' is not one of", "did you mean '16:9'?"
    ),
    "a wrong size in a list": Mistake(
        ["render", "list.csv"],
        Exit.USAGE,
        "list.csv:3: size '16x9' is not one of",
        "did you mean '16:9'?",
        file=b"prompt,size\na fox,1:1\nan owl,16x9\n",
        name="list.csv",
    ),
    "a missing file": Mistake(
        ["render", "lists.txt"], Exit.USAGE, "lists.txt does not exist", "did you mean 'list.txt'?"
    ),
    "no network": Mistake(
        ["credits"], Exit.SERVICE_UNAVAILABLE, "could not be reached", "krea-async doctor", url="http://127.0.0.1:1"
    ),
    "a csv with an open quote": Mistake(
        ["render", "list.csv"],
        Exit.USAGE,
        "list.csv:2: the row cannot be read",
        "is a quote missing?",
        file=b'prompt,size\n"a fox,1:1\n',
        name="list.csv",
    ),
    "a csv with another column": Mistake(
        ["render", "list.csv"],
        Exit.USAGE,
        "'promt'",
        "did you mean 'prompt'?",
        file=b"promt,size\na fox,1:1\n",
        name="list.csv",
    ),
    "a typo in a command": Mistake(
        ["rendr", "list.txt"], Exit.USAGE, "there is no command 'rendr'", "did you mean 'render'?"
    ),
    "a typo in an option": Mistake(
        ["render", "list.txt", "--concurency", "3"], Exit.USAGE, "--concurency", "--concurrency"
    ),
    "an empty list": Mistake(
        ["render", "list.txt"], Exit.USAGE, "list.txt:1: the list holds no prompt", "at least one row", file=b"# none\n"
    ),
    "a list in Latin-1": Mistake(
        ["render", "list.txt"],
        Exit.USAGE,
        "list.txt:1: byte 0xe9 at place 6 is not UTF-8",
        "--encoding",
        file="a café\n".encode("latin-1"),
    ),
}


def assert_it_is_told(result: Result, code: Exit, what: str, to_do: str) -> None:
    assert result.code == code, result.err
    assert what in result.err
    assert to_do in result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert "sk-wrong" not in result.err


@pytest.mark.parametrize("name", MISTAKES)
async def test_a_mistake_says_what_happened_and_what_to_do(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    mistake = MISTAKES[name]
    (tmp_path / mistake.name).write_bytes(mistake.file)
    env = environment(sandbox, EVOLINK_API_KEY=mistake.key)
    env |= {} if mistake.url is None else {"EVOLINK_BASE_URL": mistake.url}
    result = await run(*mistake.args, env=env, cwd=tmp_path)
    assert_it_is_told(result, mistake.code, mistake.what, mistake.to_do)
    assert not sandbox.ledger.tasks


async def test_a_read_only_directory(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_commands.COMMAND", command_after(BOUND_BY_PERMISSIONS))
    (tmp_path / "list.txt").write_text("a fox\n")
    (tmp_path / "renders").mkdir(mode=0o555)
    results = await run_all(
        partial(run, "render", "list.txt", env=environment(sandbox), cwd=tmp_path),
        partial(run, "generate", "a fox", "--to", "renders/", env=environment(sandbox), cwd=tmp_path),
    )
    for result in results:
        assert_it_is_told(result, Exit.DISK, "cannot write renders: Permission denied", "mend its permissions")
        assert "krea-async doctor --out" in result.err
    assert not sandbox.ledger.requests["create"]


async def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files stands for it; it fails in the middle of a write as well."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, 24_000))\n"
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"fox {n}", "size": "1:2"}) + "\n" for n in range(60))
    )
    monkeypatch.setattr("test_commands.COMMAND", command_after(limited))
    async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
        result = await run("render", "rows.jsonl", "--concurrency", 4, env=environment(sandbox), cwd=tmp_path)
    assert result.code == Exit.DISK, result.err
    assert "cannot" in result.err
    assert "File too large" in result.err
    assert "krea-async doctor --out renders" in result.err
    assert "krea-async resume renders" in result.err
    assert "Traceback" not in result.err


async def test_without_a_network_a_run_points_to_the_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = "from krea_async import RetryPolicy\nRetryPolicy.__init__.__kwdefaults__.update(attempts=1)\n"
    monkeypatch.setattr("test_commands.COMMAND", [sys.executable, *command_after(impatient)[1:]])
    (tmp_path / "list.txt").write_text("a fox\n")
    env = environment(EVOLINK_API_KEY="sk-x", EVOLINK_BASE_URL="http://127.0.0.1:1")
    result = await run("render", "list.txt", env=env, cwd=tmp_path)
    assert_it_is_told(result, Exit.SERVICE_UNAVAILABLE, "could not be reached", "krea-async doctor --out renders")


async def test_whoever_waits_without_a_network_is_told_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session tries again for a minute; who sits in front of it learns after a second why nothing happens."""
    four = IMPATIENT + "RetryPolicy.__init__.__kwdefaults__.update(attempts=4)\n"
    monkeypatch.setattr("test_commands.COMMAND", [sys.executable, "-c", four + PROGRAM])
    env = environment(EVOLINK_API_KEY="sk-x", EVOLINK_BASE_URL="http://127.0.0.1:1")
    result = await run("generate", "a fox", env=env, cwd=tmp_path)
    assert result.code == Exit.SERVICE_UNAVAILABLE
    assert result.err.count("the gateway cannot be reached, and is tried again") == 1
    assert result.err.index("is tried again") < result.err.index("krea-async: the host could not be reached")
