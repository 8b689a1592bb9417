"""Where a list comes from: files, globs and standard input, opened so that each can be read twice and is the same."""

import codecs
import glob
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Literal

from krea_async.errors import NO_FILE_LEFT, InvalidRequestError
from krea_async.models import REQUEST_FIELDS
from krea_async.prompts.columns import Columns, Read
from krea_async.prompts.formats import jsonl_rows, openai_rows, txt_rows
from krea_async.prompts.parquet import PARQUET_MAGIC, parquet_rows, require_pyarrow
from krea_async.prompts.problems import did_you_mean, refused
from krea_async.prompts.tables import csv_rows, tsv_rows
from krea_async.prompts.text import CHUNK_BYTES, lines
from krea_async.prompts.unpacked import GZIP_MAGIC, Unpacked

Format = Literal["txt", "jsonl", "csv", "tsv", "parquet", "openai-batch"]

HELD_FILES: Final = 32
"""So many files stay open from the first reading to the second; those after them are opened again."""

_SUFFIXES: Final[dict[str, Format]] = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_KINDS: Final = ".txt, .jsonl, .csv, .tsv, each also as .gz, .parquet, or - for standard input"
_READERS: Final = {
    "txt": txt_rows,
    "jsonl": jsonl_rows,
    "csv": csv_rows,
    "tsv": tsv_rows,
    "openai-batch": openai_rows,
}
_ARRAY: Final = re.compile(rb'\[\s*(?:$|["\[{\]])')
_DELIMITER: Final = re.compile(r"[,;\t]")
_DIGITS: Final = re.compile(r"([0-9]+)")
_LISTED_NAMES: Final = 1000


