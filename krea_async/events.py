"""What a session tells its owner while it works: frozen values, handed to `on_event` at once, in the event loop.

A picture's events come in this order, and exactly one of the last line ends it for the gateway:

    Queued, Submitted, [SubmissionRefused | RetryScheduled ...], Accepted, Polled ...
    Completed | Failed | Abandoned

After Completed its picture is fetched: [RetryScheduled ...], then Saved, Failed or Abandoned. A task that was submitted
elsewhere, or before a restart, begins with TakenUp. No event holds a prompt, a link, the API key or an idempotency key.
"""

import inspect
import logging
import time
from collections.abc import Callable
from itertools import count
from typing import Final, Literal

from attrs import field, frozen

from krea_async.control.governor import Limit
from krea_async.errors import Charged
from krea_async.models import ImageRequest

log = logging.getLogger(__name__)

Stage = Literal["submission", "generation", "download"]

_numbers: Final = count(1)


@frozen(kw_only=True)
class Picture:
    """Which picture an event is about.

    number: its own, in this process, from its first event to its last. index: the row's in its batch. id: the caller's
    name for the request. task_id: the gateway's, from Accepted on. Each None where there is none.
    """

    number: int = field(factory=lambda: next(_numbers))
    index: int | None = None
    id: str | None = None
    task_id: str | None = None


@frozen(kw_only=True)
class Event:
    """Something that happened. at_s: when, in Unix seconds."""

    at_s: float = field(factory=time.time)


@frozen(kw_only=True)
class Queued(Event):
    """A request waits for its turn to be submitted."""

    picture: Picture


@frozen(kw_only=True)
class Submitted(Event):
    """A request leaves for the gateway, for the first time. queued_s: seconds that it waited for its turn."""

    picture: Picture
    queued_s: float


@frozen(kw_only=True)
class SubmissionRefused(Event):
    """The gateway answered a submission with 429. It costs nothing, and the request is sent again by itself.

    retry_after_s: the pause that the gateway asked for; None: it named none. in_flight: tasks that may be unfinished.
    """

    picture: Picture
    retry_after_s: float | None
    in_flight: int


@frozen(kw_only=True)
class RetryScheduled(Event):
    """A submission or a download failed, and is tried again in `wait_s` seconds.

    failures: so far, of this stage. error: the gateway's code, or the error's class. status: of HTTP, if there was one.
    """

    picture: Picture
    stage: Stage
    failures: int
    wait_s: float
    error: str
    status: int | None


@frozen(kw_only=True)
class Accepted(Event):
    """The gateway has made a task of it, which is paid for if it completes.

    waiting_s: seconds since it first left, refusals and other tries included. credits_reserved: None: it did not say.
    replayed: the answer to an earlier try was lost, and this is it again.
    """

    picture: Picture
    waiting_s: float
    credits_reserved: float | None
    replayed: bool


@frozen(kw_only=True)
class TakenUp(Event):
    """A task is followed that was submitted elsewhere, or by an earlier run."""

    picture: Picture


@frozen(kw_only=True)
class Polled(Event):
    """One read of tasks. task_ids: those asked for; finished: those of them that will not change any more.

    seconds: how long the answer took. error: why there was none; None: there was one. refused: it was a 429.
    """

    task_ids: tuple[str, ...]
    finished: tuple[str, ...] = ()
    seconds: float
    error: str | None = None
    refused: bool = False


@frozen(kw_only=True)
class Completed(Event):
    """A task has made its picture, which is fetched now if somebody saves it.

    generating_s: from its acceptance, or from when it was taken up, until we learnt of it. lag_s: how much of that we
    learnt late, where the gateway states how long the task took. credits: what it cost.
    """

    picture: Picture
    generating_s: float
    lag_s: float | None
    credits: float


@frozen(kw_only=True)
class Saved(Event):
    """The picture is on disk. downloading_s: since it was known to be made, the wait for a lane included."""

    picture: Picture
    downloading_s: float
    bytes: int
    credits: float


@frozen(kw_only=True)
class Failed(Event):
    """There is no picture, and nobody tries any more.

    error: the gateway's code, or the error's class. reason: in words. charged: whether credits were spent all the same.
    """

    picture: Picture
    stage: Stage
    error: str
    reason: str
    charged: Charged


@frozen(kw_only=True)
class Abandoned(Event):
    """A picture was given up before its end: its caller was cancelled, or its batch or session stopped.

    charged: "no": it was not sent. Otherwise its task goes on, and `session.attach` follows it up.
    """

    picture: Picture
    stage: Stage
    charged: Charged


@frozen(kw_only=True)
class LimitFound(Event):
    """The session has come to another opinion of what the gateway allows. limit: None: nothing is known any more."""

    limit: Limit | None


@frozen(kw_only=True)
class Orphan(Event):
    """A picture that is paid for, or will be, and that nobody waits for any more; `session.attach` follows it up.

    Handed to `on_orphan` only, with all of its request.
    """

    task_id: str
    request: ImageRequest

    @classmethod
    def now(cls, *, task_id: str, request: ImageRequest) -> "Orphan":
        """One that was given up at this moment."""
        return cls(task_id=task_id, request=request)


Listener = Callable[[Event], object]


def check_is_plain(name: str, listener: object) -> None:
    """Raise TypeError for a coroutine function: nobody would await it."""
    if inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(getattr(listener, "__call__", None)):  # noqa: B004
        raise TypeError(f"{name} takes a plain function; put the events into an asyncio.Queue to await them")


class Events:
    """Hands each event to the session's owner. What the listener raises is logged and stops nothing.

    wanted: whether anybody listens. Ask before an event is made, so that what nobody hears costs nothing.
    """

    def __init__(self, listener: Listener | None = None) -> None:
        """Raises TypeError for a coroutine function: nobody would await it."""
        check_is_plain("on_event", listener)
        self._listener = listener
        self.wanted = listener is not None

    def tell(self, event: Event) -> None:
        """Call the listener, if there is one."""
        if self._listener is not None:
            try:
                self._listener(event)
            except Exception:
                log.exception("the listener for events failed at %s", type(event).__name__)


def all_of(*listeners: Listener) -> Listener:
    """Several listeners as one. What one of them raises is logged, and the others hear the event all the same."""
    each = [Events(listener) for listener in listeners]

    def tell(event: Event) -> None:
        for events in each:
            events.tell(event)

    return tell
