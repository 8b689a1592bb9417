"""What came of it: one picture (`GeneratedImage`), and a whole batch (`BatchReport`)."""

from collections import Counter
from collections.abc import Callable, Mapping
from operator import add
from pathlib import Path
from typing import Final, Literal

from attrs import field, fields, frozen

from krea_async.control.governor import Limit
from krea_async.errors import Charged, KreaError
from krea_async.models import ImageRequest

ImageStatus = Literal["saved", "failed", "skipped"]


@frozen
class Timings:
    """Where the time went, in seconds. Each is 0 for a step that was not reached.

    queued_s: until the request first left: the wait for a place and for the pace. waiting_s: from then until the
    gateway accepted it, refusals and other tries included. generating_s: until we learnt that the task was finished.
    downloading_s: until the picture was on disk.
    """

    queued_s: float = 0.0
    waiting_s: float = 0.0
    generating_s: float = 0.0
    downloading_s: float = 0.0

    @property
    def steps_s(self) -> tuple[float, float, float, float]:
        """The four, in their order."""
        return self.queued_s, self.waiting_s, self.generating_s, self.downloading_s

    @property
    def total_s(self) -> float:
        """All of it."""
        return sum(self.steps_s)


NO_TIME: Final = Timings()


@frozen(kw_only=True)
class GeneratedImage:
    """What came of one request.

    index: the row's number in its batch, from 0; None outside a batch. status: "saved"; "failed", and `error` says why;
    "skipped": without an `error` the picture was there already, from an earlier run; with one the row was not sent, or
    not followed to its end, and a later run goes on with it. request: None only for a row that was no valid
    request. path: the picture; `paths` are all of them, should a task ever bring more than one; bytes, sha256 (hex),
    width and height (pixels) are those of `path`. url: the link it came from, valid for 24 hours. credits: what the
    gateway charged, or the list price where it did not say.
    """

    index: int | None = None
    request: ImageRequest | None = None
    status: ImageStatus
    task_id: str | None = None
    path: Path | None = None
    paths: tuple[Path, ...] = ()
    url: str | None = field(default=None, repr=False)
    bytes: int = 0
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    credits: float = 0.0
    error: KreaError | None = None
    timings: Timings = field(factory=Timings)

    @property
    def as_requested(self) -> bool:
        """Whether the picture has the pixels that were asked for."""
        return self.request is not None and (self.width, self.height) == self.request.pixels

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:  # noqa: ARG002
        """The picture, for a notebook."""
        from krea_async.display import picture_bundle  # noqa: PLC0415 - for notebooks only

        return picture_bundle(self)


@frozen(kw_only=True)
class UnknownOutcome:
    """A row that may have been charged ("unknown"), or was ("yes"), without a picture on disk.

    With a task_id, `session.attach` follows it up and costs nothing.
    """

    index: int | None
    prompt: str | None
    task_id: str | None
    charged: Charged
    reason: str


@frozen(kw_only=True)
class BatchReport:
    """The books of a batch.

    saved, failed, skipped: rows by status; already_saved: those of the skipped whose pictures were there already;
    unread: rows of the list that were not taken from it any more, None if its length is not known. credits, usd: spent
    by this run. credits_refunded: of tasks that failed and were not charged; credits_reserved: of `open_tasks`;
    credits_unknown: of rows of which nobody knows whether they were charged. failures: rows by error code (or the
    error's class where it has none). examples: the first error of each code. open_tasks: rows whose tasks go on at the
    gateway; a later run saves their pictures. unknown: other rows that were, or may have been, charged without a
    picture. maybe_twice: saved or not, rows that may have been charged twice, because the gateway never showed that it
    honours idempotency keys. balance_before, balance_after: credits of the account around the run, if they were read.
    other_size: pictures whose pixels are not those asked for. seconds: sums of the `Timings` of saved pictures.
    stopped_by: what ended the batch before its list did. limit: what the session has found of the gateway's limits.
    calls: requests sent by this session while the batch ran, by route; "rate_limited" counts the 429s to submissions.
    """

    saved: int = 0
    failed: int = 0
    skipped: int = 0
    already_saved: int = 0
    unread: int | None = None
    credits: float = 0.0
    usd: float = 0.0
    credits_refunded: float = 0.0
    credits_reserved: float = 0.0
    credits_unknown: float = 0.0
    bytes: int = 0
    other_size: int = 0
    failures: Mapping[str, int] = field(factory=dict)
    examples: Mapping[str, KreaError] = field(factory=dict)
    open_tasks: tuple[UnknownOutcome, ...] = ()
    unknown: tuple[UnknownOutcome, ...] = ()
    maybe_twice: tuple[UnknownOutcome, ...] = ()
    balance_before: float | None = None
    balance_after: float | None = None
    stopped_by: KreaError | None = None
    seconds: Timings = field(factory=Timings)
    wall_s: float = 0.0
    limit: Limit | None = None
    calls: Mapping[str, int] = field(factory=dict)
    _records: Callable[[], list[dict[str, object]]] | None = field(default=None, repr=False, eq=False)

    def to_records(self) -> list[dict[str, object]]:
        """One dict for each row of the directory that has ended, by index: `pandas.DataFrame(report.to_records())`.

        Its keys are the manifest's. Rows of earlier runs are among them, and one that ended twice is told of once; how
        long a row took is known if it has a picture. Reads the directory as it is now, also while the batch runs, and
        blocks meanwhile: seconds for 100,000 rows. Empty for a report without a directory. Raises JournalError and
        OSError if the directory cannot be read.
        """
        return [] if self._records is None else self._records()

    @property
    def rows(self) -> int:
        """Rows that were taken from the list."""
        return self.saved + self.failed + self.skipped

    @property
    def left(self) -> int:
        """Rows that a later run has to go on with, as far as they are known."""
        return self.skipped - self.already_saved + (self.unread or 0)

    @property
    def ok(self) -> bool:
        """Whether every row is saved, and nothing ended the batch early."""
        return self.failed == self.left == 0 and self.stopped_by is None

    @property
    def pictures_per_minute(self) -> float:
        """Pictures saved per minute of wall time; 0 without any."""
        return 60 * self.saved / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def balance_difference(self) -> float | None:
        """How many credits more the balance fell than `credits`; None if it was not read.

        Whoever else uses the account changes the balance too, and so do credits that are reserved or unknown, and
        tasks that an earlier run had paid for.
        """
        if self.balance_before is None or self.balance_after is None:
            return None
        return round(self.balance_before - self.balance_after - self.credits, 6)

    def _repr_html_(self) -> str:
        """The books as tables, for a notebook."""
        from krea_async.display import report_html  # noqa: PLC0415 - for notebooks only

        return report_html(self)


