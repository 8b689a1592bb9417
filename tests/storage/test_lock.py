"""One process per output directory, known by its number; and a dead one stands in nobody's way."""

import errno
import fcntl
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from krea_async import JournalError
from krea_async.storage.lock import LOCK_NAME, LOCKED, PID_NAME, DirectoryLock

HOLDER = """
import sys
from pathlib import Path
from krea_async.storage.lock import DirectoryLock
if "--no-flock" in sys.argv:
    import errno, fcntl
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = refuse
DirectoryLock(Path(sys.argv[1])).acquire(now_s=1.0)
print("held", flush=True)
sys.stdin.read()
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts another process that holds the lock until it is killed."""
    started: list[subprocess.Popen[str]] = []

    def make(*arguments: str | Path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", HOLDER, *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield make
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system whose kernel has no locks for us."""

    def refuse(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def taken(directory: Path) -> DirectoryLock:
    lock = DirectoryLock(directory)
    lock.acquire(now_s=12.3456)
    return lock


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_file_says_who_holds_it_and_is_removed(tmp_path: Path) -> None:
    lock = taken(tmp_path)
    path = tmp_path / LOCK_NAME
    assert json.loads(path.read_text()) == {"pid": os.getpid(), "host": socket.gethostname(), "since": 12.346}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lock.release()
    lock.release()
    assert names(tmp_path) == []
    taken(tmp_path).release()


def test_a_second_session_of_the_same_process_is_refused(tmp_path: Path) -> None:
    lock = taken(tmp_path)
    with pytest.raises(JournalError, match="in use by another session of this process") as caught:
        taken(tmp_path)
    assert caught.value.code == LOCKED
    lock.release()


@pytest.mark.parametrize("how", [[], ["--no-flock"]])
def test_another_process_is_named_and_when_it_is_killed_its_lock_is_stale(
    tmp_path: Path, start: Start, how: list[str], request: pytest.FixtureRequest
) -> None:
    if how:
        request.getfixturevalue("no_flock")
    holder = start(tmp_path, *how)
    for _ in range(2):
        with pytest.raises(JournalError, match=f"in use by process {holder.pid} on {socket.gethostname()}") as caught:
            taken(tmp_path)
        assert caught.value.code == LOCKED
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert names(tmp_path) == [PID_NAME if how else LOCK_NAME]
    taken(tmp_path).release()
    assert names(tmp_path) == []


def test_whoever_waits_for_a_file_that_is_removed_locks_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder releases it between the other's opening and its locking: two must not hold different files."""
    first, flock = taken(tmp_path), fcntl.flock

    def flock_late(fd: int, how: int) -> None:
        if how & fcntl.LOCK_EX:
            first.release()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    second = taken(tmp_path)
    with pytest.raises(JournalError):
        taken(tmp_path)
    second.release()


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = taken(tmp_path)
    assert lock._file is not None
    copy = os.dup(lock._file[1])  # what a child inherits
    lock.release()
    taken(tmp_path).release()
    os.close(copy)


@pytest.mark.usefixtures("no_flock")
def test_without_locks_of_the_kernel_the_file_itself_is_one_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lock = taken(tmp_path)
    assert [(record.levelno, LOCK_NAME in record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, True)
    ]
    assert names(tmp_path) == [PID_NAME]
    with pytest.raises(JournalError, match="another session of this process"):
        taken(tmp_path)
    lock.release()
    assert names(tmp_path) == []


@pytest.mark.usefixtures("no_flock")
def test_an_earlier_process_of_our_own_number_is_gone(tmp_path: Path) -> None:
    """In a container, every start has the same number."""
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": 1.0}
    (tmp_path / PID_NAME).write_text(json.dumps(holder))
    taken(tmp_path).release()


@pytest.mark.usefixtures("no_flock")
@pytest.mark.parametrize("text", ['{"pid": 1, "host": "elsewhere.example", "since": 1}', "", "[]", "no json"])
def test_what_cannot_be_known_to_be_stale_is_not_taken_over(tmp_path: Path, text: str) -> None:
    (tmp_path / PID_NAME).write_text(text)
    with pytest.raises(JournalError, match=f"If it has ended, remove .*{PID_NAME}"):
        taken(tmp_path)
    assert (tmp_path / PID_NAME).read_text() == text


def test_a_directory_that_is_not_there_is_no_lock(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        taken(tmp_path / "gone")


def test_a_disk_that_fails_leaves_nothing_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_fd: int, _how: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        with pytest.raises(OSError, match="Input/output error"):
            taken(tmp_path)
    taken(tmp_path).release()
