"""The budget: no order of events passes a cap, and the sums are exact."""

from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from itertools import repeat
from operator import add

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from krea_async.control.budget import DEAREST_USD_PER_CREDIT, Budget, PriceChange, Reservation
from krea_async.errors import BudgetExceededError
from krea_async.models import QUALITIES, ImageRequest, Quality

LISTED = {quality: ImageRequest("a fox", quality=quality) for quality in QUALITIES}


def ask(budget: Budget, tier: Quality = "1K") -> Reservation | None:
    return budget.reserve(LISTED[tier].credits, LISTED[tier].usd, tier)


def order(budget: Budget, tier: Quality = "1K") -> Reservation:
    reservation = ask(budget, tier)
    assert reservation is not None, "it has to wait"
    return reservation


def buy(budget: Budget, tier: Quality = "1K", *, reserved: float | None = None, used: float | None = None) -> None:
    reservation = order(budget, tier)
    budget.accepted(reservation, reserved)
    budget.settled(reservation, used)


def exact(value: float) -> Fraction:
    return Fraction(str(value))


def usd(tier: Quality, credits_: Fraction) -> Fraction:
    """So many credits at the tier's list price."""
    return credits_ * exact(LISTED[tier].usd) / exact(LISTED[tier].credits)


PRICES: dict[str, dict[Quality, Fraction]] = {
    "list": {tier: exact(request.credits) for tier, request in LISTED.items()},
    "lower": {"1K": exact(0.3), "2K": exact(1.7)},
    "higher": {"1K": exact(0.6), "2K": exact(1.800001)},
}


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens to the requests, in whatever order, under a gateway with one price a tier."""

    def __init__(self) -> None:
        super().__init__()
        self.open: dict[Reservation, tuple[Quality, Fraction]] = {}

    @initialize(
        max_credits=st.none() | st.decimals(0, 15, places=2).map(float),
        max_usd=st.none() | st.decimals(0, "0.2", places=4).map(float),
        earlier=st.sampled_from([0.0, 0.45, 3.15]),
        prices=st.sampled_from(sorted(PRICES)),
    )
    def begin(self, max_credits: float | None, max_usd: float | None, earlier: float, prices: str) -> None:
        self.budget = Budget(max_credits, max_usd, settled_credits=earlier)
        self.caps = (max_credits, max_usd)
        self.prices = PRICES[prices]
        self.as_listed = prices == "list"
        self.spent = exact(earlier)
        self.spent_usd = self.spent * Fraction(DEAREST_USD_PER_CREDIT)
        self.earlier = (self.spent, self.spent_usd)

    @rule(tier=st.sampled_from(QUALITIES))
    def reserve(self, tier: Quality) -> None:
        try:
            reservation = ask(self.budget, tier)
        except BudgetExceededError:
            assert self.caps != (None, None)
        else:
            assert reservation or self.open, "nothing is in flight that could end this wait"
            assert reservation or self.caps != (None, None), "a wait without a cap"
            if reservation:
                self.open[reservation] = (tier, Fraction(reservation.microcredits, 1_000_000))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        """A gateway whose prices are those of the list may say nothing of them."""
        reservation = data.draw(st.sampled_from(list(self.open)))
        tier, _ = self.open[reservation]
        if self.as_listed and data.draw(st.booleans()):
            self.budget.accepted(reservation, None)
        else:
            change = self.budget.accepted(reservation, float(self.prices[tier]))
            assert change is None or not self.as_listed
            self.open[reservation] = (tier, self.prices[tier])

    @precondition(lambda self: self.open)
    @rule(data=st.data(), outcome=st.sampled_from(["used", "unsaid", "released", "unknown"]))
    def end(self, data: st.DataObject, outcome: str) -> None:
        reservation = data.draw(st.sampled_from(list(self.open)))
        tier, amount = self.open.pop(reservation)
        if outcome == "used":
            amount = self.prices[tier]
            self.budget.settled(reservation, float(amount))
        elif outcome == "unsaid":
            self.budget.settled(reservation, None)
        elif outcome == "unknown":
            self.budget.unknown(reservation)
        else:
            amount = Fraction(0)
            self.budget.released(reservation)
        self.spent += amount
        self.spent_usd += usd(tier, amount)

    @invariant()
    def the_sums_are_those_of_the_events(self) -> None:
        in_flight = sum(amount for _, amount in self.open.values())
        assert exact(self.budget.settled_credits) == self.spent
        assert exact(self.budget.reserved_credits) == in_flight

    @invariant()
    def no_cap_is_passed_but_by_one_surprise_a_tier(self) -> None:
        """With the prices of the list there is no surprise, and the caps hold at every instant."""
        in_flight = sum(amount for _, amount in self.open.values())
        in_flight_usd = sum(usd(*booked) for booked in self.open.values())
        surprises = {tier: max(Fraction(0), self.prices[tier] - PRICES["list"][tier]) for tier in QUALITIES}
        max_credits, max_usd = self.caps
        if max_credits is not None:
            allowed = max(exact(max_credits), self.earlier[0]) + sum(surprises.values())
            assert self.spent + in_flight <= allowed
        if max_usd is not None:
            allowed = max(exact(max_usd), self.earlier[1]) + sum(usd(*surprise) for surprise in surprises.items())
            assert self.spent_usd + in_flight_usd <= allowed


TestAnyOrder = AnyOrder.TestCase


def test_a_million_pictures_cost_what_a_million_pictures_cost() -> None:
    assert reduce(add, repeat(0.45, 1_000_000)) != 450_000.0, "floats drift, or this module could be simpler"
    budget = Budget(450_000, 6_700)
    for _ in range(1_000_000):
        buy(budget, used=0.45)
    assert (budget.settled_credits, budget.reserved_credits, budget.left_credits) == (450_000.0, 0.0, 0.0)
    assert budget.left_usd == 0.0
    with pytest.raises(BudgetExceededError):
        ask(budget)


@given(pictures=st.integers(0, 300), cap=st.sampled_from(["credits", "usd"]), tier=st.sampled_from(QUALITIES))
def test_a_cap_of_n_list_prices_buys_n_pictures(pictures: int, cap: str, tier: Quality) -> None:
    """What `estimate` says a list costs is enough for it, in either currency."""
    max_credits = float(pictures * exact(LISTED[tier].credits))
    max_usd = float(pictures * exact(LISTED[tier].usd))
    budget = Budget(max_credits, None) if cap == "credits" else Budget(None, max_usd)
    for _ in range(pictures):
        buy(budget, tier)
    with pytest.raises(BudgetExceededError, match=f"max_{cap} is .* are spent"):
        ask(budget, tier)


def test_the_first_cap_that_is_reached_counts() -> None:
    for max_credits, max_usd in ((0.9, 100.0), (100.0, 0.0134)):
        budget = Budget(max_credits, max_usd)
        buy(budget)
        buy(budget)
        with pytest.raises(BudgetExceededError):
            ask(budget)


def test_what_is_in_flight_is_waited_for_only_while_it_may_make_room() -> None:
    budget = Budget(1.0, None)
    buy(budget)
    last = order(budget)
    assert ask(budget) is None
    budget.released(last)
    last = order(budget)
    budget.settled(last, 0.45)
    with pytest.raises(BudgetExceededError, match=r"max_credits is 1: 0\.9 are spent.* cost 0\.45") as caught:
        ask(budget)
    assert (caught.value.charged, caught.value.retryable) == ("no", False)


def test_a_tier_that_does_not_fit_leaves_room_for_one_that_does() -> None:
    budget = Budget(1.0, None)
    with pytest.raises(BudgetExceededError):
        ask(budget, "2K")
    buy(budget)


def test_one_request_asks_for_a_tier_s_price_before_the_others_leave() -> None:
    budget = Budget(100.0, None)
    first = order(budget)
    assert ask(budget) is None
    assert ask(budget, "2K") is not None, "another tier has its own price"
    budget.accepted(first, None)
    assert ask(budget) is not None
    assert ask(budget) is not None
    assert ask(budget, "2K") is None


@pytest.mark.parametrize("hand_back", [Budget.released, Budget.unknown])
def test_a_first_request_without_an_answer_leaves_the_price_unknown(
    hand_back: Callable[[Budget, Reservation], None],
) -> None:
    budget = Budget(100.0, None)
    hand_back(budget, order(budget))
    order(budget)
    assert ask(budget) is None


def test_a_price_that_differs_is_used_from_then_on_and_said_once() -> None:
    budget = Budget(2.0, None)
    first = order(budget)
    assert budget.accepted(first, 0.9) == PriceChange("1K", 0.45, 0.9)
    assert budget.reserved_credits == 0.9
    second = order(budget)
    assert budget.reserved_credits == 1.8
    assert budget.accepted(second, 0.9) is None
    assert ask(budget) is None
    assert budget.settled(first, 0.9) is None
    assert budget.settled(second, None) is None
    assert (budget.settled_credits, budget.left_credits) == (1.8, 0.2)


def test_a_surprise_costs_one_picture_s_difference() -> None:
    """Sixty-four at once would have cost 64 times the difference."""
    budget = Budget(10.0, None)
    under_way = [reservation for _ in range(64) if (reservation := ask(budget)) is not None]
    assert len(under_way) == 1
    budget.accepted(under_way[0], 50.0)
    assert budget.left_credits == 0.0
    with pytest.raises(BudgetExceededError, match="would cost 50"):
        ask(budget)


def test_a_price_may_first_be_heard_of_in_the_bill() -> None:
    budget = Budget(10.0, None)
    reservation = order(budget)
    assert budget.accepted(reservation, None) is None
    assert budget.settled(reservation, 0.8) == PriceChange("1K", 0.45, 0.8)
    order(budget)
    assert budget.reserved_credits == 0.8


def test_a_lower_price_buys_more() -> None:
    budget = Budget(0.9, None)
    for _ in range(3):
        buy(budget, reserved=0.3, used=0.3)
    assert budget.settled_credits == 0.9


def test_of_prices_that_vary_the_dearest_counts() -> None:
    budget = Budget(100.0, None)
    buy(budget, reserved=0.5)
    buy(budget, reserved=0.4)
    order(budget)
    assert budget.reserved_credits == 0.5
    assert budget.settled_credits == 0.9


@pytest.mark.parametrize("nothing", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_a_reservation_of_nothing_is_no_price(nothing: float | None) -> None:
    """A gateway that sets nothing aside may charge all the same."""
    budget = Budget(100.0, None)
    reservation = order(budget)
    assert budget.accepted(reservation, nothing) is None
    assert budget.reserved_credits == 0.45


def test_a_picture_that_was_free_costs_nothing_and_teaches_nothing() -> None:
    budget = Budget(1.0, None)
    buy(budget, used=0.0)
    assert budget.settled_credits == 0.0
    order(budget)
    assert budget.reserved_credits == 0.45


def test_dollars_follow_the_credits_that_are_asked_for() -> None:
    budget = Budget(None, 0.0201)
    buy(budget, reserved=0.9)
    assert budget.left_usd == pytest.approx(0.0067)
    with pytest.raises(BudgetExceededError, match="max_usd"):
        ask(budget)


def test_dollars_never_come_out_lower_than_by_the_vendor_s_rate() -> None:
    """68 credits are a dollar, says the vendor's client; the list asks for more, so it is the list that counts."""
    rates = [exact(request.usd) / exact(request.credits) for request in LISTED.values()]
    assert min(rates) > Fraction(1, 68)
    assert max(rates) == Fraction(DEAREST_USD_PER_CREDIT)


