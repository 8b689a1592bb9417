"""The values that cross the house: what is asked for (`ImageRequest`) and what the gateway knows of it (`Task`).

Sizes, tiers, ranges and prices are those of EvoLink's krea-2-turbo reference; docs/api-facts.md names each source.
"""

import logging
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit

from attrs import Attribute, field, frozen, validators

from krea_async.addresses import is_internal_host
from krea_async.errors import InvalidRequestError
from krea_async.suggestions import did_you_mean

log = logging.getLogger(__name__)

Size = Literal["1:1", "4:3", "3:4", "5:4", "4:5", "2:3", "3:2", "9:16", "16:9", "1:2", "2:1"]
Quality = Literal["1K", "2K"]

SIZES: Final[tuple[Size, ...]] = get_args(Size)
QUALITIES: Final[tuple[Quality, ...]] = get_args(Quality)
MAX_SEED: Final = 1_048_576
MAX_CALLBACK_URL_CHARS: Final = 2048
SUGGESTED_PROMPT_CHARS: Final = 2000

_PIXELS: Final[dict[tuple[Size, Quality], tuple[int, int]]] = {
    ("1:1", "1K"): (1024, 1024),
    ("1:1", "2K"): (2048, 2048),
    ("4:3", "1K"): (1152, 896),
    ("4:3", "2K"): (2304, 1728),
    ("3:4", "1K"): (896, 1152),
    ("3:4", "2K"): (1728, 2304),
    ("5:4", "1K"): (1152, 896),
    ("5:4", "2K"): (2240, 1792),
    ("4:5", "1K"): (896, 1152),
    ("4:5", "2K"): (1792, 2240),
    ("2:3", "1K"): (832, 1280),
    ("2:3", "2K"): (1664, 2496),
    ("3:2", "1K"): (1280, 832),
    ("3:2", "2K"): (2496, 1664),
    ("9:16", "1K"): (768, 1344),
    ("9:16", "2K"): (1472, 2688),
    ("16:9", "1K"): (1344, 768),
    ("16:9", "2K"): (2688, 1472),
    ("1:2", "1K"): (704, 1472),
    ("1:2", "2K"): (1408, 2816),
    ("2:1", "1K"): (1472, 704),
    ("2:1", "2K"): (2816, 1408),
}
_CREDITS: Final[dict[Quality, float]] = {"1K": 0.45, "2K": 1.8}
_USD: Final[dict[Quality, float]] = {"1K": 0.0067, "2K": 0.027}


# An "@" is harmless only behind a plain authority.
_CLEAN_URL: Final = re.compile(r"https://[\w.:\[\]%-]+[/?#]", re.ASCII | re.IGNORECASE)


