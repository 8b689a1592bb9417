"""How a batch shows that it moves: one live line on a terminal, a plain line now and then where that is piped."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from krea_async.batch.run import BatchProgress

PLAIN_EVERY_S: Final = 5.0
LIVE_EVERY_S: Final = 0.25


class StderrHandler(logging.Handler):
    """Log records go to what standard error is at that moment: above the live line, while there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        print(self.format(record), file=sys.stderr, flush=True)


class ProgressView(Protocol):
    """Where a batch's progress is shown. `every_s`: how often it wants to be told."""

    every_s: float

    def show(self, progress: BatchProgress) -> None:
        """Show how far the batch is."""
        ...

    def say(self, line: str) -> None:
        """Print a line beside the progress."""
        ...


@contextmanager
def progress_view(total_rows: int | None) -> Iterator[ProgressView]:
    """The view that fits standard error."""
    if not sys.stderr.isatty():
        yield PlainView(total_rows)
        return
    console = Console(stderr=True, highlight=False)
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[line]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,  # it would go to stderr, where the live line is
        refresh_per_second=4,
    ) as live:
        yield LiveView(live, total_rows)


class PlainView:
    """Lines for a log file: the same words, no control characters."""

    every_s = PLAIN_EVERY_S

    def __init__(self, total_rows: int | None) -> None:
        self._total_rows = total_rows

    def show(self, progress: BatchProgress) -> None:
        """Print one line."""
        total = "" if self._total_rows is None else f"/{self._total_rows}"
        self.say(f"{progress.saved}{total} saved, {described(progress, self._total_rows)}")

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, file=sys.stderr, flush=True)


class LiveView:
    """One line that is painted over and over, for people who watch."""

    every_s = LIVE_EVERY_S

    def __init__(self, live: Progress, total_rows: int | None) -> None:
        self._live = live
        self._total_rows = total_rows
        self._bar = live.add_task("saved", total=total_rows, line="")

    def show(self, progress: BatchProgress) -> None:
        """Paint the line."""
        self._live.update(self._bar, completed=progress.saved, line=described(progress, self._total_rows))

    def say(self, line: str) -> None:
        """Print a line above the live one."""
        self._live.console.print(line, markup=False)


def described(progress: BatchProgress, total_rows: int | None) -> str:
    """A batch's progress in words, but for the number that is saved."""
    parts = [f"{progress.failed} failed"] if progress.failed else []
    parts += [f"{progress.skipped} skipped"] if progress.skipped else []
    parts.append(f"{progress.in_flight} in flight")
    ended = progress.saved + progress.failed + progress.skipped
    if progress.elapsed_s > 0 and progress.saved:
        parts.append(f"{progress.saved / progress.elapsed_s:.1f} pictures/s")
    parts.append(f"{progress.credits:.2f} credits")
    if total_rows and 0 < ended < total_rows:
        parts.append(f"ETA {clock((total_rows - ended) * progress.elapsed_s / ended)}")
    if progress.rate_limited:
        parts.append(f"{progress.rate_limited} answered 429")
    if progress.limit is not None:
        parts.append(f"limit {progress.limit}")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """`seconds` as people read them: 0:07, 12:34, 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
