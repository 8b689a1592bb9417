"""From a link to a whole picture on disk, however often the transfer breaks.

A broken transfer goes on where it stopped if the host still has the same file, else it starts over; what is no whole
picture is fetched again; a link that is refused is looked up once more.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Final

import anyio
from attrs import field, frozen, validators

from krea_async.control.backlog import LINK_LIFETIME_S
from krea_async.control.backoff import RetryPolicy
from krea_async.errors import DownloadError, ImageExpiredError, InvalidImageError
from krea_async.gateway.images import ImageHost, ImageStream
from krea_async.storage.disk import DiskQueue, disk_errors
from krea_async.storage.names import Names
from krea_async.storage.part import Part, SavedPicture, Target, copy_picture
from krea_async.storage.turns import Turns
from krea_async.story import Story

log = logging.getLogger(__name__)

TOO_LARGE: Final = "picture_too_large"
CLEANUP_S: Final = 5.0
LANDING: Final = 32
"""Pictures that are here and wait for the disk, beside those that come in: more would only fill the memory."""

_LINK_REFUSED: Final = frozenset({403, 404, 410})
_CANNOT_RESUME: Final = frozenset({206, 416})


@frozen(kw_only=True)
class DownloadPolicy:
    """How pictures are brought to disk.

    retries: tries per picture and the waits between them. timeout_s: the longest that one try may take.
    max_bytes: a larger picture is refused. sync: whether a picture must be on the disk itself, not only in the
    system's memory, before it gets its name.
    """

    retries: RetryPolicy = field(factory=lambda: RetryPolicy(attempts=8, max_wait_s=15.0))
    timeout_s: float = field(default=300.0, validator=validators.gt(0))
    max_bytes: int = field(default=64 * 1024 * 1024, validator=validators.gt(0))
    sync: bool = True


FreshLink = Callable[[], Awaitable[str]]
"""Reads the task once more and gives the picture's link as it is now. Raises members of the KreaError tree."""


class Downloads:
    """Saves pictures, at most `at_once` at a time, those first whose links die first. Belongs to one session."""

    def __init__(self, host: ImageHost, policy: DownloadPolicy, *, at_once: int, rng: Random) -> None:
        self._host = host
        self._policy = policy
        self._rng = rng
        self._turns = Turns(at_once)
        self._landing = asyncio.Semaphore(LANDING)
        self._names = Names()
        self._disk = DiskQueue()

    async def save(
        self,
        link: str,
        target: Target,
        *,
        fresh_link: FreshLink,
        expires_s: float | None = None,
        story: Story | None = None,
    ) -> SavedPicture:
        """Bring the picture behind `link` to disk. expires_s: when the link dies, in Unix seconds; None: 24 h from now.

        story: told of what goes wrong.
        Raises ImageExpiredError when the host refuses the link and a fresh read of the task brings no better one,
        InvalidImageError when what comes is no whole picture however often it is asked for, DownloadError otherwise;
        its code is "disk_error" when the disk is at fault.
        """
        stem = self._names.claim(target.directory, target.stem, target.index)
        part = Part(target.directory, stem, self._disk, must_exist=target.must_exist)
        if expires_s is None:
            expires_s = time.time() + LINK_LIFETIME_S
        try:
            with disk_errors(part.path):
                return await self._fetch(part, link, target, fresh_link, expires_s, story=story)
        except BaseException:
            with anyio.move_on_after(CLEANUP_S, shield=True):
                await part.discard()
            raise
        finally:
            self._names.release(target.directory, stem)

    async def copy(self, source: Path, target: Target) -> SavedPicture | None:
        """Give a saved picture a second name; None if it is not there, or no picture, any more. DownloadError."""
        stem = self._names.claim(target.directory, target.stem, target.index)
        try:
            with disk_errors(target.directory / stem, charged="no"):
                return await self._disk.visit(lambda: copy_picture(source, target, stem))
        except InvalidImageError:
            return None
        finally:
            self._names.release(target.directory, stem)

    async def _fetch(
        self,
        part: Part,
        link: str,
        target: Target,
        fresh_link: FreshLink,
        expires_s: float,
        *,
        story: Story | None,
    ) -> SavedPicture:
        failures = 0
        refused_link = None
        while True:
            try:
                async with self._turns.turn(expires_s) as turn:
                    turn.size_bytes = await self._receive(part, link, careful=failures > 0)
                    await self._landing.acquire()
                return await self._land(part, target)
            except InvalidImageError as problem:
                part.start_over()
                error: DownloadError = problem
            except DownloadError as problem:
                error = problem
            failures += 1
            if error.status in _LINK_REFUSED and link != refused_link:
                refused_link, link = link, await fresh_link()
                if link != refused_link:
                    part.start_over()
                    error.retryable = True  # a new link is a new chance
            if error.status == 404:
                error.retryable = True  # the picture may still be on its way to this host
            if self._policy.retries.gives_up(failures, error):
                raise _expired(error) if error.status in _LINK_REFUSED else error
            if error.status in _CANNOT_RESUME:
                part.start_over()
            wait_s = self._policy.retries.wait_s(failures, self._rng, error.retry_after_s)
            log.info("download of %s failed (%s); try %d in %.1f s", target.stem, error, failures + 1, wait_s)
            if story is not None:
                story.retries(error, failures=failures, wait_s=wait_s)
            await asyncio.sleep(wait_s)

    async def _receive(self, part: Part, link: str, *, careful: bool) -> int:
        """Take the picture in, and say how many bytes came.

        careful: keep every byte as it comes, so that a line that breaks often gets on.
        """
        try:
            async with asyncio.timeout(self._policy.timeout_s):
                async with self._host.open(link, offset_bytes=part.size_bytes, etag=part.etag) as stream:
                    return await self._write(part, stream, careful=careful)
        except TimeoutError:
            words = f"the picture did not arrive within {self._policy.timeout_s:g} s"
            raise DownloadError(words, retryable=True) from None

    async def _write(self, part: Part, stream: ImageStream, *, careful: bool) -> int:
        if stream.offset_bytes == 0:
            part.start_over()
        here_bytes = part.size_bytes
        part.etag = stream.etag
        self._check_size(stream.total_bytes or 0)
        if stream.is_small and not careful:
            await self._add(part, await stream.read())
        else:
            async for chunk in stream.chunks():
                await self._add(part, chunk)
        if stream.total_bytes not in {None, part.size_bytes}:
            words = f"the picture ended after {part.size_bytes} of {stream.total_bytes} bytes"
            raise DownloadError(words, retryable=True)
        return part.size_bytes - here_bytes

    async def _add(self, part: Part, chunk: bytes) -> None:
        self._check_size(part.size_bytes + len(chunk))
        await part.add(chunk)

    async def _land(self, part: Part, target: Target) -> SavedPicture:
        try:
            return await part.publish(target, sync=self._policy.sync)
        finally:
            self._landing.release()

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._policy.max_bytes:
            words = f"the picture is larger than the {self._policy.max_bytes} bytes that are allowed"
            raise DownloadError(words, code=TOO_LARGE)


def _expired(error: DownloadError) -> ImageExpiredError:
    return ImageExpiredError(
        f"the picture's link is gone, and a fresh read of the task brought no better one: {error.message}",
        status=error.status,
        request_id=error.request_id,
    )
