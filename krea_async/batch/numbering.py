"""Rows and their numbers in their list: a part of a list keeps the whole one's, so there may be gaps."""

from collections.abc import Mapping
from typing import Any

from krea_async.errors import InvalidRequestError
from krea_async.models import ImageRequest, IndexedRequest

Unnumbered = str | ImageRequest | Mapping[str, Any] | InvalidRequestError
Prompt = Unnumbered | IndexedRequest
"""A row of a prompt list; one that could not be read is its own error, and fails alone."""


class Numbering:
    """Numbers the rows of one list, in their order."""

    def __init__(self) -> None:
        self._next = 0

    def take(self, row: Prompt) -> tuple[int, Unnumbered]:
        """The row's number, and what it asks for. One that does not know its own comes next to the row before it."""
        index, content = (row.index, row.request) if isinstance(row, IndexedRequest) else (self._next, row)
        self._next = index + 1
        return index, content
