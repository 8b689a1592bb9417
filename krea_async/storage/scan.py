"""Reads a journal's lines in big blocks, checks each, and tells damage from what a crash left at the end.

A line that fails its checksum is damage, and stops the reading. Only what a crash leaves at the very end may be cut,
and only if it cannot be a line that was whole once: an intent that was on disk must not be forgotten.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, NoReturn
from zlib import crc32

from krea_async.errors import JournalError
from krea_async.storage.records import CRC_BYTES, JOURNAL_VERSION

DAMAGED: Final = "journal_damaged"
NEWER: Final = "journal_newer"
"""Our own error codes for a journal that cannot be believed, and for one that a later krea-async wrote."""

BLOCK_BYTES: Final = 1024 * 1024
MAX_LINE_BYTES: Final = 64 * 1024 * 1024

_TRAILER: Final = re.compile(rb',"crc":"[0-9a-f]{8}"\}')
_HEADER_START: Final = b'{"e":"journal","v":'
_HEADER_VERSION: Final = re.compile(rb'\{"e":"journal","v":([0-9]+)[,}]')
_WRITER: Final = re.compile(rb'"version":"([^"\\]{1,40})"')
_HOLE: Final = b"\0\0"  # what a power cut leaves; our text has no NUL, and one flipped bit makes no two of them


class Scan:
    """One reading of the journal at `path`.

    torn_at: the byte from which on a crash left what is no line, to be cut; None if there is nothing to cut.
    unended: the last line that is kept lacks its newline. lines: how many were met. damaged: the numbers, from 1, of
    the lines that were left out, or believed although they do not fit; empty unless `skip_damaged`.
    """

    def __init__(self, path: Path, *, skip_damaged: bool = False) -> None:
        self.path = path
        self.torn_at: int | None = None
        self.unended = False
        self.damaged: list[int] = []
        self.lines = 0
        self._skip_damaged = skip_damaged
        self._suspects: list[int] = []  # lines that a crash may have left, unless a whole one follows

    def read(self, take: Callable[[bytes, int], None]) -> None:
        """Give every whole line, without its newline, and its offset to `take`.

        A missing file has none. Raises JournalError for damage, unless it is skipped, and for a later version; OSError.
        """
        try:
            file = self.path.open("rb", buffering=0)
        except FileNotFoundError:
            return
        with file:
            end = _end_of_data(file)
            offset = self._read_ended(file, end, take)
            file.seek(offset)
            if rest := file.read(end - offset):
                self.lines += 1
                self._take_rest(rest, offset, take)
            elif self.torn_at is None and end < file.seek(0, os.SEEK_END):
                self.torn_at = end

    def damage(self, reason: str, *numbers: int) -> None:
        """Note that these lines, or else the one at hand, are damaged. Raises JournalError unless they are skipped."""
        numbers = numbers or (self.lines,)
        if not self._skip_damaged:
            raise JournalError(
                f"{self.path}, line {numbers[0]}: {reason}. Bring the file back from a copy, or read it with"
                " skip_damaged, which goes on without such lines: what they said may then be paid for twice",
                code=DAMAGED,
            )
        self.damaged.extend(number for number in numbers if number not in self.damaged[-1:])

    def refuse_newer(self, what: str, writer: str | None) -> NoReturn:
        """Raise JournalError: a later krea-async wrote this, `writer` if that is known."""
        by = f"krea-async {writer}" if writer else "a later krea-async"
        raise JournalError(
            f"{self.path}, line {self.lines}: {what}. It was written by {by}: update krea-async to go on with it",
            code=NEWER,
        )

    def _read_ended(self, file: BinaryIO, end: int, take: Callable[[bytes, int], None]) -> int:
        """Read all lines that end in a newline; returns the offset behind them."""
        offset, place, rest = 0, 0, b""
        while block := file.read(min(BLOCK_BYTES, end - place)):
            place += len(block)
            pieces = (rest + block).split(b"\n")
            rest = pieces.pop()
            for piece in pieces:
                self.lines += 1
                if piece.endswith(b',"crc":"%08x"}' % crc32(piece[:-CRC_BYTES])):
                    if offset == 0 or self._suspects:
                        self._look_back(piece, offset)
                    take(piece, offset)
                else:
                    self._doubt(piece, offset)
                offset += len(piece) + 1
            if len(rest) > MAX_LINE_BYTES:
                raise JournalError(f"{self.path}, line {self.lines + 1}: longer than any line is", code=DAMAGED)
        return offset

    def _look_back(self, piece: bytes, offset: int) -> None:
        """Before a whole line: what was doubted is in the middle, and the first line is the header."""
        if self._suspects:
            suspects, self._suspects, self.torn_at = self._suspects, [], None
            self.damage("the line is damaged", *suspects)
        if offset == 0:
            self._check_header(piece)

    def _check_header(self, piece: bytes) -> None:
        version = _HEADER_VERSION.match(piece)
        if version and int(version[1]) > JOURNAL_VERSION:
            with self.path.open("rb") as file:
                writer = _WRITER.search(file.read(BLOCK_BYTES))
            what = f"the journal's format is version {int(version[1])}, and this one reads {JOURNAL_VERSION}"
            self.refuse_newer(what, writer[1].decode(errors="replace") if writer else None)
        if not version:
            self.damage("it is not how a journal begins")

    def _doubt(self, piece: bytes, offset: int) -> None:
        """Judge whether a line whose checksum does not fit could have been whole once."""
        if offset == 0 and _HOLE not in piece:
            self._check_header(piece)
        if _HOLE not in piece and (offset == 0 or piece.startswith(b'{"e":"') or piece.endswith(b'"}')):
            suspects, self._suspects, self.torn_at = self._suspects, [], None
            self.damage("the line is damaged", *suspects, self.lines)
        else:
            self._suspects.append(self.lines)
            self.torn_at = offset if self.torn_at is None else self.torn_at

    def _take_rest(self, piece: bytes, offset: int, take: Callable[[bytes, int], None]) -> None:
        """Judge what is behind the last newline: a line that lacks only that, half a line, or neither."""
        trailer = _TRAILER.search(piece)
        if trailer and trailer[0] == b',"crc":"%08x"}' % crc32(piece[: trailer.start()]):
            self._look_back(piece, offset)
            self.torn_at, self.unended = offset + trailer.end(), True
            take(piece[: trailer.end()], offset)
        elif trailer and trailer.end() == len(piece) and _HOLE not in piece:
            self._doubt(piece, offset)
            self.unended = True
        elif offset == 0 and not (_HEADER_START.startswith(piece) or piece.startswith(_HEADER_START)):
            raise JournalError(f"{self.path} is no journal of krea-async: move it out of the way", code=DAMAGED)
        elif self.torn_at is None:
            self.torn_at = offset


def _end_of_data(file: BinaryIO) -> int:
    """The file's size without the NULs at its end, which a power cut leaves, and of which there may be many."""
    place = file.seek(0, os.SEEK_END)
    while place:
        start = max(0, place - BLOCK_BYTES)
        file.seek(start)
        data = file.read(place - start).rstrip(b"\0")
        place = start + len(data)
        if data:
            break
    file.seek(0)
    return place
