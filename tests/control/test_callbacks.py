"""The share of callbacks that are lost: learnt, forgotten when things change, and never relied on too much."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krea_async.control.callbacks import REMEMBERED, CallbackLosses

SUREST = 0.25 / (REMEMBERED + 0.25)


def after(losses: CallbackLosses, *runs: tuple[int, bool]) -> float:
    for many, announced in runs:
        for _ in range(many):
            losses.found(announced=announced)
    return losses.lost_share


def finishes_until(losses: CallbackLosses, *, announced: bool, below: float = 2.0, above: float = -1.0) -> int:
    for number in range(1, 1000):
        losses.found(announced=announced)
        if above < losses.lost_share < below:
            return number
    raise AssertionError(losses.lost_share)


def test_little_is_relied_on_before_the_first_callback_and_nothing_when_none_comes() -> None:
    assert 0.2 < CallbackLosses().lost_share < 0.5
    assert after(CallbackLosses(), (4, False)) > 0.8
    assert after(CallbackLosses(), (1000, False)) == 1.0


def test_a_few_callbacks_are_enough_to_rely_on_them_and_thousands_are_no_certainty() -> None:
    assert after(CallbackLosses(), (5, True)) < 0.06
    assert after(CallbackLosses(), (5000, True)) == pytest.approx(SUREST, rel=0.2)


@pytest.mark.parametrize("lost", [0.1, 0.3, 0.7])
def test_a_share_that_stays_is_found(lost: float) -> None:
    losses, rng = CallbackLosses(), Random(0)
    shares = [after(losses, (1, rng.random() >= lost)) for _ in range(3000)][300:]
    assert math.fsum(shares) / len(shares) == pytest.approx(lost, abs=0.08)


def test_when_they_stop_it_is_known_after_four_finishes_that_none_announced() -> None:
    losses = CallbackLosses()
    after(losses, (1000, True))
    assert finishes_until(losses, announced=False, above=0.9) <= 4


def test_when_they_come_back_they_are_relied_on_again_the_more_the_more_come() -> None:
    losses = CallbackLosses()
    shares = [after(losses, (1000, True), (1000, False)), *(after(losses, (200, True)) for _ in range(4))]
    assert shares[0] == 1.0
    assert shares[1:] == sorted(shares[1:], reverse=True)
    assert shares[-1] < 0.03


def test_that_the_first_hundred_came_is_no_reason_to_forget_the_lost_ones() -> None:
    """Those that come are known of at once, and the lost ones of the same time later."""
    losses = CallbackLosses()
    after(losses, *[(70, True), (30, False)] * 10)
    assert after(losses, (70, True)) > 0.1


def test_one_that_is_lost_among_a_thousand_changes_little() -> None:
    losses = CallbackLosses()
    assert after(losses, (1000, True), (1, False)) < 0.03
    assert after(losses, (1000, True)) == pytest.approx(SUREST, rel=0.2)


@given(st.lists(st.tuples(st.integers(1, 300), st.booleans()), max_size=20))
def test_it_is_always_a_share_that_can_be_divided_by(runs: list[tuple[int, bool]]) -> None:
    assert SUREST / 1.2 <= after(CallbackLosses(), *runs) <= 1.0


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_a_finish_never_speaks_against_what_it_shows(found: list[bool]) -> None:
    losses = CallbackLosses()
    for announced in found:
        before = losses.lost_share
        losses.found(announced=announced)
        assert losses.lost_share <= before if announced else losses.lost_share >= before
