"""A picture that a caller waits for, and what becomes of it when the caller waits no more.

Before the request has left, giving up costs nothing. After that the picture is paid for: its submission runs on in the
session's own task group until the task's id is known, and the id goes to whoever was named for that (`on_orphan`); or
the picture is finished and saved all the same, as the caller chose.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Literal

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from krea_async.errors import KreaError, QueueFullError, SessionClosedError, TaskTimeoutError
from krea_async.events import Orphan
from krea_async.intake import submitted
from krea_async.job import Job
from krea_async.models import ImageRequest
from krea_async.pipeline import Pipeline
from krea_async.results import GeneratedImage
from krea_async.storage.part import Target
from krea_async.waiting import Priority

log = logging.getLogger(__name__)

IfCancelled = Literal["leave", "finish"]
IF_CANCELLED: Final = ("leave", "finish")


class Order:
    """One request, from its place in the queue to its job; belongs to one caller.

    task_id: once the gateway has accepted it. left: whether it may have been sent, and so be paid for. not_waiting:
    called once, when it leaves or never will.
    """

    def __init__(
        self, pipeline: Pipeline, tasks: TaskGroup, request: ImageRequest, not_waiting: Callable[[], None]
    ) -> None:
        self._pipeline = pipeline
        self._not_waiting = not_waiting
        self._tasks = tasks
        self._request = request
        self._placing = anyio.CancelScope()
        self._placed: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self._abandoned: Callable[[Job], None] | None = None
        self.task_id: str | None = None
        self.left = False

    async def job(self, *, priority: Priority, awaited: bool) -> Job:
        """Have it submitted. Cancelled before it has left, nothing is sent; see `abandon` for after."""
        self._tasks.start_soon(self._place, priority, awaited)
        try:
            return await asyncio.shield(self._placed)
        except asyncio.CancelledError:
            if not self.left:
                self._placing.cancel()
            raise

    def abandon(self, then: Callable[[Job], None]) -> None:
        """Nobody waits for it any more. `then` is called with its job, if there will be one, once there is one."""
        if self._placed.done():
            if not self._placed.cancelled() and self._placed.exception() is None:
                then(self._placed.result())
        else:
            self._abandoned = then

    async def _place(self, priority: Priority, awaited: bool) -> None:
        """Runs in the session's task group, so that a caller who goes away does not take the answer with it."""
        try:
            with self._pipeline.lifetime.operation(), self._placing:
                job = await submitted(
                    self._pipeline, self._request, priority=priority, awaited=awaited, before=self._leaves
                )
                self.task_id = job.task_id
                self._end(job)
        except asyncio.CancelledError:
            if not self._placing.cancel_called:  # from outside: the session is torn down
                words = "the session was closed while this call was under way"
                self._fail(SessionClosedError(words, charged="unknown" if self.left else "no"))
            raise
        except Exception as error:  # noqa: BLE001 - its caller's, and no reason to end the session for the others
            self._fail(error)
        finally:
            self._placed.cancel()
            if not self.left:
                self._not_waiting()

    def _fail(self, error: Exception) -> None:
        if not self._placed.done():
            self._placed.set_exception(error)
            self._placed.exception()  # nobody may be there to look at it

    def _end(self, job: Job) -> None:
        if not self._placed.done():
            self._placed.set_result(job)
        if self._abandoned is not None:
            self._abandoned(job)

    async def _leaves(self) -> None:
        if self._placing.cancel_called:  # given up in the very moment in which its turn came
            await anyio.lowlevel.checkpoint_if_cancelled()
        self.left = True
        self._not_waiting()


class Orders:
    """The orders of a session.

    max_waiting: how many may wait for their turn; None: any number. on_orphan: told of each picture that is paid for
    and that nobody waits for.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        tasks: TaskGroup,
        max_waiting: int | None,
        on_orphan: Callable[[Orphan], object] | None,
    ) -> None:
        self._pipeline = pipeline
        self._max_waiting = max_waiting
        self._waiting = 0
        self._tasks = tasks
        self._on_orphan = on_orphan

    async def submitted(self, request: ImageRequest, *, priority: Priority) -> Job:
        """The job of `request`, once the gateway has accepted it. If the caller goes away, an orphan.

        Raises QueueFullError.
        """
        order = self._order(request)
        try:
            return await order.job(priority=priority, awaited=False)
        except asyncio.CancelledError:
            order.abandon(lambda job: self._orphaned(job, request))
            raise

    async def saved(
        self,
        request: ImageRequest,
        target: Target,
        *,
        priority: Priority,
        timeout_s: float | None,
        if_cancelled: IfCancelled,
    ) -> GeneratedImage:
        """The picture of `request`, saved at `target`. Raises QueueFullError; TaskTimeoutError after `timeout_s`."""
        deadline = asyncio.timeout(timeout_s)
        order = self._order(request)
        try:
            async with deadline:
                job = await order.job(priority=priority, awaited=True)
                return await job.save_as(target)
        except asyncio.CancelledError as cancelled:
            self._given_up(order, request, target, if_cancelled)
            if order.task_id is not None:
                cancelled.add_note(_words(order, if_cancelled))
            raise
        except TimeoutError:
            if not deadline.expired():
                raise
            self._given_up(order, request, target, if_cancelled)
            raise TaskTimeoutError(
                f"there is no picture after {timeout_s:g} s; {_words(order, if_cancelled)}",
                task_id=order.task_id,
                charged="unknown" if order.left else "no",
            ) from None

    def _order(self, request: ImageRequest) -> Order:
        if self._max_waiting is not None and self._waiting >= self._max_waiting:
            raise QueueFullError(
                f"{self._waiting} requests wait for their turn, and max_waiting is {self._max_waiting}: try again later"
            )
        self._waiting += 1
        return Order(self._pipeline, self._tasks, request, self._one_less)

    def _one_less(self) -> None:
        self._waiting -= 1

    def _given_up(self, order: Order, request: ImageRequest, target: Target, if_cancelled: IfCancelled) -> None:
        if if_cancelled == "finish":
            order.abandon(lambda job: self._finished(job, request, target))
        else:
            order.abandon(lambda job: self._orphaned(job, request))

    def _orphaned(self, job: Job, request: ImageRequest) -> None:
        job.give_up(is_noted=self._on_orphan is not None)
        if self._on_orphan is not None and job.may_be_paid:
            try:
                self._on_orphan(Orphan.now(task_id=job.task_id, request=request))
            except Exception:
                log.exception("on_orphan failed; task %s is paid for and goes on", job.task_id)

    def _finished(self, job: Job, request: ImageRequest, target: Target) -> None:
        self._tasks.start_soon(self._finish, job, request, target)

    async def _finish(self, job: Job, request: ImageRequest, target: Target) -> None:
        try:
            with self._pipeline.lifetime.operation():
                image = await job.save_as(target)
            log.info("task %s was given up by its caller, and is saved: %s", job.task_id, image.path)
        except KreaError as error:
            log.warning("task %s was given up by its caller, and could not be saved: %s", job.task_id, error)
            if error.charged != "no":
                self._orphaned(job, request)
        except Exception:
            log.exception("task %s was given up by its caller, and could not be saved", job.task_id)
            self._orphaned(job, request)


def _words(order: Order, if_cancelled: IfCancelled) -> str:
    """What became of the picture, for the one who gave it up."""
    if not order.left:
        return "it was not submitted, and costs nothing"
    if if_cancelled == "finish":
        return "it is finished and saved all the same"
    if order.task_id is None:
        return "it may be paid for; on_orphan, if there is one, is told of its task"
    return f"task {order.task_id} is paid for and goes on: session.attach follows it up"
