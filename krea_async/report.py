"""The books of one directory, from its journal: what came of the rows, what it cost, and where the time went.

One pass over the lines, with some 20 bytes of memory a row, and more only for rows whose end is not known. What stands
at a fixed place is read without parsing JSON. It only reads, and may do so while a run goes on.
"""

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from attrs import asdict, define, frozen

from krea_async.errors import InvalidRequestError, JournalError
from krea_async.models import ImageRequest
from krea_async.results import UnknownOutcome
from krea_async.storage.disk import DISK_ERROR
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.records import Failed, Left, Line, Row, decode
from krea_async.storage.replay import RowState
from krea_async.storage.scan import Scan

NO_JOURNAL: Final = "no_journal"
"""Our own error code for a directory that nothing was rendered into."""

SHOWN_PROMPT_CHARS: Final = 80
SHOWN_ROWS: Final = 50
BALANCE_NOTE: Final = "whoever else uses the account changes its balance too, and so do credits reserved or unknown"
UNANSWERED: Final = "it was sent, and no answer is recorded"

_TIERS: Final = (ImageRequest("-"), ImageRequest("-", quality="2K"))
_TIME: Final = re.compile(rb'"t":([0-9.e+-]+),"crc":"[0-9a-f]{8}"\}\Z')
_SECONDS: Final = re.compile(rb'"seconds":\[([0-9.e+,-]*)\],"t":[0-9.e+-]+,"crc":"[0-9a-f]{8}"\}\Z')
_STEPS: Final = ("queued", "generating", "downloading")
_TAIL_BYTES: Final = 200
_MAX_CODES: Final = 1000  # the rest are counted as one, for the gateway may invent any number of them
_PLANNED, _INTENT, _ACCEPTED, _COMPLETED, _SAVED, _FAILED = map(int, RowState)


@frozen(kw_only=True)
class FailureCount:
    """Rows that failed with one code (or the error's class where it had none), and what one of them was told."""

    code: str
    count: int
    example: str


@frozen(kw_only=True)
class OpenTask:
    """A task that was accepted and has not ended. credits: reserved, or by the price list."""

    index: int | None
    task_id: str
    credits: float


@frozen(kw_only=True)
class RepeatedRow:
    """A row that was sent again after an answer was lost, and that the gateway did not know the key of."""

    index: int | None
    prompt: str | None
    task_id: str


@frozen(kw_only=True)
class BalanceChange:
    """What the account says, in credits: before the first run and after the last end where it was read.

    charged: by the journal, in the same time. difference: how much more the balance fell than that.
    """

    before: float
    after: float
    charged: float
    difference: float
    note: str = BALANCE_NOTE


@frozen(kw_only=True)
class DirectoryReport:
    """The books of a directory.

    rows: by state (`storage.replay.RowState`, in lower case). credits: charged for sure; refunded: reserved once, for
    rows that failed and were not charged; reserved: for open tasks; unknown: of rows of which nobody knows. usd: the
    charged ones by the price list. failures: of rows that are failed now. seconds: sums over `pictures`, those that had
    a task of their own. runs, run_s: how many, and how long they took together. first_s, last_s: Unix seconds of the
    journal's begin and its last line. unknown: rows that may have been charged, or were, and have no picture.
    may_be_charged_twice: empty once the gateway was seen to honour a key (`keys_honoured`). compacted: what was
    refunded or sent twice before is not known any more. damaged_lines: left out, from 1.
    """

    directory: Path
    rows: Mapping[str, int]
    credits_charged: float
    credits_refunded: float
    credits_reserved: float
    credits_unknown: float
    usd: float
    balance: BalanceChange | None
    failures: tuple[FailureCount, ...]
    pictures: int
    seconds: Mapping[str, float]
    runs: int
    run_s: float
    first_s: float | None
    last_s: float | None
    unknown: tuple[UnknownOutcome, ...]
    open_tasks: tuple[OpenTask, ...]
    may_be_charged_twice: tuple[RepeatedRow, ...]
    keys_honoured: bool
    compacted: bool
    damaged_lines: tuple[int, ...]

    @property
    def seconds_per_picture(self) -> dict[str, float]:
        """Means of `seconds`; empty without pictures."""
        return {step: round(total / self.pictures, 3) for step, total in self.seconds.items()} if self.pictures else {}

    @property
    def pictures_per_minute(self) -> float | None:
        """Pictures per minute of run time; None without any."""
        return round(60 * self.pictures / self.run_s, 2) if self.run_s > 0 else None

    def as_json(self) -> dict[str, Any]:
        """For programs: this class's fields and properties under their names."""
        facts = asdict(self, retain_collection_types=False)
        facts["directory"] = str(self.directory)
        facts["seconds_per_picture"] = self.seconds_per_picture
        facts["pictures_per_minute"] = self.pictures_per_minute
        return facts

    def as_text(self) -> list[str]:
        """For people: lines without control characters."""
        return [plain(line) for line in _text(self)]


