import pytest
from hypothesis import given
from hypothesis import strategies as st

from krea_async.sandbox import Limits
from krea_async.sandbox.limiter import Limiter

gaps_s = st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60)


def test_a_bucket_grants_its_burst_at_once_and_then_its_rate() -> None:
    limiter = Limiter(Limits(per_second=4, burst=2), now=100.0)
    assert [limiter.take(100.0) for _ in range(3)] == [0.0, 0.0, pytest.approx(0.25)]
    assert limiter.take(100.2) == pytest.approx(0.05)
    assert limiter.take(100.25) == 0.0
    assert limiter.take(100.25) > 0


def test_the_default_burst_is_one_seconds_worth() -> None:
    limiter = Limiter(Limits(per_second=20), now=0.0)
    assert sum(limiter.take(0.0) == 0.0 for _ in range(100)) == 20
    assert Limiter(Limits(per_second=0.1), now=0.0).take(0.0) == 0.0


def test_a_window_grants_its_count_and_opens_again_at_its_end() -> None:
    limiter = Limiter(Limits(per_window=(2, 60.0)), now=90.0)
    assert [limiter.take(now) for now in (90.0, 100.0, 110.0, 119.0)] == [0.0, 0.0, 10.0, 1.0]
    assert [limiter.take(120.0) for _ in range(3)] == [0.0, 0.0, 60.0]


def test_a_refused_request_takes_nothing_from_the_other_limit() -> None:
    limiter = Limiter(Limits(per_second=1, burst=3, per_window=(1, 10.0)), now=0.0)
    assert limiter.take(0.0) == 0.0
    assert all(limiter.take(0.0) == 10.0 for _ in range(5))
    assert limiter.take(10.0) == 0.0


def test_no_limits_grant_everything() -> None:
    limiter = Limiter(Limits(), now=0.0)
    assert not any(limiter.take(0.0) for _ in range(1000))


@given(gaps_s, st.floats(0.2, 50.0), st.integers(1, 20))
def test_a_bucket_never_grants_more_than_burst_and_rate(gaps: list[float], rate: float, burst: int) -> None:
    limiter, now, granted = Limiter(Limits(per_second=rate, burst=burst), 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        granted += sum(limiter.take(now) == 0.0 for _ in range(5))
        assert granted <= burst + rate * now + 1e-6


@given(gaps_s, st.integers(1, 5), st.floats(0.5, 5.0))
def test_a_client_that_waits_as_told_is_granted(gaps: list[float], count: int, rate: float) -> None:
    limiter, now = Limiter(Limits(per_second=rate, burst=1, per_window=(count, 7.0)), 1000.0), 1000.0
    for gap in gaps:
        now += gap
        if wait_s := limiter.take(now):
            now += wait_s
            assert limiter.take(now) == 0.0
