"""The bars themselves, at every width, and the lines at a terminal's lower end that are painted again and again."""

import io
import sys
import time

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text
from terminals import Screen
from test_progress import FIGURES

from krea_async import Limit
from krea_async.cli.watching.live_view import LiveView, Marks, frame
from krea_async.cli.watching.painter import Painter, painter
from krea_async.meter import Figures

BUSY = evolve(
    FIGURES,
    rows=5_000,
    submitted=3_812,
    generating=172,
    generated=3_640,
    saved=3_602,
    failed=38,
    credits=1620.9,
    credits_projected=2250.0,
    rate=12.41,
    eta_s=112.0,
    posts=3_921,
    rate_limited=109,
    limit=Limit("rate", 19.84),
    reasons=(("content_policy_violation", 31), ("generation_timeout", 5)),
    elapsed_s=290.0,
)


def lines_of(figures: Figures, columns: int, marks: Marks | None = None) -> list[str]:
    return [line.plain for line in frame(figures, columns, marks or Marks())]


def test_a_wide_terminal_shows_everything_in_few_lines() -> None:
    lines = lines_of(BUSY, 119)
    assert lines[0].startswith("submitted  ━")
    assert [line.rsplit(" ", 1)[1] for line in lines[:3]] == ["3,812/5,000", "3,640/5,000", "3,602/5,000"]
    assert lines[3] == (
        "73% · 12.4 pictures/s · ETA 1:52 · 4:50 so far · 172 generating · 1,620.90 of about 2,250.00 credits"
    )
    assert lines[4:] == [
        "limit 19.8/s, rate-like · 109 answered 429 (3%)",
        "38 failed · 31 content_policy_violation · 5 generation_timeout",
    ]


def test_a_narrow_terminal_shows_the_same_in_more_lines() -> None:
    lines = lines_of(BUSY, 39)
    assert all(len(line) <= 39 for line in lines)
    assert lines[2].startswith("saved      ━━━━")
    words = {part for line in lines_of(BUSY, 119)[3:] for part in line.split(" · ")}
    assert words == {part for line in lines[3:] for part in line.split(" · ")}


def test_a_list_without_a_length_has_counts_and_no_bars() -> None:
    lines = lines_of(evolve(BUSY, rows=None, eta_s=None, credits_projected=None), 79)
    assert lines[:3] == ["submitted  3,812", "generating 3,640", "saved      3,602"]
    assert "%" not in lines[3]


def test_a_terminal_without_unicode_gets_letters() -> None:
    lines = lines_of(BUSY, 79, Marks.of("ascii"))
    assert all(line.isascii() for line in lines)
    assert "###" in lines[0]
    assert Marks.of("UTF-8") == Marks() != Marks.of("latin-1")


@given(
    st.integers(1, 300),
    st.integers(0, 10**6) | st.none(),
    st.integers(0, 2 * 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
)
def test_no_bar_is_longer_than_its_line_whatever_the_counts(
    columns: int, rows: int | None, done: int, failed: int, there: int
) -> None:
    """Rows that are submitted again, or an earlier run's, may make the counts exceed the list."""
    figures = evolve(BUSY, rows=rows, submitted=done, generated=done, saved=done, failed=failed, already_saved=there)
    for line in frame(figures, columns, Marks())[:3]:
        bar = line.plain.count("━") + line.plain.count("─")
        assert bar == 0 or line.cell_len <= columns
        assert bar <= 60


def test_all_failed_is_a_bar_full_of_failures() -> None:
    figures = evolve(BUSY, rows=10, submitted=10, saved=0, generated=0, failed=10)
    saved = frame(figures, 79, Marks())[2]
    (red,) = (span for span in saved.spans if span.style == "red")
    assert saved.plain[red.start : red.end] == "━" * 60


# --- the painter ------------------------------------------------------------------------------------------------------


class Terminal:
    """A painter, and the screen that it paints on."""

    def __init__(self, width: int, height: int = 30) -> None:
        self.file = io.StringIO()
        self.console = Console(file=self.file, force_terminal=True, width=width, height=height, color_system=None)
        self.painter = Painter(self.console, self.file)
        self.screen = Screen(width)

    def text(self) -> str:
        self.screen.feed(self.file.getvalue())
        self.file.seek(0)
        self.file.truncate()
        return self.screen.text

    def resize(self, width: int) -> None:
        self.text()
        self.console.width = width
        self.screen.resize(width)


def lines(*words: str) -> list[Text]:
    return [Text(text) for text in words]


def test_what_is_painted_replaces_what_was_and_what_is_said_stays_above() -> None:
    terminal = Terminal(40)
    terminal.painter.paint(lines("one", "two", "three"))
    terminal.painter.above("said\n")
    terminal.painter.paint(lines("uno", "dos"))
    assert terminal.text() == "said\nuno\ndos"
    terminal.painter.above("said again\n")
    assert terminal.text() == "said\nsaid again\nuno\ndos"
    terminal.painter.leave()
    assert terminal.text() == "said\nsaid again"
    assert not terminal.screen.cursor_hidden


def test_the_same_lines_are_painted_once() -> None:
    terminal = Terminal(40)
    terminal.painter.paint(lines("one"))
    terminal.text()
    terminal.painter.paint(lines("one"))
    assert terminal.file.getvalue() == ""


def test_a_long_line_is_cut_and_a_low_terminal_has_its_first_lines() -> None:
    terminal = Terminal(10, height=4)
    terminal.painter.paint(lines("x" * 30, "two", "three", "four", "five"))
    assert terminal.text() == "xxxxxxxx…\ntwo\nthree"


@given(st.lists(st.tuples(st.integers(12, 150), st.booleans()), max_size=12))
def test_no_piece_stays_behind_however_the_terminal_is_resized(steps: list[tuple[int, bool]]) -> None:
    terminal = Terminal(80)
    said: list[str] = []
    figures = BUSY
    for number, (width, speaks) in enumerate(steps):
        figures = evolve(figures, saved=figures.saved + 1)
        terminal.resize(width)
        if speaks:
            said.append(f"row {number}")
            terminal.painter.above(f"row {number}\n")
        terminal.painter.paint(frame(figures, width - 1, Marks()))
        shown = terminal.text().splitlines()
        assert shown[: len(said)] == said
        assert len(shown) - len(said) == min(29, len(frame(figures, width - 1, Marks())))
    terminal.painter.leave()
    assert terminal.text() == "\n".join(said)


def test_everybody_who_writes_on_stderr_writes_above_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(60)
    monkeypatch.setattr("sys.stderr", terminal.file)
    with painter(terminal.console) as painting:
        painting.paint(lines("painted"))
        sys.stderr.write("a warning\n")
        sys.stderr.write("half a ")
        assert terminal.text() == "a warning\npainted"
        sys.stderr.write("line\n")
        sys.stderr.write("the last words")
        assert terminal.screen.cursor_hidden
    assert sys.stderr is terminal.file
    assert terminal.text() == "a warning\nhalf a line\nthe last words"
    assert not terminal.screen.cursor_hidden


def test_the_view_costs_less_than_a_fiftieth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its rhythm, and with everything to be shown; on a machine that does other work meanwhile."""
    terminal = Terminal(120)
    view = LiveView(terminal.console, terminal.painter)
    view.show(BUSY)
    started_s = time.process_time()
    for number in range(40):
        view.show(evolve(BUSY, saved=number))
    seconds = time.process_time() - started_s
    assert seconds / (40 * view.every_s) < 0.02
