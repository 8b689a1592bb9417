"""The gateway's rate limits: a token bucket and a fixed window. Pure: `now` (in seconds) is an argument."""

from krea_async.sandbox.settings import Limits

_ROUNDING: float = 1e-9  # a client that waits exactly as long as it was told must not miss by a float's last bit


class Limiter:
    """Grants requests as `limits` allow. A refused request takes nothing from any limit."""

    def __init__(self, limits: Limits, now: float) -> None:
        self.limits = limits
        self._burst = 0.0
        if limits.per_second is not None:
            self._burst = float(limits.burst or max(1, int(limits.per_second)))
        self._tokens = self._burst
        self._filled_at = now
        self._window = -1
        self._granted_in_window = 0

    def take(self, now: float) -> float:
        """0.0 when the request is granted; else the seconds after which it will be, if nobody else comes first."""
        wait_s = max(self._bucket_wait_s(now), self._window_wait_s(now))
        if wait_s == 0.0:
            self._tokens -= 1.0
            self._granted_in_window += 1
        return wait_s

    def _bucket_wait_s(self, now: float) -> float:
        if self.limits.per_second is None:
            return 0.0
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self.limits.per_second)
        self._filled_at = now
        return 0.0 if self._tokens >= 1.0 - _ROUNDING else (1.0 - self._tokens) / self.limits.per_second

    def _window_wait_s(self, now: float) -> float:
        if self.limits.per_window is None:
            return 0.0
        count, window_s = self.limits.per_window
        window = int(now // window_s)
        if window != self._window:
            self._window, self._granted_in_window = window, 0
        return 0.0 if self._granted_in_window < count else (window + 1) * window_s - now
