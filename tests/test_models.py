"""Requests: one that exists is valid, and a refused one names its field, its value and what it may be."""

import json
import logging
import pickle
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from krea_async.errors import InvalidRequestError
from krea_async.models import (
    MAX_CALLBACK_URL_CHARS,
    MAX_SEED,
    QUALITIES,
    REQUEST_FIELDS,
    SIZES,
    ImageRequest,
    Task,
    TaskError,
)

# The first draw of a run is slow: hypothesis reads the sources for interesting constants.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PIXELS = {
    "1:1": ((1024, 1024), (2048, 2048)),
    "4:3": ((1152, 896), (2304, 1728)),
    "3:4": ((896, 1152), (1728, 2304)),
    "5:4": ((1152, 896), (2240, 1792)),
    "4:5": ((896, 1152), (1792, 2240)),
    "2:3": ((832, 1280), (1664, 2496)),
    "3:2": ((1280, 832), (2496, 1664)),
    "9:16": ((768, 1344), (1472, 2688)),
    "16:9": ((1344, 768), (2688, 1472)),
    "1:2": ((704, 1472), (1408, 2816)),
    "2:1": ((1472, 704), (2816, 1408)),
}


def request(prompt: Any = "a fox", **fields: Any) -> ImageRequest:
    return ImageRequest(prompt, **fields)


def refusal(prompt: Any = "a fox", **fields: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        request(prompt, **fields)
    return caught.value


def test_a_bare_prompt_has_the_documented_defaults() -> None:
    assert attrs.asdict(ImageRequest("a fox")) == {
        "prompt": "a fox",
        "size": "1:1",
        "quality": "1K",
        "seed": None,
        "nsfw_check": False,
        "callback_url": None,
        "id": None,
    }
    assert REQUEST_FIELDS == ("prompt", "size", "quality", "seed", "nsfw_check", "callback_url", "id")


def test_requests_are_frozen_values() -> None:
    one = ImageRequest("a fox", seed=1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        one.seed = 2  # type: ignore[misc]
    assert one == ImageRequest("a fox", seed=1)
    assert len({one, ImageRequest("a fox", seed=1), ImageRequest("a fox")}) == 2
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(InvalidRequestError):
        attrs.evolve(one, seed=-1)


def test_only_the_prompt_is_positional() -> None:
    with pytest.raises(TypeError):
        ImageRequest("a fox", "1:1")  # type: ignore[call-arg]


@pytest.mark.parametrize("prompt", ["", "  \n\t", None, 7, b"a fox", ["a fox"], True])
def test_a_prompt_is_a_text_with_something_in_it(prompt: object) -> None:
    error = refusal(prompt)
    assert (error.field, error.allowed) == ("prompt", "a non-empty text")


def test_a_prompt_loses_the_blanks_around_it() -> None:
    assert ImageRequest("  a\nfox \u3000").prompt == "a\nfox"


def test_a_prompt_must_fit_into_utf8() -> None:
    assert "surrogate" in str(refusal("a \ud83d fox"))


def test_a_long_prompt_is_a_warning_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ImageRequest("x" * 2000)
        assert not caplog.records
        ImageRequest("x" * 2001)
    [record] = caplog.records
    assert (record.name, record.levelname) == ("krea_async.models", "WARNING")
    assert "2001 characters" in record.getMessage()
    assert len(record.getMessage()) < 250


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("quality", QUALITIES)
def test_the_22_pixel_sizes(size: str, quality: str) -> None:
    assert request(size=size, quality=quality).pixels == PIXELS[size][QUALITIES.index(quality)]


def test_the_sizes_and_qualities_are_the_documented_ones() -> None:
    assert set(SIZES) == set(PIXELS)
    assert len(SIZES) == 11
    assert QUALITIES == ("1K", "2K")


def test_prices() -> None:
    assert (request().credits, request().usd) == (0.45, 0.0067)
    assert (request(quality="2K").credits, request(quality="2K").usd) == (1.8, 0.027)


@pytest.mark.parametrize(
    ("size", "meant"),
    [
        ("16x9", "; did you mean '16:9'?"),
        ("1:1 ", "; did you mean '1:1'?"),
        *((size, "") for size in ("", "21:9", None, 1, ["1:1"], b"1:1")),
    ],
)
def test_other_sizes_are_refused(size: object, meant: str) -> None:
    error = refusal(size=size)
    assert (error.field, error.value, error.allowed) == ("size", size, f"one of {', '.join(SIZES)}")
    assert str(error) == f"size {size!r} is not one of {', '.join(SIZES)}{meant}"


@pytest.mark.parametrize("quality", ["1k", "4K", "", None, 1])
def test_other_qualities_are_refused(quality: object) -> None:
    error = refusal(quality=quality)
    assert (error.field, error.value, error.allowed) == ("quality", quality, "one of 1K, 2K")


@pytest.mark.parametrize("seed", [None, 0, 1, MAX_SEED])
def test_seeds_at_the_borders(seed: int | None) -> None:
    assert request(seed=seed).seed == seed


@pytest.mark.parametrize(
    "seed",
    [-1, MAX_SEED + 1, True, False, 7.0, "7", float("nan"), [7], 10**5000, -(10**5000)],
    ids=lambda s: type(s).__name__,
)
def test_other_seeds_are_refused(seed: object) -> None:
    error = refusal(seed=seed)
    assert error.field == "seed"
    assert error.value is seed
    assert error.allowed == "a whole number from 0 to 1048576"


def test_nsfw_check_is_a_bool() -> None:
    assert request(nsfw_check=True).nsfw_check is True
    for value in (1, 0, "true", None):
        assert refusal(nsfw_check=value).field == "nsfw_check"


def test_an_id_is_none_or_a_text() -> None:
    assert request(id="row 1").id == "row 1"
    for value in ("", 7, b"x", ["x"]):
        assert refusal(id=value).field == "id"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/cb?x=1#y",
        "https://example.com:8443/cb",
        "HTTPS://EXAMPLE.com/",
        "https://bücher.example/cb",
        "https://8.8.8.8/cb",
        "https://[2606:4700:4700::1111]/cb",
        "https://example.com/user@home",
        "https://example.com/" + "x" * (MAX_CALLBACK_URL_CHARS - 20),
        None,
    ],
)
def test_callback_urls(url: str | None) -> None:
    assert request(callback_url=url).callback_url == url


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "https"),
        ("example.com/cb", "https"),
        ("http://example.com/cb", "https"),
        ("ftp://example.com/cb", "https"),
        ("https:///cb", "https"),
        ("https:example.com", "https"),
        ("//example.com/cb", "https"),
        ("https://example.com/" + "x" * (MAX_CALLBACK_URL_CHARS - 19), "at most 2048 characters"),
        ("https://example.com/a b", "spaces"),
        ("https://example.com/\n", "control"),
        ("https://example.com\\.127.0.0.1/", "backslash"),
        ("https://exam\u200bple.com/", "control"),
        ("https://example.com:99999/", "read"),
        ("https://example.com:x/", "read"),
        ("https://[::1/", "read"),
        ("https://localhost/cb", "public"),
        ("https://LOCALHOST.:8443/cb", "public"),
        ("https://127.0.0.1/cb", "public"),
        ("https://2130706433/cb", "public"),
        ("https://0x7f.1/cb", "public"),
        ("https://[::ffff:10.0.0.1]/cb", "public"),
        ("https://[fd00::1]:443/cb", "public"),
        ("https://100.64.0.1/cb", "public"),
        ("https://127。0。0。1/cb", "public"),
        ("https://%6cocalhost/cb", "public"),
        (7, "at most"),
        (b"https://example.com", "at most"),
    ],
)
def test_other_callback_urls_are_refused(url: object, told: str) -> None:
    error = refusal(callback_url=url)
    assert error.field == "callback_url"
    assert told in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:s3cret@example.com/cb",
        "https://s3cret@example.com/cb",
        "https://:s3cret@127.0.0.1/cb",
        "http://user:s3cret@example.com/cb",
        "https://user:s3cret@example.com/a b",
        "https://user:s3cret@example.com:99999/",
        "https://user:s3cret＠example.com/",  # noqa: RUF001
        "https://user:s3cret@example.com/" + "x" * 3000,
        "https://[user:s3cret@example.com/",
        "https://user:s3cret\\@example.com/",
    ],
)
def test_credentials_are_refused_and_never_shown(url: str) -> None:
    error = refusal(callback_url=url)
    assert error.field == "callback_url"
    assert "s3cret" not in f"{error} {error!r} {vars(error)}"


