"""What came of it: one picture (`GeneratedImage`), and a whole batch (`BatchReport`)."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from attrs import field, frozen

from krea_async.errors import Charged, KreaError
from krea_async.models import ImageRequest

ImageStatus = Literal["saved", "failed", "skipped"]


@frozen(kw_only=True)
class Timings:
    """Where the time went, in seconds. Each is 0 for a step that was not reached.

    queued_s: until the gateway accepted the task, waits for a turn and for limits included. generating_s: from then
    until we learnt that it was finished. downloading_s: until the picture was on disk.
    """

    queued_s: float = 0.0
    generating_s: float = 0.0
    downloading_s: float = 0.0

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.queued_s + self.generating_s + self.downloading_s


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

    saved, failed, skipped: rows by status; already_saved: those of the skipped whose pictures were there already; left:
    those that a later run has to go on with. credits, usd: spent by this run. failures: rows by error code (or the
    error's class where it has none). examples: the first error of each code. unknown: rows that may have been charged
    without a picture. maybe_twice: saved or not, rows that may have been charged twice, because the gateway never
    showed that it honours idempotency keys. balance_before, balance_after: credits of the account around the run, if
    they were read. other_size: pictures whose pixels are not those asked for. stopped_by: what ended the batch before
    its list did. calls: requests sent by this session while the batch ran, by route; "rate_limited" counts the 429s
    among them.
    """

    saved: int = 0
    failed: int = 0
    skipped: int = 0
    already_saved: int = 0
    credits: float = 0.0
    usd: float = 0.0
    bytes: int = 0
    other_size: int = 0
    failures: Mapping[str, int] = field(factory=dict)
    examples: Mapping[str, KreaError] = field(factory=dict)
    unknown: tuple[UnknownOutcome, ...] = ()
    maybe_twice: tuple[UnknownOutcome, ...] = ()
    balance_before: float | None = None
    balance_after: float | None = None
    stopped_by: KreaError | None = None
    wall_s: float = 0.0
    calls: Mapping[str, int] = field(factory=dict)

    @property
    def rows(self) -> int:
        """Rows that were taken from the list."""
        return self.saved + self.failed + self.skipped

    @property
    def left(self) -> int:
        """Rows that a later run has to go on with."""
        return self.skipped - self.already_saved

    @property
    def ok(self) -> bool:
        """Whether every row is saved, and nothing ended the batch early."""
        return self.failed == self.left == 0 and self.stopped_by is None


def error_code(error: KreaError) -> str:
    """What rows that failed alike are counted under: the error's code, or its class where it has none."""
    return error.code or type(error).__name__


class Tally:
    """Adds up a batch as its rows end; memory does not grow with the rows, but for those whose outcome is unknown."""

    def __init__(self) -> None:
        self.saved = self.failed = self.skipped = self.already_saved = self.bytes = self.other_size = 0
        self.credits = self.usd = 0.0
        self._failures: Counter[str] = Counter()
        self._examples: dict[str, KreaError] = {}
        self._unknown: list[UnknownOutcome] = []
        self.maybe_twice: list[UnknownOutcome] = []
        self.balance_before: float | None = None
        self.balance_after: float | None = None

    def add(self, image: GeneratedImage) -> None:
        """Count one row."""
        if image.credits:
            self.credits += image.credits
            self.usd += image.request.usd if image.request else 0.0
        if image.status == "saved":
            self.saved += 1
            self.bytes += image.bytes
            self.other_size += not image.as_requested
        elif image.status == "skipped":
            self.skipped += 1
            self.already_saved += image.error is None
        else:
            self.failed += 1
        if image.error is not None:
            self._add_error(image, image.error)

    def _add_error(self, image: GeneratedImage, error: KreaError) -> None:
        if image.status == "failed":
            code = error_code(error)
            self._failures[code] += 1
            self._examples.setdefault(code, error)
        if error.charged != "no":
            self._unknown.append(
                UnknownOutcome(
                    index=image.index,
                    prompt=image.request.prompt if image.request else None,
                    task_id=image.task_id or error.task_id,
                    charged=error.charged,
                    reason=str(error),
                )
            )

    def report(self, *, wall_s: float, calls: Mapping[str, int], stopped_by: KreaError | None) -> BatchReport:
        """The books so far."""
        return BatchReport(
            saved=self.saved,
            failed=self.failed,
            skipped=self.skipped,
            already_saved=self.already_saved,
            credits=round(self.credits, 6),
            usd=round(self.usd, 6),
            bytes=self.bytes,
            other_size=self.other_size,
            failures=dict(self._failures.most_common()),
            examples=dict(self._examples),
            unknown=tuple(self._unknown),
            maybe_twice=tuple(self.maybe_twice),
            balance_before=self.balance_before,
            balance_after=self.balance_after,
            stopped_by=stopped_by,
            wall_s=wall_s,
            calls=dict(calls),
        )
