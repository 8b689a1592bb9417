"""Every step of a run that changes the disk or may cost money, seen from outside and in one order.

The functions of `os` and `io` that change files are wrapped, and those that ask the gateway. So a step is what really
happens, whatever the library believes; the tests that kill a run, or cut its power, stand between one and the next.
"""

import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fcntl import F_GETFL, fcntl
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Any, Protocol
from unittest.mock import patch

import aiofiles.threadpool
from attrs import field, frozen

from krea_async import ImageRequest
from krea_async.gateway.client import Gateway, Readings
from krea_async.models import Task


@frozen
class Made:
    """A new, empty file has got a name. file: its number from now on, whatever it will be called."""

    path: str
    file: int


@frozen
class Cut:
    """The file now ends after `size_bytes`."""

    path: str
    file: int
    size_bytes: int


@frozen
class Written:
    """Bytes were written. fd: where, as long as the step lasts."""

    path: str
    file: int
    offset: int
    data: bytes
    fd: int = field(eq=False, repr=False)


@frozen
class Synced:
    """The file's bytes are on the disk itself."""

    path: str
    file: int


@frozen
class DirectorySynced:
    """The names in this directory are on the disk itself."""

    path: str


@frozen
class Linked:
    """The file has got one more name."""

    source: str
    path: str


@frozen
class Unlinked:
    """The name is gone."""

    path: str


@frozen
class Renamed:
    """The file has got another name, in place of any file that had it."""

    source: str
    path: str


@frozen
class DirectoryMade:
    """A new directory has got a name."""

    path: str


@frozen
class Posted:
    """A create leaves for the gateway: from now on it may be paid for."""

    key: str


@frozen
class Answered:
    """The gateway's answer to a create has come."""

    key: str
    task_id: str


@frozen
class Asked:
    """Tasks are read at the gateway."""

    task_ids: tuple[str, ...]


Step = (
    Made
    | Cut
    | Written
    | Synced
    | DirectorySynced
    | Linked
    | Unlinked
    | Renamed
    | DirectoryMade
    | Posted
    | Answered
    | Asked
)


class Observer(Protocol):
    """Told of every step, one at a time, in the order in which they happen."""

    def before(self, step: Step) -> None: ...
    def after(self, step: Step) -> None: ...


@contextmanager
def watched(directory: Path, observer: Observer) -> Iterator[None]:
    """Let `observer` see every step in `directory`, which need not exist yet, and at the gateway."""
    watch = _Watch(directory, observer)
    with ExitStack() as stack:
        for module, names in ((os, _OS_NAMES), (io, ("open",)), (aiofiles.threadpool, ("sync_open",))):
            for name in names:
                method = getattr(watch, "io_open" if module is not os else name)
                stack.enter_context(patch.object(module, name, method))
        for name in ("create", "read", "read_many"):
            stack.enter_context(patch.object(Gateway, name, getattr(watch, f"gateway_{name}")()))
        yield


_OS_NAMES = ("open", "write", "fsync", "ftruncate", "link", "unlink", "remove", "rename", "replace", "mkdir")
real = {name: getattr(os, name) for name in _OS_NAMES}
"""The functions themselves; what is put in their place here, the library gets."""
_real_io_open = io.open


