"""Lines out of bytes: the first step of every text form. One line is in memory, however long it is."""

import codecs
from collections.abc import Iterator
from typing import Final, Protocol

from krea_async.errors import InvalidRequestError
from krea_async.prompts.problems import SHOWN_CHARS, refused

MAX_LINE_BYTES: Final = 1 << 20
CHUNK_BYTES: Final = 1 << 16

# The number of a line, or of a row's first line, and what stands there, or why it cannot be read.
Line = tuple[int, str | InvalidRequestError]


class LineReader(Protocol):
    """What lines are read from: a file, or what unpacks one."""

    def readline(self, limit: int, /) -> bytes:
        """The next line with its end, or `limit` bytes of it. Raises InvalidRequestError if no more can be read."""
        ...


def encoding_of(name: str) -> str:
    """`name` as Python knows it. Raises InvalidRequestError if it is none, or none that can be read line by line."""
    try:
        reads_lines = "a\n;".encode(name) == b"a\n;" or "utf-8-sig" in name
    except (LookupError, UnicodeError, ValueError):
        known = "such as utf-8, cp1252, latin-1, shift_jis or gb18030"
        raise refused(f"{name!r} is no encoding of text", known, field="encoding", value=name) from None
    if not reads_lines:
        message = f"lists in {name} cannot be read line by line; convert them: iconv -f {name} -t UTF-8 IN > OUT"
        raise refused(message, "an encoding that contains ASCII", field="encoding", value=name)
    return "utf-8" if codecs.lookup(name).name in {"utf-8", "utf-8-sig"} else name


def lines(reader: LineReader, encoding: str) -> Iterator[Line]:
    """Each line without its end, or what is wrong with it. Never holds more than `MAX_LINE_BYTES` of it."""
    number = 0
    try:
        while raw := reader.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1 and (raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in raw[:2]):
                yield number, refused("the list is UTF-16 or UTF-32; save it as UTF-8", "UTF-8 text")
                return  # where its lines end cannot be told
            yield number, _text(raw, encoding)
            while len(raw) > CHUNK_BYTES and not raw.endswith(b"\n"):
                raw = reader.readline(CHUNK_BYTES + 1)  # the rest of a line that is too long
    except InvalidRequestError as error:
        yield number + 1, error


def _text(raw: bytes, encoding: str) -> str | InvalidRequestError:
    if len(raw) > MAX_LINE_BYTES:
        return refused("the line is longer than 1 MiB", "lines of at most 1 MiB", value=_start(raw))
    try:
        text = raw.decode(encoding).rstrip("\r\n").removeprefix("\ufeff")  # the mark is on any line of joined lists
    except UnicodeDecodeError as exc:
        return _not_text(raw, exc.start, encoding)
    if "\0" in text:
        return refused("the line has a NUL byte", "UTF-8 text", value=_start(raw))
    if "\r" in text:
        return refused("the line has a carriage return inside", "lines that end with LF or CR LF", value=_start(raw))
    return text


def _not_text(raw: bytes, start: int, encoding: str) -> InvalidRequestError:
    found = f"byte 0x{raw[start]:02x} at place {start + 1}"
    if encoding != "utf-8":
        return refused(f"{found} is not {encoding}", f"{encoding} text", value=_start(raw))
    message = f"{found} is not UTF-8; save the list as UTF-8"
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return refused(message, "UTF-8 text", value=_start(raw))
    advice = "it looks like Latin-1 (cp1252): convert it, iconv -f CP1252 -t UTF-8 IN > OUT, or give --encoding cp1252"
    return refused(f"{message}; {advice}", "UTF-8 text", value=_start(raw))


def _start(raw: bytes) -> str:
    return raw[:SHOWN_CHARS].decode(errors="replace")