def test_a_lost_answer_stays_spent() -> None:
    budget = Budget(1.0, None)
    reservation = order(budget)
    budget.accepted(reservation, 0.6)
    budget.unknown(reservation)
    assert (budget.settled_credits, budget.reserved_credits, budget.left_credits) == (0.6, 0.0, 0.4)


def test_what_earlier_runs_spent_counts() -> None:
    """A job that is restarted every hour spends its cap once."""
    budget = Budget(10.0, None, settled_credits=9.6)
    assert budget.left_credits == 0.4
    with pytest.raises(BudgetExceededError, match=r"9\.6 are spent"):
        ask(budget)


def test_the_dollars_of_earlier_runs_are_taken_as_given_or_at_the_dearest_price() -> None:
    assert Budget(None, 10.0, settled_credits=45.0, settled_usd=0.67).left_usd == 9.33
    assert Budget(None, 10.0, settled_credits=45.0).left_usd == 9.325


def test_a_picture_ordered_by_an_earlier_run_is_in_flight_whatever_the_cap() -> None:
    budget = Budget(0.5, None, settled_credits=0.45)
    under_way = budget.adopt(0.45, 0.0067, "1K")
    assert (budget.reserved_credits, budget.left_credits) == (0.45, 0.0)
    budget.accepted(under_way, 0.45)
    budget.released(under_way)
    assert budget.left_credits == 0.05


