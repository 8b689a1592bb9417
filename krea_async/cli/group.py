"""A group of commands that are imported when they are called, so that `--help` and a typo are answered at once."""

import signal
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from krea_async.suggestions import did_you_mean

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Table = Mapping[str, Mapping[str, tuple[str, str]]]
"""Headings, and below each its commands: name, what it does in a line, and `module:attribute` of it."""


class LazyGroup(click.Group):
    """A group whose `table` says what there is."""

    def __init__(self, *args: Any, table: Table, **more: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(*args, **more)
        self._table = table
        self._entries = {name: entry for entries in table.values() for name, entry in entries.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own
        """All names, as the help shows them."""
        return [*self._entries]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's own
        """Import one of them."""
        if cmd_name not in self._entries:
            return None
        from krea_async.cli.options.config import configured  # noqa: PLC0415 - not for the help

        module, _, attribute = self._entries[cmd_name][1].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return configured(command, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that `args` begins with; a name that there is not comes with the nearest that there is."""
        name = args[0]
        if name not in self._entries and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"there is no command {name!r}{did_you_mean(name, self._entries)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own
        """Run a command. A wrong value is told with the variable that it comes from.

        Ctrl-C while its modules are loaded has the exit code that it has at any other moment.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(128 + signal.SIGINT)
        except click.BadParameter as refused:
            from krea_async.cli.options.config import variable_of  # noqa: PLC0415 - not for the help

            if refused.ctx is not None and isinstance(refused.param, click.Option):
                refused.param_hint = variable_of(refused.ctx, refused.param) or refused.param_hint
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's own
        """The table as it is, under its headings."""
        for heading, entries in self._table.items():
            with formatter.section(heading):
                formatter.write_dl([(name, words) for name, (words, _) in entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Names by the table, options by click."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - not for the help

        named = [
            CompletionItem(name, help=words)
            for name, (words, _) in self._entries.items()
            if name.startswith(incomplete)
        ]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]
