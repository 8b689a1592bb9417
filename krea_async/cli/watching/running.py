"""A batch run by a person or a script: progress, signals, the report, the exit code.

The first Ctrl-C (or SIGTERM) stops submitting and finishes what is paid for; the second stops now.

Who opens the session passes `meter.hear` as its `on_event` and the same meter to `run_batch` (`BatchOptions` has both:
`on_event` and `run`); without it the views know only what the batch itself says.
"""

import signal
from collections import Counter
from pathlib import Path
from typing import Final

import anyio
from attrs import asdict

from krea_async.batch.run import Batch
from krea_async.cli.exits import StoppedAtOnceError, exit_of_report, exit_of_signal
from krea_async.cli.watching.event_lines import PROGRESS_EVERY_S, EventLines
from krea_async.cli.watching.progress import Mode, ProgressView, progress_view
from krea_async.cli.watching.stdout_writer import StdoutWriter, is_terminal, stdout_writer
from krea_async.cli.watching.summary import summarise, what_is_open
from krea_async.errors import KreaError
from krea_async.meter import Meter
from krea_async.results import BatchReport, GeneratedImage, error_code
from krea_async.tasks import task_group

MAX_ROWS_SHOWN: Final = 5
"""Failed rows of one error code that are named while the batch runs; the rest are in the summary and the manifest."""


async def run_batch(
    batch: Batch,
    directory: Path,
    *,
    rows: int | None,
    as_json: bool = False,
    drain_s: float = 30.0,
    mode: Mode = "auto",
    meter: Meter | None = None,
    credits_listed: float | None = None,
) -> int:
    """Run `batch` to its end and return the exit code. On stdout: each picture's path, or the events as JSON lines.

    rows, credits_listed: of the list, and what it costs by the price list. drain_s: how long tasks in flight are
    followed after a signal. meter: the one that hears the session's events.
    Raises StoppedAtOnceError after a second signal, so that the session ends at once as well.
    """
    meter = meter or Meter()
    meter.rows, meter.credits_listed = rows, credits_listed
    async with stdout_writer() as out:
        lines = EventLines(out.write) if as_json else None
        with progress_view(mode, events_on_terminal=as_json and is_terminal()) as view:
            run = _Run(batch, meter, view, out, lines, drain_s)
            if lines is not None:
                meter.forward = lines.hear
                lines.started(str(directory), rows, credits_listed)
            try:
                await run.to_its_end()
            except KreaError as error:
                if lines is not None:
                    lines.error(error)
                raise
        report, caught = batch.report, run.caught
        code = exit_of_signal(caught[0]) if caught else exit_of_report(report)
        if lines is not None:
            lines.tell("report", {**report_json(report), "directory": str(directory), "exit_code": int(code)})
        if len(caught) > 1:
            raise StoppedAtOnceError(code, what_is_open(report, directory))
        summarise(report, directory, mode)
    return code


class _Run:
    """One run. caught: the signals that came meanwhile."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        batch: Batch,
        meter: Meter,
        view: ProgressView,
        out: StdoutWriter,
        lines: EventLines | None,
        drain_s: float,
    ) -> None:
        self.caught: list[int] = []
        self._batch = batch
        self._meter = meter
        self._view = view
        self._out = out
        self._lines = lines
        self._drain_s = drain_s
        self._alike: Counter[str] = Counter()

    async def to_its_end(self) -> None:
        async with task_group() as helpers:
            async with self._batch:
                helpers.start_soon(self._obey_signals, helpers.cancel_scope)
                helpers.start_soon(self._keep_showing)
                if self._lines is not None:
                    helpers.start_soon(self._keep_telling, self._lines)
                async for image in self._batch:
                    self._ended(image)
                    await self._out.room()
            helpers.cancel_scope.cancel()

    def _ended(self, image: GeneratedImage) -> None:
        self._meter.ended(image)
        if image.status == "failed" and image.error is not None:
            self._name(image, image.error)
        if self._lines is not None:
            self._lines.ended(image)
        elif not is_terminal():  # there the summary names the directory, and the painted lines stay whole
            self._out.write("".join(f"{path}\n" for path in image.paths))

    def _name(self, image: GeneratedImage, error: KreaError) -> None:
        code = error_code(error)
        self._alike[code] += 1
        if self._alike[code] <= MAX_ROWS_SHOWN:
            prompt = image.request.prompt[:60] if image.request is not None else "not a valid request"
            self._view.say(f"row {image.index} failed ({prompt!r}): {error}")
        if self._alike[code] == MAX_ROWS_SHOWN:
            self._view.say("more rows that fail like this are not named here; the manifest has them all")

    async def _obey_signals(self, everything: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                self.caught.append(number)
                if len(self.caught) > 1:
                    self._batch.stop(drain_s=0.0)
                    everything.cancel()
                    return
                in_flight = self._batch.progress.in_flight
                self._view.say(
                    f"stopping: {in_flight} rows in flight are finished and saved, within {self._drain_s:g} s; "
                    "press Ctrl-C again to stop now",
                    to_act_on=True,
                )
                if self._lines is not None:
                    facts = {"signal": signal.Signals(number).name, "in_flight": in_flight, "drain_s": self._drain_s}
                    self._lines.tell("stopping", facts)
                reason = KreaError("the run was stopped by a signal", code="stopped_by_signal", retryable=True)
                self._batch.stop(reason, drain_s=self._drain_s)

    async def _keep_showing(self) -> None:
        while True:
            self._view.show(self._meter.read(self._batch))
            await anyio.sleep(self._view.every_s)

    async def _keep_telling(self, lines: EventLines) -> None:
        while True:
            await anyio.sleep(PROGRESS_EVERY_S)
            lines.progress(self._meter.read(self._batch))


def report_json(report: BatchReport) -> dict[str, object]:
    """A report for programs."""
    return {
        "rows": report.rows,
        "saved": report.saved,
        "failed": report.failed,
        "skipped": report.skipped,
        "already_saved": report.already_saved,
        "left": report.left,
        "credits": report.credits,
        "credits_refunded": report.credits_refunded,
        "credits_reserved": report.credits_reserved,
        "credits_unknown": report.credits_unknown,
        "usd": report.usd,
        "bytes": report.bytes,
        "wall_s": round(report.wall_s, 3),
        "seconds": asdict(report.seconds),
        "pictures_per_minute": round(report.pictures_per_minute, 2),
        "failures": dict(report.failures),
        "open_tasks": [{"index": row.index, "task_id": row.task_id} for row in report.open_tasks],
        "unknown": [
            {"index": row.index, "task_id": row.task_id, "charged": row.charged, "reason": row.reason}
            for row in report.unknown
        ],
        "maybe_twice": [{"index": row.index, "task_id": row.task_id} for row in report.maybe_twice],
        "balance_before": report.balance_before,
        "balance_after": report.balance_after,
        "balance_difference": report.balance_difference,
        "stopped_by": None if report.stopped_by is None else str(report.stopped_by),
        "limit": None if report.limit is None else {"kind": report.limit.kind, "value": report.limit.value},
        "calls": dict(report.calls),
    }
