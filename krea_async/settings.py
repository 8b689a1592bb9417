"""What a session is told, checked before anything is sent. Nothing here shows the key."""

import math
import os
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import Attribute, field, frozen, validators

from krea_async.addresses import is_internal_host
from krea_async.control.backoff import RetryPolicy
from krea_async.control.governor import PacingPolicy
from krea_async.control.polling import PollPolicy
from krea_async.errors import AuthenticationError, InvalidRequestError
from krea_async.gateway.transport import TimeoutPolicy
from krea_async.storage.download import DownloadPolicy

DEFAULT_BASE_URL: Final = "https://api.evolink.ai"
MAX_UNFINISHED: Final = 1000
"""Unfinished tasks when the caller names no cap: what the gateway's limits allow, up to this."""

KEY_VARIABLE: Final = "EVOLINK_API_KEY"
BASE_URL_VARIABLE: Final = "EVOLINK_BASE_URL"


def _api_key(value: str | None) -> str:
    return (os.environ.get(KEY_VARIABLE, "") if value is None else value).strip()


def _base_url(value: str | None) -> str:
    return (value or os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL).strip()


def _check_key(_: object, _attribute: "Attribute[str]", value: str) -> None:
    if not value:
        raise AuthenticationError(f"there is no API key: set {KEY_VARIABLE}, or pass api_key")
    if not (value.isascii() and value.isprintable()) or set(value) & set(" \"'"):
        raise AuthenticationError("the API key holds characters that no key has; was it copied with its quotes?")


def _check_base_url(_: object, attribute: "Attribute[str]", value: str) -> None:
    try:
        url = urlsplit(value)
        host, _port = url.hostname, url.port
    except ValueError:
        host = None
    if "@" in value:  # the value is not shown: it may hold a secret
        raise InvalidRequestError(
            f"{attribute.name} holds credentials, which do not belong there",
            field=attribute.name,
            allowed=f"an http(s) URL such as {DEFAULT_BASE_URL}",
        )
    if not host or url.scheme not in {"http", "https"} or url.query or url.fragment:
        raise _refused(attribute, value, f"an http(s) URL such as {DEFAULT_BASE_URL}")
    if url.scheme == "http" and not is_internal_host(host):
        raise _refused(attribute, value, "https: over http anybody on the way could read the key")


def _check_whole(_: object, attribute: "Attribute[int]", value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _refused(attribute, value, "a whole number from 1")


def _check_positive(_: object, attribute: "Attribute[Any]", value: object) -> None:
    if not (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf):
        raise _refused(attribute, value, "a number above 0")


def _refused(attribute: "Attribute[Any]", value: object, allowed: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{attribute.name} {value!r} is not {allowed}", field=attribute.name, value=value, allowed=allowed
    )


@frozen(kw_only=True)
class Settings:
    """The settings of a session; `KreaSession` says what each one means."""

    api_key: str = field(repr=False, converter=_api_key, validator=_check_key)
    base_url: str = field(converter=_base_url, validator=_check_base_url)
    concurrency: int = field(validator=_check_whole)
    rate: float | None = field(validator=validators.optional(_check_positive))
    downloads: int = field(validator=_check_whole)
    task_timeout_s: float = field(validator=_check_positive)
    retries: RetryPolicy
    pacing: PacingPolicy
    polling: PollPolicy
    timeouts: TimeoutPolicy
    downloading: DownloadPolicy
    max_waiting: int | None = field(default=None, validator=validators.optional(_check_whole))
