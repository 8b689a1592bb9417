"""What may have become of rows that were never answered, and were sent too long ago to ask again under their keys.

The account's task list shows a task's id, status, progress, time and charge. It shows neither the prompt, the size, the
seed nor the idempotency key, and nor does a read of the task (docs/api-facts.md). So no task is ever taken for a row,
not even the only one of that minute: another program may have made it, and the row would get another one's picture.
Those that may be it are named in the row's error, for a person to look at.
"""

import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import anyio
from attrs import field, frozen

from krea_async.errors import DISK_ERROR, JournalError, KreaError
from krea_async.models import QUALITIES, ImageRequest, TaskPage, TaskSummary

MAX_PAGES: Final = 100
SEARCH_WITHIN_S: Final = 60.0
"""Pages that are read, and seconds that it may take: a row that is not found waits for a person anyway."""

SKEW_S: Final = 600.0
"""How far the gateway's clock may be from ours."""

SHOWN_TASKS: Final = 5
LOST: Final = (
    "the row was sent in an earlier run and the answer was lost, too long ago to ask again under the same key: it may"
    " have been charged"
)

_ORDER_S: Final = 1.0  # times are whole seconds
_NO_SUCH_ROUTE: Final = frozenset({404, 405, 501})
_TASK: Final = re.compile(rb',"task":("(?:[^"\\]|\\.)*")')


@frozen(kw_only=True)
class LostRow:
    """A row without an answer. sent_s, until_s: when it was sent first, and could have been last; Unix seconds here."""

    n: int
    request: ImageRequest
    sent_s: float
    until_s: float

    @property
    def first_s(self) -> float:
        """The earliest time, by any clock that may be the gateway's, that its task can have."""
        return self.sent_s - SKEW_S

    @property
    def last_s(self) -> float:
        """The latest one."""
        return max(self.sent_s, self.until_s) + SKEW_S

    def may_be(self, task: TaskSummary) -> bool:
        """Whether nothing that the list shows of `task` speaks against its being this row's."""
        if task.created is None or not self.first_s <= task.created <= self.last_s:
            return False
        own_price = self.request.credits
        prices = {ImageRequest("-", quality=quality).credits for quality in QUALITIES}
        return task.status != "completed" or task.credits_used not in prices - {own_price}


@frozen(kw_only=True)
class Search:
    """What the account's list shows of lost rows.

    candidates: by the row's `n`, the tasks that may be its own, the nearest in time first; one may be named for several
    rows. gap: why there may be others, or none of these could be looked for; None: the list was read as far back as the
    first row was sent.
    """

    candidates: Mapping[int, tuple[TaskSummary, ...]] = field(factory=dict)
    gap: str | None = None

    def words(self, row: LostRow) -> str:
        """What to tell whoever wants the row: what is known, what to do, and what it costs."""
        tasks = self.candidates.get(row.n, ())
        told = [LOST]
        if tasks:
            shown = ", ".join(f"{task.id} ({task.status}, {_apart(task, row)})" for task in tasks[:SHOWN_TASKS])
            more = f" and {len(tasks) - SHOWN_TASKS} more" if len(tasks) > SHOWN_TASKS else ""
            told.append(
                f"By time and charge it may be {shown}{more}; the list shows no prompts, so none was taken for it: see"
                " what they show with session.attach(id).save(directory), which costs nothing"
            )
        elif self.gap is None:
            slack = f"within {SKEW_S / 60:g} minutes, by the gateway's clock"
            told.append(f"The account's task list shows no task of that time ({slack}) that is not another row's")
        if self.gap is not None:
            told.append(f"The account's task list does not tell all: {self.gap}")
        told.append(
            "To send it again all the same, retry what is unknown (--retry-unknown): that costs"
            f" {row.request.credits:g} credits (${row.request.usd:g}) once more, unless the gateway still knows the key"
        )
        return ". ".join(told)


