"""Prompt lists: `.txt`, `.jsonl`, `.csv`, `.tsv` and standard input, read lazily and read twice.

Every picture costs money, so the whole list is checked before the first one is ordered (`PromptList.check`) and read
again while it is rendered. Both passes keep one row in memory, whatever the length of the list or of a broken line.
"""

import codecs
import csv
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Literal, Self

from attrs import frozen

from krea_async.errors import NO_FILE_LEFT, InvalidRequestError
from krea_async.models import REQUEST_FIELDS, ImageRequest

Format = Literal["txt", "jsonl", "csv", "tsv"]

MAX_LINE_BYTES: Final = 1 << 20
_SUFFIXES: Final[dict[str, Format]] = {".txt": "txt", ".jsonl": "jsonl", ".csv": "csv", ".tsv": "tsv"}
_KINDS: Final = ".txt, .jsonl, .csv, .tsv, or - for standard input"
_FIELDS: Final = ", ".join(REQUEST_FIELDS)
_FLAGS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_CHUNK_BYTES: Final = 1 << 16
_SHOWN_CHARS: Final = 60

# The number of a line, or of a row's first line, and what stands there, or why it cannot be read.
_Line = tuple[int, str | InvalidRequestError]
_Row = tuple[int, str | Mapping[str, Any] | InvalidRequestError]


@frozen(kw_only=True)
class RowProblem:
    """One thing wrong with a prompt list; `str()` is one line for people: `prompts.csv:700: size '16x9' is not …`.

    line: where the row starts, from 1. field: the field or column concerned; None when it is the row as a whole.
    value: what was found there. allowed: what may stand there instead.
    """

    file: str
    line: int
    field: str | None
    value: object
    allowed: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


