"""Which hosts are internal: the one answer for callback URLs (checked by name) and image links (checked after DNS).

The gateway refuses callbacks to internal addresses, and a link in a reply must never make us fetch something from our
own network. Attackers write such addresses in many forms, so every form that a resolver accepts is understood here.
"""

import ipaddress
import unicodedata
from functools import lru_cache

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that IANA has given out
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_INTERNAL_SUFFIXES = (".localhost", ".local", ".internal", ".home.arpa")


@lru_cache(maxsize=1024)
def is_internal_host(host: str) -> bool:
    """Whether `host`, as written in a URL, is an internal address or a name reserved for one. Asks no resolver."""
    name = unicodedata.normalize("NFKC", host).replace("。", ".").strip("[]").rstrip(".").lower()  # IDNA's full stop
    if name == "localhost" or name.endswith(_INTERNAL_SUFFIXES):
        return True
    address = as_address(name)
    if address is None and "%" in name:  # some parsers decode it: %6cocalhost
        return True
    return address is not None and is_internal_address(address)


def as_address(host: str) -> IPAddress | None:
    """The address that `host` stands for, if it is a literal in any form `inet_aton` or IPv6 knows; else None."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return _loose_ipv4(host)


def is_internal_address(address: IPAddress) -> bool:
    """Whether `address` is anything but a public unicast address.

    Loopback, private, link-local, unique-local, CGNAT, unspecified, multicast and reserved ranges are internal, also
    when an IPv4 address of these hides in an IPv6 one (mapped, compatible, NAT64, 6to4, Teredo).
    """
    if isinstance(address, ipaddress.IPv6Address) and (embedded := _embedded_ipv4(address)) is not None:
        return is_internal_address(embedded)
    return not address.is_global or address.is_multicast or (address.version == 6 and address not in _GLOBAL_UNICAST)


def _embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or 0xFFFF < int(address) <= 0xFFFFFFFF:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _loose_ipv4(host: str) -> ipaddress.IPv4Address | None:
    """`inet_aton`'s forms: one to four parts, each decimal, octal (0…) or hex (0x…); the last one fills the rest."""
    try:
        parts = [_c_integer(part) for part in host.split(".")]
    except ValueError:
        return None
    if len(parts) > 4 or any(part > 0xFF for part in parts[:-1]):
        return None
    rest = parts.pop()
    bits = 8 * (4 - len(parts))
    if rest >= 1 << bits:
        return None
    return ipaddress.IPv4Address(sum(part << (24 - 8 * i) for i, part in enumerate(parts)) + rest)


def _c_integer(text: str) -> int:
    if not text.isascii() or not text.isalnum():
        raise ValueError(text)
    if text[:2] in {"0x", "0X"}:
        return int(text[2:] or "0", 16)
    return int(text, 8 if text[0] == "0" else 10)
