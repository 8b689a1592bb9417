"""The breaker: one mistake in the template stops the batch, and nothing else does."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krea_async.control.breaker import TEMPLATE_FAULTS, Breaker, BreakerPolicy

POLICY = "content_policy_violation"
CODES = st.sampled_from([None, *TEMPLATE_FAULTS, "generation_timeout", "ServiceError"])


def stops_at(codes: list[str | None], **policy: Any) -> int | None:
    """After how many rows the batch is stopped; None: never."""
    breaker = Breaker(BreakerPolicy(**policy))
    for rows, code in enumerate(codes, 1):
        if breaker.note(code) is not None:
            return rows
    return None


@pytest.mark.parametrize("code", sorted(TEMPLATE_FAULTS))
def test_a_template_that_always_fails_is_stopped_as_soon_as_that_is_clear(code: str) -> None:
    assert stops_at([code] * 100) == 20


@pytest.mark.parametrize(
    "code", ["generation_timeout", "service_unavailable", "resource_exhausted", "ServiceError", "insufficient_quota"]
)
def test_what_is_not_the_template_s_fault_is_left_to_others(code: str) -> None:
    assert stops_at([code] * 1000) is None


def test_exactly_the_share_is_not_more_than_it() -> None:
    ten = [None, None] + [POLICY] * 8
    assert stops_at(ten * 50) is None
    assert stops_at([None] * 10 + [POLICY] * 100) == 51, "41 of the last 50"


def test_different_faults_are_not_added_up() -> None:
    assert stops_at([POLICY, "invalid_parameters"] * 500) is None


def test_a_fault_that_comes_late_is_found_within_one_window() -> None:
    assert stops_at([None] * 100_000 + [POLICY] * 50) == 100_041


@given(codes=st.lists(CODES, max_size=120), rows=st.integers(1, 30), share=st.floats(0.05, 0.95), data=st.data())
def test_it_stops_exactly_where_counting_anew_would(
    codes: list[str | None], rows: int, share: float, data: st.DataObject
) -> None:
    at_least = data.draw(st.integers(1, rows))
    breaker = Breaker(BreakerPolicy(rows=rows, share=share, at_least=at_least))
    for ended, code in enumerate(codes, 1):
        window = codes[max(0, ended - rows) : ended]
        alike = window.count(code)
        expected = code in TEMPLATE_FAULTS and alike >= at_least and alike / len(window) > share
        assert (breaker.note(code) is not None) == expected


def test_the_reason_names_how_many_of_how_many_and_what_it_means() -> None:
    breaker = Breaker(BreakerPolicy(rows=10, share=0.5, at_least=3))
    assert breaker.note(None) is None
    assert [breaker.note(POLICY) for _ in range(2)] == [None, None]
    assert breaker.note(POLICY) == (
        "3 of the last 4 rows failed with content_policy_violation: the prompts break the content policy; "
        "this looks like one mistake in the template, which the rest of the list would repeat"
    )


@pytest.mark.parametrize(
    "bad", [{"rows": 0}, {"share": 0.0}, {"share": 1.0}, {"share": float("nan")}, {"at_least": 0}, {"at_least": 51}]
)
def test_a_policy_that_cannot_be_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        BreakerPolicy(**bad)
