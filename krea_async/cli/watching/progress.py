"""How a batch shows that it moves: painted where a person watches a terminal, now and then a line everywhere else."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Final, Literal, Protocol

from krea_async.cli.output import say
from krea_async.meter import Figures, described

Mode = Literal["auto", "plain", "quiet"]
"""auto: what fits standard error. plain: lines. quiet: nothing but what a person has to know."""

LOOK_EVERY_S: Final = 1.0
PLAIN_FIRST_S: Final = 1.0
PLAIN_EVERY_S: Final = 5.0
PLAIN_SLOWEST_S: Final = 120.0
PLAIN_SHARE: Final = 0.05
"""The pause between two lines, as a share of the time that the run takes already: a long run does not fill the log."""

HEARTBEAT_S: Final = 300.0
"""A line also if nothing has changed: some CI services end a job that says nothing."""

CI_VARIABLES: Final = ("CI", "TF_BUILD", "TEAMCITY_VERSION", "JENKINS_URL")


class StderrHandler(logging.Handler):
    """Log records go to what standard error is at that moment: above the painted lines, while there are any."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record, unless nobody reads there any more."""
        with suppress(OSError):
            print(self.format(record), file=sys.stderr, flush=True)


class ProgressView(Protocol):
    """Where a batch's progress is shown. `every_s`: how often it wants to be told."""

    every_s: float

    def show(self, figures: Figures) -> None:
        """Show how far the batch is."""
        ...

    def say(self, line: str, *, to_act_on: bool = False) -> None:
        """Print a line beside the progress. to_act_on: whoever started the run has to know."""
        ...


def is_painted(mode: Mode) -> bool:
    """Whether somebody watches a terminal that lines can be painted on, and rich is there to do it."""
    if mode != "auto" or not sys.stderr.isatty() or find_spec("rich") is None:
        return False
    if os.environ.get("COLUMNS") == "0":  # to rich that is a width, and all that is said would be cut away
        return False
    dumb = os.environ.get("TERM", "" if os.name == "posix" else "windows") in {"", "dumb", "unknown"}
    return not dumb and not any(os.environ.get(name, "").lower() not in {"", "0", "false"} for name in CI_VARIABLES)


@contextmanager
def progress_view(mode: Mode = "auto", *, events_on_terminal: bool = False) -> Iterator[ProgressView]:
    """The view that fits standard error. events_on_terminal: stdout shows the progress there already, in its way."""
    if mode == "quiet":
        yield QuietView()
    elif events_on_terminal:
        yield SilentView()
    elif is_painted(mode):
        from krea_async.cli.watching.live_view import live_view  # noqa: PLC0415 - rich, which nothing else here needs

        with live_view() as view:
            yield view
    else:
        yield PlainView()


class SilentView:
    """No progress; the lines beside it."""

    every_s = PLAIN_EVERY_S

    def show(self, figures: Figures) -> None:
        """Nothing."""

    def say(self, line: str, *, to_act_on: bool = False) -> None:  # noqa: ARG002 - all of them
        """Print a line."""
        say(line)


class QuietView(SilentView):
    """Nothing but what a person has to know."""

    def say(self, line: str, *, to_act_on: bool = False) -> None:
        """Print a line that somebody has to act on."""
        if to_act_on:
            say(line)


class PlainView(SilentView):
    """Lines for a log file: the same words, no control characters, and fewer of them the longer it takes."""

    every_s = LOOK_EVERY_S

    def __init__(self) -> None:
        self._said: tuple[int, int] | None = None
        self._next_s = PLAIN_FIRST_S
        self._heartbeat_s = HEARTBEAT_S

    def show(self, figures: Figures) -> None:
        """Print one line, if it is time for one and it has something new to say."""
        now_s = figures.elapsed_s
        if now_s < self._next_s:
            return
        new = (figures.ended, figures.submitted)
        if new == self._said and now_s < self._heartbeat_s:
            return
        self._said = new
        self._next_s = now_s + max(PLAIN_EVERY_S, min(PLAIN_SLOWEST_S, PLAIN_SHARE * now_s))
        self._heartbeat_s = now_s + HEARTBEAT_S
        self.say(described(figures))