def test_an_adopted_picture_may_make_room_for_another() -> None:
    budget = Budget(0.5, None)
    under_way = budget.adopt(0.45, 0.0067, "1K")
    budget.accepted(under_way, None)
    assert ask(budget) is None
    budget.released(under_way)
    assert ask(budget) is not None


def test_without_a_cap_nobody_waits_and_it_still_adds_up() -> None:
    budget = Budget(None, None)
    under_way = [order(budget) for _ in range(1000)]
    assert budget.reserved_credits == 450.0
    for reservation in under_way:
        budget.settled(reservation, None)
    assert (budget.settled_credits, budget.left_credits, budget.left_usd) == (450.0, None, None)


def test_a_cap_of_nothing_orders_nothing() -> None:
    for caps in ((0.0, None), (None, 0.0)):
        with pytest.raises(BudgetExceededError):
            ask(Budget(*caps))


def test_nothing_is_counted_twice() -> None:
    budget = Budget(10.0, None)
    reservation = order(budget)
    budget.settled(reservation, 0.45)
    for with_a_price in (budget.accepted, budget.settled):
        with pytest.raises(RuntimeError, match="handed back before"):
            with_a_price(reservation, 0.45)
    for hand_back in (budget.released, budget.unknown):
        with pytest.raises(RuntimeError, match="handed back before"):
            hand_back(reservation)
    assert (budget.settled_credits, budget.reserved_credits) == (0.45, 0.0)


def test_costs_are_rounded_up_and_caps_down() -> None:
    budget = Budget(0.9000009, None)
    buy(budget, reserved=0.4500001)
    assert budget.settled_credits == 0.450001
    assert budget.left_credits == 0.449999
    budget = Budget(None, 0.01)
    buy(budget, reserved=0.3)
    assert budget.left_usd == 0.005533, "two thirds of $0.0067 are $0.0044666…"


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_money_that_cannot_be_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="max_credits must be"):
        Budget(bad, None)
    with pytest.raises(ValueError, match="max_usd must be"):
        Budget(None, bad)
    with pytest.raises(ValueError, match="settled_credits must be"):
        Budget(None, None, settled_credits=bad)
    with pytest.raises(ValueError, match="settled_usd must be"):
        Budget(None, None, settled_usd=bad)
    with pytest.raises(ValueError, match="price_credits must be"):
        Budget(None, None).reserve(bad, 0.0067, "1K")
    with pytest.raises(ValueError, match="price_usd must be"):
        Budget(None, None).reserve(0.45, bad, "1K")


def test_a_list_price_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="price_credits must be above 0"):
        Budget(None, None).reserve(0.0, 0.0, "1K")