def directory_report(directory: Path) -> DirectoryReport:
    """The books of `directory`, from its journal. Blocks. Damaged lines are left out and told.

    Raises JournalError: there is no journal ("no_journal"), it is newer, or it cannot be read ("disk_error").
    """
    path = directory / JOURNAL_NAME
    try:
        with path.open("rb") as lookup:
            return _Pass(path, lookup).report(directory)
    except (FileNotFoundError, NotADirectoryError):
        raise no_journal(directory) from None
    except OSError as error:
        raise JournalError(f"cannot read {path}: {error.strerror or error}", code=DISK_ERROR) from error


def no_journal(directory: Path) -> JournalError:
    """What to tell somebody who names the wrong directory."""
    return JournalError(f"{directory} has no {JOURNAL_NAME}: nothing was rendered into it", code=NO_JOURNAL)


def plain(text: str) -> str:
    """`text` as a terminal may show it: escapes instead of what is not printable."""
    return "".join(ch if ch.isprintable() else ascii(ch)[1:-1] for ch in text)


@define(eq=False)
class _UnderWay:
    """A row between its intent and its end. run: that it was first sent in. left_at: the line that gave it up."""

    run: int
    task_id: str | None = None
    millionths: int | None = None
    left_at: int = 0


class _Pass:
    """The journal, read once. Credits are in millionths, so that sums are exact."""

    def __init__(self, path: Path, lookup: BinaryIO) -> None:
        self._lookup = lookup
        self._scan = Scan(path, skip_damaged=True)
        self._states, self._tiers = bytearray(), bytearray()
        self._row_places, self._verdicts = array("Q"), array("q")  # a verdict: charged, or minus what is unknown
        self._codes = array("H")
        self._code_numbers: dict[str, int] = {"": 0}
        self._failures: Counter[int] = Counter()
        self._examples: dict[int, str] = {}
        self._under_way: dict[int, _UnderWay] = {}
        self._unsure: dict[int, int] = {}  # rows that failed and were, or may have been, charged: where it says so
        self._repeated: dict[int, str] = {}
        self._keys_honoured = False
        self._charged = self._refunded = self._unknown = self._summed = 0
        self._charged_rows = [0, 0]
        self._pictures, self._seconds = 0, [0.0, 0.0, 0.0]
        self._compacted = False
        self._runs, self._run_s = 0, 0.0
        self._run_begun_s: float | None = None
        self._first_s: float | None = None
        self._last_line, self._last_line_of_run = b"", b""
        self._before: tuple[float, int] | None = None  # balance, and what was charged until then
        self._after: tuple[float, int] | None = None
        handlers: dict[bytes, Callable[[int, bytes, int], None]] = {
            b"intent": self._intent,
            b"accepted": self._accepted,
            b"completed": self._completed,
            b"saved": self._saved,
            b"failed": self._failed,
            b"left": self._left,
        }
        self._row_handlers = {b'{"e":"%b"' % event: handler for event, handler in handlers.items()}
        self._scan.read(self._take)

    def _take(self, piece: bytes, offset: int) -> None:
        event, _, rest = piece.partition(b",")
        try:
            if event == b'{"e":"row"':
                self._row(piece, offset)
            elif handler := self._row_handlers.get(event):
                n = int(rest[4 : rest.index(b",")])
                if not 0 <= n < len(self._states):
                    self._scan.damage(f"row {n} is not known")
                    return
                self._last_line = piece
                if not (self._states[n] == _SAVED and handler == self._saved):  # a repair is no part of a run
                    self._last_line_of_run = piece
                handler(n, piece, offset)
            else:
                self._other(piece)
        except (ValueError, IndexError, KeyError, TypeError):
            self._scan.damage("the line cannot be read")

    def _row(self, piece: bytes, offset: int) -> None:
        n = int(piece[15 : piece.index(b",", 15)])
        if n < len(self._states):
            self._scan.damage(f"row {n} comes after {len(self._states)} rows")
            return
        missing = n - len(self._states)  # rows whose own lines are lost
        self._states.extend(bytes(missing + 1))
        self._tiers.extend(bytes(missing))
        self._tiers.append(b',"quality":"2K"' in piece)  # a prompt cannot hold this: its quotes are escaped
        self._row_places.extend([0] * missing + [offset])
        self._verdicts.extend([0] * (missing + 1))
        self._codes.extend([0] * (missing + 1))

    # --- one row's events ---------------------------------------------------------------------------------------------

    def _intent(self, n: int, _piece: bytes, _offset: int) -> None:
        if self._states[n] != _INTENT or n not in self._under_way:
            self._under_way[n] = _UnderWay(self._runs)
        self._no_failure(n)
        self._states[n] = _INTENT

    def _accepted(self, n: int, piece: bytes, _offset: int) -> None:
        facts = json.loads(piece)
        row = self._under_way.setdefault(n, _UnderWay(self._runs))
        row.task_id = str(facts["task"])
        row.millionths = None if facts["credits"] is None else round(facts["credits"] * 1e6)
        replayed = facts.get("replayed")
        self._keys_honoured = self._keys_honoured or replayed is True
        if replayed is False:
            self._repeated[n] = row.task_id
        if self._states[n] != _COMPLETED:
            self._states[n] = _ACCEPTED

    def _completed(self, n: int, _piece: bytes, _offset: int) -> None:
        if self._states[n] < _SAVED:
            self._states[n] = _COMPLETED

    def _left(self, n: int, piece: bytes, offset: int) -> None:
        row = self._under_way.get(n)
        if row is None:
            return
        row.left_at = offset
        if self._states[n] == _INTENT and b',"charged":"no"' in piece[:60] and row.run == self._runs:
            self._states[n] = _PLANNED

    def _saved(self, n: int, piece: bytes, _offset: int) -> None:
        fields = piece.split(b",", 3)
        is_again = self._states[n] == _SAVED
        self._settle(n, _SAVED, _millionths(float(fields[2].removeprefix(b'"credits":'))))
        if not is_again and not fields[3].startswith(b'"task":null'):
            self._pictures += 1
            if seconds := _SECONDS.search(piece, max(0, len(piece) - _TAIL_BYTES)):
                for step, value in enumerate(seconds[1].split(b",")[:3]):
                    self._seconds[step] += float(value)

    def _failed(self, n: int, piece: bytes, offset: int) -> None:
        facts = json.loads(piece)
        millionths = _millionths(facts["credits"])
        row = self._under_way.get(n)
        if facts["charged"] == "no" and row is not None and row.task_id is not None:
            self._refunded += self._price(n) if row.millionths is None else row.millionths
        self._settle(n, _FAILED, {"yes": millionths, "unknown": -millionths}.get(facts["charged"], 0))
        if facts["charged"] != "no":
            self._unsure[n] = offset
        code = str(facts["code"] or facts["error"])
        number = self._code_numbers.get(code)
        if number is None:
            code = code if len(self._code_numbers) < _MAX_CODES else "other"
            number = self._code_numbers.setdefault(code, len(self._code_numbers))
            self._examples.setdefault(number, str(facts["message"]))
        self._failures[number] += 1
        self._codes[n] = number

    def _settle(self, n: int, state: int, verdict: int) -> None:
        if self._states[n] >= _SAVED:  # it replaces another one, and nothing was sent in between
            self._count(n, self._verdicts[n], -1)
        self._count(n, verdict, 1)
        self._no_failure(n)
        self._under_way.pop(n, None)
        self._verdicts[n] = verdict
        self._states[n] = state

    def _count(self, n: int, verdict: int, sign: int) -> None:
        if verdict > 0:
            self._charged += sign * verdict
            self._charged_rows[self._tiers[n]] += sign
        else:
            self._unknown -= sign * verdict

    def _no_failure(self, n: int) -> None:
        self._unsure.pop(n, None)
        if self._codes[n]:
            self._failures[self._codes[n]] -= 1
            self._codes[n] = 0

    def _price(self, n: int) -> int:
        return _millionths(_TIERS[self._tiers[n]].credits)

    # --- other events -------------------------------------------------------------------------------------------------

    def _other(self, piece: bytes) -> None:
        facts = json.loads(piece)
        name = facts["e"]
        if name == "journal":
            self._first_s = facts["t"]
        elif name == "sums":
            self._compacted = True
            self._summed += _millionths(facts["settled"])
            self._unknown += _millionths(facts["unknown"])
        elif name == "run":
            self._end_run()
            self._last_line = self._last_line_of_run = piece
            self._runs += 1
            self._run_begun_s = facts["t"]
            if self._before is None and facts["balance"] is not None:
                self._before = facts["balance"], self._charged
        elif name == "end":
            self._last_line = self._last_line_of_run = piece
            self._end_run()
            if facts["balance"] is not None:
                self._after = facts["balance"], self._charged
        elif name != "same":
            self._scan.refuse_newer(f"the event {name!r} is not known here", None)

    def _end_run(self) -> None:
        """The run that was begun, if one was, has ended, at the latest with the last line that is of a run."""
        ended_s = _time_of(self._last_line_of_run)
        if self._run_begun_s is not None and ended_s is not None:
            self._run_s += max(0.0, ended_s - self._run_begun_s)
        self._run_begun_s = None

    # --- the sum of it ------------------------------------------------------------------------------------------------

    def report(self, directory: Path) -> DirectoryReport:
        """What all lines come to. Raises OSError."""
        self._end_run()
        open_tasks = [
            (n, row) for n, row in sorted(self._under_way.items()) if self._states[n] in (_ACCEPTED, _COMPLETED)
        ]
        reserved = {n: self._price(n) if row.millionths is None else row.millionths for n, row in open_tasks}
        unanswered = [n for n in sorted(self._under_way) if self._states[n] == _INTENT]
        codes = {number: code for code, number in self._code_numbers.items()}
        summed_usd = self._summed / 1e6 * _TIERS[0].usd / _TIERS[0].credits
        usd = sum(count * tier.usd for count, tier in zip(self._charged_rows, _TIERS, strict=True))
        return DirectoryReport(
            directory=directory,
            rows={state.name.lower(): self._states.count(state) for state in RowState},
            credits_charged=(self._charged + self._summed) / 1e6,
            credits_refunded=self._refunded / 1e6,
            credits_reserved=sum(reserved.values()) / 1e6,
            credits_unknown=(self._unknown + sum(map(self._price, unanswered))) / 1e6,
            usd=round(usd + summed_usd, 6),
            balance=self._balance(),
            failures=tuple(
                FailureCount(code=codes[number], count=count, example=self._examples[number])
                for number, count in self._failures.most_common()
                if count > 0
            ),
            pictures=self._pictures,
            seconds={step: round(total, 3) for step, total in zip(_STEPS, self._seconds, strict=True)},
            runs=self._runs,
            run_s=round(self._run_s, 3),
            first_s=self._first_s,
            last_s=_time_of(self._last_line) or self._first_s,
            unknown=tuple(self._unknown_rows(unanswered)),
            open_tasks=tuple(
                OpenTask(index=self._asked(n)[0], task_id=row.task_id or "", credits=reserved[n] / 1e6)
                for n, row in open_tasks
            ),
            may_be_charged_twice=tuple(
                RepeatedRow(index=index, prompt=prompt, task_id=self._repeated[n])
                for n in sorted(() if self._keys_honoured else self._repeated)
                for index, prompt in (self._asked(n),)
            ),
            keys_honoured=self._keys_honoured,
            compacted=self._compacted,
            damaged_lines=tuple(self._scan.damaged),
        )

    def _balance(self) -> BalanceChange | None:
        if self._before is None or self._after is None:
            return None
        (before, charged_before), (after, charged_after) = self._before, self._after
        charged = (charged_after - charged_before + self._summed) / 1e6
        difference = round(before - after - charged, 6)
        return BalanceChange(before=before, after=after, charged=charged, difference=difference)

    def _unknown_rows(self, unanswered: list[int]) -> Iterator[UnknownOutcome]:
        for n in sorted([*self._unsure, *unanswered]):
            index, prompt = self._asked(n)
            place = self._unsure.get(n) or self._under_way[n].left_at
            line = self._line_at(place) if place else None
            yield UnknownOutcome(
                index=index,
                prompt=prompt,
                task_id=line.task_id if isinstance(line, Failed) else None,
                charged=line.charged if isinstance(line, Failed) else "unknown",
                reason=line.message if isinstance(line, Failed | Left) else UNANSWERED,
            )

    def _asked(self, n: int) -> tuple[int | None, str | None]:
        """The row's index, and how its prompt begins."""
        line = self._line_at(self._row_places[n]) if self._row_places[n] else None
        return (line.index, line.request.prompt[:SHOWN_PROMPT_CHARS]) if isinstance(line, Row) else (None, None)

    def _line_at(self, offset: int) -> Line | None:
        self._lookup.seek(offset)
        try:
            return decode(self._lookup.readline())
        except (ValueError, TypeError, InvalidRequestError):
            return None


