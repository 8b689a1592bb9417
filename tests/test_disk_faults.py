"""The disk refuses at one exact place: the run says so and buys no more, and after mending nothing is paid again.

The faults are raised by wrapped functions in this process, so that each strikes the place it is meant for, on any
machine and for any user. Full and read-only disks as the system makes them are in cli/test_disk.py.
"""

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiofiles.threadpool.text import AsyncTextIOWrapper
from paid_once import assert_all_is_saved_and_paid_once, assert_the_journal_knows_all_that_was_sent

from krea_async import BatchPolicy, BatchReport, KreaError, KreaSession, PollPolicy
from krea_async.cli.exits import Exit, exit_of_error
from krea_async.errors import DISK_ERROR
from krea_async.sandbox import Durations, Sandbox
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.manifest import MANIFEST_NAME

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

ROWS = 24
LIST = [{"prompt": f"row {number}", "size": "1:2"} for number in range(ROWS)]
CONCURRENCY = 6
AT_ONCE = PollPolicy(shortest_s=0.01, longest_s=0.02, window_s=0.001, ahead_s=0.02)
DIRECTORY = "renders"
SMALL_BYTES, LARGE_BYTES = 100_000, 300_000
"""A picture that is written when all of it is there, and one that is begun before."""


class Disk:
    """Refuses every visit to one kind of file from the `healthy`-th on, until it is mended."""

    def __init__(self, code: int, healthy: int) -> None:
        self.struck = 0
        self._code = code
        self._healthy = healthy

    def mend(self) -> None:
        self._healthy = 1_000_000

    def refuse(self, *functions: tuple[Any, str], of: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let these functions, whose first argument is a file, a path or a descriptor, fail for files that end so."""
        for owner, name in functions:
            monkeypatch.setattr(owner, name, self._refusing(getattr(owner, name), of))

    def refuse_writes(self, *, of: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let new files that end so be made, and take half of what is first written."""
        opened = Path.open
        disk = self

        class Half(BufferedWriter):
            def write(self, data: Any, /) -> int:
                try:
                    disk.visited()
                except OSError:
                    super().write(data[: len(data) // 2])
                    raise
                return super().write(data)

        def open_(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            if path.name.endswith(of) and mode == "xb":
                return Half(FileIO(path, mode))
            return opened(path, mode, *args, **options)

        monkeypatch.setattr(Path, "open", open_)

    def visited(self) -> None:
        self._healthy -= 1
        if self._healthy < 0:
            self.struck += 1
            raise OSError(self._code, os.strerror(self._code))

    def _refusing(self, real: Callable[..., Any], ending: str) -> Callable[..., Any]:
        def refusing(file: Any, *args: Any, **options: Any) -> Any:
            if name_of(file).endswith(ending):
                self.visited()
            return real(file, *args, **options)

        return refusing


def name_of(file: Any) -> str:
    """The name of a file that is given as a descriptor, as a path, or open."""
    if isinstance(file, int):
        return str(Path(f"/proc/self/fd/{file}").readlink())
    return str(file.name if isinstance(file, AsyncTextIOWrapper) else file)


PLACES: dict[str, tuple[tuple[tuple[Any, str], ...], str]] = {
    "journal-append": (((os, "write"),), JOURNAL_NAME),
    "journal-fsync": (((os, "fsync"),), JOURNAL_NAME),
    "directory-fsync": (((os, "fsync"),), DIRECTORY),
    "manifest-write": (((AsyncTextIOWrapper, "write"),), MANIFEST_NAME),
    "part-open": (((Path, "open"),), ".part"),
    "part-write": ((), ".part"),
    "part-fsync": (((os, "fsync"),), ".part"),
    "name": (((os, "link"), (os, "rename")), ".part"),
    "part-unlink": (((os, "unlink"),), ".part"),
}
"""Where a run visits the disk: by which functions, and how the file's name ends."""

WHEN = [(errno.ENOSPC, 0), (errno.EIO, 1), (errno.EROFS, 2)]
"""What the disk says, and how many visits go well before."""


@pytest.fixture(autouse=True)
def _the_manifest_waits_for_no_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be written once, at the end, and could stop nothing."""
    monkeypatch.setattr("krea_async.storage.manifest.GATHER_S", 0.01)


@pytest.mark.parametrize(
    ("place", "code", "healthy"),
    [*((place, code, healthy) for place in PLACES for code, healthy in WHEN), ("part-open", errno.EMFILE, 1)],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) and value > len(WHEN) else str(value),
)
async def test_a_disk_that_refuses_anywhere_ends_the_run_and_no_picture_is_paid_again(
    session_of: SessionOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, code: int, healthy: int
) -> None:
    functions, ending = PLACES[place]
    disk = Disk(code, healthy)
    if functions:
        disk.refuse(*functions, of=ending, monkeypatch=monkeypatch)
    else:
        disk.refuse_writes(of=ending, monkeypatch=monkeypatch)
    async with instant_sandbox(SMALL_BYTES if place == "part-write" else LARGE_BYTES) as sandbox:
        error, report = await rendered(session_of, sandbox, tmp_path / DIRECTORY)
        assert disk.struck
        assert error is not None
        assert error.code == DISK_ERROR
        assert exit_of_error(error) is Exit.DISK
        assert os.strerror(code) in str(error)
        assert DIRECTORY in str(error)  # where to look
        if place != "manifest-write":  # which is written beside; what is sent until then depends on the machine
            assert len(sandbox.ledger.tasks) < ROWS
        assert_the_journal_knows_all_that_was_sent(sandbox, tmp_path / DIRECTORY)
        if report is not None:
            assert report.rows == report.saved + report.failed + report.skipped
            assert {row.task_id for row in report.unknown} <= {*sandbox.ledger.tasks, None}

        disk.mend()
        error, report = await rendered(session_of, sandbox, tmp_path / DIRECTORY, at_once=ROWS)
        assert error is None
        assert report is not None
        assert (report.saved + report.already_saved, report.failed, report.left) == (ROWS, 0, 0)
        assert_all_is_saved_and_paid_once(sandbox, tmp_path / DIRECTORY, ROWS)


@pytest.mark.parametrize("healthy", [0, 1, 2, 5, 8, 11])
async def test_half_a_line_in_the_journal_is_cut_wherever_it_is(
    session_of: SessionOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, healthy: int
) -> None:
    """As on a full disk, which takes what still fits."""
    disk = Disk(errno.ENOSPC, healthy)
    write = os.write

    def half_written(fd: int, data: Any) -> int:
        if not name_of(fd).endswith(JOURNAL_NAME):
            return write(fd, data)
        try:
            disk.visited()
        except OSError:
            if disk.struck == 1:
                return write(fd, data[: len(data) // 2])
            raise
        return write(fd, data)

    monkeypatch.setattr(os, "write", half_written)
    async with instant_sandbox() as sandbox:
        error, _ = await rendered(session_of, sandbox, tmp_path / DIRECTORY)
        assert error is not None
        assert error.code == DISK_ERROR
        assert_the_journal_knows_all_that_was_sent(sandbox, tmp_path / DIRECTORY)
        disk.mend()
        error, _ = await rendered(session_of, sandbox, tmp_path / DIRECTORY, at_once=ROWS)
        assert error is None
        assert_all_is_saved_and_paid_once(sandbox, tmp_path / DIRECTORY, ROWS)


async def test_a_copy_that_the_disk_refuses_has_cost_nothing(
    session_of: SessionOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that show the same picture: the first is paid for, and the others are links to it, or copies."""
    rows = [{"prompt": "a fox", "size": "1:2", "seed": 7}] * 6
    Disk(errno.EPERM, 0).refuse((os, "link"), of=".png", monkeypatch=monkeypatch)  # no hard links
    disk = Disk(errno.ENOSPC, 2)
    disk.refuse((Path, "open"), of=".part", monkeypatch=monkeypatch)
    async with instant_sandbox() as sandbox:
        error, report = await rendered(session_of, sandbox, tmp_path / DIRECTORY, rows)
        assert error is not None
        assert report is not None
        assert error.code == DISK_ERROR
        assert (report.saved, report.credits, report.unknown) == (1, 0.45, ())
        disk.mend()
        error, report = await rendered(session_of, sandbox, tmp_path / DIRECTORY, rows)
        assert error is None
        assert report is not None
        assert (report.saved, report.already_saved, report.credits) == (5, 1, 0.0)
        assert len(sandbox.ledger.tasks) == 1
        assert len({path.name for path in (tmp_path / DIRECTORY).glob("*.png")}) == 6


def instant_sandbox(picture_bytes: int = LARGE_BYTES) -> Sandbox:
    return Sandbox(durations=Durations.instant(), scenes=1, picture_bytes=picture_bytes)


async def rendered(
    session_of: SessionOf,
    sandbox: Sandbox,
    directory: Path,
    rows: Sequence[Mapping[str, Any]] = LIST,
    at_once: int = CONCURRENCY,
) -> tuple[KreaError | None, BatchReport | None]:
    """What ended the run, and its report if it began."""
    with anyio.fail_after(20):
        async with session_of(sandbox, concurrency=at_once, polling=AT_ONCE) as session:
            try:
                report = await session.render(rows, directory, policy=BatchPolicy(drain_s=5.0))
            except KreaError as error:
                return error, None
    return report.stopped_by, report