def _refuse(attribute: "Attribute[Any]", value: object, allowed: str, hint: str = "") -> InvalidRequestError:
    return InvalidRequestError(
        f"{attribute.name} {_shown(value)} is not {allowed}{hint}", field=attribute.name, value=value, allowed=allowed
    )


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; nesting without end
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _stripped(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _check_text(_: object, attribute: "Attribute[Any]", value: object) -> None:
    if not isinstance(value, str) or not value:
        raise _refuse(attribute, value, "a non-empty text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _refuse(attribute, value, "text that can be written as UTF-8 (it has a lone surrogate)") from None


def _warn_if_long(_: object, _attribute: "Attribute[str]", value: str) -> None:
    if len(value) > SUGGESTED_PROMPT_CHARS:
        log.warning(
            "prompt has %d characters; the vendor suggests at most %d, and refuses more than 640 tokens: %.60s…",
            len(value),
            SUGGESTED_PROMPT_CHARS,
            value,
        )


def _check_size(_: object, attribute: "Attribute[Size]", value: object) -> None:
    if value not in SIZES:
        raise _refuse(attribute, value, f"one of {', '.join(SIZES)}", did_you_mean(value, SIZES))


def _check_quality(_: object, attribute: "Attribute[Quality]", value: object) -> None:
    if value not in QUALITIES:
        raise _refuse(attribute, value, f"one of {', '.join(QUALITIES)}", did_you_mean(value, QUALITIES))


def _check_seed(_: object, attribute: "Attribute[int | None]", value: object) -> None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SEED):
        return
    raise _refuse(attribute, value, f"a whole number from 0 to {MAX_SEED}")


def _check_flag(_: object, attribute: "Attribute[bool]", value: object) -> None:
    if not isinstance(value, bool):
        raise _refuse(attribute, value, "true or false")


def _check_callback_url(_: object, attribute: "Attribute[str | None]", value: object) -> None:
    if value is None:
        return
    if isinstance(value, str) and "@" in unicodedata.normalize("NFKC", value) and not _CLEAN_URL.match(value):
        raise InvalidRequestError(  # the value is not shown: it may hold a secret
            "callback_url holds credentials, which the API does not take",
            field=attribute.name,
            allowed="an https URL without credentials",
        )
    if not isinstance(value, str) or len(value) > MAX_CALLBACK_URL_CHARS:
        raise _refuse(attribute, value, f"a text of at most {MAX_CALLBACK_URL_CHARS} characters")
    if any(ch.isspace() or not ch.isprintable() for ch in value) or "\\" in value:
        raise _refuse(attribute, value, "a URL without spaces, backslashes and control characters")
    try:
        url = urlsplit(value)
        host, _port = url.hostname, url.port
    except ValueError:
        raise _refuse(attribute, value, "a URL that can be read") from None
    if url.scheme != "https" or not host:
        raise _refuse(attribute, value, "an https URL")
    if is_internal_host(host):
        raise _refuse(attribute, value, "a URL on a public host (the gateway refuses internal addresses)")


@frozen
class ImageRequest:
    """One picture to make. A request that exists is valid; anything else raises `InvalidRequestError`.

    prompt: what to show; at most 640 tokens, which cannot be counted here; beyond 2,000 characters a warning is logged.
    size: the aspect ratio, one of 11. quality: "1K" or "2K".
    seed: 0..1048576; 0 or None lets the gateway choose. nsfw_check: stricter moderation than the basic one.
    callback_url: where the gateway reports the finished task: https, public, at most 2,048 characters.
    id: the caller's own name for the row; it names the file and is never sent.
    Source of the limits: EvoLink's krea-2-turbo reference.
    """

    prompt: str = field(converter=_stripped, validator=[_check_text, _warn_if_long])
    size: Size = field(default="1:1", kw_only=True, validator=_check_size)
    quality: Quality = field(default="1K", kw_only=True, validator=_check_quality)
    seed: int | None = field(default=None, kw_only=True, validator=_check_seed)
    nsfw_check: bool = field(default=False, kw_only=True, validator=_check_flag)
    callback_url: str | None = field(default=None, kw_only=True, validator=_check_callback_url)
    id: str | None = field(default=None, kw_only=True, validator=validators.optional(_check_text))

    @classmethod
    def of(cls, value: "str | ImageRequest | Mapping[str, Any] | InvalidRequestError") -> "ImageRequest":
        """`value` as a request: itself, a bare prompt, or a mapping of this class's fields.

        Raises InvalidRequestError for anything else, naming an unknown field and the known ones; a row of a prompt list
        that could not be read is such an error already, and is raised.
        """
        if isinstance(value, ImageRequest):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, InvalidRequestError):
            raise value
        if not isinstance(value, Mapping):
            raise InvalidRequestError(
                f"{type(value).__name__} is no prompt",
                field="prompt",
                value=value,
                allowed="a text, an ImageRequest or a mapping",
            )
        for name in value:
            if name not in REQUEST_FIELDS:
                raise InvalidRequestError(
                    f"unknown field {_shown(name)}{did_you_mean(name, REQUEST_FIELDS)}",
                    field=str(name),
                    value=value[name],
                    allowed=f"one of {', '.join(REQUEST_FIELDS)}",
                )
        return cls(**{"prompt": None, **value})

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height of the picture, in pixels."""
        return _PIXELS[self.size, self.quality]

    @property
    def credits(self) -> float:
        """List price in credits. What was charged is in the finished task."""
        return _CREDITS[self.quality]

    @property
    def usd(self) -> float:
        """List price in US dollars."""
        return _USD[self.quality]


REQUEST_FIELDS: Final = tuple(attribute.name for attribute in ImageRequest.__attrs_attrs__)


@frozen
class IndexedRequest:
    """A row that knows its number in its whole list: a part of a list keeps the numbers, and so the file names.

    index: from 0.
    """

    index: int = field(validator=validators.ge(0))
    request: ImageRequest


FINISHED_STATUSES: Final = frozenset({"completed", "failed", "cancelled"})
KNOWN_STATUSES: Final = FINISHED_STATUSES | {"pending", "processing"}


@frozen(kw_only=True)
class TaskError:
    """Why a task failed: the gateway's code (docs/api-facts.md lists them) and its words."""

    code: str
    message: str = ""


@frozen(kw_only=True)
class Task:
    """What the gateway said of a task, at one moment.

    status: pending, processing, completed, failed, cancelled, or a word this version does not know.
    progress: percent. results: http(s) links, valid for 24 hours; empty unless completed. error: only when failed.
    created: Unix seconds. estimated_time_s: the gateway's guess. credits_reserved, credits_used, duration_s: None until
    the gateway states them. replayed: this reply repeated an earlier answer to the same idempotency key.
    """

    id: str
    status: str
    progress: int = 0
    results: tuple[str, ...] = field(default=(), repr=False)  # signed: whoever has one can see the picture
    error: TaskError | None = None
    created: int | None = None
    estimated_time_s: float | None = None
    credits_reserved: float | None = None
    credits_used: float | None = None
    duration_s: float | None = None
    replayed: bool = False

    @property
    def finished(self) -> bool:
        """Whether the gateway will not change this task any more."""
        return self.status in FINISHED_STATUSES


@frozen(kw_only=True)
class TaskSummary:
    """One line of the account's task list: no links, but enough to find a task again."""

    id: str
    status: str
    progress: int = 0
    created: int | None = None
    credits_used: float | None = None


@frozen(kw_only=True)
class TaskPage:
    """One page of the account's task list, newest first. `total` counts all pages' tasks."""

    tasks: tuple[TaskSummary, ...]
    total: int
    page: int
    page_size: int


@frozen(kw_only=True)
class Balance:
    """What is left to spend. `remaining` is the lower of what key and account allow; None: no limit is set."""

    remaining: float | None
    key_remaining: float | None
    key_used: float | None
    account_remaining: float | None
    account_used: float | None
