"""How many pictures are fetched at a time, and which is next, in virtual time."""

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from line import Line, Run, run

from krea_async.control.fetching import FALL, MARGIN, START_LANES, FetchQueue, Lanes

NOTHING_WAITED = 0.0


def rush(lanes: Lanes) -> int:
    """Begin all that may begin at once."""
    begun = 0
    while lanes.wait_s(0.0) == NOTHING_WAITED:
        lanes.begun()
        begun += 1
    return begun


def late(found: Run, part: float = 0.5) -> list[int]:
    """The numbers of lanes in the last part of the run."""
    return [lanes for when_s, lanes in found.limits if when_s > part * found.seconds] or [found.lanes]


# --- how many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [1, 3, 16, 64])
def test_the_first_few_begin_at_once(cap: int) -> None:
    lanes = Lanes(cap)
    assert rush(lanes) == min(cap, START_LANES)
    assert lanes.wait_s(0.0) is None


def test_lanes_that_are_not_all_in_use_stay_as_they_are() -> None:
    """A single picture now and then says nothing about how many would be of use."""
    lanes = Lanes(64)
    for number in range(1000):
        lanes.begun()
        lanes.finished(float(number), number - 0.5, 1_000_000)
    assert lanes.limit == START_LANES


@pytest.mark.parametrize("cap", [16, 64])
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_lanes_are_added_while_they_bring_something(cap: int, seed: int) -> None:
    """Each transfer is slow, the line is not: all of the cap is of use, and is found soon."""
    found = run(Lanes(cap), Line(), 100 * cap, seed=seed)
    assert max(lanes for _, lanes in found.limits) == cap
    assert found.per_s > 0.85 * cap * 1e6 / 1.05  # the way there and back is not used


@pytest.mark.parametrize("line_per_s", [1e6, 8e6, 24e6])
def test_lanes_are_not_added_for_nothing(line_per_s: float) -> None:
    found = [run(Lanes(64), Line(per_s=lambda _n, _t: line_per_s), 2000, seed=seed) for seed in (11, 12, 13)]
    assert all(one.per_s > 0.85 * line_per_s for one in found)
    useful = max(START_LANES, line_per_s / 1e6)
    assert sorted(math.fsum(late(one)) / len(late(one)) for one in found)[1] < 3.5 * useful
    assert all(max(late(one)) <= 64 for one in found)


def test_a_line_that_many_transfers_choke_is_given_fewer() -> None:
    choking = Line(per_s=lambda lanes, _: 1e6 * lanes if lanes <= 12 else 3e6)
    found = run(Lanes(16), choking, 3000, seed=11)
    fixed_at_16_per_s = 3e6
    assert found.per_s > 2.5 * fixed_at_16_per_s


def test_a_line_that_becomes_faster_is_noticed() -> None:
    found = run(Lanes(64), Line(per_s=lambda _, now: 4e6 if now < 100 else 40e6), 4000, seed=11)
    assert found.seconds < 100 + (4000e6 - 400e6) / 40e6 * 1.4


@pytest.mark.parametrize("places", [2, 5, 12])
@pytest.mark.parametrize("cap", [16, 64])
def test_the_hosts_own_limit_is_found_and_kept(places: int, cap: int) -> None:
    found = run(Lanes(cap), Line(places=places), 2000, seed=11)
    assert found.per_s > 0.9 * places * 1e6 / 1.05  # the way there and back is not used
    assert found.refused < 40
    assert places - 1 <= min(late(found)) <= max(late(found)) <= places + 1  # more is tried, and costs nothing


@pytest.mark.parametrize("places", [5, 12])
def test_pauses_that_the_host_asks_for_cost_little(places: int) -> None:
    found = run(Lanes(16), Line(places=places, retry_after_s=1.0), 2000, seed=11)
    assert found.per_s > 0.8 * places * 1e6 / 1.05
    assert found.refused < 40


def test_a_503_now_and_then_takes_nothing_away() -> None:
    assert run(Lanes(16), Line(broken=0.01), 2000, seed=11).per_s > 0.95 * 16e6 / 1.05
    assert run(Lanes(16), Line(broken=0.05), 2000, seed=11).per_s > 0.80 * 16e6 / 1.05


def test_a_host_that_answers_503_all_the_time_is_left_with_few() -> None:
    found = run(Lanes(64), Line(broken=0.5), 1000, seed=11)
    assert max(late(found)) <= 2 * START_LANES


def test_a_refusal_counts_once_for_all_that_were_under_way() -> None:
    lanes = Lanes(8)
    rush(lanes)
    for _ in range(5):
        lanes.refused(1.0, 0.0, None)
    assert lanes.limit == int(8 * FALL)


# --- pauses -----------------------------------------------------------------------------------------------------------


def test_a_pause_is_kept_by_all_and_ended_by_one() -> None:
    lanes = Lanes(16)
    for _ in range(4):
        lanes.begun()
    lanes.refused(10.0, 9.0, 5.0)
    for _ in range(3):  # what was under way ends well, and changes nothing
        lanes.finished(11.0, 9.0, 100)
    assert lanes.wait_s(11.0) == 4.0
    let_in = []
    now = 15.0
    for _ in range(3):
        begun = 0
        while lanes.wait_s(now) == NOTHING_WAITED:
            lanes.begun()
            begun += 1
        let_in.append(begun)
        for _ in range(begun):
            lanes.finished(now + 1.0, now, 100)
        now += 2.0
    assert let_in == [1, 2, 4]  # half of the lanes is left


def test_a_pause_is_never_shortened() -> None:
    lanes = Lanes(16)
    for retry_after_s in (30.0, 1.0):
        lanes.begun()
        lanes.refused(0.0, -1.0, retry_after_s)
    assert lanes.wait_s(0.0) == 30.0


