"""What a command prints: results on stdout, all else on stderr; neither a broken pipe nor a prompt does any harm."""

import os
import sys
from collections.abc import Iterable
from typing import TextIO

from krea_async.audit.report_text import plain


def say(lines: str) -> None:
    """On stderr. A reader who leaves must not end what is paid for: then it goes nowhere from now on."""
    try:
        print("\n".join(map(plain, lines.split("\n"))), file=sys.stderr, flush=True)
    except OSError:
        _lead_nowhere(sys.stderr)


def put(text: str) -> None:
    """On stdout, as lines; a name that is no UTF-8 comes out as it came in.

    A reader who leaves, or a full disk behind it, must not end what is paid for: then it goes nowhere from now on.
    """
    data = os.fsencode(text if not text or text.endswith("\n") else f"{text}\n")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            say(f"krea-async: stdout takes no more ({error.strerror})")
        _lead_nowhere(sys.stdout)


def put_lines(lines: Iterable[str]) -> None:
    """On stdout, for people: what a terminal would obey, in a prompt or from the gateway, is shown as an escape."""
    put("\n".join(map(plain, lines)))


def _lead_nowhere(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
