"""What is said at the end of a run: what came of it, what went wrong and what to do about it, and how to go on."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from krea_async.audit.report_text import plain
from krea_async.cli.output import say
from krea_async.cli.watching.progress import Mode, is_painted
from krea_async.errors import (
    DISK_ERROR,
    AccessDeniedError,
    AuthenticationError,
    BudgetExceededError,
    ContentPolicyError,
    DownloadError,
    ImageExpiredError,
    InsufficientCreditsError,
    InvalidRequestError,
    KreaError,
    TaskFailedError,
    TaskNotFoundError,
    TaskTimeoutError,
)
from krea_async.meter import clock
from krea_async.results import BatchReport, error_code
from krea_async.storage.manifest import MANIFEST_NAME

MAX_CODES_SHOWN: Final = 20
MAX_TASKS_SHOWN: Final = 20
MAX_ROWS_SHOWN: Final = 20
TABLE_FROM_COLUMNS: Final = 90

_ENDS_A_ROW: Final = (InvalidRequestError, TaskFailedError, ImageExpiredError, TaskNotFoundError)
"""Rows that failed so stay failed, unless --retry-failed is given; a later run goes on with all others."""

_ADVICE: Final[tuple[tuple[type[KreaError], str], ...]] = (
    (ContentPolicyError, "rewrite the prompt: the same one fails again"),
    (InvalidRequestError, "mend the row in the list"),
    (AuthenticationError, "set EVOLINK_API_KEY to a key that works"),
    (AccessDeniedError, "ask for access to the model"),
    (InsufficientCreditsError, "top the account up"),
    (BudgetExceededError, "raise --max-credits or --max-usd"),
    (TaskTimeoutError, "the task goes on: a later run fetches its picture, at no cost"),
    (ImageExpiredError, "its link is gone: --retry-failed --code {code} pays for a new picture"),
    (TaskNotFoundError, "the gateway forgot the task: --retry-failed --code {code} pays for a new picture"),
    (DownloadError, "a later run fetches it, at no cost"),
)


def summarise(report: BatchReport, directory: Path, mode: Mode) -> None:
    """Say on stderr what came of the run; with "quiet" only if somebody has to act on it."""
    if mode == "quiet" and report.ok and not (report.unknown or report.maybe_twice):
        return
    if is_painted(mode):
        _paint(report, directory)
    else:
        say("\n".join(summary(report, directory)))


def summary(report: BatchReport, directory: Path) -> list[str]:
    """All of it in lines; the last ones say how to go on."""
    return [
        headline(report, directory),
        *_failure_lines(report),
        *_other_lines(report),
        *_where(report, directory),
        *what_is_open(report, directory),
    ]


def headline(report: BatchReport, directory: Path) -> str:
    """What came of it in one line."""
    rows = f"{report.saved} saved in {directory}, {report.failed} failed"
    rows += f", {report.already_saved} were there already" if report.already_saved else ""
    rows += f", {report.left} left for a later run" if report.left else ""
    return f"{rows}; {report.credits:.2f} credits (${report.usd:.2f}) in {clock(report.wall_s)}"


def advice(error: KreaError) -> str:
    """What to do about rows that failed like this, and whether they cost anything."""
    charged = {"no": "not charged", "yes": "charged", "unknown": "may be charged"}[error.charged]
    return f"{charged}; {_what_to_do(error)}"


def _what_to_do(error: KreaError) -> str:
    if error.code == DISK_ERROR:
        return "make room, or mend the directory; a later run fetches what is paid for, at no cost"
    if _stays_failed(error) and error.retryable:
        return "another try may help: --retry-failed"
    for kind, words in _ADVICE:
        if isinstance(error, kind):
            return words.format(code=shlex.quote(error_code(error)))
    return "change the prompt or its options" if isinstance(error, TaskFailedError) else "a later run tries again"


def _stays_failed(error: KreaError) -> bool:
    return isinstance(error, _ENDS_A_ROW)


def what_is_open(report: BatchReport, directory: Path) -> list[str]:
    """The last lines: how to go on, and with which tasks."""
    lines = []
    if report.left or report.unknown or not all(map(_stays_failed, report.examples.values())):
        lines.append(f"  go on with: krea-async resume {shlex.quote(str(directory))}")
    if report.open_tasks:
        ids = [str(row.task_id) for row in report.open_tasks[:MAX_TASKS_SHOWN]]
        ids += ["…"] if len(report.open_tasks) > MAX_TASKS_SHOWN else []
        lines.append(f"  {len(report.open_tasks)} tasks go on at the gateway: {', '.join(ids)}")
    return lines


def _failures(report: BatchReport) -> Iterator[tuple[int, str, KreaError]]:
    for code, count in list(report.failures.items())[:MAX_CODES_SHOWN]:
        yield count, code, report.examples[code]


def _failure_lines(report: BatchReport) -> Iterator[str]:
    for count, code, error in _failures(report):
        yield f"  {count} x {code}: {error.message}"
        yield f"    {advice(error)}"
    if more := len(report.failures) - MAX_CODES_SHOWN:
        yield from [f"  and {more} more reasons; the manifest has them all"] if more > 0 else []


def _other_lines(report: BatchReport) -> Iterator[str]:
    if report.limit is not None:
        refused = report.calls.get("rate_limited", 0)
        yield f"  the gateway's limit looks like {report.limit}; {refused} submissions were refused, at no cost"
    if report.other_size:
        yield f"  {report.other_size} pictures have other pixels than were asked for; they are kept"
    if report.unknown:
        yield f"  {len(report.unknown)} rows may have been charged without a picture:"
        for row in report.unknown[:MAX_ROWS_SHOWN]:
            yield f"    row {row.index}, task {row.task_id or 'unknown'}: {row.reason}"
        yield from _more(len(report.unknown))
    if report.maybe_twice:
        yield f"  {len(report.maybe_twice)} rows may have been charged twice; the gateway forgot their keys:"
        yield from (f"    row {row.index}, task {row.task_id}" for row in report.maybe_twice[:MAX_ROWS_SHOWN])
        yield from _more(len(report.maybe_twice))
    if (report.balance_difference or 0.0) > 0 and not (report.open_tasks or report.unknown):
        yield f"  the balance fell by {report.balance_difference:g} credits more than this run spent"
    if report.stopped_by is not None:
        yield f"  stopped early: {report.stopped_by}"
        if any(isinstance(report.stopped_by, kind) for kind, _ in _ADVICE):
            yield f"    first of all: {_what_to_do(report.stopped_by)}"


def _more(rows: int) -> Iterator[str]:
    if rows > MAX_ROWS_SHOWN:
        yield f"    and {rows - MAX_ROWS_SHOWN} more; krea-async report and --json have them all"


def _where(report: BatchReport, directory: Path) -> Iterator[str]:
    quoted = shlex.quote(str(directory))
    if report.rows:
        yield f"  every row: {directory / MANIFEST_NAME}"
    if any(error.retryable and _stays_failed(error) for error in report.examples.values()):
        yield f"  try those again where it may help: krea-async resume {quoted} --retry-failed"
    if report.saved or report.already_saved:
        yield f"  look at the pictures: krea-async gallery {quoted}"


def _paint(report: BatchReport, directory: Path) -> None:
    """The same with colours and, where it fits, a table of the failures."""
    from rich.console import Console  # noqa: PLC0415 - only where somebody watches
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(file=sys.stderr, highlight=False)

    def put(lines: list[str], style: str = "") -> None:
        for line in lines:
            console.print(Text(plain(line), style), soft_wrap=True)

    put([headline(report, directory)], "bold green" if report.ok else "bold yellow")
    if report.failures and console.width >= TABLE_FROM_COLUMNS:
        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="bold")
        table.add_column("  rows", justify="right", style="red")
        for name in ("reason", "for example", "what to do"):
            table.add_column(name, overflow="fold")
        for count, code, error in _failures(report):
            table.add_row(str(count), *(Text(plain(words)) for words in (code, error.message, advice(error))))
        console.print(table)
    else:
        put([*_failure_lines(report)], "red")
    put([*_other_lines(report)])
    put([*_where(report, directory)], "cyan")
    put(what_is_open(report, directory), "bold cyan")
