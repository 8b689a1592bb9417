"""How far a batch is, and what came of it: rows, credits, requests, seconds."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from attrs import frozen

from krea_async.control.governor import Limit
from krea_async.pipeline import Pipeline
from krea_async.results import BatchReport, Tally
from krea_async.storage.manifest import directory_records
from krea_async.tasks import loop_time_s
from krea_async.waiting import Stop


@frozen(kw_only=True)
class BatchProgress:
    """A batch at one moment. in_flight: rows taken from the list that have not ended. elapsed_s: seconds.

    limit: what the session has found of the gateway's limits. rate_limited: submissions that were answered 429.
    """

    in_flight: int
    saved: int
    failed: int
    skipped: int
    credits: float
    bytes: int
    rate_limited: int
    limit: Limit | None
    elapsed_s: float


class Figures:
    """Those of one batch, from `begin` to `end`; after that they do not change."""

    def __init__(self, pipeline: Pipeline, stop: Stop, directory: Path) -> None:
        self.tally = Tally()
        self._pipeline = pipeline
        self._stop = stop
        self._directory = directory
        self._calls_before: Mapping[str, int] = {}
        self._started_s: float | None = None
        self._ended_s: float | None = None
        self._final: BatchReport | None = None

    @property
    def have_begun(self) -> bool:
        """Whether the batch has been started, ever."""
        return self._started_s is not None

    def begin(self) -> None:
        """Count requests and seconds from now on."""
        self._started_s = loop_time_s()
        self._calls_before = self._pipeline.calls()

    def end(self, *, unread: int | None) -> None:
        """The report as it is now is the last word."""
        self._ended_s = loop_time_s()
        self._final = self.report(unread=unread)

    def progress(self, *, in_flight: int) -> BatchProgress:
        """How far the batch is."""
        return BatchProgress(
            in_flight=in_flight,
            saved=self.tally.saved,
            failed=self.tally.failed,
            skipped=self.tally.skipped,
            credits=self.tally.credits,
            bytes=self.tally.bytes,
            rate_limited=self._calls()["rate_limited"],
            limit=self._pipeline.submitter.governor.limit,
            elapsed_s=self._elapsed_s,
        )

    def report(self, *, unread: int | None) -> BatchReport:
        """The books so far. unread: rows of the list that were never looked at; None if nobody knows."""
        return self._final or self.tally.report(
            wall_s=self._elapsed_s,
            calls=self._calls(),
            stopped_by=self._pipeline.submitter.stopped_by(self._stop),
            unread=unread,
            limit=self._pipeline.submitter.governor.limit,
            records=partial(directory_records, self._directory),
        )

    def _calls(self) -> dict[str, int]:
        return {route: calls - self._calls_before.get(route, 0) for route, calls in self._pipeline.calls().items()}

    @property
    def _elapsed_s(self) -> float:
        if self._started_s is None:
            return 0.0
        return (loop_time_s() if self._ended_s is None else self._ended_s) - self._started_s
