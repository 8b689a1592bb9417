"""What a person sees: runs on a pseudo-terminal, and a screen that shows what comes out of it."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
from attrs import define, field, frozen
from test_commands import COMMAND

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
CODES = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n])")
NOT_WATCHED = ("TERM", "CI", "TF_BUILD", "TEAMCITY_VERSION", "JENKINS_URL", "COLUMNS", "LINES", "NO_COLOR")
"""What the tests' own environment may have, and a terminal that somebody watches has not."""


def report_of(out: str) -> dict[str, Any]:
    """The last line of `--json`: the report."""
    return dict(json.loads(out.splitlines()[-1]))


@define
class Screen:
    """A terminal of `width` columns that breaks its lines anew when it is resized, as most do; its rows, without end.

    breaks: the rows that go on in the next one.
    """

    width: int
    rows: list[str] = field(factory=lambda: [""])
    breaks: set[int] = field(factory=set)
    row: int = 0
    column: int = 0
    cursor_hidden: bool = False

    def feed(self, text: str) -> None:
        """Show what a program writes. Fails on a code that it does not know."""
        assert CODES.sub("", text) == "", f"not understood: {CODES.sub('', text)!r}"
        for match in CODES.finditer(text):
            numbers, command, newline, char = match.groups()
            if char:
                self._put(char)
            elif newline == "\r":
                self.column = 0
            elif newline:
                self._down()
                self.column = 0  # the terminal's driver makes \r\n of it
            else:
                self._command(numbers, command)

    def resize(self, width: int) -> None:
        """The cursor stays where it is in the text."""
        lines, place = [""], (0, 0)
        for number, row in enumerate(self.rows):
            if number == self.row:
                place = len(lines) - 1, len(lines[-1]) + self.column
            lines[-1] += row
            if number not in self.breaks:
                lines.append("")
        self.rows, self.breaks, self.width = [], set(), width
        for number, line in enumerate(lines[:-1]):
            if number == place[0]:
                self.row, self.column = len(self.rows) + place[1] // width, place[1] % width
            pieces = [line[start : start + width] for start in range(0, len(line), width)] or [""]
            self.breaks.update(range(len(self.rows), len(self.rows) + len(pieces) - 1))
            self.rows += pieces

    @property
    def text(self) -> str:
        """All that is to be seen."""
        return "\n".join(row.rstrip() for row in self.rows).rstrip()

    def _put(self, char: str) -> None:
        if self.column == self.width:
            self.breaks.add(self.row)
            self._down()
            self.column = 0
        row = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = row[: self.column] + char + row[self.column + 1 :]
        self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")

    def _command(self, numbers: str, command: str) -> None:
        if command == "A":
            self.row -= int(numbers or 1)
            assert self.row >= 0, "above the first line"
        elif command == "K":
            self.rows[self.row] = self.rows[self.row][: self.column]
            self.breaks.discard(self.row)
        elif command == "J":
            self.rows[self.row] = self.rows[self.row][: self.column]
            del self.rows[self.row + 1 :]
            self.breaks = {number for number in self.breaks if number < self.row}
        elif command in {"h", "l"} and numbers == "?25":
            self.cursor_hidden = command == "l"
        else:
            assert command == "m", f"not understood: {numbers}{command}"


@frozen
class Watched:
    """A run on a terminal: its exit code, its stdout if that is a file, and all that the terminal got."""

    code: int
    out: str
    seen: str

    def screen(self, width: int = 120) -> Screen:
        """What is left on the terminal."""
        screen = Screen(width)
        screen.feed(self.seen.replace("\r\n", "\n"))
        return screen


def resized(terminal: int, width: int, height: int = 40) -> None:
    """The terminal has another size from now on."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


async def on_a_terminal(
    *args: object,
    env: dict[str, str],
    cwd: Path,
    stdout: str = "a file",
    size: tuple[int, int] = (120, 40),
    variables: dict[str, str] | None = None,
    meanwhile: Callable[[subprocess.Popen[bytes], int, str], object] | None = None,
) -> Watched:
    """A run with stderr on a terminal, and stdout in "a file", or on "the terminal".

    size: columns and rows. variables: more of them, such as NO_COLOR. meanwhile: called with the process, the terminal
    and all that was seen, as more is seen.
    """
    ours, theirs = pty.openpty()
    resized(ours, *size)
    file = cwd / "stdout.txt"
    watched = {name: value for name, value in env.items() if name not in NOT_WATCHED}

    def start() -> subprocess.Popen[bytes]:
        with file.open("wb") as out:
            return subprocess.Popen(
                [*COMMAND, *map(str, args)],
                stdin=subprocess.DEVNULL,
                stdout=theirs if stdout == "the terminal" else out,
                stderr=theirs,
                env={**watched, "TERM": "xterm-256color", **(variables or {})},
                cwd=cwd,
            )

    process = await anyio.to_thread.run_sync(start)
    os.close(theirs)

    def watch() -> tuple[int, str]:
        seen = b""
        try:
            while piece := _read(ours):
                seen += piece
                if meanwhile is not None:
                    meanwhile(process, ours, seen.decode(errors="replace"))
        finally:
            os.close(ours)  # a process that still writes gets an error, and ends
        return process.wait(30), seen.decode()

    try:
        with anyio.fail_after(60):
            code, seen = await anyio.to_thread.run_sync(watch, abandon_on_cancel=True)
    finally:
        process.kill()  # a thread that was left alone ends with it
    return Watched(code, file.read_text(), seen)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # on Linux: nobody has the other end open any more
        return b""
