"""What a prompt needs on its way through the house: the parts of a session, and how they come to an end together."""

from collections.abc import Iterator
from functools import partial
from random import Random

from attrs import field, frozen

from krea_async.control.backoff import RetryPolicy
from krea_async.errors import ImageExpiredError, ServiceError, SessionClosedError, TaskNotFoundError
from krea_async.events import Events
from krea_async.gateway.client import Gateway, idempotency_keys
from krea_async.gateway.images import ImageHost
from krea_async.gateway.retrying import retrying
from krea_async.lifetime import Lifetime
from krea_async.models import Task
from krea_async.poller import Poller
from krea_async.storage.download import Downloads
from krea_async.submission import Submitter


@frozen(kw_only=True)
class Pipeline:
    """What a prompt needs on its way. Belongs to one session."""

    gateway: Gateway
    images: ImageHost
    submitter: Submitter
    poller: Poller
    downloads: Downloads
    events: Events
    lifetime: Lifetime
    retries: RetryPolicy
    task_timeout_s: float
    rng: Random
    keys: Iterator[str] = field(factory=idempotency_keys)

    def calls(self) -> dict[str, int]:
        """Requests sent so far, by route, and how many submissions were answered 429."""
        return {**self.gateway.calls, "image": self.images.calls, "rate_limited": self.submitter.rate_limited}

    async def drain(self) -> None:
        """Wait for all that was begun: calls under way, and tasks that are followed."""
        while self.lifetime.busy or self.poller.busy:
            await self.lifetime.drain()
            await self.poller.drain()

    async def end(self) -> None:
        """End at once what still runs; whoever waits for it is told."""
        self.submitter.stop(SessionClosedError("the session is closed"))
        self.poller.end(left_behind)
        await self.lifetime.end()

    async def fresh_link(self, task_id: str, number: int) -> str:
        """The task's `number`-th link as it is now. Raises ImageExpiredError if there is none any more."""
        try:
            task = await retrying(partial(self._read_completed, task_id), self.retries, self.rng)
            return task.results[number]
        except (TaskNotFoundError, IndexError) as error:
            raise ImageExpiredError(
                f"the task has no link to its picture any more: {error}", task_id=task_id
            ) from error

    async def _read_completed(self, task_id: str) -> Task:
        task = await self.gateway.read(task_id)
        if task.status != "completed":  # it was before, so this reply is stale, or cut
            raise ServiceError(f"the completed task reads {task.status!r} again", task_id=task_id)
        return task


def left_behind(task_id: str) -> SessionClosedError:
    """Why a task is followed no more: the session ends, or nobody waits for it."""
    return SessionClosedError(
        f"the task was not followed to its end; take it up with session.attach({task_id!r})",
        task_id=task_id,
        charged="unknown",
    )
