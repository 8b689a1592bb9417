"""Lists in gzip, unpacked line by line; what is cut off, damaged or made to fill memory is a problem, not a crash."""

import gzip
import io
import zlib
from typing import Any, BinaryIO, Final

from krea_async.prompts.problems import refused

GZIP_MAGIC: Final = b"\x1f\x8b"

BOMB_RATIO: Final = 500
"""Text packs to a fifth or so; gzip's most is 1032, which only one byte over and over comes near to."""

HARMLESS_BYTES: Final = 8 << 20
"""So much may be unpacked of anything: a short list of one prompt over and over packs well, too."""


class Unpacked:
    """The lines of a gzip file. `packed` stays open, and its position is this object's."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        unpacked: Any = gzip.GzipFile(fileobj=packed)
        self._file = io.BufferedReader(unpacked)  # which finds lines sooner than GzipFile does
        self._bytes = 0

    def readline(self, limit: int) -> bytes:
        """The next line with its end, or `limit` bytes of it. Raises InvalidRequestError if no more can be read."""
        try:
            raw = self._file.readline(limit)
        except EOFError:
            raise refused("the gzip data is cut off here; copy the file again", "a whole .gz file") from None
        except (gzip.BadGzipFile, zlib.error) as exc:
            message = f"the gzip data is damaged here ({exc}); copy the file again"
            raise refused(message, "a whole .gz file") from None
        self._bytes += len(raw)
        if self._bytes > HARMLESS_BYTES and self._bytes > BOMB_RATIO * self._packed.tell():
            message = f"the gzip data unpacks to more than {BOMB_RATIO} times its size, as no prompts do"
            raise refused(message, "a list that was packed with gzip, or the list itself")
        return raw
