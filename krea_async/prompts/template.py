r"""Templates in prompts: `a {red|blue} {animal}` is two prompts, each with the row's value of the column `animal`.

`{a|b|c}`: alternatives, which may be empty and may hold templates. `{name}`: the value of a column, as it stands there;
braces in it mean nothing. `\{`, `\}`, `\|` and `\\` are the characters themselves, as in other tools with this syntax;
a backslash before anything else is a backslash, and a `|` outside of braces is one, too. (Doubled braces are no escape:
`{a|{b|c}}` ends with two that each close something.)

Nothing is made before it is asked for: the alternatives are counted by multiplying, and each is found by its number.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Final

from attrs import frozen

from krea_async.errors import InvalidRequestError
from krea_async.prompts.problems import did_you_mean, refused, shown

MAX_DEPTH: Final = 20
MAX_COUNT: Final = 1 << 62
"""What `Template.count` says at the most, so that a hostile prompt costs no long multiplications."""

_SPECIAL: Final = re.compile(r"\\[{}|\\]|[{}|]")
_ESCAPED: Final = re.compile(r"[{}|\\]")
_EXCERPT_CHARS: Final = 60
_ALLOWED: Final = r"{one|other}, {column}, or \{ and \} for braces"


def escape(text: str) -> str:
    """A template that means `text` itself."""
    return _ESCAPED.sub(r"\\\g<0>", text)


@frozen
class Column:
    """The value of a column of the row. place: of its brace in the prompt, from 0."""

    name: str
    place: int


@frozen
class Choice:
    """One of several templates."""

    options: "tuple[Template, ...]"
    count: int


@frozen(slots=False)  # for cached_property
class Template:
    """A prompt that was read: what stands one after the other. count: how many prompts it is, at least 1."""

    parts: tuple[str | Column | Choice, ...]

    @cached_property
    def count(self) -> int:
        """How many prompts it is: at least 1, and `MAX_COUNT` for that and anything above."""
        count = 1
        for part in self.parts:
            if isinstance(part, Choice):
                count = min(count * part.count, MAX_COUNT)
        return count

    def text(self, number: int, values: Mapping[str, str]) -> str:
        """Prompt `number`, from 0, with the columns' `values`; the last alternatives change first."""
        texts: list[str] = []
        for part in reversed(self.parts):
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, Column):
                texts.append(values[part.name])
            else:
                number, chosen = divmod(number, part.count)
                for option in part.options:
                    if chosen < option.count:
                        texts.append(option.text(chosen, values))
                        break
                    chosen -= option.count
        return "".join(reversed(texts))

    def columns(self) -> Iterator[Column]:
        """Every column that it names, in all alternatives."""
        for part in self.parts:
            if isinstance(part, Column):
                yield part
            elif isinstance(part, Choice):
                for option in part.options:
                    yield from option.columns()


def template_of(prompt: str, known: Mapping[str, str]) -> Template:
    """The template that `prompt` is, in a row with the columns `known`. Raises InvalidRequestError with the place."""
    template = _Reader(prompt).template()
    for column in template.columns():
        if column.name not in known:
            words = f"the row has no column {shown(column.name)}{did_you_mean(column.name, known)}"
            columns = f"columns {', '.join(list(known)[:20])}" if known else "no column: the row has none"
            raise broken(prompt, column.place, words, allowed=columns)
    return template


def broken(prompt: str, place: int, words: str, *, allowed: str = _ALLOWED) -> InvalidRequestError:
    """The error, with the prompt and a caret under the place below it."""
    start = max(0, place - _EXCERPT_CHARS // 2)
    before, after = (_one_line(text) for text in (prompt[start:place], prompt[place : start + _EXCERPT_CHARS]))
    head = "…" if start else ""
    tail = "…" if start + _EXCERPT_CHARS < len(prompt) else ""
    indent = " " * (len(head) + sum(map(_cells, before)))
    message = f"the template in the prompt is broken at place {place + 1}: {words}; allowed: {allowed}"
    message += f"\n  {head}{before}{after}{tail}\n  {indent}^ {words}"
    return refused(message, allowed, field="prompt", value=prompt)


def _one_line(text: str) -> str:
    return "".join(ch if ch.isprintable() else " " for ch in text)


def _cells(character: str) -> int:
    """How wide a terminal shows it."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class _Reader:
    """Reads one prompt from its start to its end."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._tokens = _SPECIAL.finditer(prompt)
        self._place = 0  # what is before it was read

    def template(self) -> Template:
        """All of it."""
        template, end = self._parts(depth=0)
        if end:
            words = r"this } closes nothing; write \} for a brace"
            raise broken(self._prompt, self._place - 1, words)
        return template

    def _parts(self, depth: int) -> tuple[Template, str]:
        """What stands up to the end of an alternative, and the sign that ends it; "" at the end of the prompt."""
        parts: list[str | Column | Choice] = []
        for token in self._tokens:
            sign, before = token[0], self._prompt[self._place : token.start()]
            self._place = token.end()
            _add(parts, before)
            if sign == "{":
                parts.append(self._group(token.start(), depth + 1))
            elif sign == "}" or (sign == "|" and depth):
                return Template(tuple(parts)), sign
            else:
                _add(parts, sign[-1])
        _add(parts, self._prompt[self._place :])
        self._place = len(self._prompt)
        return Template(tuple(parts)), ""

    def _group(self, place: int, depth: int) -> Column | Choice:
        if depth > MAX_DEPTH:
            raise broken(self._prompt, place, f"this {{ is nested deeper than {MAX_DEPTH}")
        options: list[Template] = []
        sign = "|"
        while sign == "|":
            option, sign = self._parts(depth)
            options.append(option)
        if not sign:
            raise broken(self._prompt, place, "this { is never closed")
        if len(options) > 1:
            return Choice(tuple(options), min(sum(option.count for option in options), MAX_COUNT))
        match options[0].parts:
            case (str(name),) if name.strip():
                return Column(name.strip(), place)
            case () | (str(),):
                raise broken(self._prompt, place, r"there is nothing in these braces; write \{\} for the characters")
            case _:
                raise broken(self._prompt, place, "these braces hold no | between alternatives, and no column's name")


def _add(parts: list[str | Column | Choice], text: str) -> None:
    """Put `text` behind `parts`, as one with the text that is there."""
    if not text:
        return
    if parts and isinstance(parts[-1], str):
        parts[-1] += text
    else:
        parts.append(text)
