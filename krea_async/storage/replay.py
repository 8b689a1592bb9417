"""What a journal's lines come to: for each row, how far it came, and where the lines are that say more.

Every line must fit what came before it: a row that was sent under a second key before the first had failed, or again
after it was accepted, would be paid twice. A million rows take seconds, because JSON is parsed only where a line says
something rare; what else is needed stands at a fixed place.
"""

from array import array
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from krea_async.errors import InvalidRequestError, JournalError
from krea_async.storage.records import CRC_BYTES, Accepted, Header, Intent, Line, RunBegun, Sums, decode
from krea_async.storage.scan import DAMAGED, Scan


class RowState(IntEnum):
    """How far a row came. INTENT: it may be on its way. ACCEPTED: its task is known. SAVED and FAILED are the end."""

    PLANNED = 0
    INTENT = 1
    ACCEPTED = 2
    COMPLETED = 3
    SAVED = 4
    FAILED = 5


_PLANNED, _INTENT, _ACCEPTED, _COMPLETED, _SAVED, _FAILED = map(int, RowState)
NOWHERE: Final = 0
"""The header's offset, so that of no other line."""

_DRAWN: Final = b',"drawn":true'


class Unsettled:
    """Where the lines are that say what is known of a row under way. run: the run that its key was first sent in."""

    __slots__ = ("accepted", "completed", "intent", "left", "run")

    def __init__(self, intent: int, run: int) -> None:
        self.intent = intent
        self.run = run
        self.accepted = self.completed = self.left = NOWHERE

    @property
    def places(self) -> tuple[int, int, int, int]:
        """Offsets of the intent, accepted, completed and left lines; NOWHERE for one that there is not."""
        return self.intent, self.accepted, self.completed, self.left


