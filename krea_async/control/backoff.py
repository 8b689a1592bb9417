"""How long to wait before the next try of a request that failed: exponential backoff with full jitter."""

from random import Random

from attrs import field, frozen, validators

from krea_async.errors import KreaError


@frozen(kw_only=True)
class RetryPolicy:
    """When a failed request is tried again.

    attempts: tries in all, the first one included. first_wait_s, max_wait_s: the upper end of the first and of the
    longest wait; each wait is drawn evenly between nothing and its upper end, which doubles with every failure.
    A pause that the gateway asked for comes on top.
    """

    attempts: int = field(default=10, validator=validators.ge(1))
    first_wait_s: float = field(default=0.5, validator=validators.gt(0))
    max_wait_s: float = field(default=30.0, validator=validators.gt(0))

    def wait_s(self, failures: int, rng: Random, retry_after_s: float | None = None) -> float:
        """Seconds to wait after the `failures`-th failure in a row (from 1)."""
        upper_s = min(self.max_wait_s, self.first_wait_s * 2.0 ** min(failures - 1, 30))
        return (retry_after_s or 0.0) + rng.uniform(0.0, upper_s)

    def gives_up(self, failures: int, error: KreaError) -> bool:
        """Whether `error`, the `failures`-th in a row, is the last word."""
        return not error.retryable or failures >= self.attempts
