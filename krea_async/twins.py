"""Rows that show the same picture: equal in all that makes it, with a seed. One of them is paid for.

Remembers 200 bytes or so of each row with a seed, and nothing of the others.
"""

import asyncio
from pathlib import Path

from krea_async.models import ImageRequest
from krea_async.storage.records import content_digest_of


class Twins:
    """Belongs to one batch; every row passes through `seen` before it starts, and through `ended` at its end."""

    def __init__(self) -> None:
        self._made: dict[int, asyncio.Event | str] = {}

    async def picture_of(self, request: ImageRequest) -> str | None:
        """The file that shows this picture already, waiting for one that is being made. None: the row is to make it."""
        if not request.seed:
            return None
        digest = content_digest_of(request)
        while isinstance(made := self._made.get(digest), asyncio.Event):
            await made.wait()
        if made is None:
            self._made[digest] = asyncio.Event()
        return made

    def is_being_made(self, request: ImageRequest) -> bool:
        """Whether `picture_of` would answer something else than None."""
        return bool(request.seed) and content_digest_of(request) in self._made

    def ended(self, request: ImageRequest, path: Path | None) -> None:
        """The row that makes the picture has ended; `path` is the file, None if there is none."""
        if not request.seed:
            return
        digest = content_digest_of(request)
        made = self._made.get(digest)
        if path is not None:
            self._made[digest] = path.name
        elif isinstance(made, asyncio.Event):
            del self._made[digest]
        if isinstance(made, asyncio.Event):
            made.set()
