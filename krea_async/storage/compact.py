"""Makes a journal small again: of each settled row its row line and verdict, of each open one what resume needs.

Lines are copied as they are and in their order; only sums of what is left out are new. So the smaller journal replays
to the same history, which is checked before it takes the other's name.
"""

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final

from krea_async.errors import JournalError
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.journal import journal_errors, sync_directory
from krea_async.storage.lock import DirectoryLock
from krea_async.storage.records import Sums, encode
from krea_async.storage.replay import Replay, verdict_millionths
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
        old = Replay(path, held.enter_context(path.open("rb")))
        try:
            with os.fdopen(os.open(new_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                _copy(old, file)
                file.flush()
                os.fsync(file.fileno())
            _check(old, Replay(new_path, held.enter_context(new_path.open("rb"))))
        except BaseException:
            new_path.unlink(missing_ok=True)
            raise
        before, after = path.stat().st_size, new_path.stat().st_size
        new_path.replace(path)
        sync_directory(directory)
        return before, after


def _copy(old: Replay, file: BinaryIO) -> None:
    """Write what `old` still says: all that it would look up, and nothing else."""
    needed = {place for row in old.unsettled.values() for place in row.places}
    needed.update(old.same_offsets.values())
    needed.add(old.timed_offset)
    settled, unknown = old.settled_millionths, old.unknown_millionths
    for n, offset in enumerate(old.verdict_offsets):
        if offset and n not in old.unsettled:
            for_certain, perhaps = verdict_millionths(old.raw_line_at(offset))
            settled -= for_certain
            unknown -= perhaps

    def take(piece: bytes, offset: int) -> None:
        fields = piece.split(b",", 2)
        if fields[0] in _VERDICTS:
            n = int(fields[1][4:])
            wanted = old.verdict_offsets[n] == offset and n not in old.unsettled
        else:
            wanted = fields[0] in _KEPT or offset in needed
        if wanted:
            file.write(piece + b"\n")
        if offset == 0 and (settled or unknown):
            file.write(encode(Sums(settled=settled / 1e6, unknown=unknown / 1e6)))

    Scan(old.scan.path).read(take)


def _check(old: Replay, new: Replay) -> None:
    """Raise JournalError unless both say the same, as far as can be seen without reading their lines."""
    for name in ("states", "digests", "contents", "settled_millionths", "unknown_millionths", "runs"):
        if getattr(old, name) != getattr(new, name):
            raise JournalError(f"{old.scan.path} cannot be compacted: {name} would differ", code=DAMAGED)
    if old.unsettled.keys() != new.unsettled.keys() or old.same_offsets.keys() != new.same_offsets.keys():
        raise JournalError(f"{old.scan.path} cannot be compacted: rows under way would differ", code=DAMAGED)
