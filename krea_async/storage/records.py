"""The journal's lines: what happened to a row, as frozen values and as bytes that prove themselves.

A line is compact JSON that begins with `{"e":"<event>","n":<row>` and ends with a checksum of what is before it, so a
reader checks it and finds its way without parsing JSON, and bit rot and hand edits are noticed. The order of a line's
keys is part of the format: `storage.replay` reads the first ones by their place.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from json.encoder import encode_basestring
from math import isfinite
from operator import attrgetter
from typing import Any, ClassVar, Final
from zlib import crc32

from attrs import field, fields, frozen, validators

from krea_async.errors import Charged
from krea_async.models import REQUEST_FIELDS, ImageRequest
from krea_async.storage.links import bare_links, without_secrets

JOURNAL_VERSION: Final = 1

CRC_BYTES: Final = len(b',"crc":"00000000"}')
"""What a line's checksum takes at its end, without the newline."""

_encoded: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _to_ms(seconds: float) -> float:
    return round(seconds, 3)


def _all_to_ms(seconds: Iterable[float]) -> tuple[float, ...]:
    return tuple([round(value, 3) for value in seconds])


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


@frozen(kw_only=True)
class Header:
    """The first line of every journal. v: the version of its format. at_s: Unix seconds, as in every line."""

    event: ClassVar = "journal"
    v: int = JOURNAL_VERSION
    at_s: float = field(converter=_to_ms)


@frozen(kw_only=True)
class RunBegun:
    """A run begins. version: of krea-async. balance: credits remaining, None if there is no limit or none was read."""

    event: ClassVar = "run"
    pid: int
    version: str
    balance: float | None = None
    at_s: float = field(converter=_to_ms)


@frozen(kw_only=True)
class Row:
    """A row of the list. n: its number in the journal, from 0, in order. index: its number in its list.

    request: what is sent. drawn: its seed is ours; the list has none, and the row is recognised without it. stem: what
    a template called its file, without the extension; None: it has the usual name.
    """

    event: ClassVar = "row"
    n: int
    index: int
    request: ImageRequest
    stem: str | None = field(default=None, validator=validators.optional(validators.instance_of(str)))
    drawn: bool = False

    @property
    def digest(self) -> str:
        """`digest_of` the request, in 16 hex digits."""
        return f"{digest_of(self.request, drawn=self.drawn):016x}"

    @property
    def content(self) -> str:
        """`content_digest_of` the request, in 16 hex digits."""
        return f"{content_digest_of(self.request, drawn=self.drawn):016x}"


@frozen(kw_only=True)
class Intent:
    """Row `n` is about to be sent, under this idempotency key."""

    event: ClassVar = "intent"
    n: int
    key: str
    at_s: float = field(converter=_to_ms)


@frozen(kw_only=True)
class Accepted:
    """The gateway made a task of it. credits: reserved; created_s: by the gateway's clock; None if it did not say.

    replayed: for a row that was sent again because an answer was lost, whether the gateway knew the key; False: it may
    be charged twice, unless the first try never arrived. None: the first try was answered.
    """

    event: ClassVar = "accepted"
    n: int
    task_id: str
    credits: float | None = None
    created_s: float | None = None
    replayed: bool | None = None
    at_s: float = field(converter=_to_ms)


@frozen(kw_only=True)
class Completed:
    """The picture is made. links: without their queries, whoever needs one reads the task again. credits: used."""

    event: ClassVar = "completed"
    n: int
    links: tuple[str, ...] = field(converter=bare_links)
    expires_s: float = field(converter=_to_ms)
    credits: float | None = None
    at_s: float = field(converter=_to_ms)


@frozen(kw_only=True)
class Saved:
    """The picture is on disk. files: names in the directory, the first is the picture that the other facts are of.

    seconds: queued, waiting, generating, downloading. task_id: None if the row needed no task of its own.
    """

    event: ClassVar = "saved"
    n: int
    credits: float
    task_id: str | None = None
    files: tuple[str, ...] = field(converter=_names)
    bytes: int
    sha256: str
    width: int
    height: int
    seconds: tuple[float, ...] = field(default=(0.0,) * 4, converter=_all_to_ms)
    at_s: float = field(converter=_to_ms)


@frozen(kw_only=True)
class Failed:
    """The row came to its end without a picture. error: the class's name. credits: what it cost, or may have cost."""

    event: ClassVar = "failed"
    n: int
    credits: float
    charged: Charged
    task_id: str | None = None
    error: str
    code: str | None = None
    message: str = field(converter=without_secrets)
    retryable: bool
    at_s: float = field(converter=_to_ms)


@frozen(kw_only=True)
class Left:
    """A run gave the row up without knowing its end; a later one goes on with it."""

    event: ClassVar = "left"
    n: int
    charged: Charged
    error: str
    code: str | None = None
    message: str = field(converter=without_secrets)
    at_s: float = field(converter=_to_ms)


@frozen(kw_only=True)
class Same:
    """Row `n` shows the picture of row `of`, and is copied from it."""

    event: ClassVar = "same"
    n: int
    of: int


