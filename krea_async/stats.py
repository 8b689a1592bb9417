"""What a session is doing at one moment."""

from collections.abc import Mapping

from attrs import field, frozen

from krea_async.control.governor import Limit


@frozen(kw_only=True)
class SessionStats:
    """A snapshot of a session.

    waiting: requests that wait for their turn to be sent. in_flight: tasks that may be unfinished on the gateway.
    followed: tasks whose end is awaited. calls: requests sent so far, by route; "rate_limited" counts the 429s to
    submissions. pace: the governor's state. rate: submissions per second that it allows now; None: it does not pace.
    limit: what it has found of the gateway's limits; None: it has met none.
    """

    waiting: int = 0
    in_flight: int = 0
    followed: int = 0
    calls: Mapping[str, int] = field(factory=dict)
    pace: str = ""
    rate: float | None = None
    limit: Limit | None = None
