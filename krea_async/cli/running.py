"""A batch run by a person or a script: progress, signals, the report, the exit code.

The first Ctrl-C (or SIGTERM) stops submitting and finishes what is paid for; the second stops now.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Final

import anyio
from attrs import asdict

from krea_async.batch.run import Batch
from krea_async.cli.exits import StoppedAtOnceError, exit_of_report, exit_of_signal
from krea_async.cli.output import put, say
from krea_async.cli.progress import ProgressView, clock, progress_view
from krea_async.errors import KreaError
from krea_async.results import BatchReport, GeneratedImage, error_code
from krea_async.tasks import task_group

MAX_CODES_SHOWN: Final = 20
MAX_TASKS_SHOWN: Final = 20
MAX_ROWS_SHOWN: Final = 5
"""Failed rows of one error code that are named while the batch runs; the rest are in the summary and the manifest."""


async def run_batch(batch: Batch, directory: Path, *, rows: int | None, as_json: bool, drain_s: float) -> int:
    """Run `batch` to its end and return the exit code. Prints each picture's path, or one JSON report, on stdout.

    drain_s: how long tasks in flight are followed after a signal.
    Raises StoppedAtOnceError after a second signal, so that the session ends at once as well.
    """
    caught: list[int] = []
    with progress_view(rows) as view:
        async with task_group() as helpers:
            async with batch:
                helpers.start_soon(_obey_signals, batch, view, caught, helpers.cancel_scope, drain_s)
                helpers.start_soon(_keep_showing, batch, view)
                async for image in batch:
                    _tell(image, batch, view)
                    if not as_json:
                        _print_paths(image)
            helpers.cancel_scope.cancel()
    if len(caught) > 1:
        raise StoppedAtOnceError(exit_of_signal(caught[0]), _what_is_open(batch.report, directory))
    _summarise(batch.report, directory)
    if as_json:
        put(json.dumps(report_json(batch.report)))
    return exit_of_signal(caught[0]) if caught else exit_of_report(batch.report)


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


async def _obey_signals(
    batch: Batch, view: ProgressView, caught: list[int], everything: anyio.CancelScope, drain_s: float
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            caught.append(number)
            if len(caught) > 1:
                batch.stop(drain_s=0.0)
                everything.cancel()
                return
            in_flight = batch.progress.in_flight
            view.say(
                f"stopping: {in_flight} rows in flight are finished and saved, within {drain_s:g} s; "
                "press Ctrl-C again to stop now"
            )
            batch.stop(KreaError("the run was stopped by a signal", retryable=True), drain_s=drain_s)


async def _keep_showing(batch: Batch, view: ProgressView) -> None:
    while True:
        view.show(batch.progress)
        await anyio.sleep(view.every_s)


def _tell(image: GeneratedImage, batch: Batch, view: ProgressView) -> None:
    if image.status != "failed" or image.error is None:
        return
    rows_alike = batch.report.failures[error_code(image.error)]
    if rows_alike <= MAX_ROWS_SHOWN:
        prompt = image.request.prompt[:60] if image.request is not None else "not a valid request"
        view.say(f"row {image.index} failed ({prompt!r}): {image.error}")
    if rows_alike == MAX_ROWS_SHOWN:
        view.say("more rows that fail like this are not named here; the manifest has them all")


def _print_paths(image: GeneratedImage) -> None:
    if not sys.stdout.isatty():  # there the summary names the directory, and the live line stays whole
        put("".join(f"{path}\n" for path in image.paths))


def _summarise(report: BatchReport, directory: Path) -> None:
    rows = f"{report.saved} saved in {directory}, {report.failed} failed"
    rows += f", {report.already_saved} were there already" if report.already_saved else ""
    rows += f", {report.left} left for a later run" if report.left else ""
    lines = [f"{rows}; {report.credits:.2f} credits (${report.usd:.2f}) in {clock(report.wall_s)}"]
    lines += [
        f"  {count} x {code}: {report.examples[code].message}"
        for code, count in list(report.failures.items())[:MAX_CODES_SHOWN]
    ]
    if report.limit is not None:
        refused = report.calls.get("rate_limited", 0)
        lines.append(f"  the gateway's limit looks like {report.limit}; {refused} submissions were refused, at no cost")
    if report.other_size:
        lines.append(f"  {report.other_size} pictures have other pixels than were asked for; they are kept")
    if report.unknown:
        lines.append(f"  {len(report.unknown)} rows may have been charged without a picture:")
        lines += [f"    row {row.index}, task {row.task_id or 'unknown'}: {row.reason}" for row in report.unknown]
    if report.maybe_twice:
        lines.append(f"  {len(report.maybe_twice)} rows may have been charged twice; the gateway forgot their keys:")
        lines += [f"    row {row.index}, task {row.task_id}" for row in report.maybe_twice]
    if (report.balance_difference or 0.0) > 0 and not (report.open_tasks or report.unknown):
        lines.append(f"  the balance fell by {report.balance_difference:g} credits more than this run spent")
    if report.stopped_by is not None:
        lines.append(f"  stopped early: {report.stopped_by}")
    say("\n".join(lines + _what_is_open(report, directory)))


def _what_is_open(report: BatchReport, directory: Path) -> list[str]:
    """The last lines: how to go on, and with which tasks."""
    lines = []
    if report.left or report.unknown:
        lines.append(f"  go on with: krea-async resume {directory}")
    if report.open_tasks:
        ids = [str(row.task_id) for row in report.open_tasks[:MAX_TASKS_SHOWN]]
        ids += ["…"] if len(report.open_tasks) > MAX_TASKS_SHOWN else []
        lines.append(f"  {len(report.open_tasks)} tasks go on at the gateway: {', '.join(ids)}")
    return lines
