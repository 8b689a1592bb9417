"""Makes lists of the fields that a docstring describes, for the reference.

The project's docstrings are plain sentences: `size: the aspect ratio, one of 11. quality: "1K" or "2K".` Here each
parameter, attribute or field of the object becomes an item of a list, with its type and default where it is a field of
an attrs class, which the signature does not show.
"""

import inspect
import re
from typing import Any

from griffe import Attribute, Class, Extension, Function, GriffeLoader, Object

_FIELD_DEFAULT = re.compile(r"\bdefault=(?P<value>\"[^\"]*\"|'[^']*'|[\w.()-]+)")
_FACTORY = re.compile(r"\bfactory=(?P<name>\w+)")


class Fields(Extension):
    """Rewrites the docstrings of a package after it was read."""

    def on_package(self, *, pkg: Object, loader: GriffeLoader, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Rewrite every docstring of `pkg`."""
        _rewrite(pkg)


def _rewrite(thing: Object) -> None:
    for member in list(thing.members.values()):
        if member.is_alias:
            continue
        if isinstance(member, Class | Function):
            _list_fields(member)
        if not isinstance(member, Attribute | Function):
            _rewrite(member)


def _list_fields(thing: Class | Function) -> None:
    fields = _fields_of(thing)
    text = thing.docstring.value if thing.docstring else ""
    text = inspect.cleandoc(text)
    names = list(fields) if isinstance(thing, Class) else [p.name for p in thing.parameters if p.name != "self"]
    if isinstance(thing, Class):
        names += [name for name, member in thing.members.items() if isinstance(member, Attribute) and name[0] != "_"]
    if isinstance(thing, Class) and "__init__" in thing.members:
        names += [p.name for p in thing.members["__init__"].parameters if p.name != "self"]
    text = _as_list(text, names, fields)
    if thing.docstring and text:
        thing.docstring.value = text


def _as_list(text: str, names: list[str], fields: dict[str, str]) -> str:
    if not names:
        return text
    one = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    start = re.compile(rf"(?:(?<=\n)|(?<=\A)|(?<=[.;] )|(?<=[.;]\n))(?P<names>(?:{one})(?:, (?:{one}))*): ")
    paragraphs = []
    told: set[str] = set()
    for paragraph in text.split("\n\n"):
        pieces = start.split(paragraph)
        if len(pieces) < 3 or paragraph.startswith((" ", "|")):
            paragraphs.append(paragraph)
            continue
        before, rest = pieces[0].strip(), pieces[1:]
        items = []
        for named, words in zip(rest[0::2], rest[1::2], strict=True):
            group = named.split(", ")
            told.update(group)
            shown = ", ".join(f"**{name}**{fields.get(name, '')}" for name in group)
            meaning, sentences = _ended(words)
            items.append(f"- {shown}: {meaning}")
            if sentences:
                items.append(f"\n{sentences}\n")
        paragraphs.append("\n".join(filter(None, [before and f"{before}\n", *items])))
    if fields and (untold := [name for name in fields if name not in told]):
        paragraphs.append("\n".join(f"- **{name}**{fields[name]}" for name in untold))
    return "\n\n".join(paragraphs)


def _ended(words: str) -> tuple[str, str]:
    """A field's words, and the sentences behind them that are of the whole object again: those on the errors."""
    found = re.search(r"(?<=[.])\s+(?=(?:Raises|Source of|Cancelled before) )", words)
    if found is None:
        return " ".join(words.split()), ""
    return " ".join(words[: found.start()].split()), " ".join(words[found.end() :].split())


def _fields_of(thing: Class | Function) -> dict[str, str]:
    """Of an attrs class: each public field, and its type and default in Markdown."""
    if not isinstance(thing, Class) or not re.search("frozen|define", " ".join(str(d.value) for d in thing.decorators)):
        return {}
    found = {}
    for name, member in thing.members.items():
        if member.is_alias or not isinstance(member, Attribute) or name.startswith("_") or member.annotation is None:
            continue
        if "ClassVar" in str(member.annotation) or "property" in member.labels:
            continue
        default = _default(str(member.value)) if member.value is not None else None
        found[name] = f" (`{member.annotation}`" + ("" if default is None else f", default `{default}`") + ")"
    return found


def _default(value: str) -> str | None:
    if not value.startswith("field("):
        return value
    if found := _FIELD_DEFAULT.search(value):
        return found["value"]
    if found := _FACTORY.search(value):
        return f"{found['name']}()"
    return None