def test_a_long_value_is_shown_in_part_and_kept_whole() -> None:
    error = refusal(size="x" * 100_000)
    assert len(str(error)) < 250
    assert error.value == "x" * 100_000


def test_of_takes_a_request_a_prompt_or_a_mapping() -> None:
    one = ImageRequest("a fox", seed=7)
    assert ImageRequest.of(one) is one
    assert ImageRequest.of("a fox") == ImageRequest("a fox")
    assert ImageRequest.of({"prompt": "a fox", "seed": 7}) == one
    assert ImageRequest.of(MappingProxyType({"prompt": "a fox", "seed": 7})) == one


@pytest.mark.parametrize("value", [None, 7, ["a fox"], b"a fox", ("a", "b")])
def test_of_refuses_other_things(value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="is no prompt") as caught:
        ImageRequest.of(value)
    assert caught.value.field == "prompt"


@pytest.mark.parametrize("name", ["sise", "", 7, None, "x" * 100_000], ids=["sise", "empty", "7", "None", "long"])
def test_of_names_an_unknown_field_and_the_known_ones(name: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ImageRequest.of({"prompt": "a fox", name: 1})
    assert (caught.value.field, caught.value.value) == (str(name), 1)
    assert caught.value.allowed == f"one of {', '.join(REQUEST_FIELDS)}"
    assert len(str(caught.value)) < 300


def test_of_misses_a_prompt() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ImageRequest.of({"size": "1:1"})
    assert caught.value.field == "prompt"


json_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.lists(st.integers())


@calm
@given(fields=st.dictionaries(st.sampled_from([*REQUEST_FIELDS, "x"]), json_values))
def test_any_mapping_is_a_request_or_refused(fields: dict[str, Any]) -> None:
    """Whatever JSON says: a request that can be sent, or an InvalidRequestError, and nothing else."""
    with suppress(InvalidRequestError):
        assert json.dumps(attrs.asdict(ImageRequest.of(fields))).encode()


@pytest.mark.parametrize(
    ("status", "finished"),
    [
        ("pending", False),
        ("processing", False),
        ("weird", False),
        ("completed", True),
        ("failed", True),
        ("cancelled", True),
    ],
)
def test_tasks_know_whether_they_are_finished(status: str, finished: bool) -> None:
    task = Task(id="t", status=status, error=TaskError(code="timeout", message="late"))
    assert task.finished is finished
    assert (task.progress, task.results, task.replayed) == (0, (), False)
