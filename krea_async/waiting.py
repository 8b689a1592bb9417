"""Who is next in front of the gateway's create: first those whose task may exist, then interactive and batch in turns.

Interactive requests overtake a batch's rows and do not starve them: while both wait, one turn in five is a batch's.
"""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterator
from copy import copy
from typing import Final, Literal

from attrs import define, field

from krea_async.control.governor import Sent
from krea_async.errors import KreaError
from krea_async.story import Story

Priority = Literal["interactive", "batch"]
PRIORITIES: Final = ("interactive", "batch")

INTERACTIVE_TURNS: Final = 4
"""While a batch's row waits, at most so many interactive requests leave before it."""


@define(eq=False)
class Stop:
    """A one-way switch: why nothing new leaves any more. The session has one, and each batch has its own."""

    reason: KreaError | None = None


class NotSubmittedError(Exception):
    """A request was not sent, because submissions were stopped for `reason`. Nothing was charged."""

    def __init__(self, reason: KreaError) -> None:
        super().__init__(str(reason))
        self.reason = copy(reason)
        self.reason.charged = "no"  # whatever the request cost that met the reason
        self.reason.task_id = None


@define(order=True)
class Row:
    """A request on its way to a task. In the queue, those that hold a place come first, then the older ones.

    turn: done when it may leave. backed_off: done when it has waited for its next try. holds_place: it counts among the
    unfinished, while it is sent and as long as its task may exist; keeps_place: while it waits. maybe_paid: an answer
    was lost, so its task may exist. before: what is to be done before it leaves for the first time. story: its events.
    """

    rank: tuple[bool, int] = field(init=False)
    number: int = field(eq=False)
    stop: Stop = field(eq=False)
    turn: "asyncio.Future[Sent]" = field(eq=False, init=False)
    backed_off: "asyncio.Future[None]" = field(eq=False, init=False)
    priority: Priority = field(default="batch", eq=False, kw_only=True)
    holds_place: bool = field(default=False, eq=False)
    keeps_place: bool = field(default=False, eq=False)
    maybe_paid: bool = field(default=False, eq=False)
    before: Callable[[], Awaitable[None]] | None = field(default=None, eq=False)
    story: Story | None = field(default=None, eq=False, kw_only=True)
    failures: int = field(default=0, eq=False)


class WaitingRows:
    """Those who wait for their turn. Whose `turn` is done without one having been given, waits no more."""

    def __init__(self) -> None:
        self._heaps: dict[Priority, list[Row]] = {"interactive": [], "batch": []}
        self._overtaken = 0

    def __iter__(self) -> Iterator[Row]:
        return (row for heap in self._heaps.values() for row in heap if not row.turn.done())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def push(self, row: Row) -> None:
        """The row waits from now on."""
        row.rank = (not row.holds_place, row.number)
        heapq.heappush(self._heaps[row.priority], row)

    def head(self) -> Row | None:
        """Who is next; None: nobody waits."""
        interactive, batch = self._first("interactive"), self._first("batch")
        if interactive is None or batch is None:
            return interactive or batch
        if interactive.holds_place != batch.holds_place:
            return interactive if interactive.holds_place else batch
        return batch if self._overtaken >= INTERACTIVE_TURNS else interactive

    def pop(self, row: Row) -> None:
        """The head has its turn."""
        heapq.heappop(self._heaps[row.priority])
        overtakes = row.priority == "interactive" and self._first("batch") is not None
        self._overtaken = self._overtaken + 1 if overtakes else 0

    def _first(self, priority: Priority) -> Row | None:
        heap = self._heaps[priority]
        while heap and heap[0].turn.done():
            heapq.heappop(heap)
        return heap[0] if heap else None
