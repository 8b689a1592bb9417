"""The books of one directory, from its journal: what came of the rows, what it cost, and where the time went.

In the words of `results.BatchReport`, which tells of one run what this tells of all of them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from attrs import asdict, fields, frozen

from krea_async.audit.ledger import Ledger
from krea_async.audit.prices import usd_of
from krea_async.audit.recorded import no_journal
from krea_async.errors import DISK_ERROR, Charged, JournalError
from krea_async.models import ImageRequest
from krea_async.results import Timings, UnknownOutcome
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.records import Accepted, Completed, Failed, Left, Row
from krea_async.storage.replay import RowState

UNANSWERED: Final = "it was sent, and no answer is recorded"
SENT_TWICE: Final = "it was sent again after a lost answer, and the gateway did not say that it knew its key"
NO_END: Final = "its task was accepted, and no end of it is recorded"

_MAX_CODES: Final = 1000  # the rest are counted as one, for the gateway may invent any number of them


@frozen(kw_only=True)
class DirectoryReport:
    """The books of a directory.

    states: rows by `storage.replay.RowState`, in lower case. credits: charged for sure; refunded: reserved once, for
    rows that failed and were not charged; reserved: for open tasks; unknown: of rows of which nobody knows. usd: the
    charged ones by the price list. failures: rows that are failed now, by error code; examples: what one row of each
    code was told. unknown: rows that may have been charged, or were, and ended without a picture. open_tasks: accepted,
    and no end is recorded; those that made their picture are charged. maybe_twice: rows that may have been charged
    twice, because the gateway never showed that it honours idempotency keys; once it has, only those that were sent
    again when it may have forgotten theirs, by the default of `JournalPolicy`. balance_before, balance_after: credits
    of the account when a run first read them, and when one last did at its end; balance_difference: how much more it
    fell meanwhile than was charged, for whoever else uses the account, and for credits reserved or unknown. pictures,
    seconds: those that had a task of their own, and sums over them. runs, wall_s: how many, and how long they took
    together. first_s, last_s: Unix seconds of the journal's begin and its last line. stopped_by: the code of what ended
    the last run before its list did. compacted: what was refunded before is not known any more. damaged_lines: left
    out, from 1.
    """

    directory: Path
    states: Mapping[str, int]
    credits: float
    credits_refunded: float
    credits_reserved: float
    credits_unknown: float
    usd: float
    failures: Mapping[str, int]
    examples: Mapping[str, str]
    unknown: tuple[UnknownOutcome, ...]
    open_tasks: tuple[UnknownOutcome, ...]
    maybe_twice: tuple[UnknownOutcome, ...]
    balance_before: float | None
    balance_after: float | None
    balance_difference: float | None
    pictures: int
    seconds: Timings
    runs: int
    wall_s: float
    first_s: float | None
    last_s: float | None
    stopped_by: str | None
    compacted: bool
    damaged_lines: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows that the journal knows."""
        return sum(self.states.values())

    @property
    def saved(self) -> int:
        """Rows with a picture."""
        return self.states["saved"]

    @property
    def failed(self) -> int:
        """Rows that ended without one."""
        return self.states["failed"]

    @property
    def left(self) -> int:
        """Rows that a later run has to go on with."""
        return self.rows - self.saved - self.failed

    @property
    def seconds_per_picture(self) -> Timings:
        """Means of `seconds`."""
        return Timings(
            **{step: round(total / max(1, self.pictures), 3) for step, total in asdict(self.seconds).items()}
        )

    @property
    def pictures_per_minute(self) -> float:
        """Pictures saved per minute of wall time; 0 without any."""
        return round(60 * self.saved / self.wall_s, 2) if self.wall_s > 0 else 0.0

    def as_json(self) -> dict[str, Any]:
        """For programs: this class's fields and properties under their names."""
        names = ("rows", "saved", "failed", "left", "pictures_per_minute")
        facts = asdict(self)
        facts.update({name: getattr(self, name) for name in names})
        return {**facts, "directory": str(self.directory), "seconds_per_picture": asdict(self.seconds_per_picture)}


def directory_report(directory: Path) -> DirectoryReport:
    """The books of `directory`, from its journal. Blocks. It only reads, and may do so while a run goes on.

    Some 35 bytes of memory a row, and more only for rows whose end is not known. Damaged lines are left out and told.
    Raises JournalError: there is no journal ("no_journal"), it is newer, or it cannot be read ("disk_error").
    """
    path = directory / JOURNAL_NAME
    try:
        with path.open("rb") as lookup:
            return _report(directory, Ledger(path, lookup))
    except (FileNotFoundError, NotADirectoryError):
        raise no_journal(directory) from None
    except OSError as error:
        raise JournalError(f"cannot read {path}: {error.strerror or error}", code=DISK_ERROR) from error


