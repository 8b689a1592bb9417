"""What a session refuses to be told, and that it tells nobody its key."""

import logging
from pathlib import Path
from typing import Any

import pytest

from krea_async import AuthenticationError, InvalidRequestError, KreaError, KreaSession
from krea_async.sandbox import Sandbox

pytestmark = pytest.mark.anyio

SECRET = "sk-evo-1234567890-very-secret"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVOLINK_API_KEY", raising=False)
    monkeypatch.delenv("EVOLINK_BASE_URL", raising=False)


async def test_key_and_base_url_come_from_the_environment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLINK_API_KEY", f"{sandbox.key}\n")
    monkeypatch.setenv("EVOLINK_BASE_URL", sandbox.url)
    async with KreaSession() as session:
        await session.credits()
    assert sandbox.ledger.statuses["credits", 200] == 1


async def test_arguments_outrank_the_environment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLINK_API_KEY", "sk-wrong")
    monkeypatch.setenv("EVOLINK_BASE_URL", "https://api.invalid")
    async with KreaSession(sandbox.key, base_url=f"{sandbox.url}/") as session:
        await session.credits()
    assert sandbox.ledger.statuses["credits", 200] == 1


@pytest.mark.parametrize("key", [None, "", "  \n"])
def test_a_missing_key_is_an_error_that_says_where_to_put_it(key: str | None) -> None:
    with pytest.raises(AuthenticationError, match="EVOLINK_API_KEY"):
        KreaSession(key)


@pytest.mark.parametrize("key", [f"{SECRET}\nX-Evil: 1", f"{SECRET}\rx", f"“{SECRET}”", f"{SECRET} x", f"{SECRET}\0"])
def test_a_key_that_cannot_be_one_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        KreaSession(key)
    assert SECRET not in f"{caught.value!r} {caught.value} {caught.value.__dict__}"


@pytest.mark.parametrize("key", [f'"{SECRET}"', f"'{SECRET}'"])
def test_a_key_copied_with_its_quotes_is_refused(key: str) -> None:
    """The message asks whether the quotes were copied; so they must be noticed."""
    with pytest.raises(AuthenticationError) as caught:
        KreaSession(key)
    assert SECRET not in f"{caught.value!r} {caught.value}"


def test_white_space_around_a_key_is_no_part_of_it() -> None:
    KreaSession(f" {SECRET}\r\n")


def test_the_key_is_in_no_repr() -> None:
    session = KreaSession(SECRET)
    assert SECRET not in repr(session)
    assert SECRET not in "".join(map(repr, vars(session).values()))


async def test_the_key_is_in_no_error_and_no_log(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even when the gateway's own answer repeats it."""
    caplog.set_level(logging.DEBUG)
    async with KreaSession(SECRET, base_url=sandbox.url) as session:
        with pytest.raises(AuthenticationError) as refused:
            await session.generate("a fox", to=tmp_path)
        with pytest.raises(KreaError) as again:
            await session.submit("a fox")
    shown = f"{refused.value!r} {refused.value} {refused.value.__dict__} {again.value!r} {again.value} {caplog.text}"
    assert SECRET not in shown


@pytest.mark.parametrize(
    "url",
    ["http://api.evolink.ai", "http://8.8.8.8", "ftp://api.evolink.ai", "api.evolink.ai", "https://", "https://a?b=c"],
)
def test_a_base_url_that_cannot_be_or_would_show_the_key_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        KreaSession(SECRET, base_url=url)
    assert caught.value.field == "base_url"
    assert SECRET not in str(caught.value)


def test_credentials_in_a_base_url_are_refused_and_not_shown() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        KreaSession("sk-evo", base_url=f"https://user:{SECRET}@api.evolink.ai")
    assert SECRET not in f"{caught.value} {caught.value!r} {caught.value.value}"


@pytest.mark.parametrize(
    "url", ["https://api.evolink.ai", "http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"]
)
def test_base_urls_that_keep_the_key_safe_are_taken(url: str) -> None:
    assert url in repr(KreaSession(SECRET, base_url=url))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("concurrency", 0),
        ("concurrency", -1),
        ("concurrency", 1.5),
        ("concurrency", "8"),
        ("concurrency", True),
        ("downloads", 0),
        ("downloads", None),
        ("downloads", 2.0),
        ("rate", 0),
        ("rate", -0.5),
        ("rate", float("nan")),
        ("rate", float("inf")),
        ("rate", "2"),
        ("rate", True),
        ("task_timeout_s", 0),
        ("task_timeout_s", -1.0),
        ("task_timeout_s", float("inf")),
        ("task_timeout_s", "60"),
        ("task_timeout_s", None),
    ],
)
def test_a_setting_that_cannot_be_is_named_before_anything_is_sent(name: str, value: object) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(InvalidRequestError) as caught:
        KreaSession(SECRET, **options)
    assert caught.value.field == name
    assert caught.value.value is value
    assert caught.value.allowed
    assert name in str(caught.value)
