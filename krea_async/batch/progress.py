"""How far a batch is, at one moment."""

from attrs import frozen

from krea_async.control.governor import Limit


@frozen(kw_only=True)
class BatchProgress:
    """A batch at one moment. in_flight: rows taken from the list that have not ended. elapsed_s: seconds.

    limit: what the session has found of the gateway's limits. rate_limited: submissions that were answered 429.
    """

    in_flight: int
    saved: int
    failed: int
    skipped: int
    credits: float
    bytes: int
    rate_limited: int
    limit: Limit | None
    elapsed_s: float