def _report(directory: Path, ledger: Ledger) -> DirectoryReport:
    open_tasks = [*_open_tasks(ledger)]
    unanswered = [*_unanswered(ledger)]
    failures, examples, charged = _failures(ledger)
    last = ledger.find_line(ledger.timed_offset) or ledger.header
    reserved = sum(credits_ for row, credits_ in open_tasks if row.charged != "yes")
    waiting = sum(credits_ for row, credits_ in open_tasks if row.charged == "yes")  # for being fetched
    before, after = ledger.before, ledger.after
    difference = None
    if before is not None and after is not None:
        charged_meanwhile = (after[1] - before[1]) / 1e6 + (waiting if ledger.end_offset else 0.0)
        difference = round(before[0] - after[0] - charged_meanwhile, 6)
    return DirectoryReport(
        directory=directory,
        states={state.name.lower(): ledger.states.count(state) for state in RowState},
        credits=round(ledger.settled_millionths / 1e6 + waiting, 6),
        credits_refunded=ledger.refunded_millionths / 1e6,
        credits_reserved=round(reserved, 6),
        credits_unknown=round(ledger.unknown_millionths / 1e6 + sum(credits_ for _, credits_ in unanswered), 6),
        usd=usd_of(ledger.prices, ledger.settled_millionths + round(waiting * 1e6)),
        failures=dict(failures.most_common()),
        examples=examples,
        unknown=(*charged, *(row for row, _ in unanswered)),
        open_tasks=tuple(row for row, _ in open_tasks),
        maybe_twice=tuple(
            _outcome(ledger, n, task_id, SENT_TWICE)
            for (n, task_id), late in sorted(ledger.sent_twice.items())
            if late or not ledger.keys_known
        ),
        balance_before=None if before is None else before[0],
        balance_after=None if after is None else after[0],
        balance_difference=difference,
        pictures=ledger.pictures,
        seconds=Timings(
            **{step.name: round(total, 3) for step, total in zip(fields(Timings), ledger.seconds, strict=True)}
        ),
        runs=ledger.runs,
        wall_s=round(ledger.run_s, 3),
        first_s=None if ledger.header is None else ledger.header.at_s,
        last_s=getattr(last, "at_s", None),
        stopped_by=ledger.stopped_by,
        compacted=ledger.is_compacted,
        damaged_lines=tuple(ledger.scan.damaged),
    )


def _open_tasks(ledger: Ledger) -> Iterator[tuple[UnknownOutcome, float]]:
    """Rows of which a task is under way, or made its picture, and the credits that are reserved, or charged, for it."""
    for n in sorted(ledger.unsettled):
        if ledger.states[n] in {RowState.ACCEPTED, RowState.COMPLETED}:
            accepted = ledger.find_line(ledger.unsettled[n].accepted)
            task_id, reserved = (accepted.task_id, accepted.credits) if isinstance(accepted, Accepted) else (None, None)
            completed = ledger.find_line(ledger.unsettled[n].completed)
            charged: Charged = "yes" if ledger.states[n] == RowState.COMPLETED else "unknown"
            used = completed.credits if isinstance(completed, Completed) else None
            price = next((price for price in (used, reserved) if price is not None), None)
            row = _outcome(ledger, n, task_id, NO_END, charged=charged)
            yield row, _price(ledger, n) if price is None else price


def _unanswered(ledger: Ledger) -> Iterator[tuple[UnknownOutcome, float]]:
    """Rows that were sent, and whether a task came of it is not known; and what each costs."""
    for n in sorted(ledger.unsettled):
        if ledger.states[n] == RowState.INTENT:
            left = ledger.find_line(ledger.unsettled[n].left)
            reason = left.message if isinstance(left, Left) else UNANSWERED
            yield _outcome(ledger, n, None, reason), _price(ledger, n)


def _failures(ledger: Ledger) -> tuple[Counter[str], dict[str, str], list[UnknownOutcome]]:
    """Failed rows by code, an example of each, and those that were, or may have been, charged."""
    failures: Counter[str] = Counter()
    examples: dict[str, str] = {}
    charged: list[UnknownOutcome] = []
    n = -1
    while (n := ledger.states.find(RowState.FAILED, n + 1)) >= 0:
        line = ledger.find_line(ledger.verdict_offsets[n])
        if isinstance(line, Failed):
            code = line.code or line.error
            code = code if code in failures or len(failures) < _MAX_CODES else "other"
            failures[code] += 1
            examples.setdefault(code, line.message)
            if line.charged != "no":
                charged.append(_outcome(ledger, n, line.task_id, line.message, charged=line.charged))
    return failures, examples, charged


def _price(ledger: Ledger, n: int) -> float:
    row = ledger.find_line(ledger.row_offsets[n])
    return row.request.credits if isinstance(row, Row) else ImageRequest("-").credits


def _outcome(ledger: Ledger, n: int, task_id: str | None, reason: str, charged: Charged = "unknown") -> UnknownOutcome:
    row = ledger.find_line(ledger.row_offsets[n])
    index, prompt = (row.index, row.request.prompt) if isinstance(row, Row) else (None, None)
    return UnknownOutcome(index=index, prompt=prompt, task_id=task_id, charged=charged, reason=reason)
