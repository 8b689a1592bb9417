"""The one question there is: whether to spend so much. It is asked at a terminal, and Ctrl-C is heard all the while.

Python's `input`, and so click's `confirm`, does not hear a signal that comes between the words and the reading: it is
remembered until a line has been read, which nobody is going to type.
"""

import signal
import socket
import sys
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
        _wait_for_input()
    line = sys.stdin.readline()
    if not line.endswith("\n"):  # the input's end leaves the cursor behind the question
        say("")
    return line


def _wait_for_input() -> None:
    """Return when reading would not wait. A signal that is just coming, or has just come, is heard."""
    woken, waker = socket.socketpair()
    with woken, waker:
        waker.setblocking(False)
        try:
            signal.set_wakeup_fd(waker.fileno())
            while sys.stdin not in select([sys.stdin, woken], [], [])[0]:
                woken.recv(4096)  # after Ctrl-C this is not reached: its handler raises before anything is waited for
        finally:
            signal.set_wakeup_fd(-1)