@frozen(kw_only=True)
class RunEnded:
    """A run ended in order. stopped_by: the code of what ended it before its list did."""

    event: ClassVar = "end"
    balance: float | None = None
    stopped_by: str | None = None
    at_s: float = field(converter=_to_ms)


@frozen(kw_only=True)
class Sums:
    """Credits of verdicts that compaction left out, because a later round of their rows replaced them."""

    event: ClassVar = "sums"
    settled: float
    unknown: float


Line = Header | RunBegun | Row | Intent | Accepted | Completed | Saved | Failed | Left | Same | RunEnded | Sums

_CLASSES: Final[tuple[type[Line], ...]] = (
    *(Header, RunBegun, Row, Intent, Accepted, Completed),
    *(Saved, Failed, Left, Same, RunEnded, Sums),
)
_BY_EVENT: Final[dict[str, type[Line]]] = {cls.event: cls for cls in _CLASSES}
_KEYS: Final = {"at_s": "t", "created_s": "created", "expires_s": "expires", "task_id": "task"}
_FIELDS: Final = {
    cls: tuple((_KEYS.get(attribute.name, attribute.name), attribute.name) for attribute in fields(cls))
    for cls in _CLASSES
}
_WRITTEN: Final = {**_FIELDS, Row: tuple((key, key) for key in ("n", "digest", "content", "index", "request"))}
_OPTIONAL: Final = ("stem", "drawn")
"""Keys that end a row's line if they say something. Without knowing them, a reader finds and sends the same row."""

_DEFAULTS: Final = {attribute.name: attribute.default for attribute in fields(ImageRequest)}


def _form(cls: type[Line]) -> tuple[str, Callable[[Line], tuple[Any, ...]]]:
    """A line of this kind with a %s for each value, and what gives the values."""
    form = ",".join(f'"{key}":%s' for key, _ in _WRITTEN[cls])
    return f'{{"e":"{cls.event}",{form}', attrgetter(*(name for _, name in _WRITTEN[cls]))


_FORMS: Final = {cls: _form(cls) for cls in _CLASSES}


def encode(line: Line) -> bytes:
    """The line's bytes, newline included."""
    form, values = _FORMS[type(line)]
    text = form % tuple(map(_json, values(line)))
    if type(line) is Row and (line.stem or line.drawn):
        text += "".join(f',"{key}":{_json(value)}' for key in _OPTIONAL if (value := getattr(line, key)))
    body = text.encode(errors="backslashreplace")  # for lone surrogates
    return b'%b,"crc":"%08x"}\n' % (body, crc32(body))


def _json(value: Any) -> str:  # noqa: ANN401
    """`value` in JSON: what `_encoded` gives, sooner for what most values are."""
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is int or (kind is float and isfinite(value)):
        return repr(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is tuple:
        return f"[{','.join(map(_json, value))}]"
    return _encoded(request_facts(value) if isinstance(value, ImageRequest) else value)


def is_whole(line: bytes) -> bool:
    """Whether `line`, without its newline, is as it was written."""
    return line.endswith(b',"crc":"%08x"}' % crc32(line[:-CRC_BYTES]))


def decode(line: bytes) -> Line:
    """The value of a line. Raises ValueError if it is damaged, or nothing that this version writes."""
    line = line.removesuffix(b"\n")
    if not is_whole(line):
        raise ValueError("its checksum does not fit")
    facts = json.loads(line)
    cls = _BY_EVENT.get(facts.get("e"))
    if cls is None:
        raise ValueError(f"the event {facts.get('e')!r} is unknown")
    try:
        values = {name: facts[key] for key, name in _FIELDS[cls] if key in facts or key not in _OPTIONAL}
    except KeyError as error:
        raise ValueError(f"{error} is missing") from None
    if cls is Row:
        values["request"] = request_of(values["request"])
    return cls(**values)


def request_facts(request: ImageRequest) -> dict[str, object]:
    """The request's fields that differ from their defaults; the prompt always."""
    return {name: value for name in REQUEST_FIELDS if (value := getattr(request, name)) != _DEFAULTS[name]}


def request_of(facts: Mapping[str, Any]) -> ImageRequest:
    """The request of `request_facts`. Raises InvalidRequestError if it is none."""
    return ImageRequest.of(facts)


def digest_of(request: ImageRequest, *, drawn: bool = False) -> int:
    """What the row is recognised by, in 64 bits: its id alone if it has one, else what makes the picture.

    drawn: its seed is none of the list's, and does not count.
    """
    if request.id is None:
        return content_digest_of(request, drawn=drawn)
    return _digest(("id", request.id))


@lru_cache(maxsize=1024)  # asked for when the row is looked for, and when it is written
def content_digest_of(request: ImageRequest, *, drawn: bool = False) -> int:
    """What makes the picture, in 64 bits. Not the callback; and the seeds None and 0 mean the same to the gateway."""
    seed = None if drawn else request.seed or None
    return _digest((request.prompt, request.size, request.quality, seed, request.nsfw_check))


def _digest(parts: tuple[object, ...]) -> int:
    return int.from_bytes(blake2b(_json(parts).encode(), digest_size=8).digest())
