"""One process, and one session in it, per output directory: two would pay for every picture twice.

The kernel holds the lock (flock) and drops it when its holder dies, however that happens, so a file that a killed run
left means nothing. Where there is no such lock (Windows, some network file systems), a file's existence is the lock,
and its process id tells a stale one. That is weaker, so the log says it; to go on without any lock would risk money.
"""

import json
import logging
import os
import socket
import sys
from contextlib import suppress
from errno import EINVAL, ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from krea_async.errors import JournalError

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

LOCK_NAME: Final = ".journal.lock"
PID_NAME: Final = ".journal.pid"
LOCKED: Final = "directory_locked"
"""Our own error code for a directory that another process is working in."""

_NO_LOCKS: Final = frozenset({ENOTSUP, EOPNOTSUPP, ENOLCK, EINVAL, ENOSYS})
_MAX_HOLDER_BYTES: Final = 4096
_ours: Final[set[Path]] = set()  # files that this process holds: a number of ours in any other is an earlier process's


class DirectoryLock:
    """The lock of one output directory. Not reentrant."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._file: tuple[Path, int] | None = None

    def acquire(self, *, now_s: float) -> None:
        """Take the lock. Raises JournalError naming who has it, and OSError when the directory cannot be written.

        now_s: Unix seconds, for whoever looks into the file.
        """
        path, fd = self._locked()
        self._file = path, fd
        _ours.add(path)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": round(now_s, 3)}
        try:
            os.ftruncate(fd, 0)
            os.write(fd, json.dumps(holder).encode() + b"\n")
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Give the lock back and remove its file. Nothing happens if it is not held. Never raises OSError."""
        if self._file is None:
            return
        (path, fd), self._file = self._file, None
        _ours.discard(path)
        with suppress(OSError):
            if sys.platform == "win32":  # an open file cannot be removed there
                os.close(fd)
                path.unlink()
                return
            if _is_named(fd, path):
                path.unlink()  # still locked: whoever waits for this file will find that it has lost its name
        os.close(fd)

    def _locked(self) -> tuple[Path, int]:
        if sys.platform == "win32":
            return self._made_alone()
        path = self._directory / LOCK_NAME
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_named(fd, path):
                    return path, fd
                os.close(fd)  # the last holder removed it between our opening and our locking
            except OSError as error:
                holder = _holder(os.pread(fd, _MAX_HOLDER_BYTES, 0))
                os.close(fd)
                if isinstance(error, BlockingIOError):
                    raise _held(path, holder) from None
                if error.errno not in _NO_LOCKS:
                    raise
                log.warning("%s cannot be locked (%s): a process id in a file must do", path, error.strerror)
                with suppress(OSError):
                    path.unlink()
                return self._made_alone()

    def _made_alone(self) -> tuple[Path, int]:
        """The file whose existence is the lock, just made."""
        path = self._directory / PID_NAME
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        with suppress(FileExistsError):
            return path, os.open(path, flags, 0o600)
        found = path.read_bytes()
        holder = _holder(found)
        if holder.get("host") != socket.gethostname() or _is_alive(holder.get("pid"), path):
            raise _held(path, holder)
        aside = path.with_name(f"{PID_NAME}.{token_hex(4)}")
        path.rename(aside)
        if aside.read_bytes() != found:  # somebody was faster, and this is theirs
            aside.rename(path)
            raise _held(path, _holder(path.read_bytes()))
        aside.unlink()
        try:
            return path, os.open(path, flags, 0o600)
        except FileExistsError:
            raise _held(path, _holder(path.read_bytes())) from None


def _is_named(fd: int, path: Path) -> bool:
    """Whether `path` still is the open file."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _holder(data: bytes) -> dict[str, Any]:
    """What the file says of its holder, who may be just about to write it."""
    try:
        holder = json.loads(data)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _held(path: Path, holder: dict[str, Any]) -> JournalError:
    pid, host = holder.get("pid"), holder.get("host")
    if pid == os.getpid() and host == socket.gethostname():
        who, advice = "another session of this process", "render into another directory, or one after the other"
    elif pid is None:
        who, advice = "another process", "wait for it, or render into another directory"
    else:
        who = f"process {pid} on {host}"
        advice = f"wait for it, or stop it (kill {pid}); it goes on where it was when it is started again"
    if path.name == PID_NAME:
        advice += f". If it has ended, remove {path}"
    return JournalError(f"{path.parent} is in use by {who}: {advice}", code=LOCKED)


def _is_alive(pid: object, path: Path) -> bool:
    if not isinstance(pid, int) or pid <= 0 or path in _ours:
        return True  # nothing is known that would allow to take it over
    if pid == os.getpid():
        return False
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415 - os.kill would end the process there

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        return bool(handle and ctypes.windll.kernel32.CloseHandle(handle))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
