"""Ctrl-C is for the gallery, which ends its workers; a worker that heard it would send it back as its answer.

A process inherits the blocked signals of the thread that starts it, so it is deaf before its first line of code runs.
(uvloop's children are not: it unblocks all signals for them. So no gallery runs in it.)
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def block_interrupts() -> None:
    """What this thread starts does not hear Ctrl-C, and neither does this thread."""
    if hasattr(signal, "pthread_sigmask"):  # Windows has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


@contextmanager
def interrupts_heard_elsewhere() -> Iterator[None]:
    """The same for as long as this lasts, and for the thread that everything runs in: another one hears for it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    ended = threading.Event()
    threading.Thread(target=ended.wait, name="krea-async-interrupts", daemon=True).start()
    blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    block_interrupts()
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)
        ended.set()