def error_code(error: KreaError) -> str:
    """What rows that failed alike are counted under: the error's code, or its class where it has none."""
    return error.code or type(error).__name__


class Tally:
    """Adds up a batch as its rows end; memory does not grow with the rows, but for those whose outcome is unknown."""

    def __init__(self) -> None:
        self.saved = self.failed = self.skipped = self.already_saved = self.bytes = self.other_size = 0
        self.credits = self.usd = self._refunded = self._reserved = self._unknown_credits = 0.0
        self._seconds = [0.0] * len(fields(Timings))
        self._failures: Counter[str] = Counter()
        self._examples: dict[str, KreaError] = {}
        self._open_tasks: list[UnknownOutcome] = []
        self._unknown: list[UnknownOutcome] = []
        self.maybe_twice: list[UnknownOutcome] = []
        self.balance_before: float | None = None
        self.balance_after: float | None = None

    def add(self, image: GeneratedImage, *, ended_before: bool = False) -> None:
        """Count one row. ended_before: in an earlier run, whose refunds are not counted again."""
        if image.credits:
            self.credits += image.credits
            self.usd += image.request.usd if image.request else 0.0
        if image.status == "saved":
            self.saved += 1
            self.bytes += image.bytes
            self.other_size += not image.as_requested
            self._seconds = [*map(add, self._seconds, image.timings.steps_s)]
        elif image.status == "skipped":
            self.skipped += 1
            self.already_saved += image.error is None
        else:
            self.failed += 1
        if image.error is not None:
            self._add_error(image, image.error, ended_before=ended_before)

    def _add_error(self, image: GeneratedImage, error: KreaError, *, ended_before: bool) -> None:
        price = image.request.credits if image.request else 0.0
        task_id = image.task_id or error.task_id
        if image.status == "failed":
            code = error_code(error)
            self._failures[code] += 1
            self._examples.setdefault(code, error)
        if error.charged == "no":
            self._refunded += price if task_id is not None and not ended_before else 0.0
            return
        outcome = UnknownOutcome(
            index=image.index,
            prompt=image.request.prompt if image.request else None,
            task_id=task_id,
            charged=error.charged,
            reason=str(error),
        )
        if image.status == "skipped" and task_id is not None:
            self._reserved += price
            self._open_tasks.append(outcome)
        else:
            self._unknown_credits += price if error.charged == "unknown" else 0.0
            self._unknown.append(outcome)

    def report(
        self,
        *,
        wall_s: float,
        calls: Mapping[str, int],
        stopped_by: KreaError | None,
        unread: int | None = None,
        limit: Limit | None = None,
        records: Callable[[], list[dict[str, object]]] | None = None,
    ) -> BatchReport:
        """The books so far."""
        return BatchReport(
            saved=self.saved,
            failed=self.failed,
            skipped=self.skipped,
            already_saved=self.already_saved,
            unread=unread,
            credits=round(self.credits, 6),
            usd=round(self.usd, 6),
            credits_refunded=round(self._refunded, 6),
            credits_reserved=round(self._reserved, 6),
            credits_unknown=round(self._unknown_credits, 6),
            bytes=self.bytes,
            other_size=self.other_size,
            failures=dict(self._failures.most_common()),
            examples=dict(self._examples),
            open_tasks=tuple(self._open_tasks),
            unknown=tuple(self._unknown),
            maybe_twice=tuple(self.maybe_twice),
            balance_before=self.balance_before,
            balance_after=self.balance_after,
            stopped_by=stopped_by,
            seconds=Timings(*(round(seconds, 3) for seconds in self._seconds)),
            wall_s=wall_s,
            limit=limit,
            calls=dict(calls),
            records=records,
        )
