"""When row after row fails for the same fault of the template, and the rest of the list would only repeat it.

Faults of the service are not counted here: they pass, and others stop a batch for them.
"""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Final

from attrs import Attribute, field, frozen, validators

TEMPLATE_FAULTS: Final[Mapping[str, str]] = {
    "content_policy_violation": "the prompts break the content policy",
    "invalid_parameters": "the model does not take these parameters",
    "image_dimension_mismatch": "the size is not one the model makes",
    "generation_failed_no_content": "the model makes no picture of such prompts",
    "image_processing_error": "the gateway cannot process what is asked for",
    "invalid_request": "the gateway refuses the requests as invalid",
}
"""Error codes that the same input brings again, and what each one means."""


def _check_not_above_rows(policy: "BreakerPolicy", attribute: "Attribute[int]", value: int) -> None:
    if value > policy.rows:
        raise ValueError(f"'{attribute.name}' must be <= rows: {value}")


@frozen(kw_only=True)
class BreakerPolicy:
    """When to stop: more than `share` of the last `rows` rows failed for one reason, and at least `at_least` did."""

    rows: int = field(default=50, validator=validators.ge(1))
    share: float = field(default=0.8, validator=[validators.gt(0), validators.lt(1)])
    at_least: int = field(default=20, validator=[validators.ge(1), _check_not_above_rows])


class Breaker:
    """Watches a batch's rows as they end. Rows that were skipped are none of its business."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._last: deque[str | None] = deque()
        self._counts: Counter[str | None] = Counter()

    def note(self, code: str | None) -> str | None:
        """A row failed with this error code; None: its picture is made. Returns why to stop, in words, or None."""
        self._last.append(code)
        self._counts[code] += 1
        if len(self._last) > self._policy.rows:
            self._forget(self._last.popleft())
        if code is None or code not in TEMPLATE_FAULTS:
            return None
        alike, rows = self._counts[code], len(self._last)
        if alike < self._policy.at_least or alike / rows <= self._policy.share:
            return None
        return (
            f"{alike} of the last {rows} rows failed with {code}: {TEMPLATE_FAULTS[code]}; "
            "this looks like one mistake in the template, which the rest of the list would repeat"
        )

    def _forget(self, code: str | None) -> None:
        self._counts[code] -= 1
        if not self._counts[code]:
            del self._counts[code]
