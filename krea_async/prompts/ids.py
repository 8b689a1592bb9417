"""Ids that two rows of a list share: a row is found again by its id, so the second one's picture could be lost.

A million ids take 32 MB: digests in arrays, found through a table with open addressing, as Python's own dict does it.
"""

from array import array
from typing import Final

from krea_async.models import ImageRequest

_DIGEST: Final = (1 << 64) - 1
_LINE_BITS: Final = 40


class SeenIds:
    """The ids of the rows that were read so far, and where each was first met."""

    def __init__(self) -> None:
        self._ids = array("Q")
        self._contents = array("Q")
        self._places = array("Q")
        self._table = array("I", bytes(4 * 16))  # what is kept at each slot: a number from 1; 0 is free

    def add(self, request: ImageRequest, source: int, line: int) -> tuple[int, int] | None:
        """Remember the row; None if its id is new, or asks for the same picture. Else the first one's (source, line).

        Digests of 64 bits are compared: among a million ids, two are mistaken for one with a chance of 3 in 10^8.
        """
        digest, content = hash(request.id) & _DIGEST, hash(request) & _DIGEST
        slot = self._slot(digest)
        known = self._table[slot] - 1
        if known >= 0:
            place = self._places[known]
            return None if self._contents[known] == content else (place >> _LINE_BITS, place & (1 << _LINE_BITS) - 1)
        self._ids.append(digest)
        self._contents.append(content)
        self._places.append(source << _LINE_BITS | line)
        self._table[slot] = len(self._ids)
        if 3 * len(self._ids) > 2 * len(self._table):
            self._grow()
        return None

    def _slot(self, digest: int) -> int:
        """Where the id is, or the free slot where it belongs."""
        table, ids = self._table, self._ids
        mask = len(table) - 1
        slot = digest & mask
        while (number := table[slot]) and ids[number - 1] != digest:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        self._table = array("I", bytes(4 * 2 * len(self._table)))
        for number, digest in enumerate(self._ids, 1):
            self._table[self._slot(digest)] = number