async def search(
    rows: Sequence[LostRow],
    read_page: Callable[[int], Awaitable[TaskPage]],
    known: Callable[[Collection[str]], Awaitable[Collection[str]]],
) -> Search:
    """Look for the tasks of `rows` in the account's list. Costs nothing.

    read_page: the list's page of that number, from 1, newest first; it may raise KreaError, and is asked for at most
    MAX_PAGES pages. known: which of these task ids are some other row's. Raises what `known` raises.
    """
    if not rows:
        return Search()
    reading = _Reading(read_page)
    gap: str | None = f"it could not be read through within {SEARCH_WITHIN_S:g} s"
    try:
        with anyio.move_on_after(SEARCH_WITHIN_S):
            await reading.cover(min(row.first_s for row in rows), max(row.last_s for row in rows))
            gap = reading.gap
    except KreaError as error:
        gap = "the gateway has no such list" if error.status in _NO_SUCH_ROUTE else str(error)
    found = {task.id: task for task in reading.tasks.values() if any(row.may_be(task) for row in rows)}
    taken = frozenset(await known(frozenset(found)) if found else ())
    candidates = {row.n: _nearest(row, [task for task in found.values() if task.id not in taken]) for row in rows}
    return Search(candidates=candidates, gap=gap)


def journalled(path: Path, task_ids: Collection[str]) -> frozenset[str]:
    """Which of `task_ids` the journal at `path` names anywhere: they are other rows' tasks. Blocks.

    One pass over the file, so that a million known ids need no memory. Raises JournalError if it cannot be read.
    """
    encoded = (json.dumps(task_id, ensure_ascii=False).encode(errors="backslashreplace") for task_id in task_ids)
    wanted = dict(zip(encoded, task_ids, strict=True))
    try:
        with path.open("rb") as lines:
            return frozenset(wanted[task[1]] for line in lines if (task := _TASK.search(line)) and task[1] in wanted)
    except OSError as error:
        raise JournalError(f"cannot read {path}: {error.strerror or error}", code=DISK_ERROR) from error


class _Reading:
    """One search through the list. tasks: those that were seen, by id. gap: what was not seen, in words."""

    def __init__(self, read_page: Callable[[int], Awaitable[TaskPage]]) -> None:
        self.tasks: dict[str, TaskSummary] = {}
        self.gap: str | None = None
        self._read_page = read_page
        self._reads = 0
        self._sorted = True

    async def cover(self, first_s: float, last_s: float) -> None:
        """Read every page with tasks made from `first_s` to `last_s`."""
        number = await self._leap_to(last_s)
        await self._read_back(number, first_s)
        if not self._sorted:
            await self._read_back(1, None)

    async def _leap_to(self, time_s: float) -> int:
        """The first page that reaches back to `time_s`, in few reads, because the newest tasks come first."""
        newer, reaching = 0, 1
        while self._has_room() and not self._reaches(await self._oldest_s(reaching), time_s):
            newer, reaching = reaching, reaching * 2
        while reaching - newer > 1 and self._has_room():
            middle = (newer + reaching) // 2
            if self._reaches(await self._oldest_s(middle), time_s):
                reaching = middle
            else:
                newer = middle
        return reaching

    async def _read_back(self, number: int, first_s: float | None) -> None:
        """Read on from a page, until one reaches back before `first_s`, or the list ends.

        Pages that were leapt to are read again: new tasks push older ones on to later pages meanwhile.
        """
        while self._has_room():
            oldest_s = await self._oldest_s(number)
            if oldest_s is None or (first_s is not None and oldest_s < first_s):
                return
            number += 1
        self.gap = f"it goes on after the {MAX_PAGES} pages that were read"

    async def _oldest_s(self, number: int) -> float | None:
        """When the oldest task of a page was made; None behind the list's end."""
        self._reads += 1
        page = await self._read_page(number)
        self.tasks.update((task.id, task) for task in page.tasks)
        times = [task.created for task in page.tasks if task.created is not None]
        if len(times) < len(page.tasks):
            self.gap = "it shows tasks without their time"
        if not times:
            return None
        self._sorted &= all(later <= earlier + _ORDER_S for earlier, later in pairwise(times))
        return min(times)

    def _has_room(self) -> bool:
        return self._reads < MAX_PAGES

    @staticmethod
    def _reaches(oldest_s: float | None, time_s: float) -> bool:
        return oldest_s is None or oldest_s <= time_s


def _nearest(row: LostRow, tasks: list[TaskSummary]) -> tuple[TaskSummary, ...]:
    return tuple(sorted(filter(row.may_be, tasks), key=lambda task: abs((task.created or 0) - row.sent_s)))


def _apart(task: TaskSummary, row: LostRow) -> str:
    apart_s = (task.created or 0) - row.sent_s
    return f"{abs(apart_s):.0f} s {'after' if apart_s >= 0 else 'before'} it"