class PromptList:
    """An open prompt list. Use it as a context manager: it closes what it opened.

    `check()` is the first pass and iterating is the second; they share one file, so finish one before the next.
    rows, credits, usd: how many rows there are, and the list price of the valid ones; set when `check()` is through.
    Reading blocks for as long as the disk does; an OSError means that it failed half-way.
    """

    def __init__(self, file: BinaryIO, *, name: str, format: Format) -> None:  # noqa: A002 - the word users know
        """`file` must be seekable and is closed with the list; `name` stands for it in problems."""
        self.name = name
        self.format: Format = format
        self.rows = 0
        self.credits = 0.0
        self.usd = 0.0
        self._file = file

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        format: Format | None = None,  # noqa: A002 - the word users know
        stdin: BinaryIO | None = None,
    ) -> Self:
        """The list at `path`, or on standard input for "-". `format` None: as the file's extension says.

        What cannot be read twice (standard input, pipes) is copied to a temporary file first. On standard input, format
        None means jsonl if the first character is `{` or `"`, else txt. `stdin` replaces the process's own.
        Raises InvalidRequestError for a missing or unreadable file and for an unknown extension.
        """
        text = fspath(path)
        if text == "-":
            file = _spooled(stdin or sys.stdin.buffer)
            return cls(file, name="<stdin>", format=format or _guessed(file))
        name = text if text.isprintable() else repr(text)
        file, format = _opened(text, name, format)  # noqa: A001 - the word users know
        if not file.seekable():
            with file as pipe:
                file = _spooled(pipe)
        return cls(file, name=name, format=format)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, or delete the temporary copy. Closing twice does nothing."""
        self._file.close()

    def check(self) -> Iterator[RowProblem]:
        """Read the whole list once and yield each problem as it is met; a list without a row is a problem, too."""
        rows = 0
        prices: Counter[tuple[float, float]] = Counter()
        for line, request in self._requests():
            rows += 1
            if isinstance(request, InvalidRequestError):
                yield self._problem(line, request)
            else:
                prices[request.credits, request.usd] += 1
        if not rows:
            yield self._problem(1, _refused("the list holds no prompt", "at least one row"))
        self.rows = rows
        self.credits = sum(price * count for (price, _), count in prices.items())
        self.usd = sum(price * count for (_, price), count in prices.items())

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[ImageRequest | InvalidRequestError]:
        """Each row, lazily. A row that turned bad since the check is its error, as a value: one row, not the batch."""
        for line, request in self._requests():
            if isinstance(request, InvalidRequestError):
                told = self._problem(line, request)
                yield _refused(str(told), told.allowed, field=told.field, value=told.value)
            else:
                yield request

    def _requests(self) -> Iterator[tuple[int, ImageRequest | InvalidRequestError]]:
        self._file.seek(0)
        for line, content in _READERS[self.format](_lines(self._file)):
            yield line, content if isinstance(content, InvalidRequestError) else _request(content)

    def _problem(self, line: int, error: InvalidRequestError) -> RowProblem:
        complete = error.allowed is None or error.allowed in error.message
        message = error.message if complete else f"{error.message}; allowed: {error.allowed}"
        return RowProblem(
            file=self.name, line=line, field=error.field, value=error.value, allowed=error.allowed, message=message
        )


def _refused(
    message: str, allowed: str | None, *, field: str | None = None, value: object = None
) -> InvalidRequestError:
    return InvalidRequestError(message, field=field, value=value, allowed=allowed)


def _opened(path: str, name: str, form: Format | None) -> tuple[BinaryIO, Format]:
    form = form or _SUFFIXES.get(Path(path).suffix.lower())
    try:
        if Path(path).is_dir():
            raise _refused(f"{name} is a directory; name a prompt list in it", _KINDS, value=path)
        if form is None:
            raise _refused(f"{name} does not say what kind of list it is; allowed: {_KINDS}", _KINDS, value=path)
        return Path(path).open("rb"), form
    except FileNotFoundError:
        message = f"{name} does not exist; check the path"
    except PermissionError:
        message = f"{name} may not be read by this user; check its permissions"
    except (OSError, ValueError) as exc:  # ValueError: the path has a NUL byte
        if isinstance(exc, OSError) and exc.errno in NO_FILE_LEFT:  # the list is not at fault
            raise
        message = f"{name} cannot be opened: {exc}"
    raise _refused(message, "a readable prompt list", value=path)


def _spooled(source: BinaryIO) -> BinaryIO:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the PromptList closes it
    try:
        shutil.copyfileobj(source, copy)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def _guessed(file: BinaryIO) -> Format:
    while chunk := file.read(_CHUNK_BYTES):
        if start := chunk.removeprefix(codecs.BOM_UTF8).lstrip():
            return "jsonl" if start[:1] in b'{"' else "txt"
    return "txt"


def _request(content: str | Mapping[str, Any]) -> ImageRequest | InvalidRequestError:
    try:
        return ImageRequest.of(content)
    except InvalidRequestError as error:
        return error


def _lines(file: BinaryIO) -> Iterator[_Line]:
    """Each line without its end, or what is wrong with it. Never holds more than `MAX_LINE_BYTES` of it."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1 and (raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in raw[:2]):
            yield number, _refused("the list is UTF-16 or UTF-32; save it as UTF-8", "UTF-8 text")
            return  # where its lines end cannot be told
        yield number, _text(raw)
        while len(raw) > _CHUNK_BYTES and not raw.endswith(b"\n"):
            raw = file.readline(_CHUNK_BYTES + 1)  # the rest of a line that is too long


def _text(raw: bytes) -> str | InvalidRequestError:
    shown = raw[:_SHOWN_CHARS].decode(errors="replace")
    if len(raw) > MAX_LINE_BYTES:
        return _refused("the line is longer than 1 MiB", "lines of at most 1 MiB", value=shown)
    try:
        text = raw.decode().rstrip("\r\n").removeprefix("\ufeff")  # the mark is on any line of joined lists
    except UnicodeDecodeError as exc:
        found = f"byte 0x{raw[exc.start]:02x} at place {exc.start + 1}"
        return _refused(f"{found} is not UTF-8; save the list as UTF-8", "UTF-8 text", value=shown)
    if "\0" in text:
        return _refused("the line has a NUL byte", "UTF-8 text", value=shown)
    if "\r" in text:
        return _refused("the line has a carriage return inside", "lines that end with LF or CR LF", value=shown)
    return text


def _txt_rows(lines: Iterator[_Line]) -> Iterator[_Row]:
    for number, text in lines:
        if isinstance(text, InvalidRequestError):
            yield number, text
        elif (prompt := text.strip()) and not prompt.startswith("#"):
            yield number, prompt


def _jsonl_rows(lines: Iterator[_Line]) -> Iterator[_Row]:
    for number, text in lines:
        if isinstance(text, InvalidRequestError):
            yield number, text
        elif text.strip():
            yield number, _json_content(text)


