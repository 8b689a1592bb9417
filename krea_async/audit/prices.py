"""Credits in dollars: pictures at the list's price, all else at the same rate."""

from collections.abc import Mapping
from typing import Final

from krea_async.models import QUALITIES, ImageRequest

_LISTED: Final = tuple(ImageRequest("-", quality=quality) for quality in QUALITIES)
_USD: Final = {round(request.credits * 1e6): request.usd for request in _LISTED}
_USD_PER_MILLIONTH: Final = _LISTED[0].usd / _LISTED[0].credits / 1e6


def usd_of(prices: Mapping[int, int], charged: int) -> float:
    """What `charged` is. prices: how many pictures there are of each price. All in millionths of a credit."""
    listed = {price: count for price, count in prices.items() if price in _USD}
    rest = charged - sum(price * count for price, count in listed.items())
    return round(sum(_USD[price] * count for price, count in listed.items()) + rest * _USD_PER_MILLIONTH, 6)
