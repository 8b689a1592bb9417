"""Running the documentation's blocks: Python in this process, commands in a shell, data by reading it."""

import ast
import asyncio
import csv
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import anyio
import click
from click.testing import CliRunner
from doc_blocks import ROOT, Block

from krea_async import GeneratedImage, KreaSession
from krea_async.cli.commands import krea_async

LONGEST_S: Final = 60.0

PYTHON: Final = frozenset({"python", "py"})
COMMANDS: Final = frozenset({"sh", "console"})
DATA: Final = frozenset({"json", "toml", "csv", "tsv", "txt", "yaml"})
FIGURES: Final = frozenset({"", "text"})
"""Trees, layouts and tables that nothing can run."""

SERVERS: Final = ("krea-async sandbox", "krea-async gallery --serve", "uvicorn")
"""Commands that end only when somebody ends them. Their options are checked."""

RUN_HERE: Final = frozenset(
    {"krea-async", "python", "pytest", "cat", "cd", "echo", "eval", "export", "head", "ls", "mkdir", "wc"}
)
"""What a block may run here; a block with any other command has its commands checked instead."""

KNOWN_TOOLS: Final = frozenset({"pip", "git", "mkdocs", "mypy", "nox", "pre-commit", "ruff", "unset", "."})
"""What those others may be; they need a network, or take long, or change the machine."""

_AWAITS_AT_TOP: Final = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_SEPARATORS: Final = re.compile(r"\s*(?:&&|\|\||;|\|)\s*")


async def _session(stack: AsyncExitStack) -> KreaSession:
    return await stack.enter_async_context(KreaSession())


async def _renders(stack: AsyncExitStack) -> Path:
    session = await _session(stack)
    await session.render(["a fox in the snow", {"prompt": "a hare", "size": "2:3", "seed": 7}], "renders/")
    return Path("renders")


async def _image(stack: AsyncExitStack) -> GeneratedImage:
    session = await _session(stack)
    return await session.generate("a lighthouse at dusk", to="lighthouse.png")


async def _list(_: AsyncExitStack) -> None:
    await anyio.Path("prompts.txt").write_text("a fox in the snow\na hare\na quiet harbour\n")


async def _app(_: AsyncExitStack) -> object:
    from fastapi import FastAPI  # noqa: PLC0415 - for one page

    return FastAPI()


def _value(value: object) -> Callable[[AsyncExitStack], Awaitable[object]]:
    async def made(_: AsyncExitStack) -> object:
        return value

    return made


GIVEN: Final[dict[str, Callable[[AsyncExitStack], Awaitable[object]]]] = {
    "session": _session,
    "prompts": _value(["a fox in the snow", "a hare"]),
    "rows": _value(["a fox in the snow", "a hare"]),
    "renders": _renders,
    "image": _image,
    "app": _app,
    "api_key": _value("sk-evo-sandbox"),
    "publish": _value(print),
    "job_id": _value("order-7"),
    "PICTURES": _value(Path("pictures")),
    "prompts.txt": _list,
}
"""What a block may expect to be there, and how it is made."""


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Run a block, awaits at its top level included. Raises whatever it raises."""
    code = compiled(block)
    awaits = bool(code.co_flags & (1 << 7)) or bool(block.given)  # CO_COROUTINE
    if awaits:
        asyncio.run(_awaited(code, block.given, names))
    else:
        eval(code, names)


def compiled(block: Block) -> Any:
    """The block's code. Raises SyntaxError with the block's own line numbers."""
    text = "\n" * (block.line - 1) + block.text
    return compile(text, str(block.page), "exec", flags=_AWAITS_AT_TOP, dont_inherit=True)


async def _awaited(code: Any, given: tuple[str, ...], names: dict[str, Any]) -> None:
    with anyio.fail_after(LONGEST_S):
        async with AsyncExitStack() as stack:
            for name in given:
                names[name] = await GIVEN[name](stack)
            result = eval(code, names)
            if result is not None:
                await result


async def prepare(given: tuple[str, ...]) -> None:
    """Make what a block of commands expects."""
    async with AsyncExitStack() as stack:
        for name in given:
            await GIVEN[name](stack)


def commands_of(block: Block) -> list[tuple[str, list[str]]]:
    """The block's commands, each with the lines of output that the page shows for it."""
    if block.language == "sh":
        joined = block.text.replace("\\\n", " ")
        return [(line, []) for line in map(_uncommented, joined.splitlines()) if line]
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
        else:
            raise AssertionError(f"{block.where}: output before the first command")
    return found


def _uncommented(line: str) -> str:
    """A line of a script without its comment; a # in quotes is none."""
    return re.sub(r"(?:^|\s)#(?=([^'\"]*['\"][^'\"]*['\"])*[^'\"]*$).*$", "", line).strip()