def _json_content(text: str) -> str | Mapping[str, Any] | InvalidRequestError:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as exc:
        wrong = f"the line is not JSON: {exc.msg} at place {exc.pos + 1}"
    except (ValueError, RecursionError) as exc:  # a number of thousands of digits; nesting without end
        wrong = f"the line cannot be read as JSON: {exc}"
    else:
        if isinstance(content, dict):
            return {name: value for name, value in content.items() if value is not None}  # null: not given
        if isinstance(content, str):
            return content
        wrong = f"the line is JSON, but a {type(content).__name__}"
    return _refused(wrong, f'an object of {_FIELDS}, or a "text"', value=text[:_SHOWN_CHARS])


def _table_rows(lines: Iterator[_Line], *, delimiter: str) -> Iterator[_Row]:
    """Rows of a table with a header. Rows whose cells are all empty, as spreadsheets leave behind, are blank lines."""
    header: list[str] = []
    for number, cells in _table_cells(lines, delimiter):
        if isinstance(cells, InvalidRequestError):
            yield number, cells
        elif not header:
            header = [cell.strip() for cell in cells]
            for problem in _header_problems(header):
                yield number, problem
        elif len(cells) > len(header):
            found = f"the row has {len(cells)} cells, the header {len(header)}"
            yield number, _refused(found, "a quoted cell, if it holds the delimiter", value=cells[len(header)])
        else:
            yield number, _table_content(dict(zip(header, cells, strict=False)))
        if not set(REQUEST_FIELDS).issuperset(header) or "prompt" not in header:
            return  # what the cells mean is unknown


def _table_cells(lines: Iterator[_Line], delimiter: str) -> Iterator[tuple[int, list[str] | InvalidRequestError]]:
    """The cells of each row that is not blank. A fresh parser per row: a broken row cannot spoil the next."""
    for first in lines:
        bad: list[InvalidRequestError] = []
        cells: list[str] = []
        try:
            cells = next(csv.reader(_row_lines(first, lines, bad), delimiter=delimiter, strict=True))
        except csv.Error as exc:
            bad.append(_refused(f"the row cannot be read: {exc}; is a quote missing?", '"cells", quotes in them twice'))
        if bad:
            yield first[0], bad[0]
        elif any(cell.strip() for cell in cells):
            yield first[0], cells


def _row_lines(first: _Line, lines: Iterator[_Line], bad: list[InvalidRequestError]) -> Iterator[str]:
    """The lines of one row, as far as the parser asks for them: a quoted cell may span several."""
    left = MAX_LINE_BYTES  # the parser has a limit of its own, but any library may have raised it
    for _, text in chain([first], lines):
        if isinstance(text, InvalidRequestError):
            bad.append(text)
            yield "\n"
            continue
        yield f"{text}\n"
        left -= len(text)
        if left <= 0:
            return


def _header_problems(header: list[str]) -> Iterator[InvalidRequestError]:
    for name, count in Counter(header).items():
        shown = repr(name[:_SHOWN_CHARS])
        if name not in REQUEST_FIELDS:
            yield _refused(f"unknown column {shown}", f"columns {_FIELDS}", field=name, value=name)
        elif count > 1:
            yield _refused(f"column {shown} is there {count} times", "each column once", field=name, value=name)
    if "prompt" not in header:
        yield _refused("the header has no column 'prompt'", f"columns {_FIELDS}", field="prompt")


def _table_content(cells: dict[str, str]) -> Mapping[str, Any]:
    fields: dict[str, Any] = {name: cell.strip() for name, cell in cells.items() if cell.strip()}
    seed, flag = fields.get("seed", ""), fields.get("nsfw_check", "")
    if seed.isascii() and seed.isdigit() and len(seed) < 20:  # anything else is shown as it was written
        fields["seed"] = int(seed)
    if flag.lower() in _FLAGS:
        fields["nsfw_check"] = _FLAGS[flag.lower()]
    return {"prompt": "", **fields}


_READERS: Final[dict[Format, Callable[[Iterator[_Line]], Iterator[_Row]]]] = {
    "txt": _txt_rows,
    "jsonl": _jsonl_rows,
    "csv": partial(_table_rows, delimiter=","),
    "tsv": partial(_table_rows, delimiter="\t"),
}
