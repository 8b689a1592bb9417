"""A batch on a terminal, for whoever watches: three bars, and below them the figures that matter."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from attrs import frozen
from rich.console import Console
from rich.text import Text

from krea_async.cli.output import say
from krea_async.cli.watching.painter import Painter, painter
from krea_async.meter import Figures, clock, refused, spending

EVERY_S: Final = 0.25
LABEL_CELLS: Final = 11
LEAST_BAR_CELLS: Final = 6
MOST_BAR_CELLS: Final = 60
LOW_TERMINAL_ROWS: Final = 9
"""With fewer rows than this only the last bar is shown: what was said before matters as well."""


@frozen
class Marks:
    """What bars are drawn with; a terminal without Unicode gets letters."""

    done: str = "━"
    failed: str = "━"
    rest: str = "─"
    between: str = " · "

    @classmethod
    def of(cls, encoding: str) -> "Marks":
        """Those that `encoding` has."""
        return cls() if encoding.lower().replace("-", "").startswith("utf") else cls("#", "x", ".", ", ")


class LiveView:
    """Paints the figures at the lower end of the terminal."""

    every_s = EVERY_S

    def __init__(self, console: Console, painting: Painter) -> None:
        self._console = console
        self._painting = painting
        self._marks = Marks.of(console.encoding)

    def show(self, figures: Figures) -> None:
        """Paint them."""
        width, height = self._console.size
        lines = frame(figures, width - 1, self._marks)
        self._painting.paint(lines if height >= LOW_TERMINAL_ROWS else lines[2:])

    def say(self, line: str, *, to_act_on: bool = False) -> None:  # noqa: ARG002 - all of them
        """Print a line above the painted ones."""
        say(line)


@contextmanager
def live_view() -> Iterator[LiveView]:
    """The view on standard error, which must be a terminal. It leaves nothing behind."""
    console = Console(stderr=True, highlight=False)
    with painter(console) as painting:
        yield LiveView(console, painting)


def frame(figures: Figures, width: int, marks: Marks) -> list[Text]:
    """The lines for a terminal with `width` usable columns: three bars first, then the figures."""
    there, failed = figures.already_saved, figures.failed
    steps = (
        ("submitted", figures.submitted + there, 0),
        ("generating", figures.generated + there, failed),
        ("saved", figures.saved + there, failed),
    )
    counts = [_count(done, figures.rows) for _, done, _ in steps]
    cells = max(map(len, counts))
    bars = [
        _step(label, done, failed, figures.rows, f"{count:>{cells}}", width, marks)
        for (label, done, failed), count in zip(steps, counts, strict=True)
    ]
    for parts in (_pace, _gateway, _failures):
        bars += _filled([*parts(figures)], width, marks)
    return bars


def _count(done: int, rows: int | None) -> str:
    return f"{done:,}" if rows is None else f"{done:,}/{rows:,}"


def _step(label: str, done: int, failed: int, rows: int | None, count: str, width: int, marks: Marks) -> Text:  # noqa: PLR0917
    line = Text(no_wrap=True)
    line.append(f"{label:<{LABEL_CELLS}}", "bold")
    cells = min(MOST_BAR_CELLS, width - LABEL_CELLS - len(count) - 1)
    if rows and cells >= LEAST_BAR_CELLS:
        green = min(cells, cells * done // rows)
        red = min(cells - green, -(-cells * failed // rows))
        line.append(marks.done * green, "green")
        line.append(marks.failed * red, "red")
        line.append(marks.rest * (cells - green - red), "bright_black")
        line.append(" ")
    line.append(count)
    return line


def _pace(figures: Figures) -> Iterator[tuple[str, str]]:
    if figures.rows:
        yield f"{figures.ended / figures.rows:.0%}", "bold"
    if figures.rate is not None:
        yield f"{figures.rate:.1f} pictures/s", ""
    if figures.eta_s is not None:
        yield f"ETA {clock(figures.eta_s)}", "bold"
    yield f"{clock(figures.elapsed_s)} so far", ""
    yield f"{figures.generating:,} generating", ""
    yield spending(figures), ""


def _gateway(figures: Figures) -> Iterator[tuple[str, str]]:
    if figures.limit is not None:
        yield f"limit {figures.limit}", ""
    if figures.rate_limited:
        yield refused(figures), ""
    if figures.already_saved:
        yield f"{figures.already_saved:,} were there already", ""


def _failures(figures: Figures) -> Iterator[tuple[str, str]]:
    if figures.failed:
        yield f"{figures.failed:,} failed", "bold red"
        for reason, count in figures.reasons:
            yield f"{count:,} {reason}", "red"


def _filled(parts: Sequence[tuple[str, str]], width: int, marks: Marks) -> list[Text]:
    """The parts in as few lines as they fit into; none is broken."""
    lines: list[Text] = []
    for text, style in parts:
        if lines and lines[-1].cell_len + len(marks.between) + len(text) <= width:
            lines[-1].append(marks.between, "bright_black")
        else:
            lines.append(Text(no_wrap=True))
        lines[-1].append(text, style)
    return lines
