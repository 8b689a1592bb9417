"""File names: any prompt or id becomes a name that is safe on every file system, and no two pictures share one.

A stem is a file name without its extension. It may hold dots, so append the extension and never use
`Path.with_suffix`. Text is brought to NFC and not to NFKC: both make one name of what looks the same, but NFKC also
rewrites letters (Thai and Lao vowels, full-width forms), and the name would no longer be found by what was typed.
"""

import os
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Final

from krea_async.models import ImageRequest

PICTURE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp"})

# File systems allow 255 bytes; the rest is for what alternatives() adds, and ".webp.part".
MAX_STEM_BYTES: Final = 200
_MAX_SLUG_CHARS: Final = 60
_MAX_SLUG_BYTES: Final = 150
_MAX_READ_CHARS: Final = 1000  # of a prompt; more would only cost time

# Marks and letters that show nothing: joiner, fillers, variation selectors. Format characters (Cf) come on top.
_INVISIBLE: Final = frozenset(
    map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)
_NO_WORD: Final = re.compile(r"[^a-z0-9]+")
_FORBIDDEN: Final = frozenset('<>:"/\\|?*')
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9]) *(\.|$)", re.IGNORECASE)


def file_stem(index: int | None, request: ImageRequest, noted: str | None = None) -> str:
    """The stem for row `index`: the request's id made safe, else the index, if any, and some words of the prompt.

    noted: what a template called the row when it was noted, which comes before all that.
    One path component of at most `MAX_STEM_BYTES` in UTF-8, never hidden, never an option, never a name that Windows
    reserves. An id that is safe comes back unchanged; one with nothing to keep is treated as not given.
    """
    for given in (noted, request.id):
        if given and (name := safe_stem(given)):  # a journal may come from anybody
            return name
    slug = slug_of(request.prompt)
    return safe_stem(slug) if index is None else f"{index:05d}-{slug}"


def alternatives(stem: str, index: int | None) -> Iterator[str]:
    """`stem`, then what to call the picture if that is taken: with the row's index, then numbered from 2."""
    yield stem
    if index is not None:
        stem = f"{stem}-{index:05d}"
        yield stem
    for number in count(2):
        yield f"{stem}-{number}"


class Names:
    """Stems in use by pictures that are being made, per directory, compared as case-insensitive file systems do.

    Holds what is in flight and nothing else: files that are there already are the writer's to meet.
    """

    def __init__(self) -> None:
        self._claimed: set[tuple[str, str]] = set()

    def claim(self, directory: Path, stem: str, index: int | None) -> str:
        """The first of `alternatives(stem, index)` that is free in `directory`; taken until it is released."""
        for name in alternatives(stem, index):
            if (key := _key(directory, name)) not in self._claimed:
                self._claimed.add(key)
                return name
        raise AssertionError("alternatives() never ends")

    def release(self, directory: Path, stem: str) -> None:
        """Give back what `claim` returned. Raises KeyError if it is not claimed: then someone else's could be lost."""
        self._claimed.remove(_key(directory, stem))


def _key(directory: Path, stem: str) -> tuple[str, str]:
    return _folded_directory(directory), folded(stem)


@lru_cache(maxsize=256)
def _folded_directory(directory: Path) -> str:
    return folded(os.path.abspath(directory))  # noqa: PTH100 - Path.absolute keeps ".."


def folded(text: str) -> str:
    """`text` as case-insensitive file systems compare names."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def slug_of(prompt: str) -> str:
    """The prompt's letters and digits in lower case, hyphens for the rest."""
    prompt = prompt[:_MAX_READ_CHARS]
    if prompt.isascii():  # the same, sooner
        return _NO_WORD.sub("-", prompt.lower()).strip("-")[:_MAX_SLUG_CHARS].rstrip("-") or "untitled"
    text = _visible(_visible(prompt).lower())
    words = "".join(ch if ch.isalnum() or _is_mark(ch) else " " for ch in text).split()
    # A mark belongs to the letter before it; without one it is left out.
    slug = "-".join(filter(None, (word.lstrip("".join(filter(_is_mark, word))) for word in words)))
    return cut(slug, _MAX_SLUG_CHARS, _MAX_SLUG_BYTES).rstrip("-") or "untitled"


def safe_stem(name: str) -> str:
    """`name` without what some file system or shell trips over, or "" if nothing is left."""
    text = "".join(ch if ch.isprintable() and ch not in _FORBIDDEN else "\0" for ch in _visible(name))
    stem = cut(re.sub("\0+", "-", text).lstrip(".- "), MAX_STEM_BYTES, MAX_STEM_BYTES).rstrip(". ")
    if _RESERVED.match(unicodedata.normalize("NFKC", stem)):  # NFKC: Windows reserves COM¹ as well
        stem = cut(f"_{stem}", MAX_STEM_BYTES, MAX_STEM_BYTES).rstrip(". ")
    return stem


def _visible(text: str) -> str:
    """`text` in NFC, without the characters that show nothing (RTL overrides, joiners, variation selectors)."""
    shown = "".join(ch for ch in text if ch not in _INVISIBLE and unicodedata.category(ch) != "Cf")
    return unicodedata.normalize("NFC", shown)


def cut(text: str, max_chars: int, max_bytes: int) -> str:
    """The start of `text`, within both limits, cut between a letter's marks only if it has too many to keep."""
    kept = text[:max_chars].encode()[:max_bytes].decode(errors="ignore")
    end = len(kept)
    while 0 < end < len(text) and _is_mark(text[end]):
        end -= 1
    return kept[:end] or kept


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")
