"""Tasks to follow, and what may be read of them, for the tests of the scheduler and of the poll loop."""

import math
from random import Random

from krea_async.control.polling import PollPolicy
from krea_async.errors import ServiceError
from krea_async.followed import Followed, Outcome
from krea_async.gateway.client import Readings
from krea_async.models import Task
from krea_async.scheduler import Scheduler

STEADY = PollPolicy(shortest_s=1.0, longest_s=1.0, window_s=0.0, ahead_s=0.0)
LOST = ServiceError("the connection broke")
TIMEOUT_S = 1800.0


def scheduler(policy: PollPolicy = STEADY) -> Scheduler:
    return Scheduler(policy, Random(0))


class Outcomes(dict[str, list[Outcome]]):
    """Every outcome that each task got."""

    def follow(
        self,
        into: Scheduler,
        task_id: str,
        now: float = 0.0,
        *,
        timeout_s: float = TIMEOUT_S,
        status: str | None = "pending",
        awaited: bool = False,
    ) -> Followed:
        mine = self.setdefault(task_id, [])
        task = None if status is None else Task(id=task_id, status=status)
        followed = Followed(
            task_id=task_id,
            submitted_s=now,
            deadline_s=now + timeout_s,
            on_outcome=mine.append,
            task=task,
            awaited=awaited,
        )
        into.follow(followed, now)
        return followed


def processing(*task_ids: str) -> Readings:
    return {task_id: Task(id=task_id, status="processing") for task_id in task_ids}


def done(*task_ids: str) -> Readings:
    return {task_id: Task(id=task_id, status="completed", results=("https://x/y",)) for task_id in task_ids}


def next_due(of: Scheduler) -> tuple[float, list[str]]:
    now = of.next_read_s()
    assert now < math.inf
    return now, of.take_due(now)
