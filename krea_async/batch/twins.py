"""Rows that show the same picture: equal in all that makes it, with a seed of the list's. One of them is paid for.

Remembers 200 bytes or so of each row with a seed that is made, and nothing of the others.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from attrs import define, field

from krea_async.batch.entry import Entry
from krea_async.models import ImageRequest
from krea_async.storage.records import content_digest_of

Known = Callable[[ImageRequest], str | None]
"""The file of an earlier run that shows the picture of a request, if there is one."""


@define(eq=False)
class _Making:
    maker: Entry
    ended: asyncio.Event = field(factory=asyncio.Event)


class Twins:
    """Belongs to one batch. Each row that is begun passes through `is_maker`, before the next one, and `ended`."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._made: dict[int, _Making | str] = {}

    def is_maker(self, entry: Entry) -> bool:
        """Whether the row is to make its picture; from then on the others wait for it. Else `picture_of` has it."""
        if not entry.may_have_twins:
            return True
        digest = content_digest_of(entry.request)
        made = self._made.get(digest)
        if made is None and not entry.is_paid and (name := self._known(entry.request)) is not None:
            made = self._made[digest] = name
        if made is None:
            made = self._made[digest] = _Making(entry)
        return isinstance(made, _Making) and made.maker is entry

    async def picture_of(self, entry: Entry) -> str | None:
        """The file that shows this picture already, waiting for one that is being made. None: the row is to make it."""
        if not entry.may_have_twins:
            return None
        digest = content_digest_of(entry.request)
        while not self.is_maker(entry):
            made = self._made[digest]
            if isinstance(made, str):
                return made
            await made.ended.wait()
        return None

    def ended(self, entry: Entry, path: Path | None) -> None:
        """The row has ended; `path` is its picture, None if there is none. If it was the maker, the next one is."""
        if not entry.may_have_twins:
            return
        digest = content_digest_of(entry.request)
        made = self._made.get(digest)
        if path is not None:
            self._made[digest] = path.name
        elif isinstance(made, _Making) and made.maker is entry:
            del self._made[digest]
        else:
            return
        if isinstance(made, _Making):
            made.ended.set()