class Replay:
    """What a journal says. Offsets are in bytes from the file's start; credits in millionths, so that sums are exact.

    unsettled: rows under way, and planned ones that have a key. same_offsets: rows that are to be a copy of another.
    has_drawn: whether the seed of any row was drawn by us.
    """

    def __init__(self, path: Path, lookup: BinaryIO, *, skip_damaged: bool = False) -> None:
        """Read the journal at `path`; `lookup` is the same file. Raises JournalError as `Scan.read` does, and OSError.

        A line that is whole but does not fit is damage as well; with `skip_damaged` it is believed nevertheless.
        """
        self.scan = Scan(path, skip_damaged=skip_damaged)
        self.states = bytearray()
        self.digests, self.contents = array("Q"), array("Q")
        self.row_offsets, self.verdict_offsets = array("Q"), array("Q")
        self.unsettled: dict[int, Unsettled] = {}
        self.same_offsets: dict[int, int] = {}
        self.has_drawn = False
        self.settled_millionths = self.unknown_millionths = 0
        self.header: Header | None = None
        self.runs = 0
        self.run_offset = self.end_offset = self.timed_offset = NOWHERE
        self._lookup = lookup
        self._handlers: dict[bytes, Callable[[list[bytes], int], None]] = {
            b'{"e":"row"': self._row,
            b'{"e":"intent"': self._intent,
            b'{"e":"accepted"': self._accepted,
            b'{"e":"completed"': self._completed,
            b'{"e":"saved"': self._saved,
            b'{"e":"failed"': self._failed,
            b'{"e":"left"': self._left,
            b'{"e":"same"': self._same,
            b'{"e":"run"': self._run,
            b'{"e":"end"': self._end,
            b'{"e":"sums"': self._sums,
            b'{"e":"journal"': self._journal,
        }
        self._damage = self.scan.damage
        self.scan.read(self._take)

    def line_at(self, offset: int) -> Line:
        """The line that begins there. Raises JournalError if it cannot be read (any more)."""
        try:
            return decode(self.raw_line_at(offset))
        except (ValueError, TypeError, InvalidRequestError) as error:
            raise JournalError(f"{self.scan.path}, at byte {offset}: {error}", code=DAMAGED) from error

    def raw_line_at(self, offset: int) -> bytes:
        """The bytes of the line that begins there."""
        end = self.scan.torn_at
        self._lookup.seek(offset)
        return self._lookup.readline(-1 if end is None else end - offset)

    def _take(self, piece: bytes, offset: int) -> None:
        fields = piece.split(b",", 3)
        handler = self._handlers.get(fields[0])
        if handler is None:
            self._refuse(fields[0])
        try:
            handler(fields, offset)
        except (ValueError, IndexError):
            self._damage("the line cannot be read")

    def _refuse(self, event: bytes) -> NoReturn:
        run = self.line_at(self.run_offset) if self.run_offset else None
        what = f"the event {event[5:].decode(errors='replace')} is not known here"
        self.scan.refuse_newer(what, run.version if isinstance(run, RunBegun) else None)

    # --- events about a row -------------------------------------------------------------------------------------------

    def _row(self, fields: list[bytes], offset: int) -> None:
        n, digest, content = int(fields[1][4:]), int(fields[2][10:26], 16), int(fields[3][11:27], 16)
        if n != len(self.states):
            self._damage(f"row {n} comes after {len(self.states)} rows")
            if n < len(self.states):
                return
            self._make_up_to(n)
        self.states.append(_PLANNED)
        self.digests.append(digest)
        self.contents.append(content)
        self.row_offsets.append(offset)
        self.verdict_offsets.append(NOWHERE)
        self.has_drawn = self.has_drawn or fields[3].endswith(_DRAWN, 0, -CRC_BYTES)

    def _make_up_to(self, n: int) -> None:
        """Rows whose own lines are lost, but not what happened to them."""
        missing = n - len(self.states)
        self.states.extend(bytes(missing))
        for numbers in (self.digests, self.contents, self.row_offsets, self.verdict_offsets):
            numbers.extend([NOWHERE] * missing)

    def _n(self, field: bytes) -> int:
        n = int(field[4:])
        if not 0 <= n < len(self.states):
            self._damage(f"row {n} is not known")
            self._make_up_to(n + 1)
        return n

    def _intent(self, fields: list[bytes], offset: int) -> None:
        n = self._n(fields[1])
        state = self.states[n]
        self.timed_offset = offset
        before = self.unsettled.get(n)
        if state == _FAILED or (state == _PLANNED and before is None):
            self.unsettled[n] = Unsettled(offset, self.runs)
        elif before is None or state > _INTENT:
            self._damage(f"row {n} was sent again after it was {RowState(state).name.lower()}")
            return
        elif not self._has_key(before, fields[2]):
            self._damage(f"row {n} got a second key before the first had failed")
            self.unsettled[n] = Unsettled(offset, self.runs)
        elif state == _PLANNED:  # what was sent under this key before was certainly not accepted
            self.unsettled[n] = Unsettled(offset, self.runs)
        self.states[n] = _INTENT

    def _has_key(self, before: Unsettled, field: bytes) -> bool:
        line = self.line_at(before.intent) if before.intent else None
        return isinstance(line, Intent) and field == b'"key":"%b"' % line.key.encode()

    def _accepted(self, fields: list[bytes], offset: int) -> None:
        n = self._n(fields[1])
        self.timed_offset = offset
        under_way = self.unsettled.get(n)
        if under_way is None or self.states[n] == _PLANNED:
            self._damage(f"row {n} was accepted without being sent")
            under_way = self.unsettled.setdefault(n, Unsettled(NOWHERE, self.runs))
        elif self.states[n] != _INTENT:
            line = self.line_at(under_way.accepted) if under_way.accepted else None
            if isinstance(line, Accepted) and fields[2] == b'"task":"%b"' % line.task_id.encode():
                return
            self._damage(f"row {n} got a second task")
        under_way.accepted = offset
        self.states[n] = _ACCEPTED

    def _completed(self, fields: list[bytes], offset: int) -> None:
        n = self._n(fields[1])
        self.timed_offset = offset
        under_way = self.unsettled.get(n)
        if under_way is None or self.states[n] not in (_ACCEPTED, _COMPLETED):
            self._damage(f"row {n} was completed without being accepted")
            if self.states[n] in (_SAVED, _FAILED):
                return
            under_way = self.unsettled.setdefault(n, Unsettled(NOWHERE, self.runs))
        under_way.completed = offset
        self.states[n] = _COMPLETED

    def _saved(self, fields: list[bytes], offset: int) -> None:
        n = self._n(fields[1])
        millionths = _millionths(fields[2])
        if self.states[n] >= _SAVED:
            self._take_back(self.verdict_offsets[n])
        self.settled_millionths += millionths
        self._settle(n, _SAVED, offset)

    def _failed(self, fields: list[bytes], offset: int) -> None:
        n = self._n(fields[1])
        settled, unknown = verdict_millionths(b",".join(fields))
        if self.states[n] >= _SAVED:
            self._take_back(self.verdict_offsets[n])
        self.settled_millionths += settled
        self.unknown_millionths += unknown
        self._settle(n, _FAILED, offset)

    def _settle(self, n: int, state: int, offset: int) -> None:
        self.timed_offset = offset
        self.unsettled.pop(n, None)
        if self.same_offsets:
            self.same_offsets.pop(n, None)
        self.states[n] = state
        self.verdict_offsets[n] = offset

    def _take_back(self, offset: int) -> None:
        """Forget the credits of a verdict that another one replaces: no key was used in between, so none was spent."""
        settled, unknown = verdict_millionths(self.raw_line_at(offset))
        self.settled_millionths -= settled
        self.unknown_millionths -= unknown

    def _left(self, fields: list[bytes], offset: int) -> None:
        n = self._n(fields[1])
        self.timed_offset = offset
        under_way = self.unsettled.get(n)
        if under_way is None or self.states[n] == _PLANNED:
            return
        under_way.left = offset
        # What this run says of its own tries says nothing of an earlier run's, whose answer may have been lost.
        if self.states[n] == _INTENT and fields[2] == b'"charged":"no"' and under_way.run == self.runs:
            self.states[n] = _PLANNED

    def _same(self, fields: list[bytes], offset: int) -> None:
        n = self._n(fields[1])
        if not 0 <= int(fields[2][5:]) < len(self.states):
            self._damage(f"row {n} is the same as one that is not known")
        elif self.states[n] < _SAVED:
            self.same_offsets[n] = offset

    # --- other events -------------------------------------------------------------------------------------------------

    def _journal(self, _fields: list[bytes], offset: int) -> None:
        line = self.line_at(offset)
        if offset or not isinstance(line, Header):
            self._damage("a second journal begins here")
        else:
            self.header = line

    def _run(self, _fields: list[bytes], offset: int) -> None:
        self.runs += 1
        self.run_offset = self.timed_offset = offset
        self.end_offset = NOWHERE

    def _end(self, _fields: list[bytes], offset: int) -> None:
        self.end_offset = self.timed_offset = offset

    def _sums(self, _fields: list[bytes], offset: int) -> None:
        line = self.line_at(offset)
        if isinstance(line, Sums):
            self.settled_millionths += round(line.settled * 1e6)
            self.unknown_millionths += round(line.unknown * 1e6)


def verdict_millionths(line: bytes) -> tuple[int, int]:
    """What a saved or failed row cost, in millionths of a credit: for certain, and perhaps."""
    fields = line.split(b",", 3)
    millionths = _millionths(fields[2])
    if fields[0] == b'{"e":"saved"' or fields[3].startswith(b'"charged":"yes"'):
        return millionths, 0
    return (0, millionths) if fields[3].startswith(b'"charged":"unknown"') else (0, 0)


@lru_cache(maxsize=1024)
def _millionths(field: bytes) -> int:
    key, _, number = field.partition(b":")
    if key != b'"credits"':
        raise ValueError(field)
    return round(float(number) * 1e6)
