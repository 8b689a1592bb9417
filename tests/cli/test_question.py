"""The question at a terminal: what counts as a yes, and that Ctrl-C is heard in every instant of it."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from select import select

import pytest

ASKED_ONCE = "from krea_async.cli.question import agreed; print(agreed('Spend up to $1?'))"
ASKED_OFTEN = """
from krea_async.cli.question import agreed
heard = 0
for number in range(600):
    try:
        agreed(str(number))
    except KeyboardInterrupt:
        heard += 1
print(heard)
"""


def asked(program: str, answer: Callable[[subprocess.Popen[bytes], int], object]) -> tuple[str, str]:
    """What it printed, and what the terminal showed; `answer` is called with the terminal whenever it asks."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    shown = new = ""
    try:
        while select([ours], [], [], 20)[0]:
            try:
                new += os.read(ours, 65_536).decode()
            except OSError:  # nobody has the other end any more
                break
            if "[y/N]: " in new:
                shown, new = shown + new, ""
                answer(process, ours)
    finally:
        process.kill()  # or nothing that it asks is ever answered
        out, _ = process.communicate(timeout=20)
        os.close(ours)
    return out.decode(), shown + new


@pytest.fixture
def one_processor() -> Iterator[None]:
    """For this thread and what it starts: so an answer often comes before anybody waits for it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_of_them)})
    yield
    os.sched_setaffinity(0, all_of_them)


@pytest.mark.parametrize(
    ("answer", "agreed"), [(b"y\n", True), (b" Yes\n", True), (b"n\n", False), (b"NO\n", False), (b"\n", False)]
)
def test_only_a_yes_is_a_yes(answer: bytes, agreed: bool) -> None:
    out, shown = asked(ASKED_ONCE, lambda _, terminal: os.write(terminal, answer))
    assert out == f"{agreed}\n"
    assert shown == f"Spend up to $1? [y/N]: {answer.decode()}".replace("\n", "\r\n")


def test_the_end_of_the_input_is_a_no_and_ends_the_line() -> None:
    out, shown = asked(ASKED_ONCE, lambda _, terminal: os.write(terminal, b"\x04"))
    assert (out, shown) == ("False\n", "Spend up to $1? [y/N]: \r\n")


def test_anything_else_is_asked_again() -> None:
    answers = iter([b"maybe\n", b"yes, please\n", b"y\n"])
    out, shown = asked(ASKED_ONCE, lambda _, terminal: os.write(terminal, next(answers)))
    assert (out, shown.count("answer y or n"), shown.count("[y/N]")) == ("True\n", 2, 3)


def test_ctrl_c_is_heard_at_once_whenever_it_comes(one_processor: None) -> None:
    """Also between the words and the reading, where Python's own `input` keeps it until a line has come."""
    out, shown = asked(ASKED_OFTEN, lambda process, _: process.send_signal(signal.SIGINT))
    assert out == "600\n", shown[-2000:]
