"""A directory's rows from its journal, and what is appended to it while it is read.

One reading, and then only what is new: 100,000 rows are not read again because one of them changed. No lock is taken,
and nothing is written. Lines are read at their place when a tile is asked for, so a row takes some 35 bytes.
"""

import os
import re
import stat
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Any, Final, Literal, Self

from krea_async.audit.ledger import Ledger
from krea_async.audit.prices import usd_of
from krea_async.audit.recorded import no_journal
from krea_async.errors import DISK_ERROR, JournalError, words_of
from krea_async.gallery.facts import Facts
from krea_async.gallery.pictures import find_picture
from krea_async.gallery.sheet import Step, Tile, Totals
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.records import is_whole
from krea_async.storage.replay import RowState
from krea_async.storage.scan import BLOCK_BYTES

_PLANNED, _SAVED, _FAILED = int(RowState.PLANNED), int(RowState.SAVED), int(RowState.FAILED)
_STEPS: Final[dict[int, Step]] = {
    int(RowState.INTENT): "sent",
    int(RowState.ACCEPTED): "accepted",
    int(RowState.COMPLETED): "completed",
}
_ALIKE: Final = 8  # equal rows that are looked at; the first is nearly always the one that was paid for
_BYTES: Final = re.compile(rb',"bytes":([0-9]+),"sha256":')  # no text holds it: quotes are escaped there


