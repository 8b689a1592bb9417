"""`krea-async.toml`, or the table [tool.krea-async] of pyproject.toml: found, read, and refused where it is wrong.

A file that was only found is believed less than one that --config names: whoever may write into a directory above
this one must not learn the key, so such a file names no other host to send it to.
"""

import os
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

import click

from krea_async.cli.output import say
from krea_async.suggestions import did_you_mean

NAME: Final = "krea-async.toml"
PROJECT: Final = "pyproject.toml"
_TABLE: Final = "krea-async"
_KEY_NAMES: Final = frozenset({"api_key", "apikey", "key", "evolink_api_key", "token", "secret", "api_token"})
_REPOSITORY: Final = (".git", ".hg", ".jj")


class ConfigError(click.ClickException):
    """What is wrong with a configuration file, and where."""

    exit_code = 2

    def show(self, file: Any = None) -> None:  # noqa: ANN401, ARG002 - click's own
        """One line, as every error of ours."""
        say(f"krea-async: {self.message}")


class Found(NamedTuple):
    """A value of the file, and where it stands."""

    value: Any
    place: str


class ConfigFile:
    """One file that was read. `path`: as people are told of it."""

    def __init__(self, path: Path, text: str, content: dict[str, Any], *, trusted: bool) -> None:
        self.path = path
        self._text = text
        self._content = content
        self._prefix = f"tool.{_TABLE}." if path.name == PROJECT else ""
        self._trusted = trusted

    @classmethod
    def named(cls, path: Path) -> Self:
        """The file that --config names. Raises ConfigError if it cannot be read, or says nothing of krea-async."""
        file = cls._read(path, trusted=True)
        if file is None:
            raise ConfigError(f"{path} has no table [tool.{_TABLE}]")
        return file

    @classmethod
    def found(cls, start: Path) -> Self | None:
        """The nearest file from `start` upwards, to the root of its repository or the user's home.

        What this user may not look into is passed by, so os.path: Path.is_file raises there.
        """
        home = Path.home() if os.environ.get("HOME") else None
        for directory in (start, *start.parents):
            for name in (NAME, PROJECT):
                path = directory / name
                if os.path.isfile(path) and (file := cls._read(path, trusted=False)) is not None:  # noqa: PTH113
                    return file
            if directory == home or any(os.path.exists(directory / name) for name in _REPOSITORY):  # noqa: PTH110
                return None
        return None

    @classmethod
    def _read(cls, path: Path, *, trusted: bool) -> Self | None:
        shown = path if trusted else Path(os.path.relpath(path))
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ConfigError(f"{shown} is not UTF-8; save it as UTF-8") from None
        except OSError as error:
            raise ConfigError(f"{shown} cannot be read: {error.strerror or error}") from None
        if path.name == PROJECT and _TABLE not in text:
            return None  # other people's, whatever is in it
        if not trusted and not _is_ours(path):
            say(f"krea-async: {shown} belongs to another user and is left out; --config {shown} reads it")
            return None
        try:
            content = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; nesting without end
            raise ConfigError(f"{shown} is no TOML: {error}") from None
        table: Any = content
        for name in ("tool", _TABLE) if path.name == PROJECT else ():
            if not isinstance(table, Mapping) or name not in table:
                return None
            table = table[name]
        if not isinstance(table, Mapping):
            raise ConfigError(f"{shown}: tool.{_TABLE} is no table: write [tool.{_TABLE}] above the options")
        return cls(shown, text, dict(table), trusted=trusted)

    def check_tables(self, commands: Collection[str]) -> None:
        """Raise ConfigError for a table of a command that there is not, and for a key anywhere."""
        for name, value in self._content.items():
            inner = value if isinstance(value, Mapping) else {}
            for key, one in (*inner.items(), (name, value)):
                if _is_secret(key, one):
                    raise ConfigError(
                        f"{self.path}{self._line_of(key)}: an API key does not belong into a file; take it out, make "
                        "a new one if others may have seen it, and set EVOLINK_API_KEY in the environment"
                    )
            if isinstance(value, Mapping) and name not in commands:
                where = f"{self.path}{self._line_of(name)}: there is no command {name!r}"
                raise ConfigError(f"{where} to have a table{did_you_mean(name, commands)}")

    def values_for(
        self, command: str, options: Mapping[str, click.Option], known: Callable[[], Collection[str]]
    ) -> dict[str, Found]:
        """The values for the options of `command`, by key. known: the keys of all commands. Raises ConfigError."""
        common = {key: value for key, value in self._content.items() if not isinstance(value, Mapping)}
        for key in common:
            if key not in options and key not in (everywhere := known()):
                raise self._unknown(key, "no command has such an option", everywhere)
        own = self._content.get(command, {})
        for key in own:
            if key not in options:
                raise self._unknown(key, f"{command} has no such option", options)
        chosen = {**{key: value for key, value in common.items() if key in options}, **own}
        return {key: self._checked(command, key, value, options[key]) for key, value in chosen.items()}

    def place_of(self, command: str, key: str) -> str:
        """Where the value of a key stands."""
        table = f"{command}." if key in self._content.get(command, {}) else ""
        return f"{self.path}{self._line_of(key)}: {self._prefix}{table}{key}"

    def _checked(self, command: str, key: str, value: Any, option: click.Option) -> Found:  # noqa: ANN401 - as TOML has it
        place = self.place_of(command, key)
        allowed = _allowed(option)
        if option.multiple and not isinstance(value, list):
            value = [value]
        values = value if option.multiple else [value]
        if not all(_is_of(one, allowed) for one in values):
            raise ConfigError(f"{place}: {value!r} is not {_WORDS[allowed]}")
        if key == "base-url" and not self._trusted and not _is_this_machine(str(value)):
            raise ConfigError(
                f"{place}: the API key is sent there, so a file that was only found may name this machine and no other "
                "host; set EVOLINK_BASE_URL, or name the file with --config"
            )
        return Found(value if allowed is not str or option.multiple else str(value), place)

    def _unknown(self, key: str, words: str, known: Collection[str]) -> ConfigError:
        return ConfigError(f"{self.path}{self._line_of(key)}: {key}: {words}{did_you_mean(key, known)}")

    def _line_of(self, key: str) -> str:
        """`:7`, when the key or table can be found by its looks."""
        name = re.escape(key)
        looks = re.compile(rf"""\s*(?:["']?{name}["']?\s*=|\[(?:.*\.)?["']?{name}["']?\s*\])""")
        numbers = [number for number, line in enumerate(self._text.splitlines(), 1) if looks.match(line)]
        return f":{numbers[0]}" if len(numbers) == 1 else ""


_WORDS: Final = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _allowed(option: click.Option) -> type:
    if option.is_flag:
        return bool
    if isinstance(option.type, click.types.IntParamType):
        return int
    return float if isinstance(option.type, click.types.FloatParamType) else str


def _is_of(value: object, allowed: type) -> bool:
    if isinstance(value, bool):
        return allowed is bool
    if allowed is float:
        return isinstance(value, int | float)
    if allowed is str:  # a seed or a list of them may be a number
        return isinstance(value, str | int | float)
    return isinstance(value, allowed)


def _is_secret(key: str, value: object) -> bool:
    texts = value if isinstance(value, list) else [value]
    return key.lower().replace("-", "_") in _KEY_NAMES or any(str(one).startswith("sk-") for one in texts)


def _is_this_machine(url: str) -> bool:
    """Whether it is a sandbox of one's own: others in the same network are as foreign as any."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _is_ours(path: Path) -> bool:
    if not hasattr(os, "geteuid"):
        return True
    return os.geteuid() == 0 or path.stat().st_uid in {0, os.geteuid()}
