"""What the disk says when it cannot, in our own words: full, read-only, gone, or a file where a directory should be."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from krea_async.errors import DownloadError

DISK_ERROR: Final = "disk_error"
"""Our own error code for a file that cannot be written."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise DownloadError, with the code "disk_error", for every OSError; `path` is named if the error names none."""
    try:
        yield
    except OSError as error:
        words = f"cannot write {error.filename or path}: {error.strerror or error}"
        raise DownloadError(words, code=DISK_ERROR) from error
