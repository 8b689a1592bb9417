"""Internal addresses are recognised in every form that a resolver accepts."""

import ipaddress
import socket

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from krea_async.addresses import as_address, is_internal_address, is_internal_host

# The first draw of a run is slow: hypothesis reads the sources for interesting constants.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

INTERNAL = [
    # names
    "localhost",
    "LOCALHOST",
    "localhost.",
    "a.localhost",
    "printer.local",
    "metadata.google.internal",
    "router.home.arpa",
    "ｌｏｃａｌｈｏｓｔ",  # noqa: RUF001
    # loopback, in every form of inet_aton
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0X7F.1",
    "0177.0.0.1",
    "0x7f.0.0x0.01",
    "0",
    "0.0.0.0",
    "１２７.０.０.１",  # noqa: RUF001
    "127．0．0．1",  # noqa: RUF001
    "127。0。0。1",
    "127｡0｡0｡1",
    # private, link-local, CGNAT, benchmark, documentation, multicast, reserved
    "10.0.0.1",
    "012.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "192.168.257",
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "100.64.0.1",
    "100.127.255.255",
    "198.18.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    # IPv6
    "::1",
    "[::1]",
    "::",
    "::2",
    "0:0:0:0:0:0:0:1",
    "fe80::1",
    "fe80::1%eth0",
    "fe80::1%25eth0",
    "fec0::1",
    "fc00::1",
    "fd12:3456::1",
    "ff02::1",
    "2001:db8::1",
    # IPv4 inside IPv6: mapped, compatible, translated, NAT64 (both prefixes), 6to4, Teredo
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:100.64.0.1",
    "::127.0.0.1",
    "::ffff:0:7f00:1",
    "64:ff9b::7f00:1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::",
    "2001:0:1:1::80ff:fffe",
]

PUBLIC = [
    "example.com",
    "example.com.",
    "localhost.example.com",
    "mylocal",
    "internal.example.com",
    "8.8.8.8",
    "134744072",
    "0x8.8.8.8",
    "010.8.8.8",  # octal: 8.8.8.8
    "100.63.255.255",
    "100.128.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::",
    "1.2.3.4.5",
    "256.1.1.1",
    "4294967296",
    "127.0.0.1.example.com",
    "0x7g.1",
    "1..2",
    "",
]


@pytest.mark.parametrize("host", INTERNAL)
def test_internal_hosts(host: str) -> None:
    assert is_internal_host(host)


@pytest.mark.parametrize("host", PUBLIC)
def test_public_hosts(host: str) -> None:
    assert not is_internal_host(host)


def test_an_address_behind_a_percent_sign_is_internal() -> None:
    """Some URL parsers decode the host: what cannot be a name is not given the benefit of the doubt."""
    assert is_internal_host("%6cocalhost")
    assert is_internal_host("127%2e0.0.1")


def written(address: int, parts: int, bases: list[str]) -> str:
    """`address` with 1 to 4 parts, each in the base of `bases`: the last part holds what is left."""
    octets = list(address.to_bytes(4))
    numbers = [*octets[: parts - 1], int.from_bytes(bytes(octets[parts - 1 :]))]
    formats = {"decimal": "{}", "octal": "0{:o}", "hex": "0x{:x}", "HEX": "0X{:X}", "padded": "000{:o}"}
    return ".".join(formats[base].format(number) for number, base in zip(numbers, bases, strict=False))


@calm
@given(
    address=st.integers(0, 2**32 - 1),
    parts=st.integers(1, 4),
    bases=st.lists(st.sampled_from(["decimal", "octal", "hex", "HEX", "padded"]), min_size=4, max_size=4),
)
def test_an_address_is_the_same_in_all_its_forms(address: int, parts: int, bases: list[str]) -> None:
    text = written(address, parts, bases)
    assert socket.inet_aton(text) == address.to_bytes(4)
    assert as_address(text) == ipaddress.IPv4Address(address)
    assert is_internal_host(text) == is_internal_address(ipaddress.IPv4Address(address))


@calm
@given(host=st.text("0123456789abcdefxX.", min_size=1, max_size=20))
@example(host="0x")
@example(host="08")
@example(host="1.2.3.4.")
def test_what_the_resolver_takes_for_an_address_we_do_too(host: str) -> None:
    """The other way round we may be stricter: no public host has such a name."""
    try:
        packed = socket.inet_aton(host)
    except OSError:
        return
    assert as_address(host) == ipaddress.IPv4Address(packed)


@calm
@given(host=st.text())
def test_any_text_gets_an_answer(host: str) -> None:
    assert is_internal_host(host) in (True, False)


@calm
@given(address=st.ip_addresses(v=4))
def test_an_ipv6_address_is_as_internal_as_the_ipv4_address_in_it(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for inside in (
        ipaddress.IPv6Address(0xFFFF << 32 | number),
        ipaddress.IPv6Address(0x0064_FF9B << 96 | number),
        ipaddress.IPv6Address(0x2002 << 112 | number << 80),
    ):
        assert is_internal_address(inside) == is_internal_address(address)


@calm
@given(address=st.ip_addresses(v=6))
def test_only_global_unicast_ipv6_is_public(address: ipaddress.IPv6Address) -> None:
    """IANA has given out 2000::/3 only; NAT64 and mapped addresses count as the IPv4 address they carry."""
    carries_ipv4 = int(address) >> 32 in (0, 0xFFFF, 0x0064_FF9B << 64)
    if int(address) >> 125 != 1 and not carries_ipv4:
        assert is_internal_address(address)
