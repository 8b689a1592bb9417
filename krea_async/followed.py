"""One task that somebody follows: what is known of it, what it waits for, and who is told how it ended.

The scheduler's own notes on a task. They are kept for every task in flight, so they are small.
"""

import math
from collections.abc import Callable

from attrs import define, field

from krea_async.control.hazard import Law
from krea_async.errors import KreaError
from krea_async.models import Task

Outcome = Task | KreaError
"""How following a task ended: the finished task, or why it is not followed any more."""


@define(eq=False, weakref_slot=False)
class Followed:
    """Somebody who follows a task. `task` is what is known of it; None until its first read, for one of before.

    awaited: somebody waits for just this task, so it is read more often. taken_up: nobody knows for how long it has
    been running, as with any task that was never read, or that an earlier try had made. called_back: a callback is
    to be expected, and has not come in vain.
    """

    task_id: str
    submitted_s: float
    deadline_s: float
    on_outcome: Callable[[Outcome], None]
    task: Task | None = None
    awaited: bool = field(default=False, kw_only=True)
    taken_up: bool = field(default=False, kw_only=True)
    called_back: bool = field(default=False, kw_only=True)
    denials: int = 0
    unreadable: int = 0
    ended: bool = field(default=False, init=False)
    law: Law | None = field(default=None, init=False)
    running_s: float | None = field(default=None, init=False)
    """Its age when it was last known to be running."""

    planned_s: float = field(default=0.0, init=False)
    due_s: float = field(default=math.inf, init=False)
    lost_share: float = field(default=1.0, init=False)
    """When its next read was planned, for when, and by which share of lost callbacks."""

    announced_s: float | None = field(default=None, init=False)
    hinted_s: float = field(default=-math.inf, init=False)
    hint_waits: bool = field(default=False, init=False)
    """When a callback came that no read has borne out yet; when one last had it read; whether one is about to."""
