"""What may be written of links: a signed query is a secret, and so are credentials."""

import re
from collections.abc import Iterable
from typing import Final

_LINK_SECRET: Final = re.compile(r"(https?://[^\s?#\"'<>]*)[?#][^\s\"'<>]*", re.IGNORECASE)
_LINK_USER: Final = re.compile(r"(https?://)[^\s/?#\"'<>]*@", re.IGNORECASE)
_WHOLE_LINK: Final = re.compile(r"(https?://)?(?:[^/?#]*@)?([^?#]*).*", re.IGNORECASE | re.DOTALL)


def without_secrets(text: str) -> str:
    """`text` with every link in it cut to host and path."""
    if "://" not in text or not ("?" in text or "#" in text or "@" in text):
        return text
    return _LINK_SECRET.sub(r"\1", _LINK_USER.sub(r"\1", text))


def bare_links(links: Iterable[str]) -> tuple[str, ...]:
    """The same of whole links, which may hold any character: what is cut ends where the link ends."""
    return tuple(_WHOLE_LINK.sub(r"\1\2", link, count=1) for link in links)
