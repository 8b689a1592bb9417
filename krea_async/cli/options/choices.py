"""Kinds of values that click has not: one of a few words, told with the nearest; a directory that need not be there."""

import math
from typing import TYPE_CHECKING, Any, Final

import click

from krea_async.suggestions import did_you_mean

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    _Choice = click.Choice[str]
else:
    _Choice = click.Choice  # which takes no parameter before click 8.2


EMPTY_PATH: Final = "the path is empty; is a variable not set? where you are is ./"


class OneOf(_Choice):
    """`click.Choice` for those who mistype."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """`value`, if it is allowed."""
        try:
            return str(super().convert(value, param, ctx))
        except click.BadParameter as refused:
            self.fail(refused.message.rstrip(".") + did_you_mean(value, self.choices), param, ctx)


class Number(click.FloatRange):
    """`click.FloatRange` without NaN, which is in every range, and infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """`value`, if it is a number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no number.", param, ctx)
        return number


class DirectoryPath(click.Path):
    """A path that shells complete with directories, whatever is there; never an empty one, which would be `.`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """`value`, if it names anything."""
        if value == "":
            self.fail(EMPTY_PATH, param, ctx)
        return super().convert(value, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":  # noqa: ARG002 - click's own
        """Leave it to the shell."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - not for the help

        return [CompletionItem(incomplete, type="dir")]
