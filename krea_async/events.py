"""What a session tells its owner while it works: frozen values, handed to `on_event` at once, in the event loop."""

import logging
import time
from collections.abc import Callable

from attrs import frozen

from krea_async.control.governor import Limit
from krea_async.models import ImageRequest

log = logging.getLogger(__name__)


@frozen(kw_only=True)
class Event:
    """Something that happened. at_s: when, in Unix seconds."""

    at_s: float


@frozen(kw_only=True)
class LimitFound(Event):
    """The session has come to another opinion of what the gateway allows. limit: None: nothing is known any more."""

    limit: Limit | None


@frozen(kw_only=True)
class SubmissionRefused(Event):
    """The gateway answered a submission with 429. It costs nothing, and the request is sent again by itself.

    retry_after_s: the pause that the gateway asked for; None: it named none. in_flight: tasks that may be unfinished.
    """

    retry_after_s: float | None
    in_flight: int


@frozen(kw_only=True)
class Orphan(Event):
    """A picture that is paid for, or will be, and that nobody waits for any more; `session.attach` follows it up."""

    task_id: str
    request: ImageRequest

    @classmethod
    def now(cls, *, task_id: str, request: ImageRequest) -> "Orphan":
        """One that was given up at this moment."""
        return cls(at_s=time.time(), task_id=task_id, request=request)


class Events:
    """Hands each event to the session's owner. What the listener raises is logged and stops nothing."""

    def __init__(self, listener: Callable[[Event], object] | None = None) -> None:
        self._listener = listener

    def tell(self, event: Event) -> None:
        """Call the listener, if there is one."""
        if self._listener is not None:
            try:
                self._listener(event)
            except Exception:
                log.exception("the listener for events failed at %s", type(event).__name__)
