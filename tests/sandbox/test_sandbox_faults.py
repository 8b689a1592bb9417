from collections import Counter
from random import Random

import pytest

from krea_async.sandbox import Fault, Faults
from krea_async.sandbox.faults import ROUTES, Dice


def names(dice: Dice, route: str, faults: Faults, count: int) -> list[str]:
    struck = (dice.next_fault(route, faults) for _ in range(count))
    return [fault.name if fault else "-" for fault in struck]


def test_a_script_comes_first_and_in_order_and_only_on_its_route() -> None:
    dice = Dice(Random(0))
    dice.script("create", "drop_after", "ok", ("status", 503))
    dice.script("image", Fault("stalled", at_bytes=1000))
    always = Faults(drop_before=1.0)
    assert names(dice, "create", always, 4) == ["drop_after", "-", "status", "drop_before"]
    assert names(dice, "read", always, 1) == ["drop_before"]
    assert dice.next_fault("image", always) == Fault("stalled", at_bytes=1000)


def test_every_fault_comes_as_often_as_it_is_probable() -> None:
    dice = Dice(Random(0))
    counts = Counter(names(dice, "create", Faults.everywhere(0.03), 20_000))
    assert set(counts) == {"-", "drop_before", "drop_after", "error", "error_after", "garbage", "slow", "stalled"}
    assert all(500 < count < 700 for name, count in counts.items() if name != "-")
    counts = Counter(names(dice, "image", Faults.everywhere(0.03), 20_000))
    assert len(counts) == 11
    assert all(500 < count < 700 for name, count in counts.items() if name != "-")


def test_the_same_seed_decides_the_same() -> None:
    faults = Faults.everywhere(0.1)
    first, again, other = (names(Dice(Random(seed)), "read", faults, 200) for seed in (1, 1, 2))
    assert first == again != other


def test_tasks_end_as_probable_and_never_badly_under_everywhere() -> None:
    dice = Dice(Random(0))
    faults = Faults(fail={"service_error": 0.2, "content_policy_violation": 0.1}, cancelled=0.1)
    ends = Counter(dice.next_end(faults, None) for _ in range(10_000))
    assert ends["completed"] == pytest.approx(6000, rel=0.1)
    assert ends["service_error"] == pytest.approx(2000, rel=0.1)
    assert {dice.next_end(Faults.everywhere(0.1), None) for _ in range(1000)} == {"completed"}


def test_changed_faults_apply_at_once() -> None:
    dice = Dice(Random(0))
    assert names(dice, "read", Faults(error=1.0), 1) == ["error"]
    assert names(dice, "read", Faults(), 1) == ["-"]


@pytest.mark.parametrize("route", ["creates", "ledger", ""])
def test_an_unknown_route_is_no_script(route: str) -> None:
    with pytest.raises(ValueError, match="is no route"):
        Dice(Random(0)).script(route, "ok")


@pytest.mark.parametrize(("route", "name"), [("create", "truncated"), ("image", "garbage"), ("credits", "missing")])
def test_a_fault_of_another_route_is_no_script(route: str, name: str) -> None:
    with pytest.raises(ValueError, match="is no fault of"):
        Dice(Random(0)).script(route, name)


def test_a_value_that_no_one_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="takes no value"):
        Dice(Random(0)).script("create", ("drop_after", 3))


def test_probabilities_are_shares_of_one() -> None:
    with pytest.raises(ValueError, match="add up to more than 1"):
        Faults(drop_before=0.6, garbage=0.6)
    with pytest.raises(ValueError, match="image_drop"):
        Faults(image_drop=1.5)
    assert Faults(drop_before=0.6, image_drop=0.6).image_drop == 0.6


def test_every_route_can_pass() -> None:
    dice = Dice(Random(0))
    for route in ROUTES:
        dice.script(route, "ok")
        assert dice.next_fault(route, Faults(drop_before=1.0, image_drop=1.0)) is None
