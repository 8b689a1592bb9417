"""Journals of very many rows, written in a second."""

from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from audited import row, saved

from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.records import CRC_BYTES, Header, Line, RunBegun, encode

_N = 123_456_789


def many_rows(directory: Path, count: int, *, prompt: str = "a fox in the snow", are_saved: bool = False) -> Path:
    """The journal of a run of so many rows; saved ones have their pictures in 0.png, 1.png and so on."""
    path = directory / JOURNAL_NAME
    with path.open("wb") as file:
        file.write(encode(Header(at_s=1.0)) + encode(RunBegun(pid=1, version="1", at_s=2.0)))
        file.writelines(_numbered(row(_N, prompt), count))
        if are_saved:
            file.writelines(_numbered(saved(_N, b"", task_id="task-unified-1-1"), count))
    return path


def _numbered(line: Line, count: int) -> Iterator[bytes]:
    """The line as that of the rows from 0 on: what has the number in it gets the row's own."""
    parts = encode(line).removesuffix(b"\n")[:-CRC_BYTES].split(b"%d" % _N)
    for n in range(count):
        body = (b"%d" % n).join(parts)
        yield body + b',"crc":"%08x"}\n' % crc32(body)
