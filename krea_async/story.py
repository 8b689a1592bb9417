"""The events of one picture, from its first to its last: who makes it tells its story step by step.

Where nobody listens there is no story: `Story.of` gives None, so that what nobody hears costs nothing.
"""

from typing import Self

from attrs import define, evolve

from krea_async.errors import Charged, JournalError, KreaError
from krea_async.events import (
    Abandoned,
    Accepted,
    Completed,
    Events,
    Failed,
    Picture,
    Queued,
    RetryScheduled,
    Saved,
    Stage,
    SubmissionRefused,
    Submitted,
    TakenUp,
)
from krea_async.models import ImageRequest, Task
from krea_async.results import error_code


@define(eq=False)
class Story:
    """One for each picture. stage: how far it has come. sent: whether it has left, so that it may be paid for."""

    _events: Events
    _picture: Picture
    _stage: Stage = "submission"
    _sent: bool = False

    @classmethod
    def of(cls, events: Events, request: ImageRequest, *, index: int | None = None) -> Self | None:
        """The story of a request that waits for its turn from now on."""
        if not events.wanted:
            return None
        story = cls(events, Picture(index=index, id=request.id))
        events.tell(Queued(picture=story._picture))
        return story

    @classmethod
    def taken_up(
        cls, events: Events, task_id: str, request: ImageRequest | None = None, *, index: int | None = None
    ) -> Self | None:
        """The story of a task that this session did not submit."""
        if not events.wanted:
            return None
        picture = Picture(index=index, id=None if request is None else request.id, task_id=task_id)
        events.tell(TakenUp(picture=picture))
        return cls(events, picture, "generation", sent=True)

    def leaves(self, *, queued_s: float) -> None:
        """The request is sent for the first time."""
        self._sent = True
        self._events.tell(Submitted(picture=self._picture, queued_s=queued_s))

    def refused(self, *, retry_after_s: float | None, in_flight: int) -> None:
        """A 429."""
        self._events.tell(SubmissionRefused(picture=self._picture, retry_after_s=retry_after_s, in_flight=in_flight))

    def retries(self, error: KreaError, *, failures: int, wait_s: float) -> None:
        """Another try follows."""
        self._events.tell(
            RetryScheduled(
                picture=self._picture,
                stage=self._stage,
                failures=failures,
                wait_s=wait_s,
                error=error_code(error),
                status=error.status,
            )
        )

    def accepted(self, task: Task, *, waiting_s: float) -> None:
        """The gateway has made a task of it."""
        self._stage = "generation"
        self._picture = evolve(self._picture, task_id=task.id)
        self._events.tell(
            Accepted(
                picture=self._picture,
                waiting_s=waiting_s,
                credits_reserved=task.credits_reserved,
                replayed=task.replayed,
            )
        )

    def completed(self, *, generating_s: float, lag_s: float | None, credits: float) -> None:  # noqa: A002 - the unit
        """The picture is made."""
        self._stage = "download"
        self._events.tell(Completed(picture=self._picture, generating_s=generating_s, lag_s=lag_s, credits=credits))

    def saved(self, *, downloading_s: float, size_bytes: int, credits: float) -> None:  # noqa: A002
        """The picture is on disk."""
        self._events.tell(Saved(picture=self._picture, downloading_s=downloading_s, bytes=size_bytes, credits=credits))

    def failed(self, error: KreaError) -> None:
        """There will be no picture."""
        unnoted = self._sent and isinstance(error, JournalError)  # accepted, and the journal does not know of it
        self._events.tell(
            Failed(
                picture=self._picture,
                stage=self._stage,
                error=error_code(error),
                reason=str(error),
                charged="unknown" if unnoted else error.charged,
            )
        )

    def abandoned(self, charged: Charged | None = None) -> None:
        """Nobody waits for it any more. charged: None: as its stage says."""
        if charged is None:
            charged = "yes" if self._stage == "download" else "unknown" if self._sent else "no"
        self._events.tell(Abandoned(picture=self._picture, stage=self._stage, charged=charged))
