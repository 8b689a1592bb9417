"""Writes docs/reference/commands.md from the commands themselves: `python docs/theme/commands.py`.

The page is in the repository, so that it can be read without building anything; a test says when it is out of date.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from krea_async.cli.commands import krea_async

PAGE = Path(__file__).parents[1] / "reference" / "commands.md"
HEAD = """# Every command and option

<!-- Written by docs/theme/commands.py; do not edit. -->

[Use the command line](../howto/command-line.md) says what they are for, and [errors, one by
one](../errors.md#exit-codes-of-the-command-line) what the exit codes mean. Every option may also be set in a file or in
the environment: [set defaults](../howto/configuration.md).
"""


def page() -> str:
    """The whole page, as Markdown."""
    group = krea_async
    context = click.Context(group, info_name="krea-async")
    commands = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    found = [(name, command) for name, command in commands if command is not None]
    shared = _shared([command for _, command in found])
    parts = [HEAD, "## Of every command\n", _table([p for p in found[0][1].params if _name(p) in shared], context)]
    parts += ["Before the command:\n", _table(group.params, context)]
    for name, command in found:
        here = click.Context(command, info_name=name, parent=context)
        usage = " ".join(command.collect_usage_pieces(here))
        parts.append(f"## krea-async {name}\n\n```text\nkrea-async {name} {usage}\n```\n")
        parts.append(_help(command))
        if own := [param for param in command.params if _name(param) not in shared and isinstance(param, click.Option)]:
            parts.append(_table(own, here))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def _name(param: click.Parameter) -> str:
    return str(param.name)


def _shared(commands: list[click.Command]) -> set[str]:
    names = [{_name(param) for param in command.params if isinstance(param, click.Option)} for command in commands]
    return set.intersection(*names)


def _help(command: click.Command) -> str:
    """The command's own words; lines that are not to be joined become a block of text."""
    parts = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            text = paragraph.removeprefix("\b\n")
            parts.append(f"```text\n{text}\n```")
        else:
            parts.append(re.sub(r"(?<![`\w])(--[a-z][\w-]*)", r"`\1`", paragraph).replace("<", "&lt;"))
    return "\n\n".join(parts) + "\n"


def _table(params: list[click.Parameter], context: click.Context) -> str:
    rows = "\n".join(_rows(params, context))
    return f"| option | meaning |\n|---|---|\n{rows}\n"


def _rows(params: list[click.Parameter], context: click.Context) -> Iterator[str]:
    for param in params:
        record = param.get_help_record(context)
        if record is None or not isinstance(param, click.Option):
            continue
        option, words = (re.sub(r"\s+", " ", text).replace("|", r"\|").strip() for text in record)
        words = words.replace("[", r"\[").replace("]", r"\]").replace("<", "&lt;").replace("*", r"\*")
        yield f"| `{option}` | {words} |"


if __name__ == "__main__":
    if "--print" in sys.argv:
        sys.stdout.write(page())
    else:
        PAGE.write_text(page())
