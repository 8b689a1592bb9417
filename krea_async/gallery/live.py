"""A directory that is followed while runs write into it, and what a browser that shows it has to be told.

A browser is a place in the log of changed rows, and no more: what it gets is read from the journal when it can take it.
So a slow one holds no memory, one that comes back goes on where it was, and one that is too far behind starts anew.

The events, each with one line of JSON:
    reset    {"rows": 120}: forget all rows; so many will come
    rows     {"columns": TILE_COLUMNS, "rows": [[...], ...]}: new or changed ones; their key is `n`
    totals   the sums, with the names of Totals, after each change
    waiting  {}: nothing was rendered into the directory yet
Ids are on `totals` only: whoever loses the connection before it has all of a change gets all of it again.
"""

import asyncio
import json
import secrets
from array import array
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Final

from attrs import asdict

from krea_async.audit.recorded import NO_JOURNAL
from krea_async.errors import JournalError
from krea_async.gallery.journal_rows import JournalRows
from krea_async.gallery.reading import Rows, open_rows
from krea_async.gallery.sheet import TILE_COLUMNS, Tile
from krea_async.storage.disk import in_thread
from krea_async.storage.history import JOURNAL_NAME

LOOK_EVERY_S: Final = 0.25
ALIVE_EVERY_S: Final = 15.0
"""How often something is sent even if nothing happens, so that a browser that is gone is noticed."""

ROWS_AN_EVENT: Final = 2000
LOG_ROWS: Final = 100_000
"""So many changes are remembered, for browsers that were away. They take 8 bytes each."""

_values: Final = attrgetter(*TILE_COLUMNS)


class Live:
    """The directory at this moment. `follow` it in a task; `events` are for one browser. Close it at the end."""

    def __init__(self, directory: Path, *, log_rows: int = LOG_ROWS, alive_every_s: float = ALIVE_EVERY_S) -> None:
        self._directory = directory
        self._log_rows = log_rows
        self._alive_every_s = alive_every_s
        self._rows: Rows | None = None
        self._reading = asyncio.Lock()
        self._epoch = ""  # of the places in the log: another one when the rows may be others
        self._log = array("Q")
        self._forgotten = 0  # entries that the log began with
        self._changes = 0
        self._changed = asyncio.Event()
        self._is_stopped = False

    async def open(self) -> None:
        """Read what is there; nothing yet is no error. Raises JournalError when it cannot be read."""
        await self._look()

    async def follow(self, tell: Callable[[str], None]) -> None:
        """Look again and again, until cancelled. tell: is told why the journal cannot be read, once for each reason."""
        told = ""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._look()
                told = ""
            except (JournalError, OSError) as error:
                if told != (told := str(error)):
                    tell(told)

    def stop(self) -> None:
        """Let all streams of events end."""
        self._is_stopped = True
        self._wake()

    def close(self) -> None:
        """Close the file."""
        if self._rows is not None:
            self._rows.close()

    async def tile(self, n: int) -> Tile | None:
        """Row `n`, if there is one."""
        async with self._reading:
            rows = self._rows
            return None if rows is None or n >= len(rows) else await in_thread(lambda: rows.tile(n))

    # --- following ----------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        async with self._reading:
            if isinstance(rows := self._rows, JournalRows):
                lines = rows.scan.lines
                changed = await in_thread(rows.follow)
                if changed is not None:
                    self._note(changed, is_more=rows.scan.lines > lines)
                    return
            elif rows is not None and not (self._directory / JOURNAL_NAME).exists():
                return  # a manifest alone, which nobody adds to
            self._begin(await in_thread(self._opened))

    def _opened(self) -> Rows | None:
        try:
            return open_rows(self._directory)
        except JournalError as error:
            if error.code != NO_JOURNAL:
                raise
            return None

    def _begin(self, rows: Rows | None) -> None:
        if rows is self._rows is None and self._epoch:
            return
        self.close()
        self._rows = rows
        self._epoch = secrets.token_hex(4)
        self._log, self._forgotten = array("Q"), 0
        self._wake()

    def _note(self, changed: Sequence[int], *, is_more: bool) -> None:
        self._log.extend(changed)
        if (surplus := len(self._log) - self._log_rows) > self._log_rows // 8:  # not at every change
            del self._log[:surplus]
            self._forgotten += surplus
        if is_more or changed:
            self._wake()

    def _wake(self) -> None:
        self._changes += 1
        self._changed.set()
        self._changed = asyncio.Event()

    # --- telling ------------------------------------------------------------------------------------------------------

    async def events(self, last_id: str = "") -> AsyncGenerator[str]:
        """Server-sent events for one browser, from where it was; all rows if that is not known. Ends after `stop`."""
        epoch, _, number = last_id.partition("-")
        place, told = int(number) if number.isdecimal() and len(number) < 20 else -1, -1
        while not self._is_stopped:
            changed = self._changed
            if told == self._changes:
                try:
                    await asyncio.wait_for(changed.wait(), self._alive_every_s)
                except TimeoutError:
                    yield ": still there\n\n"
                continue
            told = self._changes
            if self._rows is None:
                yield _event("waiting", {})
                continue
            rows: Sequence[int]
            if epoch == self._epoch and self._forgotten <= place <= self._end:
                rows = [*dict.fromkeys(self._log[place - self._forgotten :])]
            else:
                epoch, rows = self._epoch, range(len(self._rows))
                yield _event("reset", {"rows": len(rows)})
            place = self._end
            for start in range(0, len(rows), ROWS_AN_EVENT):
                block = await self._read(epoch, partial(_rows_event, numbers=rows[start : start + ROWS_AN_EVENT]))
                if block is None:
                    break
                yield block
            if totals := await self._read(epoch, partial(_totals_event, mark=f"{epoch}-{place}"), only_at=place):
                yield totals

    @property
    def _end(self) -> int:
        """The place behind the last change."""
        return self._forgotten + len(self._log)

    async def _read(self, epoch: str, work: Callable[[Rows], str], *, only_at: int | None = None) -> str | None:
        """What `work` returns, in a thread; None if the rows are others by now, or there is more than at that place."""
        async with self._reading:
            rows = self._rows
            if rows is None or epoch != self._epoch or only_at not in {None, self._end}:
                return None
            return await in_thread(lambda: work(rows))


def _rows_event(rows: Rows, *, numbers: Sequence[int]) -> str:
    return _event("rows", {"columns": TILE_COLUMNS, "rows": [_values(rows.tile(n)) for n in numbers]})


def _totals_event(rows: Rows, *, mark: str) -> str:
    return f"id: {mark}\n{_event('totals', asdict(rows.totals))}"


def _event(name: str, data: object) -> str:
    """In the wire's form. JSON has no line ends in it."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
