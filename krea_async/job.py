"""A task on its way to a picture."""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from attrs import evolve

from krea_async.control.backlog import LINK_LIFETIME_S
from krea_async.errors import ImageExpiredError, KreaError, SessionClosedError
from krea_async.followed import Followed, Outcome
from krea_async.gateway.refusals import failure_of
from krea_async.models import ImageRequest, Task
from krea_async.pipeline import Pipeline, left_behind
from krea_async.results import NO_TIME, GeneratedImage, Timings
from krea_async.storage.names import PICTURE_SUFFIXES, file_stem
from krea_async.storage.part import SavedPicture, Target
from krea_async.story import Story
from krea_async.tasks import Signal, loop_time_s

log = logging.getLogger(__name__)


class Job:
    """A task that is being followed. Made by `KreaSession.submit` and `KreaSession.attach`.

    `request` is None for a task that was submitted elsewhere.
    """

    __slots__ = (
        "_ended",
        "_ended_s",
        "_followed",
        "_holds_place",
        "_outcome",
        "_pipeline",
        "_reserved_credits",
        "_story",
        "_timings",
        "request",
    )

    def __init__(
        self,
        pipeline: Pipeline,
        task_id: str,
        *,
        request: ImageRequest | None = None,
        task: Task | None = None,
        timings: Timings = NO_TIME,
        holds_place: bool = False,
        awaited: bool = False,
        taken_up: bool = False,
        called_back: bool = False,
        story: Story | None = None,
    ) -> None:
        now = loop_time_s()
        self._pipeline = pipeline
        self._story = story
        self._timings = timings
        self._holds_place = holds_place
        self._ended_s = now
        self._reserved_credits = None if task is None else task.credits_reserved
        self._ended = Signal()
        self._outcome: Outcome | None = None
        self._followed = Followed(
            task_id=task_id,
            submitted_s=now,
            deadline_s=now + pipeline.task_timeout_s,
            task=task,
            on_outcome=self._end,
            awaited=awaited,
            taken_up=taken_up,
            called_back=called_back,
        )
        self.request = request
        pipeline.poller.follow(self._followed)

    def __repr__(self) -> str:
        return f"<Job {self.task_id} {self.status} {self.progress}%>"

    @property
    def task_id(self) -> str:
        """The gateway's id of the task: keep it to follow the task after a restart."""
        return self._followed.task_id

    @property
    def status(self) -> str:
        """The task's status at its last read; "pending" before the first."""
        return "pending" if self._followed.task is None else self._followed.task.status

    @property
    def may_be_paid(self) -> bool:
        """Whether its picture was, or may still be, charged; a task that failed is not."""
        return not isinstance(self._outcome, Task) or self._outcome.status == "completed"

    @property
    def progress(self) -> int:
        """Percent done at the task's last read."""
        return 0 if self._followed.task is None else self._followed.task.progress

    @property
    def price_credits(self) -> float:
        """What the picture costs: as settled, else as reserved, else by the price list."""
        task = self._followed.task
        settled = None if task is None else task.credits_used
        listed = 0.0 if self.request is None else self.request.credits
        return next(price for price in (settled, self._reserved_credits, listed) if price is not None)

    async def wait(self) -> Task:
        """The completed task.

        Raises TaskFailedError (ContentPolicyError), TaskTimeoutError, TaskNotFoundError, ServiceError when replies stay
        unreadable, SessionClosedError when the session ends before the task does. Cancelling ends the waiting only.
        """
        while (outcome := self._outcome) is None:
            self._pipeline.lifetime.check()
            await self._ended.wait()
        if isinstance(outcome, KreaError):
            raise outcome
        if outcome.status != "completed":
            raise failure_of(outcome)
        return outcome

    async def save(self, to: "str | os.PathLike[str]") -> GeneratedImage:
        """Wait for the picture and save it. `to`: a directory (it exists, or ends with a slash), or a file's name.

        The extension follows the picture's content, and a file that exists is not overwritten: the picture gets the
        next free name. Raises what `wait` raises, and DownloadError (ImageExpiredError, InvalidImageError).
        """
        with self._pipeline.lifetime.operation():
            stem = file_stem(None, self.request) if self.request is not None else self.task_id
            return await self.save_as(target_of(to, stem))

    async def save_as(self, target: Target, *, index: int | None = None) -> GeneratedImage:
        """The same for a target that is known; `index` is the row's number in its batch."""
        task = await self.wait()
        try:
            pictures = [await self._fetch(task, link, number, target) for number, link in enumerate(task.results)]
        except KreaError as error:
            error.charged = "yes"
            error.task_id = self.task_id
            if isinstance(error, ImageExpiredError):
                error.message += price_of_another(self.request)
            if self._story is not None:
                self._story.failed(error)
            raise
        image = self._image(task, pictures, index)
        if self._story is not None:
            size_bytes = sum(picture.bytes for picture in pictures)
            self._story.saved(downloading_s=image.timings.downloading_s, size_bytes=size_bytes, credits=image.credits)
        if self.request is not None and not image.as_requested:
            log.warning(
                "task %s: the picture is %dx%d, not %dx%d as requested; it is kept",
                self.task_id,
                image.width,
                image.height,
                *self.request.pixels,
            )
        return image

    async def _fetch(self, task: Task, link: str, number: int, target: Target) -> SavedPicture:
        if number:
            target = evolve(target, stem=f"{target.stem}_{number + 1}", replaces=None)
        fresh_link = partial(self._pipeline.fresh_link, self.task_id, number)
        expires_s = None if task.created is None else task.created + LINK_LIFETIME_S  # it may have been done at once
        return await self._pipeline.downloads.save(
            link, target, fresh_link=fresh_link, expires_s=expires_s, story=self._story
        )

    def _image(self, task: Task, pictures: list[SavedPicture], index: int | None) -> GeneratedImage:
        first = pictures[0]
        return GeneratedImage(
            index=index,
            request=self.request,
            status="saved",
            task_id=self.task_id,
            path=first.path,
            paths=tuple(picture.path for picture in pictures),
            url=task.results[0],
            bytes=first.bytes,
            sha256=first.sha256,
            width=first.width,
            height=first.height,
            credits=self.price_credits,
            timings=self.timings,
        )

    @contextmanager
    def given_up_if_cancelled(self) -> Iterator[None]:
        """Follow the task no further when the block is cancelled: nobody waits for it any more."""
        try:
            yield
        except asyncio.CancelledError:
            self.give_up()
            raise

    def give_up(self, *, is_noted: bool = False) -> None:
        """Follow the task no further, unless it has ended.

        is_noted: whether the task's id is in a journal, so that nobody has to be told.
        """
        if self._pipeline.poller.forget(self._followed):
            level = logging.DEBUG if is_noted else logging.WARNING
            log.log(level, "task %s is paid for and goes on; session.attach follows it up", self.task_id)
            self._end(left_behind(self.task_id))
        elif self._story is not None and isinstance(self._outcome, Task) and self._outcome.status == "completed":
            self._story.abandoned()

    @property
    def timings(self) -> Timings:
        """Where the time went so far."""
        before, now = self._timings, loop_time_s()
        made_s = now if self._outcome is None else self._ended_s
        return Timings(before.queued_s, before.waiting_s, made_s - self._followed.submitted_s, now - made_s)

    def _end(self, outcome: Outcome) -> None:
        self._ended_s = loop_time_s()
        if self._holds_place:
            self._pipeline.submitter.finished()
        self._outcome = outcome
        self._ended.set()
        if self._story is not None:
            self._tell_outcome(self._story, outcome)

    def _tell_outcome(self, story: Story, outcome: Outcome) -> None:
        if isinstance(outcome, SessionClosedError):
            story.abandoned()
        elif isinstance(outcome, KreaError):
            story.failed(outcome)
        elif outcome.status != "completed":
            story.failed(failure_of(outcome))
        else:
            generating_s = self._ended_s - self._followed.submitted_s
            lag_s = None
            if outcome.duration_s is not None and not self._followed.taken_up:
                lag_s = max(0.0, generating_s - outcome.duration_s)
            story.completed(generating_s=generating_s, lag_s=lag_s, credits=self.price_credits)


def price_of_another(request: ImageRequest | None) -> str:
    """What to say of a picture that is lost, after the reason."""
    if request is None:
        return ""
    return f"; making it anew costs {request.credits:g} credits (${request.usd:g})"


_SEPARATORS: Final = tuple(filter(None, (os.sep, os.altsep)))


def target_of(to: "str | os.PathLike[str]", stem: str) -> Target:
    """Where a picture goes that a caller wants at `to`, under the name `stem` if that is a directory."""
    path = Path(to)
    if os.fspath(to).endswith(_SEPARATORS) or path.is_dir():
        return Target(directory=path, stem=stem)
    named = path.stem if path.suffix.lower() in PICTURE_SUFFIXES else path.name
    return Target(directory=path.parent, stem=named)