def test_a_probe_that_is_refused_again_and_again_takes_no_more_lanes_away() -> None:
    """One transfer that is refused says nothing about how many there may be."""
    lanes = Lanes(16)
    rush(lanes)
    now = 1.0
    lanes.refused(now, 0.0, 1.0)
    for _ in range(7):
        lanes.ended()
    for _ in range(20):
        now += 2.0
        assert lanes.wait_s(now) == NOTHING_WAITED
        lanes.begun()
        assert lanes.wait_s(now) is None
        lanes.refused(now + 0.1, now, 1.0)
    lanes_then = 0
    for _ in range(20):
        now += 2.0
        while lanes.wait_s(now) == NOTHING_WAITED:
            lanes.begun()
        lanes_then = lanes.in_flight
        while lanes.in_flight:
            lanes.finished(now + 0.1, now, 100)
    assert lanes_then >= int(8 * FALL)


Step = tuple[str, float, float | None]
steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "finish", "end", "429", "503"]),
        st.floats(0.0, 20.0),
        st.none() | st.floats(0.0, 300.0),
    ),
    max_size=300,
)


@settings(max_examples=200)
@given(cap=st.integers(1, 64), steps=steps, rng=st.randoms(use_true_random=False))
def test_whatever_happens_lanes_stay_within_the_cap_and_waits_end(cap: int, steps: list[Step], rng: Random) -> None:
    lanes, now, under_way = Lanes(cap), 0.0, list[float]()
    for what, passed_s, retry_after_s in steps:
        now += passed_s
        wait_s = lanes.wait_s(now)
        assert 1 <= lanes.limit <= cap
        assert wait_s is None or 0.0 <= wait_s <= 300.0 + 1e-9  # a sum of floats less one of them
        assert wait_s is not None or under_way  # who has to wait for a lane waits for somebody
        if what == "begin" and wait_s == NOTHING_WAITED:
            lanes.begun()
            under_way.append(now)
        elif what != "begin" and under_way:
            begun_s = under_way.pop(rng.randrange(len(under_way)))
            if what == "finish":
                lanes.finished(now, begun_s, rng.randrange(10_000_000))
            elif what == "end":
                lanes.ended()
            else:
                lanes.refused(now, begun_s, retry_after_s, told=what == "429")
        assert lanes.in_flight == len(under_way) <= cap
        assert 0.0 <= lanes.takes_s <= MARGIN * now


# --- which is next ----------------------------------------------------------------------------------------------------


def popped(queue: FetchQueue[str], now: float = 0.0, takes_s: float = 0.0) -> list[str]:
    return [queue.pop(now, takes_s) for _ in range(len(queue))]


def queue_of(**expires_s: float) -> FetchQueue[str]:
    queue: FetchQueue[str] = FetchQueue()
    for item, at_s in expires_s.items():
        queue.add(item, at_s)
    return queue


def test_the_earliest_deadline_is_first_and_equal_ones_in_their_order() -> None:
    assert popped(queue_of(b=20, c=30, a=10, d=30, e=30)) == ["a", "b", "c", "d", "e"]


def test_a_fresh_result_goes_where_its_deadline_puts_it() -> None:
    queue = queue_of(old=100, older=50)
    assert queue.pop(0.0) == "older"
    queue.add("fresh", 200)
    queue.add("oldest", 10)
    assert popped(queue) == ["oldest", "old", "fresh"]


def test_what_cannot_arrive_in_time_is_tried_last_the_longest_lived_first() -> None:
    queue = queue_of(dead=5, dying=11, dies_too=12, fine=13, better=100)
    assert popped(queue, now=10.0, takes_s=2.5) == ["fine", "better", "dies_too", "dying", "dead"]


def test_who_was_found_late_stays_behind_those_who_come_in_time() -> None:
    queue = queue_of(late=1, good=100)
    assert queue.pop(50.0) == "good"
    queue.add("good too", 200)
    assert popped(queue, now=50.0) == ["good too", "late"]


def test_nobody_who_left_is_served() -> None:
    queue = queue_of(a=1, b=2, c=3)
    queue.discard("b")
    queue.discard("b")
    queue.discard("unknown")
    assert popped(queue) == ["a", "c"]
    with pytest.raises(IndexError):
        queue.pop(0.0)


def test_who_leaves_and_comes_back_has_the_new_deadline_only() -> None:
    queue = queue_of(a=1, b=2)
    queue.discard("a")
    queue.add("a", 3)
    assert popped(queue) == ["b", "a"]


def test_those_who_left_are_not_kept() -> None:
    queue: FetchQueue[int] = FetchQueue()
    for item in range(10_000):
        queue.add(item, 1e9)
        queue.discard(item)
    assert sum(len(heap) for heap in vars(queue).values() if isinstance(heap, list)) < 200


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=60), st.floats(0, 100), st.floats(0, 50))
def test_everybody_is_served_once_and_the_late_are_last(
    items: list[tuple[float, bool]], now: float, takes_s: float
) -> None:
    queue: FetchQueue[int] = FetchQueue()
    for item, (expires_s, _) in enumerate(items):
        queue.add(item, expires_s)
    for item, (_, leaves) in enumerate(items):
        if leaves:
            queue.discard(item)
    served = [queue.pop(now, takes_s) for _ in range(len(queue))]
    assert sorted(served) == [item for item, (_, leaves) in enumerate(items) if not leaves]
    is_late = [now + takes_s > items[item][0] for item in served]
    assert is_late == sorted(is_late)
    in_time = [items[item][0] for item, late in zip(served, is_late, strict=True) if not late]
    too_late = [items[item][0] for item, late in zip(served, is_late, strict=True) if late]
    assert in_time == sorted(in_time)
    assert too_late == sorted(too_late, reverse=True)
