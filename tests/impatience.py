"""Policies for sessions against the sandbox: the same rules as the defaults, but waits that a test can afford."""

from typing import Any

from krea_async import DownloadPolicy, PacingPolicy, PollPolicy, RetryPolicy, TimeoutPolicy

SOON = RetryPolicy(attempts=10, first_wait_s=0.01, max_wait_s=0.05)
IMPATIENT: dict[str, Any] = {
    "retries": SOON,
    "pacing": PacingPolicy(first_rate=10_000.0, longest_pause_s=0.2),
    "polling": PollPolicy(shortest_s=0.05, longest_s=0.1, window_s=0.01, ahead_s=0.02),
    "timeouts": TimeoutPolicy(connect_s=10.0, read_s=5.0),
    "downloading": DownloadPolicy(retries=SOON, timeout_s=5.0),
    "seed": 1,
}
"""Arguments of a session. Its requests are given time: one that ends on a busy machine is one that nobody counts on."""

HASTY = TimeoutPolicy(connect_s=2.0, read_s=0.5)
"""For gateways that are silent on purpose."""
