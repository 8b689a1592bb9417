"""What somebody may have meant who mistyped: the nearest of the words that are known, or nothing."""

import math
import re
from collections.abc import Iterable
from typing import Final

_RATIO: Final = re.compile(r"(\d{1,6})\s*(?:[:/*x\u00d7]|by)\s*(\d{1,6})", re.IGNORECASE)  # \u00d7: the times sign
_SAME_SHAPE: Final = 0.05
"""Width by height may differ by so much, relatively: pixels of a size are not exactly its ratio."""


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`; did you mean '16:9'?`, to go at the end of a message; nothing when no known word is near."""
    found = nearest(word, known)
    return "" if found is None else f"; did you mean {found!r}?"


def nearest(word: object, known: Iterable[str]) -> str | None:
    """The known word that `word` is a variant of: in its case, its dashes, its letters, or as width by height."""
    if not isinstance(word, str) or len(word) > 100:
        return None
    words = {_plain(one): one for one in known}
    if found := words.get(_plain(word)):
        return found
    shape = _shape(word)
    if shape is not None:
        shapes = {one: abs(other - shape) for one in words.values() if (other := _shape(one)) is not None}
        best = min(shapes, key=shapes.__getitem__, default=None)
        return best if best is not None and shapes[best] <= _SAME_SHAPE else None
    from difflib import get_close_matches  # noqa: PLC0415 - whoever mistyped nothing does not wait for it

    matches = get_close_matches(_plain(word), words, n=1)
    return words[matches[0]] if matches else None


def _plain(word: str) -> str:
    return word.strip().casefold().replace("_", "-")


def _shape(word: str) -> float | None:
    """The logarithm of width by height, so that 16:9 is as far from 9:16 as it looks."""
    found = _RATIO.fullmatch(word.strip())
    if found is None or "0" in {found[1].strip("0") or "0", found[2].strip("0") or "0"}:
        return None
    return math.log(int(found[1]) / int(found[2]))
