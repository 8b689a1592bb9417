"""A gateway's clock that goes as ever, and can be put forward."""

import time


class Clock:
    """Unix seconds; `ahead_s` lets the gateway's tasks be done."""

    def __init__(self) -> None:
        self._since_s = time.time() - time.monotonic()
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return self._since_s + time.monotonic() + self.ahead_s
