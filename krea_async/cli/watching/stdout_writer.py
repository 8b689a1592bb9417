"""What a run prints on stdout, written by a thread of its own: who reads it slowly must not hold up the event loop.

A reader who leaves, or a full disk behind it, does not end what is paid for: the rest goes nowhere. A slow one slows
the run down, as results are read only while there is room for what they print.
"""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from queue import SimpleQueue
from typing import Final

import anyio

from krea_async.cli.output import say

MAX_WAITING_BYTES: Final = 1 << 20
LAST_WORDS_S: Final = 1.0
"""How long what was printed is waited for when everything is over."""


def has_stdout() -> bool:
    """Whether there is one: a process may be started without."""
    return sys.__stdout__ is not None


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    return has_stdout() and sys.stdout.isatty()


class StdoutWriter:
    """Takes text at once, and writes it whole and in order. Belongs to one event loop."""

    def __init__(self, fd: int | None) -> None:
        """`fd` None: what is written goes nowhere."""
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        self._waiting_bytes = 0
        self._room, self._empty = asyncio.Event(), asyncio.Event()
        self._room.set()
        self._empty.set()
        # A daemon: a reader who never reads on must not keep the process alive. It holds no lock while it waits.
        if fd is not None:
            threading.Thread(target=self._write_on, args=(fd,), name="stdout", daemon=True).start()

    def write(self, text: str) -> None:
        """Have `text` written; a name that is no UTF-8 comes out as it came in."""
        data = os.fsencode(text)
        if data and self._fd is not None:
            self._waiting_bytes += len(data)
            self._empty.clear()
            if self._waiting_bytes > MAX_WAITING_BYTES:
                self._room.clear()
            self._queue.put(data)

    async def room(self) -> None:
        """Wait while too much is waiting already."""
        await self._room.wait()

    async def written(self) -> None:
        """Wait until all of it is written, or nobody takes it any more."""
        await self._empty.wait()

    def _write_on(self, fd: int) -> None:
        gone = False
        while True:
            data = self._queue.get()
            while not self._queue.empty() and len(data) < MAX_WAITING_BYTES:
                data += self._queue.get()
            try:
                rest = memoryview(b"" if gone else data)
                while rest:
                    rest = rest[os.write(fd, rest) :]
            except OSError as error:
                gone = True
                if not isinstance(error, BrokenPipeError):
                    words = f"krea-async: stdout takes no more ({error.strerror})"
                    with suppress(RuntimeError):
                        self._loop.call_soon_threadsafe(say, words)
            try:
                self._loop.call_soon_threadsafe(self._wrote, len(data))
            except RuntimeError:  # the loop is closed: nobody waits
                return

    def _wrote(self, size_bytes: int) -> None:
        self._waiting_bytes -= size_bytes
        if self._waiting_bytes <= MAX_WAITING_BYTES:
            self._room.set()
        if self._waiting_bytes == 0:
            self._empty.set()


@asynccontextmanager
async def stdout_writer() -> AsyncIterator[StdoutWriter]:
    """The writer of this process's stdout. Leaving waits for the reader; not for long after a cancellation."""
    if not has_stdout():
        writer = StdoutWriter(None)
    else:
        sys.stdout.flush()  # what was printed before comes first
        writer = StdoutWriter(sys.stdout.fileno())
    try:
        yield writer
        await writer.written()
    finally:
        with anyio.move_on_after(LAST_WORDS_S, shield=True):
            await writer.written()
