"""The options of every command that reads a list of prompts, and how the list is opened by them."""

import functools
from collections.abc import Callable
from typing import Any, Self, TypeVar, get_args

import click
from attrs import frozen

from krea_async.cli.options.choices import OneOf
from krea_async.errors import InvalidRequestError
from krea_async.models import QUALITIES, SIZES
from krea_async.prompts import Expansion, Format, PromptList, Shard, SheetPolicy, seeds_of

F = TypeVar("F", bound=Callable[..., Any])

_COLUMNS = ("prompt", "id", "size", "quality", "seed")
_DEFAULTS = ("size", "quality", "seed", "nsfw_check", "callback_url")

_COMMAND_LINE = click.core.ParameterSource.COMMANDLINE

_OPTIONS = (
    click.option("--format", "form", type=OneOf(get_args(Format)), help="Of all lists, instead of the extension's."),
    click.option("--encoding", default="utf-8", show_default=True, help="Of text, such as cp1252."),
    *(
        click.option(f"--{name}-col", metavar="NAME", help=f"The column of the {name}, if it is called otherwise.")
        for name in _COLUMNS
    ),
    click.option("--size", type=OneOf(SIZES), metavar="W:H", help="Of rows that have none of their own."),
    click.option("--quality", type=OneOf(QUALITIES), help="Of rows that have none of their own."),
    click.option("--seed", type=int, help="Of rows that have none of their own."),
    click.option("--nsfw-check", is_flag=True, default=None, help="Stricter moderation, where a row does not say."),
    click.option("--callback-url", metavar="URL", help="Told of finished tasks, where a row names no other."),
    click.option("--sizes", metavar="LIST", help="Make each row in each of them: 1:1,16:9."),
    click.option("--qualities", metavar="LIST", help="Make each row in each of them: 1K,2K."),
    click.option("--seeds", metavar="LIST", help="Make each row with each of them: 1..8 or 1,5,9..12."),
    click.option("--template", is_flag=True, help=r"{a|b} in prompts is each of both, {name} a column; \{ is a brace."),
    click.option("--shard", metavar="K/N", help="Only part K of N, the same rows each time."),
)


def sheet_options(command: F) -> F:
    """The options of every command that reads lists."""
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), command)


@frozen(kw_only=True)
class SheetOptions:
    """What the user said of the lists."""

    form: Format | None
    policy: SheetPolicy

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> Self:
        """Take the options of lists out of `options`. Raises UsageError for what contradicts or is none."""
        form, template, encoding = (options.pop(name) for name in ("form", "template", "encoding"))
        for one, several in (("size", "sizes"), ("quality", "qualities"), ("seed", "seeds")):
            if options[one] is not None and options[several] is not None:
                options[_given_less_directly(one, several)] = None
        columns = {name: column for name in _COLUMNS if (column := options.pop(f"{name}_col")) is not None}
        defaults = {name: value for name in _DEFAULTS if (value := options.pop(name)) is not None}
        sizes, qualities, seeds, shard = (options.pop(name) for name in ("sizes", "qualities", "seeds", "shard"))
        try:
            return cls(
                form=form,
                policy=SheetPolicy(
                    encoding=encoding,
                    columns=columns,
                    defaults=defaults,
                    expansion=Expansion(
                        sizes=_words(sizes),
                        qualities=_words(qualities),
                        seeds=() if seeds is None else seeds_of(seeds),
                    ),
                    template=template,
                    shard=None if shard is None else Shard.of(shard),
                ),
            )
        except InvalidRequestError as error:
            complete = error.allowed is None or error.allowed in error.message
            raise click.UsageError(
                error.message if complete else f"{error.message}; allowed: {error.allowed}"
            ) from None

    def open(self, paths: tuple[str, ...]) -> PromptList:
        """The list at `paths`: files, globs, or -. Raises InvalidRequestError for what is missing."""
        return PromptList.open(*paths, format=self.form, policy=self.policy)


def _given_less_directly(one: str, several: str) -> str:
    """The option of both that a file or the environment gives, while the command line gives the other."""
    context = click.get_current_context(silent=True)
    said = [name for name in (one, several) if context and context.get_parameter_source(name) is _COMMAND_LINE]
    if len(said) != 1:
        raise click.UsageError(f"give --{one} for all rows, or --{several} for several pictures of each")
    return several if said == [one] else one


def _words(text: str | None) -> Any:  # noqa: ANN401 - Expansion checks them
    return () if text is None else [word.strip() for word in text.split(",")]