def _millionths(credits_: float) -> int:
    return round(credits_ * 1e6)


def _time_of(line: bytes) -> float | None:
    """Unix seconds of a line; None for one without a time."""
    found = _TIME.search(line, max(0, len(line) - _TAIL_BYTES))
    return float(found[1]) if found else None


# --- for people -------------------------------------------------------------------------------------------------------


def _text(report: DirectoryReport) -> Iterator[str]:
    count = sum(report.rows.values())
    times = " to ".join(map(_moment, filter(None, (report.first_s, report.last_s))))
    yield f"{report.directory}: {count} rows, {report.runs} runs, {times}"
    yield _entry("rows", ", ".join(f"{rows} {state}" for state, rows in report.rows.items() if rows) or "none")
    dollars = f"  (${report.usd:.2f} by the price list)"
    for name in ("charged", "refunded", "reserved", "unknown"):
        value = getattr(report, f"credits_{name}")
        yield _entry("credits" if name == "charged" else "", f"{name:<9}{value:>12.2f}{dollars}")
        dollars = ""
    if report.balance is not None:
        change = report.balance
        fell = f"{change.before:.2f} before, {change.after:.2f} after: {change.before - change.after:.2f} less"
        yield _entry("balance", f"{fell}; charged {change.charged:.2f}, difference {change.difference:.2f}")
        if change.difference:
            yield _entry("", change.note)
    for step, total in report.seconds.items():
        mean = f", {report.seconds_per_picture[step]:.2f} s a picture" if report.pictures else ""
        yield _entry("time" if step == _STEPS[0] else "", f"{step:<12}{total:>12.1f} s{mean}")
    if report.pictures_per_minute is not None:
        yield _entry("speed", f"{report.pictures_per_minute:.1f} pictures a minute, in {report.run_s:.0f} s of runs")
    yield from _list("failed", [f"{one.count} x {one.code}: {one.example}" for one in report.failures])
    yield from _list("unknown", [_unknown_text(row) for row in report.unknown])
    yield from _list("open", [f"row {one.index}, task {one.task_id}" for one in report.open_tasks])
    twice = [f"row {row.index}, task {row.task_id}: {row.prompt}" for row in report.may_be_charged_twice]
    yield from _list("twice?", twice)
    if twice:
        yield _entry("", "these were sent again after a lost answer, and may have been charged twice")
    if report.compacted:
        yield _entry("compacted", "what was refunded or sent twice before that is not known any more")
    if report.damaged_lines:
        yield _entry("damaged", f"lines {', '.join(map(str, report.damaged_lines[:SHOWN_ROWS]))}; they are left out")


def _unknown_text(row: UnknownOutcome) -> str:
    charged = "charged" if row.charged == "yes" else "may be charged"
    return f"row {row.index} ({row.prompt}), task {row.task_id or 'unknown'}, {charged}: {row.reason}"


def _list(name: str, lines: list[str]) -> Iterator[str]:
    for place, line in enumerate(lines[:SHOWN_ROWS]):
        yield _entry("" if place else name, line)
    if len(lines) > SHOWN_ROWS:
        yield _entry("", f"and {len(lines) - SHOWN_ROWS} more; --json lists them all")


def _entry(name: str, text: str) -> str:
    return f"{name:<10}{text}"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
