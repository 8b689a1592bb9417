"""How long to wait before the next try."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krea_async.control.backoff import RetryPolicy
from krea_async.errors import AuthenticationError, InvalidRequestError, KreaError, RateLimitedError, ServiceError
from krea_async.gateway.retrying import retrying

AT_ONCE = RetryPolicy(attempts=4, first_wait_s=1e-6, max_wait_s=1e-6)


@given(
    failures=st.integers(1, 10**9), seed=st.integers(0, 100), first_s=st.floats(0.001, 100), cap_s=st.floats(0.001, 1e4)
)
def test_a_wait_lies_between_nothing_and_its_upper_end_however_often_it_failed(
    failures: int, seed: int, first_s: float, cap_s: float
) -> None:
    wait_s = RetryPolicy(first_wait_s=first_s, max_wait_s=cap_s).wait_s(failures, Random(seed))
    assert 0.0 <= wait_s <= min(cap_s, first_s * 2.0 ** min(failures - 1, 40))


def test_the_jitter_is_full_and_its_upper_end_doubles() -> None:
    policy = RetryPolicy(first_wait_s=0.5, max_wait_s=30.0)
    for failures, upper_s in ((1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (50, 30.0)):
        waits = [policy.wait_s(failures, Random(seed)) for seed in range(300)]
        assert min(waits) < 0.1 * upper_s
        assert 0.9 * upper_s < max(waits) <= upper_s


@given(retry_after_s=st.floats(0.0, 300.0), failures=st.integers(1, 40), seed=st.integers(0, 100))
def test_a_pause_that_was_asked_for_is_never_cut_short(retry_after_s: float, failures: int, seed: int) -> None:
    policy = RetryPolicy(first_wait_s=0.5, max_wait_s=30.0)
    assert retry_after_s <= policy.wait_s(failures, Random(seed), retry_after_s) <= retry_after_s + 30.0


def test_tries_are_counted_with_the_first_one() -> None:
    policy = RetryPolicy(attempts=3)
    lost = ServiceError("lost")
    assert [policy.gives_up(failures, lost) for failures in (1, 2, 3, 4)] == [False, False, True, True]
    assert RetryPolicy(attempts=1).gives_up(1, lost)


def test_what_is_not_retryable_is_never_tried_again() -> None:
    for error in (InvalidRequestError("no"), AuthenticationError("no"), ServiceError("no", retryable=False)):
        assert RetryPolicy().gives_up(1, error)
    assert not RetryPolicy().gives_up(1, RateLimitedError("slow"))


@pytest.mark.parametrize(
    "bad", [{"attempts": 0}, {"first_wait_s": 0.0}, {"max_wait_s": -1.0}, {"first_wait_s": float("nan")}]
)
def test_a_retry_policy_that_cannot_be_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        RetryPolicy(**bad)


class Flaky:
    """Fails as told, then answers 42."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 42


@pytest.mark.anyio
async def test_a_call_that_is_free_is_tried_again_until_it_answers() -> None:
    call = Flaky(ServiceError("a"), RateLimitedError("b"), ServiceError("c"))
    assert await retrying(call, AT_ONCE, Random(0)) == 42
    assert call.calls == 4


@pytest.mark.anyio
async def test_the_last_try_s_error_is_the_one_that_is_raised() -> None:
    call = Flaky(*(ServiceError(f"try {n}") for n in range(1, 10)))
    with pytest.raises(ServiceError, match="try 4"):
        await retrying(call, AT_ONCE, Random(0))
    assert call.calls == 4


@pytest.mark.anyio
@pytest.mark.parametrize("error", [InvalidRequestError("no"), AuthenticationError("no"), ValueError("a bug")])
async def test_a_refusal_or_a_bug_is_raised_at_once(error: Exception) -> None:
    call = Flaky(error)
    with pytest.raises((KreaError, ValueError), match=r"no|bug"):
        await retrying(call, AT_ONCE, Random(0))
    assert call.calls == 1
