"""What somebody meant who mistyped: told when it is near, and never made up."""

import pytest

from krea_async import ImageRequest, InvalidRequestError
from krea_async.models import QUALITIES, SIZES, Size
from krea_async.suggestions import did_you_mean, nearest


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *(
            ("16x9", "16:9"),
            ("16\u00d79", "16:9"),
            ("16 x 9", "16:9"),
            ("16/9", "16:9"),
            ("9 by 16", "9:16"),
            ("4*3", "4:3"),
        ),
        *((" 1:1 ", "1:1"), ("1920x1080", "16:9"), ("1080x1920", "9:16"), ("2048x2048", "1:1"), ("2688x1472", "16:9")),
        *(("8:6", "4:3"), ("18:9", "2:1")),
    ],
)
def test_a_size_in_other_words_is_understood(written: str, meant: str) -> None:
    assert nearest(written, SIZES) == meant


@pytest.mark.parametrize(
    "written", ["3:1", "16:10", "0x9", "9:0", "square", "", "x" * 101, None, 169, b"16x9", "00:00"]
)
def test_what_is_near_no_size_is_told_without_a_guess(written: object) -> None:
    assert nearest(written, SIZES) is None
    assert did_you_mean(written, SIZES) == ""


@pytest.mark.parametrize("size", SIZES)
def test_pixels_never_lead_to_the_other_orientation(size: Size) -> None:
    for quality in QUALITIES:
        width, height = ImageRequest("-", size=size, quality=quality).pixels
        found = nearest(f"{width}x{height}", SIZES)
        if found is not None:
            across, _, down = found.partition(":")
            assert (int(across) > int(down)) is (width > height)


def test_words_are_matched_by_letters_case_and_dashes() -> None:
    assert nearest("2k", QUALITIES) == "2K"
    assert nearest("4K", QUALITIES) is None
    assert nearest("max_credits", ["max-credits", "max-usd"]) == "max-credits"
    assert nearest("rendr", ["render", "resume", "report"]) == "render"
    assert nearest("deploy", ["render", "resume", "report"]) is None


def test_a_request_says_what_may_have_been_meant() -> None:
    with pytest.raises(InvalidRequestError, match=r"size '16x9' is not one of 1:1, .*2:1; did you mean '16:9'?") as bad:
        ImageRequest("a fox", size="16x9")  # type: ignore[arg-type]
    assert bad.value.allowed == f"one of {', '.join(SIZES)}"
    with pytest.raises(InvalidRequestError, match=r"quality '2k' is not one of 1K, 2K; did you mean '2K'?"):
        ImageRequest("a fox", quality="2k")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match=r"unknown field 'promt'; did you mean 'prompt'?"):
        ImageRequest.of({"promt": "a fox"})
    with pytest.raises(InvalidRequestError, match=r"2:1$"):
        ImageRequest("a fox", size="huge")  # type: ignore[arg-type]
