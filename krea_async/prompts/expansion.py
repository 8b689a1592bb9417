"""One row, several pictures: every size, quality and seed of a run, for A/B work on one scene.

The order is always the same: row by row, then the alternatives of its prompt, then sizes, qualities, seeds, copies; the
last changes first. An id gets what was given behind it, one value or many, `cover-v2-16x9-2K-s3`: a list of one that
becomes a list of two leaves the ids of the pictures that are there already.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, Final

from attrs import Attribute, field, frozen

from krea_async.models import MAX_SEED, ImageRequest, Quality, Size
from krea_async.prompts.problems import refused

_SEEDS_ALLOWED: Final = f"whole numbers from 0 to {MAX_SEED} and ranges, such as 1..8 or 1,5,9..12"


def _sizes(values: Iterable[Size]) -> tuple[Size, ...]:
    return tuple(values)


def _qualities(values: Iterable[Quality]) -> tuple[Quality, ...]:
    return tuple(values)


def _seeds(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(values)


def _check_each(_: object, attribute: "Attribute[Any]", values: tuple[Any, ...]) -> None:
    """Each is one that a request may have, and is there once. Raises InvalidRequestError as the request does."""
    name = {"sizes": "size", "qualities": "quality", "seeds": "seed"}[attribute.name]
    seen: set[object] = set()
    for value in values:
        if value is None:
            raise refused("a seed of None is none", _SEEDS_ALLOWED, field=name)
        ImageRequest("-", **{name: value})
        if value in seen:
            raise refused(f"{name} {value!r} is there twice in {attribute.name}", "each once", field=name, value=value)
        seen.add(value)


@frozen(kw_only=True)
class Expansion:
    """What every row is made in: each of `sizes` times each of `qualities` times each of `seeds`.

    An empty one leaves the rows as they are. A row with a size of its own and `sizes` contradict each other, which is a
    problem of the row; so with the others.
    """

    sizes: tuple[Size, ...] = field(default=(), converter=_sizes, validator=_check_each)
    qualities: tuple[Quality, ...] = field(default=(), converter=_qualities, validator=_check_each)
    seeds: tuple[int, ...] = field(default=(), converter=_seeds, validator=_check_each)

    @property
    def count(self) -> int:
        """How many pictures it makes of one."""
        return (len(self.sizes) or 1) * (len(self.qualities) or 1) * (len(self.seeds) or 1)

    def values(self) -> dict[str, tuple[object, ...]]:
        """The values of each field that it sets."""
        given = {"size": self.sizes, "quality": self.qualities, "seed": self.seeds}
        return {name: values for name, values in given.items() if values}

    def changes(self) -> Iterator[tuple[dict[str, object], str]]:
        """The fields of each picture, and what of them goes behind an id."""
        given = self.values()
        for values in product(*given.values()):
            fields = dict(zip(given, values, strict=True))
            yield fields, "".join(f"-{_suffix(name, fields[name])}" for name in given)


def _suffix(name: str, value: object) -> str:
    return f"s{value}" if name == "seed" else str(value).replace(":", "x")


def seeds_of(text: str) -> tuple[int, ...]:
    """The seeds of `1..8` or `1,5,9..12`. Raises InvalidRequestError for what is none."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:\.\.\s*([0-9]{1,9})\s*)?", part, re.ASCII)
        if found is None:
            dashed = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-|:|\.{3}|…)\s*([0-9]{1,9})\s*", part, re.ASCII)
            meant = f"; did you mean '{dashed[1]}..{dashed[2]}'?" if dashed else ""
            raise refused(
                f"seeds {part.strip()[:60]!r} cannot be read{meant}", _SEEDS_ALLOWED, field="seed", value=text
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            message = f"seeds '{first}..{last}' count down; did you mean '{last}..{first}'?"
            raise refused(message, _SEEDS_ALLOWED, field="seed", value=text)
        if last > MAX_SEED:
            raise refused(f"seed {last} is too large", _SEEDS_ALLOWED, field="seed", value=text)
        seeds += range(first, last + 1)
        if len(seeds) > MAX_SEED + 1:
            raise refused("there are seeds twice in seeds", "each once", field="seed", value=text[:60])
    return tuple(seeds)
