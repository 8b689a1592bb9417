"""Output directories for the tests: pictures, and the journal and manifest that a run would have written of them."""

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import evolve
from PIL import Image

from krea_async import ImageRequest
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.manifest import MANIFEST_NAME, rebuild_manifest
from krea_async.storage.records import Header, Line, Row, RunBegun, RunEnded, Saved, encode

PIXELS = (704, 1472)
"""Of size 1:2 in 1K, the smallest that there is."""


def picture(shade: int = 0, *, pixels: tuple[int, int] = PIXELS, form: str = "PNG", mode: str = "RGB") -> bytes:
    """A whole picture, another one for each shade."""
    file = io.BytesIO()
    Image.new(mode, pixels, (shade % 256, shade // 256, 99) if mode == "RGB" else shade).save(file, form)
    return file.getvalue()


def saved(n: int, data: bytes, **facts: Any) -> Saved:
    """The line of a row whose picture is `data`."""
    line = Saved(
        n=n,
        credits=0.45,
        task_id=f"task-unified-1-{n}",
        files=[f"{n}.png"],
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        width=PIXELS[0],
        height=PIXELS[1],
        seconds=(0.5, 0.125, 8.0, 0.25),
        at_s=100.0 + n,
    )
    return evolve(line, **facts)


def row(n: int, prompt: str = "", **facts: Any) -> Row:
    """A planned row."""
    return Row(n=n, index=n, request=ImageRequest(prompt or f"fox {n}", **{"size": "1:2", **facts}))


def write_journal(directory: Path, *lines: Line) -> Path:
    """A journal of these lines, and how it begins and ends."""
    path = directory / JOURNAL_NAME
    begin = Header(at_s=1.0), RunBegun(pid=1, version="1", at_s=2.0)
    path.write_bytes(b"".join(map(encode, (*begin, *lines, RunEnded(at_s=1000.0)))))
    return path


def rendered(directory: Path, count: int = 3) -> list[Saved]:
    """`count` saved rows with their pictures, in journal and manifest."""
    lines = []
    for n in range(count):
        data = picture(n)
        (directory / f"{n}.png").write_bytes(data)
        lines.append(saved(n, data))
    record(directory, lines)
    return lines


def record(directory: Path, lines: Iterable[Saved]) -> None:
    """Journal and manifest of rows that are saved like this."""
    lines = [*lines]
    path = write_journal(directory, *(row(n) for n in range(len(lines))), *lines)
    with History(path) as history:
        rebuild_manifest(directory, history)


def by_manifest_only(directory: Path) -> None:
    """Lose the journal."""
    (directory / JOURNAL_NAME).unlink()


def write_manifest(directory: Path, *rows: dict[str, Any] | bytes) -> None:
    """A manifest of these rows, or lines as they are."""
    lines = [line if isinstance(line, bytes) else json.dumps({"status": "saved", **line}).encode() for line in rows]
    (directory / MANIFEST_NAME).write_bytes(b"".join(line + b"\n" for line in lines))
