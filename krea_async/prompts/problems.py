"""What is wrong with a prompt sheet, said so that it can be mended: where, what stands there, what may, what was meant.

Inside the package a problem is an `InvalidRequestError` that travels as a value; people get it as a `RowProblem`.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Final

from attrs import frozen

from krea_async import suggestions
from krea_async.errors import InvalidRequestError

SHOWN_CHARS: Final = 60
_COMPARED_WORDS: Final = 1000


@frozen(kw_only=True)
class RowProblem:
    """One thing wrong with a prompt list; `str()` is for people: `prompts.csv:700: size '16x9' is not …`.

    It is one line, and two more below it for a broken template: the prompt, and a caret under the place.
    line: where the row starts, from 1; of a parquet file, the row's number, from 1. field: the field or column
    concerned; None when it is the row as a whole. value: what was found there. allowed: what may stand there instead.
    """

    file: str
    line: int
    field: str | None
    value: object
    allowed: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


def problem_of(file: str, line: int, error: InvalidRequestError) -> RowProblem:
    """The problem of a row, with what is allowed in its message."""
    complete = error.allowed is None or error.allowed in error.message
    message = error.message if complete else f"{error.message}; allowed: {error.allowed}"
    return RowProblem(
        file=file, line=line, field=error.field, value=error.value, allowed=error.allowed, message=message
    )


def refused(
    message: str, allowed: str | None = None, *, field: str | None = None, value: object = None
) -> InvalidRequestError:
    """The error, not raised yet: most of them are values."""
    return InvalidRequestError(message, field=field, value=value, allowed=allowed)


def shown(value: object) -> str:
    """What stands in the sheet, as far as it fits into a message."""
    if isinstance(value, str):
        return repr(value[:SHOWN_CHARS])
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; nesting without end
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`; did you mean 'size'?`, or nothing if no word is near; of many only the first are looked at."""
    return suggestions.did_you_mean(word, islice(known, _COMPARED_WORDS))
