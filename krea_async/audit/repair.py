"""Fetching again, for nothing, the pictures that are damaged or gone.

Repairing writes into the journal and moves files, so it locks the directory. It never orders a picture.
"""

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path, PurePath
from typing import Final, Literal

import anyio
from attrs import evolve, frozen

from krea_async.audit.examine import DAMAGE, examine, pillow
from krea_async.audit.recorded import Recorded, recorded_in
from krea_async.audit.verify import Problem
from krea_async.errors import (
    DISK_ERROR,
    AccessDeniedError,
    AuthenticationError,
    ImageExpiredError,
    InvalidImageError,
    JournalError,
    KreaError,
    SessionClosedError,
    TaskFailedError,
    TaskNotFoundError,
)
from krea_async.session import KreaSession
from krea_async.storage.disk import disk_errors, in_thread
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.journal import Journal, open_journal
from krea_async.storage.manifest import rebuild_manifest
from krea_async.storage.part import Target
from krea_async.storage.records import Saved
from krea_async.storage.replay import RowState
from krea_async.tasks import task_group

REPAIRS_AT_ONCE: Final = 32
DAMAGED_THERE: Final = "picture_damaged_there"
"""Our own error code for a picture that comes no better from the gateway than it is here."""

_CANNOT_GO_ON: Final = (AuthenticationError, AccessDeniedError, JournalError, SessionClosedError)
_GONE: Final = (ImageExpiredError, TaskNotFoundError, TaskFailedError)

Outlook = Literal["gone", "later", "kept"]


@frozen(kw_only=True)
class Unrepaired:
    """A problem that is still there, and why.

    outlook: "gone": only another picture, paid anew, fills the gap; "later": what failed may work another time; "kept":
    there is a picture, and fetching it again would bring the same one.
    """

    problem: Problem
    reason: str
    outlook: Outlook


@frozen(kw_only=True)
class RepairReport:
    """What `repair` did. repaired: problems that are no more."""

    repaired: tuple[Problem, ...]
    left: tuple[Unrepaired, ...]

    @property
    def rerender_credits(self) -> float:
        """What new pictures cost for the rows whose own are gone, by the price list."""
        return round(sum(problem.rerender_credits or 0.0 for problem in self._gone.values()), 6)

    @property
    def rerender_usd(self) -> float:
        """The same in US dollars."""
        return round(sum(problem.rerender_usd or 0.0 for problem in self._gone.values()), 6)

    @property
    def _gone(self) -> dict[tuple[int | None, str], Problem]:
        rows = ((one.problem.n, one.problem) for one in self.left if one.outlook == "gone")
        return {(n, problem.file if n is None else ""): problem for n, problem in rows}


async def repair(session: KreaSession | None, directory: Path, problems: Iterable[Problem]) -> RepairReport:
    """Fetch what is damaged or missing once more from its task, and note it in the journal. Nothing is ever paid.

    problems: of `verify(directory)`; session: None if none of them is repairable. A damaged file is kept beside the new
    one as `<name>.damaged-<n>`, and stays where it is when no better one comes. Raises AuthenticationError and the like
    before anything is touched; JournalError when the directory is in use, or its journal damaged; DownloadError
    ("disk_error") when the disk fails.
    """
    rows: dict[tuple[int, str], list[Problem]] = {}
    left: list[Unrepaired] = []
    for problem in problems:
        if problem.repairable and problem.n is not None and problem.task_id is not None:
            rows.setdefault((problem.n, problem.task_id), []).append(problem)
        else:
            left.append(_not_tried(problem))
    if not rows:
        return RepairReport(repaired=(), left=tuple(left))
    if session is None:
        raise ValueError("pictures are fetched through a session")
    await session.credits()  # a refused key is told now, and not when the first task's time is over
    async with open_journal(directory) as (journal, history):
        work = _Repair(session, directory, journal, history, rows)
        async with task_group() as writing:
            writing.start_soon(journal.run)
            async with task_group() as repairs:
                for _ in range(min(REPAIRS_AT_ONCE, len(rows))):
                    repairs.start_soon(work.run)
            writing.cancel_scope.cancel()
        await journal.flush()
        if work.facts_changed:
            await in_thread(partial(_rebuild, directory))
    return RepairReport(repaired=tuple(work.repaired), left=tuple(left + work.left))


def _not_tried(problem: Problem) -> Unrepaired:
    if problem.kind not in DAMAGE:
        return Unrepaired(problem=problem, reason="it is kept as it is", outlook="kept")
    if problem.kind == "unreadable":
        return Unrepaired(problem=problem, reason="the file must be made readable first", outlook="later")
    if problem.n is None:
        return Unrepaired(problem=problem, reason="there is no journal to note a new picture in", outlook="later")
    return _unrepaired(problem, "no task is known that it could come from", "gone")


