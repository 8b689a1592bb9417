"""How long a reply asks us to wait: every way to say it, and nothing that stops a session for a day."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krea_async.gateway.retry_after import MAX_RETRY_AFTER_S, retry_after_s

LONG_AGO = "Sun, 06 Nov 1994 08:49:37 GMT"
DATE_LIKE = st.from_regex(
    r"[A-Z][a-z]{2}, ?[0-9]{1,12} (Jan|Feb|Nov|[a-z]{3}) [0-9]{1,12} [0-9:.]{0,12} ?(GMT|[+-][0-9]{1,12}|[A-Z]{0,4})"
)


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [("7", 7.0), ("0", 0.0), ("1.5", 1.5), ("0.250", 0.25), (" 12 ", 12.0), ("+3", 3.0), ("300", 300.0)],
)
def test_the_header_names_seconds_with_or_without_a_fraction(value: str, wait_s: float) -> None:
    assert retry_after_s({"Retry-After": value}, "") == wait_s


@pytest.mark.parametrize("value", ["-1", "-0.001", "-99999999999"])
def test_a_pause_in_the_past_is_no_pause(value: str) -> None:
    assert retry_after_s({"Retry-After": value}, "") == 0.0


@pytest.mark.parametrize("value", ["301", "86400", "1e9", "9" * 300, "9" * 5000 + ".0"])
def test_a_pause_is_shortened_to_five_minutes(value: str) -> None:
    assert retry_after_s({"Retry-After": value}, "") in {MAX_RETRY_AFTER_S, None}
    assert MAX_RETRY_AFTER_S == 300.0


@pytest.mark.parametrize("value", ["nan", "NaN", "-nan", "inf", "-inf", "Infinity", "soon", "", "12 parsecs", "0x10"])
def test_a_header_that_says_nothing_useful_counts_as_none(value: str) -> None:
    assert retry_after_s({"Retry-After": value, "Date": LONG_AGO}, "") is None
    assert retry_after_s({"Retry-After": value, "Date": LONG_AGO}, "retry after 60 seconds") == 60.0


def test_no_header_and_no_words_are_none() -> None:
    assert retry_after_s({}, "") is None
    assert retry_after_s({"Date": LONG_AGO}, "Too many requests") is None


def test_the_header_goes_before_the_words() -> None:
    assert retry_after_s({"Retry-After": "2"}, "retry after 60 seconds") == 2.0


@pytest.mark.parametrize(
    ("date", "wait_s"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:50:07 GMT", 30.0),
        ("Sun, 06 Nov 1994 08:49:07 GMT", 0.0),
        ("Sun, 06 Nov 1994 09:50:07 +0100", 30.0),
        ("Mon, 07 Nov 1994 08:49:37 GMT", 300.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 300.0),
    ],
)
def test_a_date_counts_from_the_reply_s_own_date_whatever_our_clock_says(date: str, wait_s: float) -> None:
    assert retry_after_s({"Retry-After": date, "Date": LONG_AGO}, "") == wait_s


@pytest.mark.parametrize("now", [None, "", "yesterday", "Sun, 99 Nov 1994 08:49:37 GMT"])
def test_a_date_without_anything_to_count_from_is_none(now: str | None) -> None:
    headers = {"Retry-After": LONG_AGO} if now is None else {"Retry-After": LONG_AGO, "Date": now}
    assert retry_after_s(headers, "") is None


@pytest.mark.parametrize(
    ("words", "wait_s"),
    [
        ("retry after 60 seconds", 60.0),
        ("Too many requests, please retry after 1 second.", 1.0),
        ("Retry after 2.5s", 2.5),
        ("RETRY AFTER 20 SECS", 20.0),
        ("Rate limit reached. Please try again in 850ms.", 0.85),
        ("try again in 500 milliseconds", 0.5),
        ("retry after 2 minutes", 120.0),
        ("Retry in 3 min", 180.0),
        ("please try again in about 1 m", 60.0),
        ("retry after 1 hour", 300.0),
        ("retry after 7", 7.0),
        ("you may retry this request after 9 seconds", 9.0),
    ],
)
def test_the_words_of_the_error_name_a_pause_with_its_unit(words: str, wait_s: float) -> None:
    assert retry_after_s({}, words) == pytest.approx(wait_s)


@pytest.mark.parametrize("words", ["retry after 2 days", "try again in 1 day", "try again in 3 weeks"])
def test_a_unit_that_is_not_understood_is_not_taken_for_seconds(words: str) -> None:
    assert retry_after_s({}, words) in {None, MAX_RETRY_AFTER_S}


@pytest.mark.parametrize(
    "words", ["limit: 60 per minute", "after 60 seconds", "retry later", "retry after a while", "retried after 5 s"]
)
def test_numbers_that_name_no_pause_are_left_alone(words: str) -> None:
    assert retry_after_s({}, words) is None


@given(
    value=st.one_of(st.text(), st.floats().map(str), st.integers().map(str), DATE_LIKE, st.just(LONG_AGO)),
    date=st.one_of(st.text(), DATE_LIKE, st.just(LONG_AGO)),
    message=st.one_of(st.text(), st.from_regex(r"[rR]etry (after|in) [0-9]{1,400}(\.[0-9]{1,400})? ?(ms|s|m|h|d)?")),
)
def test_whatever_is_said_the_answer_is_none_or_0_to_300_seconds(value: str, date: str, message: str) -> None:
    for headers in ({"Retry-After": value, "Date": date}, {"Retry-After": value}, {}):
        wait_s = retry_after_s(headers, message)
        assert wait_s is None or 0.0 <= wait_s <= 300.0