class Source:
    """One file of a list. name: for people; format: what is in it."""

    def __init__(self, file: BinaryIO, *, name: str, format: Format, packed: bool) -> None:  # noqa: A002
        self.name = name
        self.format: Format = format
        self._file: BinaryIO | None = file
        self._packed = packed
        self._path: Path | None = None
        self._stamp = _stamp(file)

    def let_go(self, path: Path) -> None:
        """Close the file; it is opened again when it is read."""
        if self._file is not None:
            self._path = path
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Close the file, or delete the temporary copy."""
        if self._file is not None:
            self._file.close()

    def rows(self, columns: Columns, encoding: str) -> Iterator[Read]:
        """Its rows, from the first; what is wrong with it as a whole is a row as well."""
        try:
            with self._reading() as file:
                if self.format == "parquet":
                    yield from parquet_rows(file, columns)
                else:
                    reader = Unpacked(file) if self._packed else file
                    yield from _READERS[self.format](lines(reader, encoding), columns)
        except InvalidRequestError as error:
            yield 1, error

    @contextmanager
    def _reading(self) -> Iterator[BinaryIO]:
        """The file at its start. Raises InvalidRequestError if it is not what it was when it was opened."""
        if self._path is None:
            assert self._file is not None  # noqa: S101 - until it is let go, which sets the path
            self._refuse_changed(self._file)
            self._file.seek(0)
            yield self._file
            return
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            raise refused(f"{self.name} is gone since it was opened", "a list that stays as it is") from None
        with file:
            self._refuse_changed(file)
            yield file

    def _refuse_changed(self, file: BinaryIO) -> None:
        if _stamp(file) != self._stamp:
            raise refused(f"{self.name} has changed since it was opened", "a list that stays as it is")


def sources_of(
    paths: Sequence[str],
    form: Format | None,
    stdin: BinaryIO | None,
    *,
    template: bool,
) -> list[Source]:
    """The sources at `paths`, each of which is a file, a glob, or "-" for standard input; in this order.

    Raises InvalidRequestError for what is missing, unreadable, of an unknown kind, or named twice.
    """
    sources: list[Source] = []
    try:
        for path in _files(paths):
            if path == "-":
                sources.append(_stdin(stdin or sys.stdin.buffer, form, template=template))
                continue
            source, is_file = _opened(path, form)
            sources.append(source)
            if is_file and len(sources) > HELD_FILES:
                source.let_go(Path(path))
    except BaseException:
        for source in sources:
            source.close()
        raise
    return sources


def printable(path: str) -> str:
    """A path as it may stand in a message."""
    return path if path.isprintable() else repr(path)


def _files(paths: Sequence[str]) -> Iterator[str]:
    """The files that are meant, each once: one that a glob finds and that is named besides is meant once."""
    if not paths:
        raise refused("no list is named", _KINDS)
    named: set[str] = set()
    found: set[str] = set()
    for path in paths:
        is_glob = path != "-" and glob.has_magic(path) and not os.path.lexists(path)
        for file in _matches(path) if is_glob else [path]:
            real = file if file == "-" or "\0" in file else os.path.realpath(file)
            if not is_glob and real in named:
                message = f"{printable(file)} is named twice; for several pictures of a row, give it several seeds"
                raise refused(message, "each list once", value=file)
            if not is_glob:
                named.add(real)
            if real not in found:
                found.add(real)
                yield file


def _matches(pattern: str) -> list[str]:
    """The files of a glob, in the order of the numbers in their names, so that 10 comes after 9."""
    found = [path for path in glob.glob(_literal_head(pattern), recursive=True) if not Path(path).is_dir()]  # noqa: PTH207 - a string
    if not found:
        allowed = "a pattern such as 'lists/*.csv', in quotes"
        raise refused(f"no file matches {printable(pattern)}; check the pattern", allowed, value=pattern)
    return sorted(found, key=_natural)


def _literal_head(pattern: str) -> str:
    """The pattern, with the directories in front that are there taken as they are called, brackets and all."""
    head = Path(pattern).parent
    while glob.has_magic(str(head)) and not head.is_dir():
        head = head.parent
    start = str(head)
    return (
        glob.escape(start) + pattern[len(start) :] if glob.has_magic(start) and pattern.startswith(start) else pattern
    )


def _natural(path: str) -> tuple[list[tuple[int, str]], str]:
    parts = _DIGITS.split(path)
    key = [(int(part), "") if place % 2 else (-1, part) for place, part in enumerate(parts)]
    return key, path


def _opened(path: str, form: Format | None) -> tuple[Source, bool]:
    """The source, and whether it is a file that can be opened again."""
    name = printable(path)
    is_gz = path.lower().endswith(".gz")
    inner = path[:-3] if is_gz else path
    form = form or _SUFFIXES.get(Path(inner).suffix.lower())
    try:
        if Path(path).is_dir():
            raise refused(f"{name} is a directory; name a list in it, or '{name}/*.csv' for all", _KINDS, value=path)
        if form is None:
            raise refused(f"{name} does not say what kind of list it is; allowed: {_KINDS}", _KINDS, value=path)
        if form == "parquet":
            require_pyarrow()
            if is_gz:
                raise refused(f"{name}: parquet is packed by itself; unpack it: gunzip", _KINDS, value=path)
        file: BinaryIO = Path(path).open("rb")  # noqa: SIM115 - the source closes it
    except FileNotFoundError:
        message = f"{name} does not exist; check the path{_meant(path)}"
    except PermissionError:
        message = f"{name} may not be read by this user; check its permissions"
    except (OSError, ValueError) as exc:  # ValueError: the path has a NUL byte
        if isinstance(exc, OSError) and exc.errno in NO_FILE_LEFT:  # the list is not at fault
            raise
        message = f"{name} cannot be opened: {exc}"
    else:
        is_file = file.seekable()
        if not is_file:
            with file as pipe:
                file = _spooled(pipe)
        packed = form != "parquet" and (is_gz or _starts_with(file, GZIP_MAGIC))
        return Source(file, name=name, format=form, packed=packed), is_file
    raise refused(message, "a readable prompt list", value=path)


def _meant(path: str) -> str:
    """The file beside it that is called nearly like it."""
    try:
        with os.scandir(Path(path).parent) as entries:
            names = [entry.name for _, entry in zip(range(_LISTED_NAMES), entries, strict=False)]
    except OSError:
        return ""
    return did_you_mean(Path(path).name, names)


def _stdin(stdin: BinaryIO, form: Format | None, *, template: bool) -> Source:
    file = _spooled(stdin)
    try:
        packed = _starts_with(file, GZIP_MAGIC)
        form = form or _guessed(file, packed=packed, template=template)
        if form == "parquet":
            require_pyarrow()
    except BaseException:
        file.close()
        raise
    return Source(file, name="<stdin>", format=form, packed=packed)


def _guessed(file: BinaryIO, *, packed: bool, template: bool) -> Format:
    """By its first line: an object or a text in quotes, the header of a table, or a prompt.

    Where braces are templates, only `{"` begins an object. Raises InvalidRequestError for an array of JSON, whose lines
    would be paid for as prompts.
    """
    if _starts_with(file, PARQUET_MAGIC):
        return "parquet"
    reader = Unpacked(file) if packed else file
    objects = re.compile(rb'"|\{\s*["}]' if template else rb'["{]')
    try:
        for chunk in iter(partial(reader.readline, CHUNK_BYTES), b""):
            if start := chunk.removeprefix(codecs.BOM_UTF8).strip():
                break
        else:
            return "txt"
    except InvalidRequestError:  # it is told when the list is read
        return "txt"
    if _ARRAY.match(start):
        raise refused("<stdin> is an array of JSON; a line for each row is made by: jq -c '.[]'", _KINDS)
    cells = [cell.strip(' "') for cell in _DELIMITER.split(start.decode(errors="replace"))]
    if "prompt" in cells and set(cells) <= {*REQUEST_FIELDS}:
        return "tsv" if b"\t" in start else "csv"
    return "jsonl" if objects.match(start) else "txt"


def _starts_with(file: BinaryIO, magic: bytes) -> bool:
    file.seek(0)
    start = file.read(len(magic))
    file.seek(0)
    return start == magic


def _spooled(source: BinaryIO) -> BinaryIO:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the source closes it
    try:
        shutil.copyfileobj(source, copy)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def _stamp(file: BinaryIO) -> tuple[int, ...]:
    now = os.fstat(file.fileno())
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns
