"""How long a reply asks us to wait. Gateways and the proxies in front of them say it in four ways."""

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

MAX_RETRY_AFTER_S: Final = 300.0
"""A pause longer than this is shortened to it: a mistyped header must not stop a session for a day."""

_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_IN_TEXT: Final = re.compile(
    r"(?:retry|try\s+again)\b[^0-9]{0,20}?(?:after|in)\s+(?:about\s+)?(\d+(?:\.\d+)?)\s*"
    r"(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?|w|weeks?)?\b",
    re.IGNORECASE,
)


def retry_after_s(headers: Mapping[str, str], message: str) -> float | None:
    """Seconds to wait, 0 to 300, from the `Retry-After` header or else from the error's words; None if neither says.

    The header may hold seconds, with a fraction, or an HTTP date, which counts from the reply's own `Date`, so that
    a clock set wrong on either side does no harm.
    """
    wait_s = _from_header(headers)
    if wait_s is None:
        wait_s = _from_text(message)
    return None if wait_s is None else min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)


def _from_header(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        return _until(value, headers.get("Date", ""))
    return seconds if math.isfinite(seconds) else None


def _until(date: str, now: str) -> float | None:
    try:
        return (parsedate_to_datetime(date) - parsedate_to_datetime(now)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None


def _from_text(message: str) -> float | None:
    match = _IN_TEXT.search(message)
    if match is None:
        return None
    number, unit = match.groups()
    unit = (unit or "s").lower()
    return float(number) * _UNIT_S["ms" if unit.startswith(("ms", "milli")) else unit[0]]