class _Watch:
    """The wrapped functions. One step at a time, also where threads work side by side."""

    def __init__(self, directory: Path, observer: Observer) -> None:
        self._directory = os.fspath(directory)
        self._observer = observer
        self._lock = RLock()
        self._numbers = count(1)
        self._files: dict[tuple[int, int], tuple[int, str]] = {}  # by device and inode: our number, and its first name

    def _is_ours(self, path: Any) -> bool:
        name = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
        return name == self._directory or name.startswith(self._directory + os.sep)

    def _known(self, fd: int) -> tuple[int, str] | None:
        facts = os.fstat(fd)
        return self._files.get((facts.st_dev, facts.st_ino))

    @contextmanager
    def _step(self, step: Step | None) -> Iterator[None]:
        with self._lock:
            if step is not None:
                self._observer.before(step)
            yield
            if step is not None:
                self._observer.after(step)

    # --- files --------------------------------------------------------------------------------------------------------

    def open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        if not self._is_ours(path):
            return int(real["open"](path, flags, mode, **more))
        with self._lock:
            exists = os.path.lexists(path)
            number = next(self._numbers)
            step: Step | None = None
            if flags & os.O_CREAT and not exists:
                step = Made(os.fspath(path), number)
            elif flags & os.O_TRUNC and exists:
                facts = Path(path).stat()
                known = self._files.setdefault((facts.st_dev, facts.st_ino), (number, os.fspath(path)))
                step = Cut(os.fspath(path), known[0], 0)
            with self._step(step):
                fd = int(real["open"](path, flags, mode, **more))
                facts = os.fstat(fd)
                key = (facts.st_dev, facts.st_ino)
                if not isinstance(step, Made) and key in self._files:  # an inode's number is used again and again
                    number = self._files[key][0]
                self._files[key] = number, os.fspath(path)
            return fd

    def write(self, fd: int, data: Any) -> int:
        with self._lock:
            known = self._known(fd)
            step = None
            if known is not None:
                at_end = fcntl(fd, F_GETFL) & os.O_APPEND
                offset = os.fstat(fd).st_size if at_end else os.lseek(fd, 0, os.SEEK_CUR)
                step = Written(known[1], known[0], offset, bytes(data), fd)
            with self._step(step):
                return int(real["write"](fd, data))

    def fsync(self, fd: int) -> None:
        known = self._known(fd)
        step: Step | None = None
        if known is not None:
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
            step = DirectorySynced(known[1]) if is_directory else Synced(known[1], known[0])
        with self._step(step):
            real["fsync"](fd)

    def ftruncate(self, fd: int, length: int) -> None:
        known = self._known(fd)
        with self._step(None if known is None else Cut(known[1], known[0], length)):
            real["ftruncate"](fd, length)

    def io_open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Callable[[str, int], int] | None = None,
    ) -> Any:
        writes = set(mode) & set("wax+")
        ours = self._is_ours(file) or (isinstance(file, int) and self._known(file) is not None)
        if not (writes and ours):
            return _real_io_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = _File(file, mode.replace("b", "").replace("t", ""), closefd, opener or self._opener, self)
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        buffered = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def _opener(self, path: str, flags: int) -> int:
        return self.open(path, flags, 0o666)

    # --- names --------------------------------------------------------------------------------------------------------

    def link(self, source: Any, path: Any, **more: Any) -> None:
        self._renaming("link", Linked(os.fspath(source), os.fspath(path)), source, path, **more)

    def rename(self, source: Any, path: Any, **more: Any) -> None:
        self._renaming("rename", Renamed(os.fspath(source), os.fspath(path)), source, path, **more)

    def replace(self, source: Any, path: Any, **more: Any) -> None:
        self._renaming("replace", Renamed(os.fspath(source), os.fspath(path)), source, path, **more)

    def _renaming(self, name: str, step: Linked | Renamed, source: Any, path: Any, **more: Any) -> None:
        is_step = self._is_ours(path) and not (name == "link" and os.path.lexists(path))
        with self._step(step if is_step else None):
            real[name](source, path, **more)

    def unlink(self, path: Any, **more: Any) -> None:
        is_step = self._is_ours(path) and os.path.lexists(path)
        with self._step(Unlinked(os.fspath(path)) if is_step else None):
            real["unlink"](path, **more)

    remove = unlink

    def mkdir(self, path: Any, mode: int = 0o777, **more: Any) -> None:
        is_step = self._is_ours(path) and not os.path.lexists(path) and Path(path).parent.is_dir()
        with self._step(DirectoryMade(os.fspath(path)) if is_step else None):
            real["mkdir"](path, mode, **more)

    # --- the gateway --------------------------------------------------------------------------------------------------

    def gateway_create(self) -> Any:
        real = Gateway.create

        async def create(gateway: Gateway, request: ImageRequest, *, key: str, **more: Any) -> Task:
            with self._step(Posted(key)):
                pass
            task = await real(gateway, request, key=key, **more)
            with self._step(Answered(key, task.id)):
                pass
            return task

        return create

    def gateway_read(self) -> Any:
        real = Gateway.read

        async def read(gateway: Gateway, task_id: str) -> Task:
            with self._step(Asked((task_id,))):
                pass
            return await real(gateway, task_id)

        return read

    def gateway_read_many(self) -> Any:
        real = Gateway.read_many

        async def read_many(gateway: Gateway, task_ids: Sequence[str]) -> Readings:
            with self._step(Asked(tuple(task_ids))):
                pass
            return await real(gateway, task_ids)

        return read_many


class _File(io.FileIO):
    """A file that is opened, and written to, through the watch."""

    def __init__(self, file: Any, mode: str, closefd: bool, opener: Callable[[str, int], int], watch: _Watch) -> None:
        self._watch = watch
        super().__init__(file, mode, closefd, None if isinstance(file, int) else opener)

    def write(self, data: Any) -> int:
        return self._watch.write(self.fileno(), data)
