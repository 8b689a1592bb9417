"""Makes a journal small again: of each settled row its row line and verdict, of each open one what resume needs.

A row that may have been charged twice keeps all its lines, because the books tell of it for ever. Lines are copied as
they are and in their order; only sums of what is left out are new. So the smaller journal replays to the same history,
which is checked before it takes the other's name.
"""

import os
import time
from contextlib import ExitStack
from functools import reduce
from pathlib import Path
from typing import BinaryIO, Final

from krea_async.errors import JournalError
from krea_async.storage.disk import sync_directory
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.journal import journal_errors
from krea_async.storage.lock import DirectoryLock
from krea_async.storage.records import Sums, encode
from krea_async.storage.replay import Replay, RowState, verdict_millionths
from krea_async.storage.scan import DAMAGED, Scan

COMPACT_NAME: Final = "journal.jsonl.compact"
"""The new journal while it is written. One that a crash left is overwritten by the next compaction."""

_KEPT: Final = (b'{"e":"journal"', b'{"e":"run"', b'{"e":"row"', b'{"e":"end"')
_VERDICTS: Final = (b'{"e":"saved"', b'{"e":"failed"')


def compact(directory: Path, *, now_s: float | None = None) -> tuple[int, int]:
    """Rewrite the journal in `directory`; returns its size before and after, in bytes. (0, 0) if there is none.

    Crash-safe: there is the old journal or the new one, whole. Raises JournalError when the directory is in use, the
    journal is damaged or newer, or, with the code "disk_error", the disk fails.
    """
    path, new_path = directory / JOURNAL_NAME, directory / COMPACT_NAME
    with journal_errors(path), ExitStack() as held:
        lock = DirectoryLock(directory)
        lock.acquire(now_s=time.time() if now_s is None else now_s)
        held.callback(lock.release)
        if not path.exists():
            return 0, 0
        old = _Journal(path, held.enter_context(path.open("rb")))
        try:
            with os.fdopen(os.open(new_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                _copy(old, file)
                file.flush()
                os.fsync(file.fileno())
            _check(old, _Journal(new_path, held.enter_context(new_path.open("rb"))))
        except BaseException:
            new_path.unlink(missing_ok=True)
            raise
        before, after = path.stat().st_size, new_path.stat().st_size
        new_path.replace(path)
        sync_directory(directory)
        return before, after


class _Journal(Replay):
    """A journal, with what compaction wants to know of it. Rows are named as their lines name them, `"n":7`.

    whole: rows that keep all their lines: those that may have been charged twice, and the first whose key the gateway
    knew, which shows that it knows keys. replaced: credits of verdicts that a later round of their row followed, in
    millionths: for certain, and perhaps. sums: the same, of lines that were left out before.
    """

    def __init__(self, path: Path, lookup: BinaryIO) -> None:
        self.whole: set[bytes] = set()
        self.replaced: dict[bytes, tuple[int, int]] = {}
        self.sums = 0, 0
        self._keys_known = False
        super().__init__(path, lookup)

    def _accepted(self, fields: list[bytes], offset: int) -> None:
        super()._accepted(fields, offset)
        is_known = b',"replayed":true,' in fields[3]
        if b',"replayed":false,' in fields[3] or (is_known and not self._keys_known):
            self.whole.add(fields[1])
        self._keys_known = self._keys_known or is_known

    def _intent(self, fields: list[bytes], offset: int) -> None:
        n = self._n(fields[1])
        if self.states[n] == RowState.FAILED:
            cost = verdict_millionths(self.raw_line_at(self.verdict_offsets[n]))
            if any(cost):
                self.replaced[fields[1]] = _plus(self.replaced.get(fields[1], (0, 0)), cost)
        super()._intent(fields, offset)

    def _sums(self, fields: list[bytes], offset: int) -> None:
        before = self.settled_millionths, self.unknown_millionths
        super()._sums(fields, offset)
        self.sums = _plus(self.sums, (self.settled_millionths - before[0], self.unknown_millionths - before[1]))


def _plus(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]


def _copy(old: _Journal, file: BinaryIO) -> None:
    """Write what `old` still says: all that it would look up, and nothing else."""
    needed = {place for row in old.unsettled.values() for place in row.places}
    needed.update(old.same_offsets.values())
    needed.add(old.timed_offset)
    settled, unknown = reduce(_plus, (cost for row, cost in old.replaced.items() if row not in old.whole), old.sums)

    def take(piece: bytes, offset: int) -> None:
        fields = piece.split(b",", 2)
        if fields[1] in old.whole:
            wanted = True
        elif fields[0] in _VERDICTS:
            n = int(fields[1][4:])
            wanted = old.verdict_offsets[n] == offset and n not in old.unsettled
        else:
            wanted = fields[0] in _KEPT or offset in needed
        if wanted:
            file.write(piece + b"\n")
        if offset == 0 and (settled or unknown):
            file.write(encode(Sums(settled=settled / 1e6, unknown=unknown / 1e6)))

    Scan(old.scan.path).read(take)


def _check(old: _Journal, new: _Journal) -> None:
    """Raise JournalError unless both say the same, as far as can be seen without reading their lines."""
    for name in ("states", "digests", "contents", "settled_millionths", "unknown_millionths", "runs", "whole"):
        if getattr(old, name) != getattr(new, name):
            raise JournalError(f"{old.scan.path} cannot be compacted: {name} would differ", code=DAMAGED)
    if old.unsettled.keys() != new.unsettled.keys() or old.same_offsets.keys() != new.same_offsets.keys():
        raise JournalError(f"{old.scan.path} cannot be compacted: rows under way would differ", code=DAMAGED)
