"""Kinds of values that click has not: one of a few words, told with the nearest; a directory that need not be there."""

from typing import TYPE_CHECKING, Any

import click

from krea_async.suggestions import did_you_mean

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    _Choice = click.Choice[str]
else:
    _Choice = click.Choice  # which takes no parameter before click 8.2


class OneOf(_Choice):
    """`click.Choice` for those who mistype."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """`value`, if it is allowed."""
        try:
            return str(super().convert(value, param, ctx))
        except click.BadParameter as refused:
            self.fail(refused.message.rstrip(".") + did_you_mean(value, self.choices), param, ctx)


class DirectoryPath(click.Path):
    """A path that shells complete with directories, whatever is there."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":  # noqa: ARG002 - click's own
        """Leave it to the shell."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - not for the help

        return [CompletionItem(incomplete, type="dir")]
