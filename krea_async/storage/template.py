"""Templates of file names: `{index:06d}-{slug}-{seed}.{ext}`, of a row's own facts and of nothing else.

Not `str.format`: that would reach into objects (`{index.__class__}`), and does not say where a template is wrong. There
is no date and no counter either: a row has the same name in every run.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Self

from attrs import field, frozen

from krea_async.errors import InvalidRequestError
from krea_async.models import ImageRequest
from krea_async.storage.names import MAX_STEM_BYTES, PICTURE_SUFFIXES, cut, file_stem, safe_stem, slug_of
from krea_async.suggestions import did_you_mean

EXTENSION: Final = ".{ext}"

_Fact = Callable[[int, ImageRequest], int | str]

_FACTS: Final[Mapping[str, _Fact]] = {
    "index": lambda index, _: index,
    "id": lambda _, request: request.id or "",
    "slug": lambda _, request: slug_of(request.prompt),
    "size": lambda _, request: request.size.replace(":", "x"),
    "quality": lambda _, request: request.quality,
    "seed": lambda _, request: request.seed or "x",
    "width": lambda _, request: request.pixels[0],
    "height": lambda _, request: request.pixels[1],
}
FIELDS: Final = (*_FACTS, "ext")

_NUMBERS: Final = frozenset({"index", "seed", "width", "height"})
_MEANT: Final = {"prompt": "slug", "number": "index", "row": "index", "n": "index"}  # too far off to be guessed
_NO_DIGITS: Final = frozenset("-_., ")
_TOKEN: Final = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]|[^{}]+")
_NUMBER_SPEC: Final = re.compile(r"d|0[1-9][0-9]?d?")
_TEXT_SPEC: Final = re.compile(r"\.([1-9][0-9]{0,2})")


@frozen
class _Place:
    """A field in a template. spec: how to write it, as Python's format would have it, or ""."""

    name: str
    spec: str


@frozen
class NameTemplate:
    """What a row's file is to be called. `parse` makes it; `BatchPolicy` has the fields."""

    text: str
    _pieces: tuple[str | _Place, ...] = field(repr=False, eq=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The template `text`. Raises InvalidRequestError, which shows the place of what it cannot mean."""
        if not isinstance(text, str):
            raise InvalidRequestError(f"name {text!r} is no template", field="name", value=text, allowed="a text")
        pieces = tuple(_pieces(text))
        if not pieces:
            raise _refused(text, 0, "the template gives no name", f"text and {_known()}")
        return cls(text, pieces)

    def uses(self, name: str) -> bool:
        """Whether this field is in it."""
        return any(isinstance(piece, _Place) and piece.name == name for piece in self._pieces)

    @property
    def tells_rows_apart(self) -> bool:
        """Whether rows of different numbers have different names for certain: they begin with it."""
        first, *others = self._pieces
        ends = not others or (isinstance(others[0], str) and others[0][0] in _NO_DIGITS)
        return isinstance(first, _Place) and first.name == "index" and ends

    def stem(self, index: int, request: ImageRequest) -> str:
        """The file name of row `index` without its extension, as safe as a `file_stem`, which it is if empty."""
        name = "".join(piece if isinstance(piece, str) else _written(piece, index, request) for piece in self._pieces)
        return safe_stem(name) or file_stem(index, request)


def _written(place: _Place, index: int, request: ImageRequest) -> str:
    value = _FACTS[place.name](index, request)
    if isinstance(value, int):
        return format(value, place.spec)
    return cut(value, int(place.spec[1:]), MAX_STEM_BYTES).rstrip("-") if place.spec.startswith(".") else value


def _pieces(text: str) -> Iterator[str | _Place]:
    whole = text.removesuffix(EXTENSION)
    for token in _TOKEN.finditer(whole):
        found, place = token[0], token.start()
        if found in {"{{", "}}"}:
            yield found[0]
        elif found in {"{", "}"}:
            wrong = "this brace is not closed" if found == "{" else "this brace was not opened"
            raise _refused(text, place, wrong, f"'{found}{found}' for the brace itself")
        elif found.startswith("{"):
            yield _place(text, place + 1, found[1:-1])
        else:
            _check_words(text, place, found)
            yield found
    if whole == text and (suffix := next((one for one in PICTURE_SUFFIXES if text.lower().endswith(one)), None)):
        wrong = "the extension follows the picture that comes"
        raise _refused(text, len(text) - len(suffix), wrong, f"{EXTENSION!r} or nothing there")


def _place(text: str, start: int, inside: str) -> _Place:
    """The field that begins at `start` in the template `text`."""
    name, *rest = re.split(r"([:.!\[])", inside, maxsplit=1)
    if name == "ext":
        raise _refused(text, start, "'ext' is only at the very end", f"{EXTENSION!r} at the end of the template")
    if name not in _FACTS:
        hint = f"; did you mean {_MEANT[name]!r}?" if name in _MEANT else did_you_mean(name, FIELDS)
        raise _refused(text, start, f"unknown field {name!r}{hint}" if name else "the field has no name", _known())
    if not rest:
        return _Place(name, "")
    mark, spec = rest
    if mark != ":":
        wrong = f"{mark + spec!r} cannot follow {name!r}"
        raise _refused(text, start + len(name), wrong, "nothing there, or ':' and how to write it")
    spelling, example = (_NUMBER_SPEC, f"{{{name}:06d}}") if name in _NUMBERS else (_TEXT_SPEC, f"{{{name}:.40}}")
    if not spelling.fullmatch(spec):
        kind = "zeros to fill up with" if name in _NUMBERS else "characters at the most"
        raise _refused(text, start + len(name) + 1, f"{spec!r} is no way to write {name!r}", f"{kind}, as {example!r}")
    return _Place(name, spec)


def _check_words(text: str, start: int, words: str) -> None:
    if parted := re.search(r"[/\\]", words):
        wrong = "pictures lie in one directory, without others in it"
        raise _refused(text, start + parted.start(), wrong, "a file name, not a path")


def _known() -> str:
    return ", ".join(f"{{{name}}}" for name in FIELDS)


def _refused(text: str, place: int, wrong: str, allowed: str) -> InvalidRequestError:
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return InvalidRequestError(
        f"name: {wrong}; allowed: {allowed}\n  {shown}\n  {' ' * place}^", field="name", value=text, allowed=allowed
    )
