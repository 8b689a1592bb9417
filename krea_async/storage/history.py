"""What an output directory remembers: how far each row of earlier runs came, and which row a request is.

Rows are kept in arrays, 33 bytes each; only rows under way are objects. Everything else is read at its place in the
file when it is asked for.
"""

import io
import os
import stat
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, cast

from krea_async.errors import DISK_ERROR, JournalError, words_of
from krea_async.models import ImageRequest
from krea_async.storage.open_row import OpenRow
from krea_async.storage.records import (
    Accepted,
    Completed,
    Failed,
    Intent,
    Left,
    Row,
    RunBegun,
    RunEnded,
    Same,
    Saved,
    content_digest_of,
    digest_of,
)
from krea_async.storage.replay import Replay, RowState
from krea_async.storage.scan import DAMAGED

JOURNAL_NAME: Final = "journal.jsonl"

_OPEN: Final = (RowState.INTENT, RowState.ACCEPTED, RowState.COMPLETED)


class History:
    """What the journal at `path` says; one that is missing or empty says nothing. For one thread; close it at the end.

    Raises JournalError when it is damaged (with `skip_damaged` it goes on and tells the lines in `damaged`), when a
    later krea-async wrote it, and with the code "disk_error" when it cannot be read.
    """

    def __init__(self, path: Path, *, skip_damaged: bool = False) -> None:
        self.path = path
        self._lookup = _opened(path)
        try:
            self._replay = Replay(path, self._lookup, skip_damaged=skip_damaged)
        except OSError as error:
            self._lookup.close()
            raise _unreadable(path, error) from error
        except BaseException:
            self._lookup.close()
            raise
        self.torn_at = self._replay.scan.torn_at
        """The byte from which on a crash left what is no line: to be cut before anything is appended."""
        self.unended = self._replay.scan.unended
        """Whether the last line lacks its newline: to be added before anything is appended."""
        self.damaged = tuple(self._replay.scan.damaged)
        """Numbers of the lines, from 1, that were skipped, or do not fit what came before them."""
        self._taken = bytearray(len(self._replay.states))
        self._next = 0  # all rows before this one are taken
        self._by_digest: array[int] | None = None
        self._free: array[int] = array("Q")
        self._saved_by_content: array[int] | None = None

    def close(self) -> None:
        """Close the file. Queries that read it fail from now on."""
        self._lookup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    # --- the whole ----------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """How many rows there are; the next one's number."""
        return len(self._replay.states)

    @property
    def runs(self) -> int:
        """How many runs were begun."""
        return self._replay.runs

    @property
    def first_s(self) -> float | None:
        """When the journal was begun, in Unix seconds; None if it is empty."""
        return None if self._replay.header is None else self._replay.header.at_s

    @property
    def last_s(self) -> float | None:
        """When the last line that has a time was written, in Unix seconds; None if there is none."""
        line = self._replay.line_at(self._replay.timed_offset) if self._replay.timed_offset else self._replay.header
        return getattr(line, "at_s", None)

    @property
    def credits_settled(self) -> float:
        """Credits charged for rows that were saved, or failed and were charged; all rounds of a row count."""
        return self._replay.settled_millionths / 1e6

    @property
    def credits_unknown(self) -> float:
        """Credits of rows that failed, where nobody knows whether they were charged."""
        return self._replay.unknown_millionths / 1e6

    @property
    def last_run(self) -> RunBegun | None:
        """How the last run began."""
        line = self._replay.line_at(self._replay.run_offset) if self._replay.run_offset else None
        return line if isinstance(line, RunBegun) else None

    @property
    def last_end(self) -> RunEnded | None:
        """How the last run ended; None if it was killed, or there was none."""
        line = self._replay.line_at(self._replay.end_offset) if self._replay.end_offset else None
        return line if isinstance(line, RunEnded) else None

    @property
    def lost_rows(self) -> int:
        """How many rows are lost."""
        return self._replay.row_offsets.count(0)

    @property
    def has_drawn(self) -> bool:
        """Whether the seed of any row was drawn by us."""
        return self._replay.has_drawn

    def count(self, state: RowState) -> int:
        """How many rows are in `state`."""
        return self._replay.states.count(state)

    # --- one row ------------------------------------------------------------------------------------------------------

    def state(self, n: int) -> RowState:
        """How far row `n` came. Raises LookupError if there is no such row, as all that take an `n` do."""
        return RowState(self._replay.states[self._known(n)])

    def row(self, n: int) -> Row:
        """The row's line. Raises JournalError if it is lost."""
        offset = self._replay.row_offsets[self._known(n)]
        line = self._replay.line_at(offset) if offset else None
        if not isinstance(line, Row):
            raise JournalError(f"{self.path}: the line of row {n} is lost", code=DAMAGED)
        return line

    def is_lost(self, n: int) -> bool:
        """Whether the row's line is lost, which only a damaged journal has: nobody knows what was asked for."""
        return not self._replay.row_offsets[self._known(n)]

    def request(self, n: int) -> ImageRequest:
        """What was asked for. Raises JournalError if the row's line is lost."""
        return self.row(n).request

    def index(self, n: int) -> int:
        """The row's number in its list. Raises JournalError if the row's line is lost."""
        return self.row(n).index

    def saved(self, n: int) -> Saved:
        """The picture of a saved row. Raises LookupError for any other."""
        if self.state(n) is not RowState.SAVED:
            raise LookupError(f"row {n} is not saved")
        return cast("Saved", self._replay.line_at(self._replay.verdict_offsets[n]))

    def failed(self, n: int) -> Failed:
        """Why a row failed. Raises LookupError if it did not."""
        if self.state(n) is not RowState.FAILED:
            raise LookupError(f"row {n} did not fail")
        return cast("Failed", self._replay.line_at(self._replay.verdict_offsets[n]))

    def same_as(self, n: int) -> int | None:
        """The row whose picture this one, which is not settled, is to be a copy of."""
        offset = self._replay.same_offsets.get(self._known(n))
        line = self._replay.line_at(offset) if offset else None
        return line.of if isinstance(line, Same) else None

    def open_rows(self) -> Iterator[OpenRow]:
        """The rows under way, in the order of their numbers."""
        for n in sorted(self._replay.unsettled):
            if self._replay.states[n] in _OPEN:
                yield self._known_of(n)

    def kept_key(self, n: int) -> OpenRow | None:
        """What is left of a try that was certainly not accepted: the row is to be sent under the same key again."""
        planned = self.state(n) is RowState.PLANNED
        return self._known_of(n) if planned and n in self._replay.unsettled else None

    def _known_of(self, n: int) -> OpenRow:
        places = self._replay.unsettled[n].places
        intent, accepted, completed, left = (self._replay.line_at(place) if place else None for place in places)
        return OpenRow(
            n=n,
            state=self.state(n),
            intent=intent if isinstance(intent, Intent) else None,
            accepted=accepted if isinstance(accepted, Accepted) else None,
            completed=completed if isinstance(completed, Completed) else None,
            left=left if isinstance(left, Left) else None,
        )

    def _known(self, n: int) -> int:
        if not 0 <= n < self.rows:
            raise LookupError(f"there is no row {n}")
        return n

    # --- which row a request is ---------------------------------------------------------------------------------------

    def match(self, request: ImageRequest) -> int | None:
        """The first row of this id, or else of this content, that no earlier call took; None if there is none.

        So equal requests are several pictures, and one that is new at the top of a list shifts no other.
        """
        digest, digests = digest_of(request), self._replay.digests
        n: int | None = self._next
        if self._next >= len(digests) or self._taken[self._next] or digests[self._next] != digest:
            n = self._first_free(digest)
        if n is not None:
            self._taken[n] = 1
            self._next += n == self._next
        return n

    def saved_like(self, request: ImageRequest) -> Iterator[int]:
        """The rows that were saved with the content of `request`. The index is built at the first call."""
        contents, digest = self._replay.contents, content_digest_of(request)
        if self._saved_by_content is None:
            saved = (n for n, state in enumerate(self._replay.states) if state == RowState.SAVED)
            self._saved_by_content = array("Q", sorted(saved, key=contents.__getitem__))
        order = self._saved_by_content
        for place in range(bisect_left(order, digest, key=contents.__getitem__), len(order)):
            if contents[order[place]] != digest:
                return
            yield order[place]

    def changed(self, n: int, request: ImageRequest) -> bool:
        """Whether row `n` was recorded with other content than `request` has; its id may be the same."""
        return self._replay.contents[self._known(n)] != content_digest_of(request)

    def _first_free(self, digest: int) -> int | None:
        """The index is built at the first call: a list in the journal's order never needs it."""
        digests = self._replay.digests
        if self._by_digest is None:
            known = (n for n, offset in enumerate(self._replay.row_offsets) if offset)
            self._by_digest = array("Q", sorted(known, key=digests.__getitem__))
            self._free = array("Q", range(len(self._by_digest)))
        order = self._by_digest
        first = bisect_left(order, digest, key=digests.__getitem__)
        if first == len(order):
            return None
        place = self._free[first]  # where to look first, so that many equal rows cost no more than others
        while place < len(order) and digests[order[place]] == digest and self._taken[order[place]]:
            place += 1
        self._free[first] = place
        return order[place] if place < len(order) and digests[order[place]] == digest else None


def _opened(path: Path) -> BinaryIO:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return io.BytesIO()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # some, such as /dev/zero, have no end
        file.close()
        raise JournalError(f"{path} is no plain file: move it out of the way", code=DISK_ERROR)
    return file


def _unreadable(path: Path, error: OSError) -> JournalError:
    return JournalError(f"cannot read {path}: {words_of(error)}", code=DISK_ERROR)
