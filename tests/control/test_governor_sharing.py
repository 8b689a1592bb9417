"""Several governors on one limit: all come to the same share without knowing of each other; one alone loses nothing."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulation.engine import Client, Simulation, World, task_times
from benchmarks.simulation.servers import FixedWindow, Limiter, TokenBucket, UnfinishedTasks
from benchmarks.simulation.sharing import count
from krea_async.control.company import (
    LONG_BLOCK_S,
    OVERSHOOT,
    SAME_IN_A_ROW,
    SHARED_CYCLE_S,
    SHARED_DIP,
    Company,
    Course,
)
from krea_async.control.governor import Governor, PacingPolicy
from krea_async.control.saturation import DIP, LOWEST_RATE, growth
from krea_async.control.window import STRIKES, Window

RATES = st.floats(LOWEST_RATE, 1000.0)
BLOCKS = st.floats(0.0, 1e4)


def saturated(
    company: Company,
    pace: float,
    *,
    limit: float = 5.0,
    cycles: float = 2.0,
    accepts: int = 100,
    explained: bool = False,
    blocked_s: float = 0.5,
) -> Course:
    """The course after one more refusal at this pace, and its end."""
    company.refused(pace, cycles=cycles, accepts=accepts, explained=explained)
    return company.over(blocked_s, limit, 20.0)


def settled() -> Company:
    """Three times refused where a client alone is refused."""
    company = Company()
    for _ in range(3):
        saturated(company, 5.25)
    return company


def in_company() -> Company:
    """Refused at a pace that was fine before."""
    company = settled()
    saturated(company, 4.8, cycles=0.3)
    assert company.sensed
    return company


def test_a_client_alone_takes_the_course_that_it_would_take_if_there_were_no_others_at_all() -> None:
    company = Company()
    for limit in (11.0, 8.0, 6.0, 5.2, 5.0, 5.0, 5.0):
        assert saturated(company, 1.05 * limit, limit=limit) == Course(limit, DIP, 20.0)
    assert not company.sensed


def test_a_refusal_that_the_own_pace_does_not_explain_means_company() -> None:
    course = saturated(settled(), 4.8, cycles=0.3)
    assert course == Course(4.8, SHARED_DIP, SHARED_CYCLE_S, first_pause_s=0.2 * 0.5)


@pytest.mark.parametrize(
    "early",
    [
        {"cycles": 0.95},
        {"accepts": 4},
        {"explained": True},
    ],
    ids=["late in the cycle", "an echo of the last one", "too many unfinished"],
)
def test_a_refusal_that_something_else_explains_does_not(early: dict[str, Any]) -> None:
    company = settled()
    saturated(company, 4.8, **{"cycles": 0.3, **early})
    assert not company.sensed


def test_nor_does_an_early_one_while_the_estimate_still_moves() -> None:
    company = Company()
    for limit in (11.0, 8.0, 6.0):
        saturated(company, limit, limit=limit, cycles=0.4)
    assert not company.sensed


def test_a_long_block_means_company_since_windows_of_the_clock_look_the_same_alone() -> None:
    company = settled()
    assert saturated(company, 5.25, blocked_s=20.0).cycle_s == 180.0
    assert company.sensed
    for _ in range(10):
        saturated(company, 5.25, blocked_s=LONG_BLOCK_S - 1.0)
    assert company.sensed


def test_refused_at_the_same_pace_again_and_again_it_is_alone() -> None:
    company = in_company()
    saturated(company, 5.3)
    for _ in range(SAME_IN_A_ROW - 1):
        saturated(company, 5.32)
    assert company.sensed
    assert saturated(company, 5.3) == Course(5.0, DIP, 20.0)


def test_one_refusal_at_another_pace_begins_the_count_anew() -> None:
    company = in_company()
    for pace in (5.3, 5.3, 5.3, 5.3, 4.9, 4.9, 4.9, 4.9):
        saturated(company, pace)
    assert company.sensed


def test_refused_again_at_once_the_aim_stays_since_a_burst_of_others_is_one_reason_to_give_way() -> None:
    company = in_company()
    aim = saturated(company, 5.0).aim
    assert saturated(company, 4.0, cycles=0.05).aim == aim
    assert saturated(company, 4.0, cycles=0.05).aim == aim
    assert saturated(company, 4.0, cycles=0.2).aim == 4.0, "ten seconds are over"


def test_who_does_not_want_to_share_never_gives_way() -> None:
    company = Company(enabled=False)
    for _ in range(20):
        assert saturated(company, 4.0, cycles=0.1, blocked_s=60.0) == Course(5.0, DIP, 20.0)
    assert not company.sensed


@given(slow=RATES, factor=st.floats(1.0, 1e3), blocked_s=BLOCKS)
def test_in_company_all_give_way_by_the_same_part_and_the_faster_ones_never_grow_by_the_larger_part(
    slow: float, factor: float, blocked_s: float
) -> None:
    """Or the faster one would stay the faster one."""
    slower = saturated(in_company(), slow, limit=slow, blocked_s=blocked_s)
    faster = saturated(in_company(), slow * factor, limit=slow * factor, blocked_s=blocked_s)
    assert slower.dip == faster.dip
    assert slower.cycle_s <= faster.cycle_s
    assert slower.aim <= faster.aim


@given(st.lists(st.tuples(RATES, RATES, st.floats(0, 10), st.integers(0, 1000), st.booleans(), BLOCKS), max_size=60))
def test_whatever_happens_the_course_is_one_that_can_be_steered(
    blocks: list[tuple[float, float, float, int, bool, float]],
) -> None:
    company = Company()
    highest = LOWEST_RATE
    for pace, limit, cycles, accepts, explained, blocked_s in blocks:
        highest = max(highest, OVERSHOOT * limit)
        company.refused(pace, cycles=cycles, accepts=accepts, explained=explained)
        course = company.over(blocked_s, limit, 20.0)
        assert LOWEST_RATE <= course.aim <= highest
        assert course.dip in (DIP, SHARED_DIP)
        assert 20.0 <= course.cycle_s <= 180.0
        assert 0.0 <= course.first_pause_s <= 6.0
        assert company.votes_for_a_window in (3, 4)


def test_the_pace_is_back_at_its_aim_after_one_cycle_and_as_far_above_after_two() -> None:
    assert growth(0.0, SHARED_DIP) == pytest.approx(1.0 - SHARED_DIP)
    assert growth(1.0, SHARED_DIP) == 1.0
    assert growth(2.0, SHARED_DIP) == pytest.approx(1.0 + SHARED_DIP)


def windowed(size: int) -> Window:
    window = Window(enabled=True, size=size)
    assert window.on
    return window


def test_refusals_of_a_window_that_has_grown_never_switch_it_off() -> None:
    """It asks for one more again and again, and that it gets a no is what keeps it where it is."""
    window = windowed(4)
    for _ in range(10):
        while window.size == 4:
            window.accepted(3, since_refusal=True)
        assert window.refused(4, 0)
        assert window.size == 4


def test_refusals_without_growth_do_since_somebody_else_has_the_places() -> None:
    window = windowed(40)
    for strike in range(STRIKES):
        for _ in range(5):
            window.accepted(20, since_refusal=True)
        assert window.refused(int(window.size) - 1, 5) == (strike < STRIKES - 1)
    assert not window.on


def clients(number: int, *, late: int = 0) -> list[Client]:
    """`late` of them begin after five minutes."""
    return [
        Client(Governor(PacingPolicy(), rng=Random(index)), starts_s=300.0 if index >= number - late else 0.1 * index)
        for index in range(number)
    ]


def run(limiter: Limiter, everybody: list[Client], seconds: float) -> None:
    world = World(limiter=limiter, seed=1, task_s=task_times(2000, 1))
    Simulation(world, everybody).run(seconds)


def shares(everybody: list[Client], begin_s: float, end_s: float) -> list[float]:
    """1.0 is the fair one."""
    counts = [count(client.accepted_at, begin_s, end_s) for client in everybody]
    return [one * len(counts) / sum(counts) for one in counts]


@pytest.mark.parametrize("rate", [0.5, 5.0])
def test_a_client_alone_at_a_rate_supposes_no_company_and_gets_it_all(rate: float) -> None:
    governor = Governor(PacingPolicy(), rng=Random(1))
    client = Client(governor)
    run(TokenBucket(rate, 5), [client], 1500.0)
    assert not governor.in_company
    assert len(client.accepted_at) > 0.97 * rate * 1500.0


@pytest.mark.parametrize(
    ("limiter", "per_s", "total"),
    [
        (TokenBucket(10, 10), 10.0, 0.90),
        (FixedWindow(300, 60, phase_s=17.0), 5.0, 0.90),
        (UnfinishedTasks(32), 32 / 9.07, 0.80),
    ],
    ids=["bucket", "window of the clock", "unfinished tasks"],
)
def test_four_clients_share_the_whole_limit_and_are_seldom_refused(
    limiter: Limiter, per_s: float, total: float
) -> None:
    everybody = clients(4, late=2)
    run(limiter, everybody, 1500.0)
    accepted = sum(len(client.accepted_at) for client in everybody)
    assert accepted > total * per_s * 1500.0
    assert sum(len(client.refused_at) for client in everybody) < 0.08 * accepted
    assert min(shares(everybody, 900.0, 1500.0)) > 0.5


def test_newcomers_have_half_their_share_after_five_minutes() -> None:
    everybody = clients(4, late=2)
    run(TokenBucket(10, 10), everybody, 660.0)
    assert min(shares(everybody, 600.0, 660.0)) > 0.5


def test_what_a_leaver_leaves_is_taken_up() -> None:
    everybody = clients(2)
    everybody[0].leaves_s = 400.0
    run(TokenBucket(5, 5), everybody, 900.0)
    assert count(everybody[1].accepted_at, 700.0, 900.0) > 0.9 * 5.0 * 200.0
