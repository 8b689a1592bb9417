"""A journal replayed for its books: how far each row came, what was given back or sent twice, and how long it took.

One reading of the file. A million rows take seconds, as in `storage.replay`, and no more memory than that.
"""

import re
from collections import Counter
from pathlib import Path
from typing import BinaryIO, Final

from krea_async.errors import JournalError
from krea_async.storage.journal import JournalPolicy
from krea_async.storage.records import Accepted, Failed, Intent, Line, RunBegun, RunEnded
from krea_async.storage.replay import Replay, RowState

_PLANNED, _SAVED = int(RowState.PLANNED), int(RowState.SAVED)
_SECONDS: Final = re.compile(rb'"seconds":\[([0-9.e+-]+),([0-9.e+-]+),([0-9.e+-]+),([0-9.e+-]+)\],"t":')
_TAIL_BYTES: Final = 200  # of a saved line, which they are in
_KEYS_LIVE_S: Final = JournalPolicy().keys_live_s


class Ledger(Replay):
    """What a journal says, and its sums. Credits are in millionths, so that sums are exact.

    prices: how many rows were saved at each price. pictures: rows that were saved from a task of their own; seconds:
    sums over them, by the steps of `Timings`. sent_twice: rows that were sent again after a lost answer, and the tasks
    of which the gateway did not say that it knew the key; True: it may have forgotten it by then. keys_known: whether
    it ever said that it knew one. run_s: all runs together, each to its end or its last line. before, after: the
    account's credits when a run first read them, and when one last did at its end; each with what was charged until
    then. stopped_by: why the last run ended early, if it did. is_compacted: what was given back before is not known any
    more.
    """

    def __init__(self, path: Path, lookup: BinaryIO) -> None:
        """Read the journal at `path`; `lookup` is the same file. Damaged lines are left out. Raises as a `Replay`."""
        self.prices: Counter[int] = Counter()
        self.pictures = 0
        self.seconds = [0.0, 0.0, 0.0, 0.0]
        self.refunded_millionths = 0
        self.sent_twice: dict[tuple[int, str], bool] = {}
        self.keys_known = False
        self.run_s = 0.0
        self.before: tuple[float, int] | None = None
        self.after: tuple[float, int] | None = None
        self.stopped_by: str | None = None
        self.is_compacted = False
        self._run_begun_s: float | None = None
        super().__init__(path, lookup, skip_damaged=True)
        self._end_run()

    def find_line(self, offset: int) -> Line | None:
        """The line that begins there; None for one that is lost, or nowhere."""
        try:
            return self.line_at(offset) if offset else None
        except JournalError:
            return None

    # --- one row's events ---------------------------------------------------------------------------------------------

    def _accepted(self, fields: list[bytes], offset: int) -> None:
        super()._accepted(fields, offset)
        if b',"replayed":null,' in fields[3]:
            return
        line = self.find_line(offset)
        if isinstance(line, Accepted) and line.replayed:
            self.keys_known = True
        elif isinstance(line, Accepted) and line.replayed is False:
            intent = self.find_line(self.unsettled[line.n].intent)
            sent_s = intent.at_s if isinstance(intent, Intent) else 0.0
            self.sent_twice[line.n, line.task_id] = line.at_s - sent_s > _KEYS_LIVE_S

    def _saved(self, fields: list[bytes], offset: int) -> None:
        n = int(fields[1][4:])
        state = self.states[n] if n < len(self.states) else _PLANNED
        timed_offset, settled = self.timed_offset, self.settled_millionths
        super()._saved(fields, offset)
        if state == _SAVED:
            self.timed_offset = timed_offset  # fetched again, and perhaps after its run
            return
        self.prices[self.settled_millionths - settled] += 1
        if not fields[3].startswith(b'"task":null'):
            self.is_compacted = self.is_compacted or state == _PLANNED
            self.pictures += 1
            if found := _SECONDS.search(fields[3], max(0, len(fields[3]) - _TAIL_BYTES)):
                queued, waiting, generating, downloading = found.groups()
                seconds = self.seconds
                seconds[0] += float(queued)
                seconds[1] += float(waiting)
                seconds[2] += float(generating)
                seconds[3] += float(downloading)

    def _failed(self, fields: list[bytes], offset: int) -> None:
        n = self._n(fields[1])
        state, under_way = self.states[n], self.unsettled.get(n)
        super()._failed(fields, offset)
        self.is_compacted = self.is_compacted or state == _PLANNED
        line = self.find_line(offset)
        if isinstance(line, Failed) and line.charged == "no" and line.task_id is not None and state != _SAVED:
            accepted = self.find_line(under_way.accepted) if under_way else None
            reserved = accepted.credits if isinstance(accepted, Accepted) else None
            self.refunded_millionths += round((line.credits if reserved is None else reserved) * 1e6)

    # --- runs ---------------------------------------------------------------------------------------------------------

    def _run(self, fields: list[bytes], offset: int) -> None:
        self._end_run()
        super()._run(fields, offset)
        line = self.find_line(offset)
        if isinstance(line, RunBegun):
            self._run_begun_s = line.at_s
            if self.before is None and line.balance is not None:
                self.before = line.balance, self.settled_millionths if self.runs > 1 else 0

    def _end(self, fields: list[bytes], offset: int) -> None:
        super()._end(fields, offset)
        self._end_run()
        line = self.find_line(offset)
        if isinstance(line, RunEnded):
            self.stopped_by = line.stopped_by
            if line.balance is not None:
                self.after = line.balance, self.settled_millionths

    def _end_run(self) -> None:
        """The run that was begun, if one was, has ended, at the latest with the last line that has a time."""
        ended_s = getattr(self.find_line(self.timed_offset), "at_s", None)
        if self._run_begun_s is not None and ended_s is not None:
            self.run_s += max(0.0, ended_s - self._run_begun_s)
        self._run_begun_s = None

    def _sums(self, fields: list[bytes], offset: int) -> None:
        super()._sums(fields, offset)
        self.is_compacted = True
