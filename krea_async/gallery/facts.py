"""One line of a record, for looking at: whoever edited the file may have written anything, and a page must bear it."""

import json
from typing import Any, Final, Self

_TOO_LARGE: Final = 2**53
"""Whole numbers from here on are not exact in JavaScript, and nothing that is told here comes near."""


class Facts(dict[str, Any]):
    """A JSON object that gives a value only if it is of the kind asked for, else None; texts can be written as UTF-8.

    Quicker than `storage.records.decode`, which checks what a picture is paid for by.
    """

    __slots__ = ()

    @classmethod
    def read(cls, line: bytes) -> Self:
        """The object in a line; an empty one if there is none."""
        try:
            facts = json.loads(line)
        except (ValueError, RecursionError):
            facts = None
        return cls(facts) if isinstance(facts, dict) else cls()

    def text(self, key: str) -> str | None:
        """A text; None for an empty one."""
        return _text(self.get(key))

    def first_text(self, key: str) -> str | None:
        """The first text of a list."""
        values = self.get(key)
        return _text(values[0]) if isinstance(values, list) and values else None

    def number(self, key: str) -> float | None:
        """A number, if it is a sane one."""
        return _number(self.get(key))

    def whole(self, key: str) -> int | None:
        """A whole number that JavaScript can hold as well."""
        value = self.get(key)
        return value if type(value) is int and abs(value) < _TOO_LARGE else None

    def flag(self, key: str) -> bool:
        """Whether it is true."""
        return self.get(key) is True

    def sum(self, key: str) -> float | None:
        """The sum of a list of numbers, to the millisecond."""
        values = self.get(key)
        numbers = [*map(_number, values)] if isinstance(values, list) else [None]
        return None if None in numbers else round(sum(filter(None, numbers)), 3)

    def inner(self, key: str) -> "Facts":
        """An object; an empty one if there is none."""
        value = self.get(key)
        return Facts(value) if isinstance(value, dict) else Facts()


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and -_TOO_LARGE < value < _TOO_LARGE:
        return value  # which no NaN is
    return None


def _text(value: object) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    if value.isascii():
        return value
    return value.encode(errors="replace").decode()  # a lone surrogate becomes a question mark
