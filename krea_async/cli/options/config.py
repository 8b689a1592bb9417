"""Where an option's value comes from: the argument, else the environment, else a file, else its default.

Every option is also a variable: `--max-usd` of `render` is KREA_ASYNC_RENDER_MAX_USD, or KREA_ASYNC_MAX_USD for all
commands that have it. And a key of `krea-async.toml`, in the table [render] or, for all of them, at the top.
"""

import functools
import json
import os
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from krea_async.cli.options.config_file import NAME, ConfigError, ConfigFile
from krea_async.cli.output import put, put_lines
from krea_async.errors import words_of

_META: Final = "krea_async.config"
_SHOW: Final = "krea_async.show_config"
_PREFIX: Final = "KREA_ASYNC"
_OURS: Final = frozenset({"config", "no-config", "show-config", "help", "version"})
_SECRET: Final = frozenset({"key"})


def configured(command: click.Command, name: str) -> click.Command:
    """`command` with variables for its options, and with --config, --no-config and --show-config."""
    options = options_of(command)
    if not options or any(param.name == "show_config" for param in command.params):
        return command
    for key, option in options.items():
        if option.envvar is None:
            option.envvar = variables_of(name, key)
    command.params += [
        click.Option(
            ["--no-config"], is_flag=True, is_eager=True, expose_value=False, callback=_left_out, help="Read no file."
        ),
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            is_eager=True,
            expose_value=False,
            callback=_read,
            envvar=f"{_PREFIX}_CONFIG",
            help=f"Defaults for options.  [default: {NAME}, or pyproject.toml, from here upwards]",
        ),
        click.Option(
            ["--show-config"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_later,
            help="Only tell each option's value, and where it comes from.",
        ),
    ]
    if command.callback is not None:
        command.callback = _or_shown(command.callback)
    return command


def options_of(command: click.Command) -> dict[str, click.Option]:
    """Those that a file may set, by their names there: the long option's, without the dashes."""
    found: dict[str, click.Option] = {}
    for param in command.params:
        if isinstance(param, click.Option) and param.expose_value:
            key = next((one for one in param.opts if one.startswith("--")), param.opts[0]).lstrip("-")
            if key not in _OURS:
                found[key] = param
    return found


def variables_of(command: str, key: str) -> list[str]:
    """The variables that set an option of a command; the first counts before the second."""
    words = key.replace("-", "_").upper()
    return [f"{_PREFIX}_{command.replace('-', '_').upper()}_{words}", f"{_PREFIX}_{words}"]


def variable_of(ctx: click.Context, option: click.Option) -> str | None:
    """The variable that the value of an option comes from; None if it comes from elsewhere."""
    if ctx.get_parameter_source(str(option.name)) is not ParameterSource.ENVIRONMENT:
        return None
    names = [option.envvar] if isinstance(option.envvar, str) else option.envvar or ()
    return next((name for name in names if os.environ.get(name)), None)


def _left_out(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta.setdefault(_META, None)


def _read(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
    """Make the file's values the command's defaults, before any of its options is read."""
    if ctx.resilient_parsing or (_META in ctx.meta and value is None):
        return
    file = ConfigFile.found(_here()) if value is None else ConfigFile.named(value)
    ctx.meta[_META] = file
    if file is None or ctx.parent is None or not isinstance(ctx.parent.command, click.Group):
        return
    group, name = ctx.parent.command, ctx.info_name or ""
    file.check_tables(group.list_commands(ctx.parent))
    values = file.values_for(name, options_of(ctx.command), lambda: _all_keys(group, ctx))
    ctx.default_map = {}
    for key, found in values.items():
        option = options_of(ctx.command)[key]
        try:
            option.type_cast_value(ctx, found.value)
        except click.BadParameter as refused:
            raise ConfigError(f"{found.place}: {refused.message}") from None
        ctx.default_map[str(option.name)] = found.value


def _here() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise ConfigError(f"the directory that you are in cannot be read ({words_of(error)}); cd to another") from None


def _all_keys(group: click.Group, ctx: click.Context) -> set[str]:
    commands = (group.get_command(ctx, name) for name in group.list_commands(ctx))
    return {key for command in commands if command is not None for key in options_of(command)}


def _show_later(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[_SHOW] = True
        for param in ctx.command.params:
            if isinstance(param, click.Argument) and param.required:
                param.required = False  # nothing is done with it
                ctx.call_on_close(functools.partial(setattr, param, "required", True))


def _or_shown(callback: Any) -> Any:  # noqa: ANN401 - click's own
    @functools.wraps(callback)
    def run(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - click's own
        ctx = click.get_current_context()
        return _put_values(ctx) if ctx.meta.get(_SHOW) else callback(*args, **options)

    return run


def _put_values(ctx: click.Context) -> None:
    file: ConfigFile | None = ctx.meta.get(_META)
    rows = {
        key: (_shown(key, ctx.params.get(str(option.name))), _source(ctx, file, key, option))
        for key, option in options_of(ctx.command).items()
    }
    if ctx.params.get("as_json"):
        put(json.dumps({key: {"value": value, "from": source} for key, (value, source) in rows.items()}))
        return
    texts = {key: (json.dumps(value, ensure_ascii=False), source) for key, (value, source) in rows.items()}
    widest_key = max(map(len, texts), default=0)
    widest_value = max((len(value) for value, _ in texts.values()), default=0)
    head = "no configuration file" if file is None else f"configuration file: {file.path}"
    lines = [f"{key:<{widest_key}} = {value:<{widest_value}}  # {source}" for key, (value, source) in texts.items()]
    is_set = "is set" if os.environ.get("EVOLINK_API_KEY", "").strip() else "is not set"
    put_lines([f"# {head}", f"# EVOLINK_API_KEY {is_set}", *lines])


def _source(ctx: click.Context, file: ConfigFile | None, key: str, option: click.Option) -> str:
    source = ctx.get_parameter_source(str(option.name))
    if source is ParameterSource.COMMANDLINE:
        return "argument"
    if (variable := variable_of(ctx, option)) is not None:
        return f"environment {variable}"
    if source is ParameterSource.DEFAULT_MAP and file is not None:
        return file.place_of(ctx.info_name or "", key)
    return "default"


def _shown(key: str, value: Any) -> Any:  # noqa: ANN401 - of any option
    if key in _SECRET or (isinstance(value, str) and ("@" in value or value.startswith("sk-"))):
        return "(not shown)"
    if isinstance(value, tuple | list):
        return [_shown(key, one) for one in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)
