"""A few lines at a terminal's lower end that are painted over and over, and everything else above them.

Rich's own live display leaves pieces behind when the terminal gets narrower between two paintings; this one counts how
many rows its old lines take at the new width. Lines never reach the last column, and one write paints them all.
"""

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import RLock
from typing import Final, TextIO

from rich.console import Console
from rich.text import Text

HIDE_CURSOR: Final = "\x1b[?25l"
SHOW_CURSOR: Final = "\x1b[?25h"
ERASE_TO_END_OF_LINE: Final = "\x1b[K"
ERASE_BELOW: Final = "\x1b[J"


class Painter:
    """Owns the lower end of the terminal behind `console`."""

    def __init__(self, console: Console, file: TextIO) -> None:
        self._console = console
        self._file = file
        self._lock = RLock()  # log records come from other threads too
        self._painted = ""
        self._cells: list[int] = []
        self._width = 0

    def paint(self, lines: Sequence[Text]) -> None:
        """Show these lines instead of the last ones; as many as fit."""
        width, height = self._console.size
        shown = list(lines[: max(1, height - 1)])
        for line in shown:
            line.truncate(max(1, width - 1), overflow="ellipsis")
        painted = "".join(f"{self._codes(line)}{ERASE_TO_END_OF_LINE}\n" for line in shown)
        with self._lock:
            if painted == self._painted and width == self._width:
                return
            start = self._to_the_start() if width == self._width else self._erasing(width)
            self._write(f"{start}{painted}{ERASE_BELOW}")
            self._painted, self._width = painted, width
            self._cells = [line.cell_len for line in shown]

    def above(self, text: str) -> None:
        """Print `text`, whole lines, above the painted ones."""
        with self._lock:
            width = self._console.width
            self._write(f"{self._erasing(width)}{text}{self._painted}")
            self._width = width

    def hide_cursor(self) -> None:
        """Nothing is typed here."""
        self._write(HIDE_CURSOR)

    def leave(self) -> None:
        """Take the lines away and leave the terminal as it was."""
        with self._lock:
            self._write(f"{self._erasing(self._console.width)}{SHOW_CURSOR}")
            self._painted, self._cells = "", []

    def _erasing(self, width: int) -> str:
        return f"{self._to_the_start(width)}{ERASE_BELOW}"

    def _to_the_start(self, width: int | None = None) -> str:
        """width: that of now, in which the terminal has broken the lines anew."""
        rows = sum(max(1, -(-cells // max(1, width or self._width))) for cells in self._cells)
        return f"\r\x1b[{rows}A" if rows else "\r"

    def _codes(self, line: Text) -> str:
        with self._console.capture() as captured:
            self._console.print(line, end="", soft_wrap=True)
        return captured.get()

    def _write(self, text: str) -> None:
        with suppress(OSError):  # the terminal is gone, and the run goes on
            self._file.write(text)
            self._file.flush()


class _Above(io.TextIOBase):
    """Standard error while there is a painter."""

    def __init__(self, painter: Painter, real: TextIO) -> None:
        self._painter = painter
        self._real = real
        self._begun = ""

    def write(self, text: str) -> int:
        whole, newline, self._begun = (self._begun + text).rpartition("\n")
        if newline:
            self._painter.above(f"{whole}\n")
        return len(text)

    def last_words(self) -> None:
        """Print the line that was begun, if there is one."""
        if self._begun:
            self._real.write(f"{self._begun}\n")

    def fileno(self) -> int:
        return self._real.fileno()

    def isatty(self) -> bool:
        return self._real.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a property, as the real one has it
        return self._real.encoding


@contextmanager
def painter(console: Console) -> Iterator[Painter]:
    """A painter on standard error, which everybody else writes above its lines meanwhile."""
    real = sys.stderr
    painting = Painter(console, real)
    above = _Above(painting, real)
    painting.hide_cursor()
    sys.stderr = above
    try:
        yield painting
    finally:
        sys.stderr = real
        painting.leave()
        above.last_words()
