"""One measurement of the journal, in a process of its own: prints what it used as one line of JSON."""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from unittest import mock

from krea_async import ImageRequest, KreaSession, PacingPolicy
from krea_async.batch import opening
from krea_async.batch.books import Books
from krea_async.batch.entry import Entry
from krea_async.batch.policy import BatchPolicy
from krea_async.models import Task
from krea_async.results import GeneratedImage
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.journal import Journal, JournalPolicy, open_journal
from krea_async.storage.records import Accepted, Completed, Header, Intent, Line, Row, RunBegun, Saved, encode
from krea_async.tasks import task_group

FORGETFUL: Final = PacingPolicy(remember=False)
"""What is found of a sandbox's limits is of no use to anybody."""

OPEN_ROWS: Final = 1000
"""Rows of a big journal that its last run left under way."""


class NoJournal(Books):
    """Tells the journal nothing of a row: no line is made, written or waited for. The manifest is kept."""

    async def intend(self, entry: Entry, _key: str) -> None:
        """The row is sent at once."""
        entry.sent = True

    async def accepted(self, entry: Entry, task: Task, **_: bool) -> None:
        """Only the batch itself is told."""
        entry.task_id, entry.accepted_s = task.id, time.time()

    def completed(self, entry: Entry, task: Task) -> None:
        """Nothing is to be done."""

    def ended(self, _entry: Entry, image: GeneratedImage) -> None:
        """Only the manifest is told."""
        self.manifest.add(image)


async def batch(journal: str, url: str, key: str, rows: int, directory: Path, concurrency: int) -> dict[str, float]:
    """A whole batch. journal: "on", "no sync" or "off"."""
    policy = BatchPolicy(journal=JournalPolicy(sync=journal != "no sync"))
    with ExitStack() as patched:
        if journal == "off":
            patched.enter_context(mock.patch.object(opening, "Books", NoJournal))
        async with KreaSession(key, base_url=url, concurrency=concurrency, pacing=FORGETFUL) as session:
            report = await session.render((f"fox {n}" for n in range(rows)), directory, policy=policy)
    if report.saved != rows:
        raise AssertionError(f"not all saved: {report}")
    return {"rows_per_s": rows / report.wall_s}


async def bare(how: str, rows: int, directory: Path, waiters: int) -> dict[str, float]:
    """A journal alone: each row waits for the disk three times. how: "group", "no sync" or "alone"."""
    started_s = time.perf_counter()
    if how == "alone":
        _one_by_one(rows, directory)
    else:
        policy = JournalPolicy(sync=how == "group")
        async with open_journal(directory, policy) as (journal, _), task_group() as writing:
            writing.start_soon(journal.run)
            async with task_group() as rows_under_way:
                left = iter(range(rows))
                for _ in range(waiters):
                    rows_under_way.start_soon(_row_after_row, journal, left)
            writing.cancel_scope.cancel()
    return {"rows_per_s": rows / (time.perf_counter() - started_s)}


async def _row_after_row(journal: Journal, left: Iterator[int]) -> None:
    for n in left:
        for group in row_lines(journal.rows, prompt=f"fox {n}"):
            for line in group:
                journal.note(line)
            await journal.durable()


def _one_by_one(rows: int, directory: Path) -> None:
    """The simplest safe journal: what waits for the disk goes there alone."""
    fd = os.open(directory / JOURNAL_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for n in range(rows):
        for group in row_lines(n, prompt=f"fox {n}"):
            os.write(fd, b"".join(map(encode, group)))
            os.fsync(fd)
    os.close(fd)


async def read(rows: int, directory: Path) -> dict[str, float]:
    """What a resume reads: a journal of `rows` rows, all saved but for the last ones; then the list is found in it."""
    before = peak_mb()
    started_s = time.perf_counter()
    with History(directory / JOURNAL_NAME) as history:
        read_s = time.perf_counter() - started_s
        left = sum(1 for _ in history.open_rows())
        peak = peak_mb()
        for n in range(rows):
            if history.match(ImageRequest(prompt_of(n))) != n:
                raise AssertionError(f"row {n} was not found again")
    matched_s = time.perf_counter() - started_s - read_s
    if (history.rows, left) != (rows, min(OPEN_ROWS, rows)):
        raise AssertionError("the journal does not say what was written")
    return {"read_s": read_s, "matched_s": matched_s, "added_mb": peak - before, "peak_mb": peak_mb()}


async def write(rows: int, directory: Path) -> dict[str, float]:
    """The journal that `read` reads: five lines a row, as a run writes them."""
    with (directory / JOURNAL_NAME).open("wb") as file:
        file.write(encode(Header(at_s=time.time())) + encode(RunBegun(pid=1, version="0", at_s=time.time())))
        for n in range(rows):
            groups = row_lines(n, prompt=prompt_of(n))
            for group in groups if n < rows - OPEN_ROWS else groups[:2]:
                file.writelines(map(encode, group))
        return {"mb": file.tell() / 1e6}


def prompt_of(n: int) -> str:
    """A prompt of usual length."""
    return f"a lighthouse on a cliff at dusk, long exposure, storm clouds, cinematic light, number {n}"


def row_lines(n: int, *, prompt: str) -> tuple[tuple[Line, ...], ...]:
    """What is written about a row, in three groups; its task goes on when each is on disk."""
    now = time.time()
    key, task_id = f"krea-5f0c9a3e7b1d2468ace02468-{n}", f"task-unified-1751280000-{n:08x}"
    saved = Saved(
        n=n,
        credits=0.45,
        task_id=task_id,
        files=(f"{n:05d}-a-lighthouse-on-a-cliff-at-dusk.png",),
        bytes=1_234_567,
        sha256=f"{n:064x}",
        width=1024,
        height=1024,
        seconds=(0.1, 12.5, 0.8),
        at_s=now,
    )
    link = f"https://images.example/2026/{task_id}/0.png?signature=0123456789abcdef"
    return (
        (Row(n=n, index=n, request=ImageRequest(prompt)), Intent(n=n, key=key, at_s=now)),
        (Accepted(n=n, task_id=task_id, credits=0.45, created_s=int(now), at_s=now),),
        (Completed(n=n, links=(link,), expires_s=now + 86_400, credits=0.45, at_s=now), saved),
    )


def peak_mb() -> float:
    """The most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


MEASUREMENTS: Final[dict[str, Callable[..., Awaitable[dict[str, float]]]]] = {
    "batch": batch,
    "bare": bare,
    "read": read,
    "write": write,
}


def main() -> None:
    """`python -m benchmarks.journal_client NAME ARGUMENTS`, the arguments as a JSON object."""
    arguments: dict[str, Any] = json.loads(sys.argv[2])
    arguments["directory"] = Path(arguments["directory"])
    before = resource.getrusage(resource.RUSAGE_SELF)
    used = asyncio.run(_awaited(MEASUREMENTS[sys.argv[1]](**arguments)))
    after = resource.getrusage(resource.RUSAGE_SELF)
    used["cpu_s"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps(used))


async def _awaited(measurement: Awaitable[dict[str, float]]) -> dict[str, float]:
    return await measurement


if __name__ == "__main__":
    main()
