"""A directory's books for people: short lines that a terminal may show, whatever the prompts and the gateway said."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from attrs import asdict

from krea_async.audit.report import DirectoryReport
from krea_async.results import UnknownOutcome

SHOWN_ROWS: Final = 50
SHOWN_PROMPT_CHARS: Final = 80


def report_text(report: DirectoryReport) -> list[str]:
    """The report in lines without control characters."""
    return [plain(line) for line in _lines(report)]


def plain(text: str) -> str:
    """`text` as a terminal may show it: escapes instead of what is not printable."""
    return "".join(ch if ch.isprintable() else ascii(ch)[1:-1] for ch in text)


def _lines(report: DirectoryReport) -> Iterator[str]:
    times = " to ".join(map(_moment, filter(None, (report.first_s, report.last_s))))
    yield f"{report.directory}: {report.rows} rows, {report.runs} runs, {times}"
    yield _entry("rows", ", ".join(f"{rows} {state}" for state, rows in report.states.items() if rows) or "none")
    yield _entry("credits", f"charged  {report.credits:>12.2f}  (${report.usd:.2f} by the price list)")
    for name in ("refunded", "reserved", "unknown"):
        yield _entry("", f"{name:<9}{getattr(report, f'credits_{name}'):>12.2f}")
    yield from _balance(report)
    means = asdict(report.seconds_per_picture)
    for place, (step, total) in enumerate(asdict(report.seconds).items()):
        mean = f", {means[step]:.2f} s a picture" if report.pictures else ""
        yield _entry("" if place else "time", f"{step.removesuffix('_s'):<12}{total:>12.1f} s{mean}")
    if report.wall_s:
        yield _entry("speed", f"{report.pictures_per_minute:.1f} pictures a minute, in {report.wall_s:.0f} s of runs")
    yield from _list("failed", [f"{n} x {code}: {report.examples[code]}" for code, n in report.failures.items()])
    yield from _list("unknown", [_row(row, row.reason) for row in report.unknown])
    yield from _list("open", [_row(row, "") for row in report.open_tasks])
    yield from _list("twice?", [_row(row, "") for row in report.maybe_twice])
    if report.maybe_twice:
        yield _entry("", "these were sent again after a lost answer, and may have been charged twice")
    if report.stopped_by is not None:
        yield _entry("stopped", f"the last run ended early: {report.stopped_by}")
    if report.compacted:
        yield _entry("compacted", "what was refunded before that is not known any more")
    if report.damaged_lines:
        yield _entry("damaged", f"lines {', '.join(map(str, report.damaged_lines[:SHOWN_ROWS]))}; they are left out")


def _balance(report: DirectoryReport) -> Iterator[str]:
    before, after, difference = report.balance_before, report.balance_after, report.balance_difference
    if before is None or after is None or difference is None:
        return
    fell = f"{before:.2f} before, {after:.2f} after: {before - after:.2f} less"
    yield _entry("balance", f"{fell}; charged {before - after - difference:.2f}, difference {difference:.2f}")
    if difference:
        yield _entry("", "whoever else uses the account changes its balance too, and so do credits reserved or unknown")


def _row(row: UnknownOutcome, reason: str) -> str:
    prompt = (row.prompt or "")[:SHOWN_PROMPT_CHARS]
    charged = f", {'charged' if row.charged == 'yes' else 'may be charged'}: {reason}" if reason else ""
    return f"row {row.index} ({prompt}), task {row.task_id or 'unknown'}{charged}"


def _list(name: str, lines: list[str]) -> Iterator[str]:
    for place, line in enumerate(lines[:SHOWN_ROWS]):
        yield _entry("" if place else name, line)
    if len(lines) > SHOWN_ROWS:
        yield _entry("", f"and {len(lines) - SHOWN_ROWS} more; --json lists them all")


def _entry(name: str, text: str) -> str:
    return f"{name:<10}{text}"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