class JournalRows(Ledger):
    """The rows of `directory`, by its journal. For one thread at a time; close it at the end."""

    source: Literal["journal"] = "journal"

    def __init__(self, directory: Path) -> None:
        """Read the journal. Raises JournalError: there is none ("no_journal"), it is newer, or it cannot be read."""
        self.directory = directory
        self._changed: list[int] = []
        self._is_followed = False
        self._by_content = array("Q")  # all rows, once a copy was looked for
        self._picture_bytes = 0
        self._read_to = 0
        path = directory / JOURNAL_NAME
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for whoever writes it
                raise JournalError(f"{path} is no plain file: move it out of the way", code=DISK_ERROR)
            self._file = path.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            raise no_journal(directory) from None
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            super().__init__(path, self._file)
        except OSError as error:
            self.close()
            raise _unreadable(path, error) from error
        except BaseException:
            self.close()
            raise
        self.scan.torn_at = None  # whoever goes on cuts it off and writes behind what is whole
        self._is_followed = True

    def close(self) -> None:
        """Close the file. No tile can be read any more."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.states)

    # --- what is appended ---------------------------------------------------------------------------------------------

    def follow(self) -> list[int] | None:
        """Read what was appended; returns the rows that it is about, or None if this is another file by now.

        Half a line at the end is left for later. Raises JournalError if a later version wrote it, or it cannot be read.
        """
        try:
            there, here = self.scan.path.stat(), os.fstat(self._file.fileno())
            if not os.path.samestat(there, here) or here.st_size < self._read_to - 1:  # a last newline may be missing
                return None
            if here.st_size > self._read_to:
                self._read_on()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(self.scan.path, error) from error
        changed, self._changed = self._changed, []
        return [*dict.fromkeys(changed)]

    def _read_on(self) -> None:
        self._file.seek(0, os.SEEK_END)  # which empties the buffer: what it holds may have been cut off and replaced
        offset, rest, doubtful = self._read_to, b"", 0
        while True:
            self._file.seek(offset + len(rest))
            if not (block := self._file.read(BLOCK_BYTES)):
                return
            pieces = (rest + block).split(b"\n")
            rest = pieces.pop()
            for piece in pieces:
                if is_whole(piece):
                    self.scan.damaged += [self.scan.lines] * doubtful  # so a crash did not leave them at the end
                    self.scan.lines += 1
                    doubtful = 0
                    self._take(piece, offset)
                elif piece:
                    doubtful += 1
                offset += len(piece) + 1

    def _take(self, piece: bytes, offset: int) -> None:
        super()._take(piece, offset)
        self._read_to = offset + len(piece) + 1
        if self._is_followed and (number := piece.split(b",", 2)[1]).startswith(b'"n":'):
            self._changed.append(int(number[4:]))

    def _saved(self, fields: list[bytes], offset: int) -> None:
        super()._saved(fields, offset)
        self._picture_bytes += _bytes_in(fields[3])

    def _settle(self, n: int, state: int, offset: int) -> None:
        if self.states[n] == _SAVED:
            self._picture_bytes -= _bytes_in(self.raw_line_at(self.verdict_offsets[n]))
        super()._settle(n, state, offset)

    # --- what it comes to ---------------------------------------------------------------------------------------------

    @property
    def totals(self) -> Totals:
        """The sums."""
        last = self.find_line(self.timed_offset) or self.header
        saved, failed, waiting = map(self.states.count, (_SAVED, _FAILED, _PLANNED))
        return Totals(
            rows=len(self),
            saved=saved,
            failed=failed,
            running=len(self) - saved - failed - waiting,
            waiting=waiting,
            credits=self.settled_millionths / 1e6,
            credits_unknown=self.unknown_millionths / 1e6,
            usd=usd_of(self.prices, self.settled_millionths),
            bytes=self._picture_bytes,
            seconds=round(sum(self.seconds), 3),
            runs=self.runs,
            first_s=None if self.header is None else self.header.at_s,
            last_s=getattr(last, "at_s", None),
            has_ended=bool(self.end_offset),
            stopped_by=self.stopped_by if self.end_offset else None,
            damaged_lines=len(self.scan.damaged),
        )

    def tile(self, n: int) -> Tile:
        """Row `n`. Lines that are lost say nothing."""
        row = self._facts_at(self.row_offsets[n])
        asked = row.inner("request")
        common: dict[str, Any] = {
            "n": n,
            "index": row.whole("index"),
            "id": asked.text("id"),
            "prompt": asked.text("prompt"),
            "size": asked.text("size") or "1:1",
            "quality": asked.text("quality") or "1K",
            "seed": asked.whole("seed"),
            "nsfw_check": asked.flag("nsfw_check"),
        }
        if not asked:
            common |= {"size": None, "quality": None}
        state = self.states[n]
        if state == _SAVED:
            return self._saved_tile(n, common)
        if state == _FAILED:
            return self._failed_tile(n, common)
        if state == _PLANNED:
            return Tile(status="waiting", **common)
        return self._running_tile(n, common)

    def _saved_tile(self, n: int, common: dict[str, Any]) -> Tile:
        saved = self._facts_at(self.verdict_offsets[n])
        task_id = saved.text("task")
        file = saved.first_text("files")
        return Tile(
            status="saved",
            file=file,
            is_missing=file is None or find_picture(self.directory, file) is None,
            copy_of=None if task_id else self._original_of(n),
            task_id=task_id,
            credits=saved.number("credits"),
            width=saved.whole("width"),
            height=saved.whole("height"),
            bytes=saved.whole("bytes"),
            seconds=saved.sum("seconds"),
            at_s=saved.number("t"),
            **common,
        )

    def _failed_tile(self, n: int, common: dict[str, Any]) -> Tile:
        failed = self._facts_at(self.verdict_offsets[n])
        charged = failed.text("charged")
        return Tile(
            status="failed",
            task_id=failed.text("task"),
            credits={"yes": failed.number("credits"), "no": 0.0}.get(charged or ""),
            error=failed.text("code") or failed.text("error"),
            message=failed.text("message"),
            charged=charged,
            at_s=failed.number("t"),
            **common,
        )

    def _running_tile(self, n: int, common: dict[str, Any]) -> Tile:
        """A run may have given it up for now: then its line says why, and a later run goes on with it."""
        places = self.unsettled[n]
        accepted, left = self._facts_at(places.accepted), self._facts_at(places.left)
        return Tile(
            status="running",
            step=_STEPS[self.states[n]],
            task_id=accepted.text("task"),
            credits=accepted.number("credits"),
            message=left.text("message"),
            **common,
        )

    def _original_of(self, n: int) -> int | None:
        """The row that was paid for the picture of row `n`, which had no task of its own."""
        contents, content = self.contents, self.contents[n]
        if len(self._by_content) != len(self):
            self._by_content = array("Q", sorted(range(len(self)), key=contents.__getitem__))
        first = bisect_left(self._by_content, content, key=contents.__getitem__)
        for other in self._by_content[first : first + _ALIKE]:
            if not content or contents[other] != content:
                return None
            if self.states[other] == _SAVED and self._facts_at(self.verdict_offsets[other]).text("task"):
                return other
        return None

    def _facts_at(self, offset: int) -> Facts:
        return Facts.read(self.raw_line_at(offset)) if offset else Facts()


def _bytes_in(line: bytes) -> int:
    found = _BYTES.search(line)
    return int(found[1]) if found else 0


def _unreadable(path: Path, error: OSError) -> JournalError:
    return JournalError(f"cannot read {path}: {words_of(error)}", code=DISK_ERROR)