def words_of(command: str) -> list[list[str]]:
    """The simple commands of a line, as lists of words, without variables before and redirections behind them."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    simple: list[list[str]] = [[]]
    skip = False
    for word in lexer:
        if skip:
            skip = False
        elif set(word) <= set("&|;"):
            simple.append([])
        elif set(word) <= set("<>&"):
            skip = True
            if simple[-1] and simple[-1][-1] in {"1", "2"}:
                simple[-1].pop()
        elif not simple[-1] and re.fullmatch(r"[A-Z_]+=.*", word):
            continue
        else:
            simple[-1].append(word)
    return [words for words in simple if words]


def can_run(command: str) -> bool:
    """Whether this command may run in a test: it ends by itself, and needs nothing from elsewhere."""
    if any(command.startswith(server) for server in SERVERS) or "--serve" in command:
        return False
    return all(
        words[0] in RUN_HERE
        and not (words[0] == "pytest" and len(words) == 1)
        and words[1:3] not in (["-m", "benchmarks"], ["-m", "benchmarks.journal"])
        for words in words_of(command)
    )


def check(command: str) -> None:
    """Check a command that is not run: what it calls is there, and its options are known. Raises AssertionError."""
    for words in words_of(command):
        name, rest = words[0], words[1:]
        if name == "krea-async":
            check_parses(rest)
        elif name == "pip":
            _check_extras(rest)
        elif name == "uvicorn":
            module = rest[0].partition(":")[0]
            assert (ROOT / "docs/examples" / f"{module}.py").exists(), f"there is no example {module}"
        elif name in {"python", "python3"} and rest[:1] == ["-m"]:
            assert importlib.util.find_spec(rest[1]), f"there is no module {rest[1]}"
        elif "/" in name:
            assert os.access(ROOT / name, os.X_OK), f"{name} cannot be executed"
        else:
            assert name in RUN_HERE | KNOWN_TOOLS, f"what is {name}?"


def check_parses(arguments: list[str]) -> None:
    """Whether click takes these arguments of `krea-async`. Raises AssertionError; files need not be there."""
    context = krea_async.make_context("krea-async", [*arguments], resilient_parsing=False)
    rest = [*context._protected_args, *context.args] if hasattr(context, "_protected_args") else context.args
    try:
        name, command, rest = krea_async.resolve_command(context, list(rest))
        assert command is not None
        command.make_context(name, rest, parent=context)
    except click.exceptions.Exit:
        return  # --help
    except click.UsageError as error:
        if isinstance(error, click.BadParameter) and "does not exist" in error.message:
            return
        raise AssertionError(f"krea-async {shlex.join(arguments)}: {error.format_message()}") from error


def _check_extras(arguments: list[str]) -> None:
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for argument in arguments:
        if extras := re.search(r"\[([\w,]+)\]", argument):
            unknown = set(extras[1].split(",")) - known
            assert not argument.startswith(("krea-async", ".")) or not unknown, f"no such extra: {unknown}"


def run_commands(block: Block, env: dict[str, str]) -> None:
    """Run a block's commands in one shell, in the current directory, and compare what they print with the page."""
    commands = commands_of(block)
    script = "\n".join(f"{command}\necho '@@@'$?" for command, _ in commands)
    done = subprocess.run(
        ["bash", "-uo", "pipefail", "-c", script],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    printed = re.split(r"^@@@(\d+)\n", done.stdout, flags=re.MULTILINE)
    outputs, codes = printed[0::2], printed[1::2]
    assert len(codes) == len(commands), f"{block.where}: the shell ended early:\n{done.stdout}"
    for (command, expected), output, code in zip(commands, outputs, codes, strict=False):
        assert block.may_fail or code == "0", f"{block.where}: {command!r} ended with {code}:\n{output}"
        missing = missing_lines(expected, output)
        assert not missing, f"{block.where}: {command!r} does not print {missing}, but:\n{output}"


def missing_lines(expected: list[str], output: str) -> list[str]:
    """Lines of the page that were not printed. Numbers may differ, and … stands for anything."""
    printed = [_without_numbers(line) for line in output.splitlines()]
    wanted = [line for line in expected if line.strip() not in {"", "…", "..."}]
    return [line for line in wanted if not any(re.fullmatch(_pattern(line), other) for other in printed)]


def _without_numbers(line: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\d(?:[\d.,:]*\d)?", "#", line.rstrip()))


def _pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in _without_numbers(line).split("…"))


def read_data(block: Block) -> None:
    """Read a block of data; raises what its reader raises."""
    if block.language == "json":
        try:
            json.loads(block.text)
        except ValueError:
            for line in block.text.splitlines():
                json.loads(line)
    elif block.language == "toml":
        _check_defaults(block.text)
    elif block.language in {"csv", "tsv"}:
        delimiter = "," if block.language == "csv" else "\t"
        rows = list(csv.reader(io.StringIO(block.text), delimiter=delimiter, strict=True))
        assert len(rows) > 1, "a table has a header and a row"


def _check_defaults(text: str) -> None:
    """Whether the commands take these defaults, as a file of their own or as a table of pyproject.toml."""
    name = "pyproject.toml" if "tool" in tomllib.loads(text) else "krea-async.toml"
    with TemporaryDirectory() as directory:
        path = Path(directory) / name
        path.write_text(text)
        for command in ("render", "estimate"):
            done = CliRunner().invoke(krea_async, [command, "--config", str(path), "--show-config"])
            assert done.exit_code == 0, done.output


def environment() -> dict[str, str]:
    """Of the commands: this Python's scripts first, and a width that does not change."""
    scripts = str(Path(sys.executable).parent)
    assert shutil.which("krea-async", path=scripts), "krea-async is not installed beside this Python"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV", "KREA"))}
    return {
        **env,
        "PATH": f"{scripts}{os.pathsep}{env['PATH']}",
        "COLUMNS": "120",
        "PYTHONWARNINGS": "default",
        "PYTEST_DEBUG_TEMPROOT": str(Path.cwd()),  # else a block's pytest tidies up after the runs before this one
    }
