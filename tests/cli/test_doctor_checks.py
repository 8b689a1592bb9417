"""What `doctor` makes of facts: where ok ends, where a problem begins, and that each says what to do."""

from typing import Any

import pytest

from krea_async import AccessDeniedError, AuthenticationError, RateLimitedError, ServiceError
from krea_async.cli.doctor import checks
from krea_async.cli.doctor.checks import Finding
from krea_async.cli.exits import Exit
from krea_async.models import Balance

GB = 1_000_000_000


def balance_of(remaining: float | None) -> Balance:
    return Balance(
        remaining=remaining, key_remaining=None, key_used=None, account_remaining=remaining, account_used=None
    )


LEVELS: list[tuple[Finding, str, Exit]] = [
    (checks.clock(0.4), "ok", Exit.ALL_SAVED),
    (checks.clock(-59), "ok", Exit.ALL_SAVED),
    (checks.clock(61), "warning", Exit.ALL_SAVED),
    (checks.clock(-3600), "problem", Exit.SERVICE_UNAVAILABLE),
    (checks.clock(None), "ok", Exit.ALL_SAVED),
    (checks.disk("renders", 10 * GB), "ok", Exit.ALL_SAVED),
    (checks.disk("renders", GB - 1), "warning", Exit.ALL_SAVED),
    (checks.disk("renders", 10_000_000), "problem", Exit.DISK),
    (checks.writing("renders", None, 0.002), "ok", Exit.ALL_SAVED),
    (checks.writing("renders", None, 0.2), "warning", Exit.ALL_SAVED),
    (checks.writing("renders", "Read-only file system", 0.0), "problem", Exit.DISK),
    (checks.open_files(None, 1000, 16), "ok", Exit.ALL_SAVED),
    (checks.open_files(1024, 1000, 16), "ok", Exit.ALL_SAVED),
    (checks.open_files(128, 1000, 16), "problem", Exit.DISK),
    (checks.open_files(1024, 1000, 1000), "problem", Exit.DISK),
    (checks.balance(balance_of(None)), "ok", Exit.ALL_SAVED),
    (checks.balance(balance_of(0.45)), "ok", Exit.ALL_SAVED),
    (checks.balance(balance_of(0.44)), "problem", Exit.NO_CREDITS),
    (checks.balance(balance_of(-3.0)), "problem", Exit.NO_CREDITS),
    (checks.balance(None), "warning", Exit.ALL_SAVED),
    (checks.key("", None, was_asked=False), "problem", Exit.KEY_REFUSED),
    (checks.key("sk-x", None, was_asked=True), "ok", Exit.ALL_SAVED),
    (checks.key("sk-x", None, was_asked=False), "warning", Exit.ALL_SAVED),
    (checks.key("sk-x", AuthenticationError("no"), was_asked=True), "problem", Exit.KEY_REFUSED),
    (checks.key("sk-x", AccessDeniedError("no"), was_asked=True), "problem", Exit.KEY_REFUSED),
    (checks.key("sk-x", ServiceError("no"), was_asked=True), "problem", Exit.SERVICE_UNAVAILABLE),
    (checks.key("sk-x", RateLimitedError("no"), was_asked=True), "problem", Exit.SERVICE_UNAVAILABLE),
    (checks.base_url("https://api.evolink.ai/"), "ok", Exit.ALL_SAVED),
    (checks.base_url("http://127.0.0.1:8787"), "ok", Exit.ALL_SAVED),
    (checks.base_url("https://api.evolink.example"), "warning", Exit.ALL_SAVED),
    (checks.proxies({"PATH": "/bin"}), "ok", Exit.ALL_SAVED),
    (checks.proxies({"https_proxy": "http://u:p@x"}), "warning", Exit.ALL_SAVED),
    (checks.cache("/c", None), "ok", Exit.ALL_SAVED),
    (checks.cache(None, "no home"), "warning", Exit.ALL_SAVED),
    (checks.event_loop(has_uvloop=False, is_windows=False), "ok", Exit.ALL_SAVED),
    (checks.dns("h", ["1.2.3.4"], None, 0.01), "ok", Exit.ALL_SAVED),
    (checks.dns("h", [], "no such name", 0.01), "problem", Exit.SERVICE_UNAVAILABLE),
    (checks.tls("h", version="TLSv1.3", issuer="CA", left_s=90 * 86_400, error=None), "ok", Exit.ALL_SAVED),
    (checks.tls("h", version="TLSv1.3", issuer="CA", left_s=3 * 86_400, error=None), "warning", Exit.ALL_SAVED),
    (checks.tls("h", version=None, issuer="", left_s=0, error="expired"), "problem", Exit.SERVICE_UNAVAILABLE),
]


@pytest.mark.parametrize(("finding", "level", "code"), LEVELS)
def test_levels_and_exit_codes(finding: Finding, level: str, code: Exit) -> None:
    assert (finding.level, finding.code) == (level, code)
    assert finding.words
    if level == "problem":
        assert finding.advice
        assert finding.code


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (checks.clock(-120.2), "120 s behind the gateway's"),
        (checks.clock(75.0), "75 s before the gateway's"),
        (checks.clock(1.2), "as the gateway's, to the second"),
        (checks.balance(balance_of(1.8)), "1.80 credits left: 4 pictures at 1K or 1 pictures at 2K"),
        (checks.balance(balance_of(-1.0)), "-1.00 credits left: 0 pictures at 1K or 0 pictures at 2K"),
        (checks.balance(balance_of(None)), "no limit is set on the credits"),
        (checks.key("sk-evo-secret", None, was_asked=True), "set, 13 characters; the gateway takes it"),
        (checks.proxies({"https_proxy": "u:p", "ALL_PROXY": "x"}), "ALL_PROXY, https_proxy is set, and krea-async "),
    ],
)
def test_words(finding: Finding, words: str) -> None:
    assert finding.words.startswith(words)


def test_missing_packages_are_told_with_their_extra() -> None:
    versions: dict[str, Any] = {"aiohttp": "3.1", "pyarrow": None}
    words = checks.packages(versions, {"pyarrow": "parquet"}).words
    assert "aiohttp 3.1" in words
    assert "pyarrow (pip install 'krea-async[parquet]')" in words