def _unrepaired(problem: Problem, reason: str, outlook: Outlook) -> Unrepaired:
    """With what another order of the same picture needs, where that is all that is left."""
    if outlook == "gone" and problem.seed:
        reason += f"; its seed was {problem.seed}"
    return Unrepaired(problem=problem, reason=reason, outlook=outlook)


def _rebuild(directory: Path) -> None:
    with History(directory / JOURNAL_NAME) as history:
        rebuild_manifest(directory, history)


class _Repair:
    """Rows that are fetched again, several at a time, each by whichever `run` is free."""

    def __init__(
        self,
        session: KreaSession,
        directory: Path,
        journal: Journal,
        history: History,
        rows: Mapping[tuple[int, str], list[Problem]],
    ) -> None:
        self.repaired: list[Problem] = []
        self.left: list[Unrepaired] = []
        self.facts_changed = False
        self._session = session
        self._directory = directory
        self._journal = journal
        self._history = history
        self._rows = iter(rows.items())
        self._reading = anyio.Lock()  # a history is for one thread at a time
        self._decoder = pillow()

    async def run(self) -> None:
        """Take rows until there are no more. Raises what ends them all: the key, the disk, the journal."""
        for (n, task_id), problems in self._rows:
            try:
                await self._repair(n, task_id, problems)
            except KreaError as error:
                if isinstance(error, _CANNOT_GO_ON) or error.code == DISK_ERROR:
                    raise
                is_gone = isinstance(error, _GONE) or error.code == DAMAGED_THERE
                outlook: Outlook = "gone" if is_gone else "later"
                self.left += (_unrepaired(one, str(error), outlook) for one in problems)
            else:
                self.repaired += problems

    async def _repair(self, n: int, task_id: str, problems: list[Problem]) -> None:
        saved, broken = await self._as_it_is_now(n)
        if saved is None or not broken:
            return
        shared = {one.file for one in problems if one.kind == "shared_name"}  # these are another row's by now
        job = self._session.attach(task_id)
        aside: list[tuple[Path, Path]] = []
        with job.given_up_if_cancelled():
            await job.wait()
            try:
                await in_thread(partial(_move_aside, self._directory, broken - shared, aside))
                # Whole files of the same task keep their names.
                target = Target(directory=self._directory, stem=PurePath(saved.files[0]).stem, resumed=True)
                image = await job.save_as(target)
                again = evolve(
                    saved,
                    files=[path.name for path in image.paths],
                    bytes=image.bytes,
                    sha256=image.sha256 or "",
                    width=image.width or 0,
                    height=image.height or 0,
                    at_s=time.time(),
                )
                await in_thread(partial(self._check, again, aside))
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await in_thread(partial(_move_back, aside))
                raise
        self._journal.note(again)
        await self._journal.durable()
        self.facts_changed = self.facts_changed or evolve(again, at_s=saved.at_s) != saved

    async def _as_it_is_now(self, n: int) -> tuple[Saved | None, set[str]]:
        """The row's record, and its bad files: none if a run was here meanwhile."""

        def look() -> tuple[Saved | None, set[str]]:
            if n >= self._history.rows or self._history.state(n) is not RowState.SAVED:
                return None, set()
            seen = examine(self._directory, recorded_in(self._history, n), self._decoder)
            return self._history.saved(n), {found.file for found in seen.findings if found.kind in DAMAGE}

        async with self._reading:
            return await in_thread(look)

    def _check(self, saved: Saved, aside: list[tuple[Path, Path]]) -> None:
        """Raise InvalidImageError if what came is no better than what was there, which then gets its name back."""
        seen = examine(self._directory, Recorded(files=saved.files), self._decoder)
        for found in seen.findings:
            if found.kind in DAMAGE:
                for path, _ in aside:
                    path.unlink(missing_ok=True)
                raise InvalidImageError(f"what the gateway has is damaged as well: {found.message}", code=DAMAGED_THERE)


def _move_aside(directory: Path, names: Iterable[str], aside: list[tuple[Path, Path]]) -> None:
    with disk_errors(directory):
        for path in (directory / name for name in names):
            if os.path.lexists(path):
                kept = (path.with_name(f"{path.name}.damaged-{number}") for number in count(1))
                free = next(name for name in kept if not os.path.lexists(name))
                path.rename(free)
                aside.append((path, free))


def _move_back(aside: Iterable[tuple[Path, Path]]) -> None:
    for path, kept in aside:
        if not os.path.lexists(path):
            with suppress(OSError):
                kept.rename(path)
