"""Long pauses that the gateway names are tested, and believed as far as the tests bear them out."""

import math

from hypothesis import given
from hypothesis import strategies as st

from krea_async.control.pauses import MOST_EARLY_PROBES, RETEST_BLOCKS, NamedPauses

SHORT_S = 2.0


def early_calls(pauses: NamedPauses, *, named_s: float, true_s: float, counts_down: bool, begins_anew: bool) -> int:
    """How many calls of one block came before its end."""
    now, end_s, calls = 0.0, true_s, 0
    while True:
        said_s = named_s - now if counts_down else named_s
        now += pauses.refused(now, said_s, SHORT_S)
        if now >= end_s:
            pauses.accepted(now)
            return calls
        calls += 1
        end_s = now + true_s if begins_anew else end_s


@given(named_s=st.floats(0.0, 300.0), short_s=st.floats(2.0, 30.0))
def test_a_pause_is_never_longer_than_named_and_a_short_one_is_kept(named_s: float, short_s: float) -> None:
    pause_s = NamedPauses().refused(0.0, named_s, short_s)
    assert pause_s == min(named_s, short_s)


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.none() | st.floats(0.0, 300.0)), max_size=60))
def test_no_order_of_events_holds_longer_than_what_was_named(events: list[tuple[float, float | None]]) -> None:
    pauses, now, longest_end_s = NamedPauses(), 0.0, -math.inf
    for passed_s, named_s in events:
        now += passed_s
        if named_s is None:
            pauses.accepted(now)
            longest_end_s = -math.inf
        else:
            longest_end_s = max(longest_end_s, now + named_s)
            pause_s = pauses.refused(now, named_s, SHORT_S)
            assert 0.0 <= pause_s <= longest_end_s - now + 1e-6
            assert pause_s >= min(named_s, SHORT_S)


def test_the_same_long_pause_whatever_is_true_goes_on_being_tested() -> None:
    pauses = NamedPauses()
    for _ in range(50):
        assert early_calls(pauses, named_s=30.0, true_s=3.0, counts_down=False, begins_anew=False) == 1


def test_a_pause_that_counts_down_is_called_into_once_and_later_never() -> None:
    pauses = NamedPauses()
    calls = [
        early_calls(pauses, named_s=30.0, true_s=30.0, counts_down=True, begins_anew=False)
        for _ in range(4 + 2 * RETEST_BLOCKS)
    ]
    assert max(calls) == 1
    assert sum(calls[4:]) <= 2, "but for a test now and then"


def test_a_ban_that_each_call_begins_anew_is_left_in_peace_soon() -> None:
    pauses = NamedPauses()
    calls = [
        early_calls(pauses, named_s=30.0, true_s=30.0, counts_down=False, begins_anew=True)
        for _ in range(4 + 2 * RETEST_BLOCKS)
    ]
    assert calls[:5] == [MOST_EARLY_PROBES, 4, 2, 1, 0]
    assert sum(calls[4:]) <= 2, "but for a test now and then"


def test_a_pause_that_was_obeyed_for_long_is_tested_again() -> None:
    pauses = NamedPauses()
    for _ in range(4):
        early_calls(pauses, named_s=30.0, true_s=30.0, counts_down=False, begins_anew=True)
    calls = [
        early_calls(pauses, named_s=30.0, true_s=1.5, counts_down=False, begins_anew=False)
        for _ in range(RETEST_BLOCKS)
    ]
    assert calls[0] == 0
    assert pauses.refused(0.0, 30.0, SHORT_S) == SHORT_S, "it has learnt that early calls help"
