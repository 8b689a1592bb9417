"""What starting costs, and that the help, which imports no command, says what the commands say."""

import subprocess
import sys

import click
import pytest

from benchmarks.startup import LIMITS, measured, ratios
from krea_async.cli.commands import COMMANDS, krea_async

ENTRIES = {name: entry for entries in COMMANDS.values() for name, entry in entries.items()}
DESIGNED = {
    *("render", "generate", "resume", "verify", "estimate", "credits", "task", "report", "sandbox", "demo", "doctor"),
    *("compact", "completion"),
}


def modules_after(*arguments: str) -> set[str]:
    """What is imported by `krea-async` with these arguments."""
    program = (
        f"import sys; sys.argv[:] = ['krea-async', *{arguments!r}]\n"
        "from krea_async.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {*ended.stderr.splitlines()}


def test_every_command_of_the_design_is_there() -> None:
    assert {*ENTRIES} >= DESIGNED


@pytest.mark.parametrize("name", ENTRIES)
def test_the_help_of_the_group_says_what_the_command_says(name: str) -> None:
    context = click.Context(krea_async)
    command = krea_async.get_command(context, name)
    assert command is not None
    assert command.get_short_help_str(100) == ENTRIES[name][0]
    assert command.name == name
    assert krea_async.get_command(context, name) is command


def test_the_help_imports_no_library_and_no_command() -> None:
    loaded = modules_after("--help")
    assert "click" in loaded
    assert not {"aiohttp", "anyio", "attrs", "rich", "tomllib", "asyncio"} & loaded
    assert not [name for name in loaded if name.startswith("krea_async.cli.re")]


def test_a_typo_is_answered_without_importing_anything() -> None:
    assert "aiohttp" not in modules_after("rendr")


def test_starting_is_as_fast_as_promised() -> None:
    """By the fastest of a few runs, for the machine is busy with other tests."""
    found = ratios(measured(3))
    for pair, limit in LIMITS.items():
        assert found[pair][1] <= limit, (pair, found)
