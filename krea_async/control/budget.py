"""Whether the next picture may be paid for: what is spent and what is set aside never exceed the caller's caps.

A price is set aside before a request leaves, and spent or freed when its outcome is known. Sums are whole numbers of
millionths, because a million floats of 0.45 do not add up to 450,000.
"""

import math
from decimal import Decimal
from functools import lru_cache
from typing import Final, TypeGuard

from attrs import define, field, frozen

from krea_async.errors import BudgetExceededError

_MILLION: Final = 1_000_000

DEAREST_USD_PER_CREDIT: Final = Decimal("0.015")
"""The 2K list price, $0.027 for 1.8 credits. A dollar buys more at 1K, and more still at the vendor's 68 credits."""


@frozen
class PriceChange:
    """A tier's price is not what was counted on so far. Said once; later reservations go by `actual_credits`."""

    tier: str
    expected_credits: float
    actual_credits: float


@define(eq=False)
class _Tier:
    """What a tier costs: by the list until a reply states a price, then the dearest one stated."""

    name: str
    listed_microcredits: int
    listed_microdollars: int
    microcredits: int = field(init=False)
    stated: bool = False
    confirmed: bool = False
    in_flight: int = 0

    def __attrs_post_init__(self) -> None:
        self.microcredits = self.listed_microcredits

    def microdollars(self, microcredits: int) -> int:
        """What the list asks in dollars for so many credits, rounded up."""
        return -(-self.listed_microdollars * microcredits // self.listed_microcredits)

    def learn(self, microcredits: int) -> PriceChange | None:
        self.confirmed = True
        if self.stated and microcredits <= self.microcredits:
            return None
        expected, self.microcredits, self.stated = self.microcredits, microcredits, True
        if expected == microcredits:
            return None
        return PriceChange(self.name, expected / _MILLION, microcredits / _MILLION)


@define(eq=False)
class Reservation:
    """What is set aside for one request. Made by `Budget`, and handed back once: settled, released or unknown."""

    tier: _Tier
    microcredits: int
    microdollars: int
    closed: bool = False


@define
class _Account:
    """Credits or dollars, in millionths."""

    name: str
    cap: int | None
    settled: int
    reserved: int = 0

    @property
    def left(self) -> float | None:
        return None if self.cap is None else max(0, self.cap - self.settled - self.reserved) / _MILLION

    def fits(self, price: int) -> bool:
        return self.cap is None or self.settled + self.reserved + price <= self.cap

    def refuse_if_spent(self, price: int) -> None:
        if self.cap is not None and self.settled + price > self.cap:
            cap, settled, more = (f"{amount / _MILLION:.10g}" for amount in (self.cap, self.settled, price))
            raise BudgetExceededError(
                f"{self.name} is {cap}: {settled} are spent, and the next picture would cost {more}; raise it to go on"
            )


class Budget:
    """The caps of one output directory, however many runs fill it.

    max_credits, max_usd: the caps; None: none. settled_credits, settled_usd: spent by earlier runs; without settled_usd
    the credits are taken at the dearest price of the list. Raises ValueError for what is negative or no number.

    Credits and dollars are counted side by side, and the first cap that is reached counts. A picture's dollars are its
    list price, and grow with its credits where the gateway asks for more. At 68 credits a dollar they would come out
    lower, and a cap in dollars could be passed.

    A tier's price is unknown until the first answer, so under a cap only one request of such a tier may be in flight:
    a surprise costs that one difference, not 64. `accepted`, `settled`, `released` and `unknown` may each let a request
    leave that had to wait. They raise RuntimeError for a reservation that was handed back before.
    """

    def __init__(
        self,
        max_credits: float | None,
        max_usd: float | None,
        *,
        settled_credits: float = 0.0,
        settled_usd: float | None = None,
    ) -> None:
        settled = _micro_up("settled_credits", settled_credits)
        self._credits = _Account("max_credits", _cap("max_credits", max_credits), settled)
        self._usd = _Account(
            "max_usd",
            _cap("max_usd", max_usd),
            math.ceil(settled * DEAREST_USD_PER_CREDIT)
            if settled_usd is None
            else _micro_up("settled_usd", settled_usd),
        )
        self._capped = max_credits is not None or max_usd is not None
        self._tiers: dict[str, _Tier] = {}

    @property
    def settled_credits(self) -> float:
        """Credits spent in this directory, with those of lost answers, which may have been."""
        return self._credits.settled / _MILLION

    @property
    def reserved_credits(self) -> float:
        """Credits set aside for what is in flight."""
        return self._credits.reserved / _MILLION

    @property
    def left_credits(self) -> float | None:
        """Credits that may still be set aside; None without `max_credits`."""
        return self._credits.left

    @property
    def left_usd(self) -> float | None:
        """Dollars that may still be set aside; None without `max_usd`."""
        return self._usd.left

    def reserve(self, price_credits: float, price_usd: float, tier: str) -> Reservation | None:
        """Set the price of one picture aside. None: it has to wait for something in flight, and may fit after that.

        price_credits, price_usd: by the list. tier: what has one price; a quality. Raises BudgetExceededError when the
        picture does not even fit beside what is spent, so that waiting is of no use.
        """
        price = self._tier(price_credits, price_usd, tier)
        if self._capped:
            if price.in_flight and not price.confirmed:
                return None
            microdollars = price.microdollars(price.microcredits)
            self._credits.refuse_if_spent(price.microcredits)
            self._usd.refuse_if_spent(microdollars)
            if not (self._credits.fits(price.microcredits) and self._usd.fits(microdollars)):
                return None
        return self._open(price)

    def adopt(self, price_credits: float, price_usd: float, tier: str) -> Reservation:
        """Count a picture that an earlier run ordered and that is not settled: it is in flight, whatever the cap.

        Call `accepted` at once where its price is known: until then it holds back the others of its tier.
        """
        return self._open(self._tier(price_credits, price_usd, tier))

    def accepted(self, reservation: Reservation, credits_reserved: float | None) -> PriceChange | None:
        """The gateway has accepted the request. Its own reservation replaces ours; None confirms the price."""
        _check_open(reservation)
        reservation.tier.confirmed = True
        if not _is_amount(credits_reserved) or credits_reserved == 0:  # 0 promises nothing about the bill
            return None
        stated = _micro_up("credits_reserved", credits_reserved)
        self._set_aside(reservation, stated)
        return reservation.tier.learn(stated)

    def settled(self, reservation: Reservation, credits_used: float | None) -> PriceChange | None:
        """The request was charged; None: by as much as is set aside."""
        if not _is_amount(credits_used):
            self._spend(reservation, reservation.microcredits)
            return None
        spent = _micro_up("credits_used", credits_used)
        self._spend(reservation, spent)
        return reservation.tier.learn(spent) if spent else None

    def released(self, reservation: Reservation) -> None:
        """The request ended, and nothing was charged."""
        self._spend(reservation, 0)

    def unknown(self, reservation: Reservation) -> None:
        """An answer was lost for good. The picture may have been charged, so it counts as spent."""
        self._spend(reservation, reservation.microcredits)

    def _tier(self, price_credits: float, price_usd: float, name: str) -> _Tier:
        tier = self._tiers.get(name)
        if tier is None:
            microcredits = _micro_up("price_credits", price_credits)
            if microcredits == 0:
                raise ValueError("price_credits must be above 0")
            tier = self._tiers[name] = _Tier(name, microcredits, _micro_up("price_usd", price_usd))
        return tier

    def _open(self, tier: _Tier) -> Reservation:
        reservation = Reservation(tier, 0, 0)
        self._set_aside(reservation, tier.microcredits)
        tier.in_flight += 1
        return reservation

    def _set_aside(self, reservation: Reservation, microcredits: int) -> None:
        microdollars = reservation.tier.microdollars(microcredits)
        self._credits.reserved += microcredits - reservation.microcredits
        self._usd.reserved += microdollars - reservation.microdollars
        reservation.microcredits, reservation.microdollars = microcredits, microdollars

    def _spend(self, reservation: Reservation, microcredits: int) -> None:
        _check_open(reservation)
        self._set_aside(reservation, 0)
        reservation.closed = True
        reservation.tier.in_flight -= 1
        self._credits.settled += microcredits
        self._usd.settled += reservation.tier.microdollars(microcredits)


def _check_open(reservation: Reservation) -> None:
    if reservation.closed:
        raise RuntimeError("this reservation was handed back before; counting it twice would falsify the budget")


def _is_amount(value: float | None) -> TypeGuard[float]:
    return value is not None and 0 <= value < math.inf


def _checked(name: str, value: float) -> Decimal:
    if not _is_amount(value):
        raise ValueError(f"{name} must be a finite number from 0, not {value!r}")
    return Decimal(str(value)) * _MILLION  # the digits that a person wrote, not the nearest float


@lru_cache(maxsize=64)  # a tier has one price or two, and each row asks three times
def _micro_up(name: str, value: float) -> int:
    return math.ceil(_checked(name, value))


def _cap(name: str, value: float | None) -> int | None:
    return None if value is None else math.floor(_checked(name, value))
