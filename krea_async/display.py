"""How results look in a notebook: HTML and pictures made of values, and nothing that runs.

A prompt is hostile text, and so is what a gateway says: all of it is escaped. Notebooks are files that are sent around,
so pictures are embedded small.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

from krea_async.errors import InvalidImageError
from krea_async.meter import Figures, clock, described
from krea_async.results import BatchReport, GeneratedImage
from krea_async.storage.formats import inspect

EMBED_BYTES: Final = 256 * 1024
"""A file up to this size is embedded as it is."""

EMBED_WITHOUT_PILLOW_BYTES: Final = 4 * 1024 * 1024
EMBED_PX: Final = 1024
"""The longer side of what is embedded of a larger file."""

MAX_PIXELS: Final = 64_000_000
MAX_ROWS_SHOWN: Final = 20
SHOWN_CHARS: Final = 300

_MIME: Final = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}


def picture_bundle(image: GeneratedImage) -> dict[str, str]:
    """What a notebook shows of a result, by MIME type: the picture, or else why there is none. Reads the file."""
    picture = None if image.path is None else _embedded(image.path)
    if picture is None:
        return {"text/html": facts_html(image)}
    mime, data = picture
    return {mime: base64.b64encode(data).decode("ascii")}


def facts_html(image: GeneratedImage) -> str:
    """A result without its picture."""
    facts: list[tuple[str, str]] = [("status", image.status)]
    if image.error is not None:
        facts += [("error", image.error.code or type(image.error).__name__), ("message", image.error.message)]
        facts.append(("charged", image.error.charged))
    if image.request is not None:
        facts.append(("prompt", image.request.prompt))
    if image.task_id is not None:
        facts.append(("task", image.task_id))
    if image.path is not None:
        facts.append(("file", f"{image.path} ({image.width} x {image.height}, {image.bytes:,} bytes)"))
        facts.append(("not shown", "the file is not there any more, or is no picture that can be shown"))
    title = "GeneratedImage" if image.index is None else f"GeneratedImage, row {image.index}"
    return _table(title, facts)


def report_html(report: BatchReport) -> str:
    """A batch's books as tables."""
    facts = [
        ("saved", f"{report.saved:,}"),
        ("failed", f"{report.failed:,}"),
        ("there already", f"{report.already_saved:,}" if report.already_saved else ""),
        ("left for a later run", f"{report.left:,}" if report.left else ""),
        ("credits", f"{report.credits:,.2f} (${report.usd:,.2f})"),
        ("refunded", f"{report.credits_refunded:,.2f}" if report.credits_refunded else ""),
        ("reserved", f"{report.credits_reserved:,.2f}" if report.credits_reserved else ""),
        ("unknown", f"{report.credits_unknown:,.2f}" if report.credits_unknown else ""),
        ("time", f"{clock(report.wall_s)}, {report.pictures_per_minute:,.1f} pictures a minute"),
        ("limit found", "" if report.limit is None else str(report.limit)),
        ("stopped by", "" if report.stopped_by is None else str(report.stopped_by)),
    ]
    parts = [_table("BatchReport", [(name, value) for name, value in facts if value])]
    if report.failures:
        rows = [(f"{count:,}", code, report.examples[code].message) for code, count in report.failures.items()]
        parts.append(_grid(("rows", "error", "for example"), rows))
    outcomes = (*report.unknown, *report.open_tasks, *report.maybe_twice)
    if outcomes:
        unsure = [(str(row.index), row.task_id or "unknown", row.charged, row.reason) for row in outcomes]
        parts.append(_grid(("row", "task", "charged", "why"), unsure))
    return "".join(parts)


def progress_html(figures: Figures, *, over: bool = False) -> str:
    """A progress bar with the figures in words. over: the batch has ended."""
    value = "" if figures.rows is None else f' max="{max(1, figures.rows)}" value="{figures.ended}"'
    words = described(figures)
    bar = "" if over and figures.rows is None else f'<progress style="width:20em" aria-label="rows"{value}></progress> '
    return f'<div style="font-family:monospace">{bar}{escape(words)}{", ended" if over else ""}</div>'


def _embedded(path: Path) -> tuple[str, bytes] | None:
    """A picture's MIME type and bytes, small enough for a notebook; None if it is not there, or cannot be made so."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            info = inspect(file, size_bytes=size_bytes)
        if size_bytes <= EMBED_BYTES:
            return _MIME[info.extension], path.read_bytes()
        small = _smaller(path) if info.width * info.height <= MAX_PIXELS else None
        if small is None and size_bytes <= EMBED_WITHOUT_PILLOW_BYTES:
            return _MIME[info.extension], path.read_bytes()
    except (OSError, InvalidImageError):
        return None
    return small


def _smaller(path: Path) -> tuple[str, bytes] | None:
    try:
        from PIL import Image  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as picture:
            picture.draft("RGB", (EMBED_PX, EMBED_PX))
            picture.thumbnail((EMBED_PX, EMBED_PX))
            file = io.BytesIO()
            see_through = "A" in picture.getbands() or "transparency" in picture.info
            form, kind = ("PNG", "png") if see_through else ("JPEG", "jpg")
            picture.convert("RGBA" if see_through else "RGB").save(file, form, quality=85)
    except Exception:  # noqa: BLE001 - Pillow raises anything for a damaged file, and a display raises nothing
        return None
    return _MIME[kind], file.getvalue()


def _table(title: str, facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(_short(value))}</td></tr>'
        for name, value in facts
    )
    return f'<table><caption style="text-align:left">{escape(title)}</caption><tbody>{rows}</tbody></table>'


def _grid(names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f'<th scope="col" style="text-align:left">{escape(name)}</th>' for name in names)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{escape(_short(value))}</td>' for value in row) + "</tr>"
        for row in rows[:MAX_ROWS_SHOWN]
    )
    more = f"<p>and {len(rows) - MAX_ROWS_SHOWN:,} more</p>" if len(rows) > MAX_ROWS_SHOWN else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
