"""Byte ranges of HTTP, as far as one picture needs them: one stretch, whole or partial, and `If-Range`. Pure."""

import re
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from krea_async.sandbox.replies import Reply

_RANGE: Final = re.compile(r"bytes=(?:(\d{1,15})-(\d{0,15})|-(\d{1,15}))", re.ASCII)
_PNG: Final = "image/png"


@frozen
class Stretch:
    """The bytes [start, stop) of a file, asked for as a range or, with `partial` False, as the whole."""

    start: int
    stop: int
    partial: bool

    def reply(self, file: bytes, facts: Mapping[str, str]) -> Reply:
        """200 or 206 with these bytes of `file` (fewer if it ends earlier); 416 if there are none."""
        stop = min(self.stop, len(file))
        if not self.partial:
            return Reply(200, file[:stop], _PNG, facts)
        if self.start >= stop:
            return Reply(416, b"", _PNG, {**facts, "Content-Range": f"bytes */{len(file)}"})
        span = f"bytes {self.start}-{stop - 1}/{len(file)}"
        return Reply(206, file[self.start : stop], _PNG, {**facts, "Content-Range": span})


def wanted(headers: Mapping[str, str], total: int, facts: Mapping[str, str]) -> Stretch:
    """What these request headers ask of a file of `total` bytes whose ETag and Last-Modified are in `facts`.

    Several ranges at once, or a range of a file that has changed since, are answered with the whole file.
    """
    asked = _RANGE.fullmatch(headers.get("Range", ""))
    same = headers.get("If-Range", facts["ETag"]) in {facts["ETag"], facts["Last-Modified"]}
    if asked is None or not same:
        return Stretch(0, total, partial=False)
    first, last, suffix = asked.groups()
    if suffix is not None:
        return Stretch(max(0, total - int(suffix)), total, partial=True)
    stop = min(int(last) + 1, total) if last else total
    return Stretch(int(first), stop, partial=True)
