"""The one question there is: whether to spend so much. It is asked at a terminal, and Ctrl-C is heard all the while.

Python's `input`, and so click's `confirm`, does not hear a signal that comes between the words and the reading: it is
remembered until a line has been read, which nobody is going to type.
"""

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from select import select

from krea_async.cli.output import say


def agreed(question: str) -> bool:
    """Whether "y" or "yes" is the answer. Enter alone is a no, and so is the end of the input; all else is asked again.

    Raises KeyboardInterrupt.
    """
    while True:
        print(f"{question} [y/N]: ", end="", file=sys.stderr, flush=True)
        match _next_line().strip().lower():
            case "y" | "yes":
                return True
            case "n" | "no" | "":
                return False
            case _:
                say("answer y or n")


def _next_line() -> str:
    if sys.platform != "win32":  # there `select` knows only sockets, and Ctrl-C ends the reading
        with _signals() as signals:
            while sys.stdin not in select([sys.stdin, signals], [], [])[0]:
                signals.recv(4096)  # unless it was for Ctrl-C, whose handler raises before anything is waited for
    line = sys.stdin.readline()
    if not line.endswith("\n"):  # the input's end leaves the cursor behind the question
        say("")
    return line


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Can be read from as soon as there is a signal, also one that is just coming."""
    woken, waker = socket.socketpair()
    with woken, waker:
        waker.setblocking(False)
        before = signal.set_wakeup_fd(waker.fileno())
        try:
            yield woken
        finally:
            signal.set_wakeup_fd(before)
