"""Results in a notebook: a picture shows itself, small enough for a file that is sent around; hostile text is text."""

import base64
import io
import os
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from krea_async import (
    BatchReport,
    ContentPolicyError,
    GeneratedImage,
    ImageRequest,
    KreaError,
    Limit,
    UnknownOutcome,
)
from krea_async.display import EMBED_BYTES, EMBED_PX, progress_html, report_html
from krea_async.meter import Figures

HOSTILE = "<script>alert(1)</script>\"' onerror=x <img src=x> &amp; </table></div>"


class Tags(HTMLParser):
    """The tags that a browser would see, with their attributes' names, and the text; unbalanced tags fail."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def assert_harmless(html: str) -> str:
    """Only our own tags and attributes; gives the text."""
    seen = Tags(html)
    assert seen.tags <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "div", "p", "progress"}
    assert seen.attributes <= {"style", "scope", "max", "value", "aria-label"}
    return seen.words


def picture(path: Path, size: tuple[int, int], form: str, *, mode: str = "RGB", noisy: bool = False) -> GeneratedImage:
    image = Image.frombytes("RGB", size, os.urandom(3 * size[0] * size[1])) if noisy else Image.new("RGB", size, "teal")
    image.convert(mode).save(path, form)
    facts: dict[str, Any] = {"width": size[0], "height": size[1], "bytes": path.stat().st_size}
    return GeneratedImage(status="saved", request=ImageRequest("a fox"), path=path, paths=(path,), **facts)


def bundle(value: GeneratedImage) -> dict[str, str]:
    return value._repr_mimebundle_()


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "mime"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")])
def test_a_small_picture_is_shown_as_it_is(tmp_path: Path, form: str, mime: str) -> None:
    path = tmp_path / "fox.picture"  # the content says what it is, not the name
    shown = bundle(picture(path, (64, 48), form))
    assert {*shown} == {mime}
    assert base64.b64decode(shown[mime]) == path.read_bytes()


@pytest.mark.parametrize(
    ("mode", "mime", "form"), [("RGB", "image/jpeg", "JPEG"), ("RGBA", "image/png", "PNG"), ("P", "image/jpeg", "JPEG")]
)
def test_a_large_picture_is_shown_smaller(tmp_path: Path, mode: str, mime: str, form: str) -> None:
    """5 MB of a notebook for each picture would be too much."""
    image = picture(tmp_path / "fox.png", (1_500, 1_000), "PNG", mode=mode, noisy=True)
    assert image.bytes > EMBED_BYTES
    shown = bundle(image)
    assert {*shown} == {mime}
    data = base64.b64decode(shown[mime])
    small = Image.open(io.BytesIO(data))
    assert (small.format, small.size) == (form, (EMBED_PX, 683))
    assert mode == "RGBA" or len(data) < image.bytes / 2


def test_without_pillow_a_picture_is_shown_whole_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    middle = picture(tmp_path / "middle.png", (600, 500), "PNG", noisy=True)
    large = picture(tmp_path / "large.png", (1_400, 1_200), "PNG", noisy=True)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert base64.b64decode(bundle(middle)["image/png"]) == (tmp_path / "middle.png").read_bytes()
    words = assert_harmless(bundle(large)["text/html"])
    assert "1400 x 1200" in words


def test_what_cannot_be_shown_is_told_instead(tmp_path: Path) -> None:
    gone = GeneratedImage(status="saved", path=tmp_path / "gone.png", width=1, height=1)
    text, folder, cut = tmp_path / "text.png", tmp_path / "folder.png", tmp_path / "cut.png"
    text.write_text(HOSTILE)
    folder.mkdir()
    picture(cut, (900, 900), "PNG", noisy=True)
    cut.write_bytes(cut.read_bytes()[:500_000])
    for path in (text, folder, cut):
        shown = bundle(GeneratedImage(status="saved", path=path, width=1, height=1))
        assert {*shown} == {"text/html"}, path
        assert_harmless(shown["text/html"])
    assert "gone.png" in assert_harmless(bundle(gone)["text/html"])


def test_a_picture_that_was_there_already_is_shown_too(tmp_path: Path) -> None:
    picture(tmp_path / "fox.png", (8, 8), "PNG")
    assert {*bundle(GeneratedImage(status="skipped", path=tmp_path / "fox.png"))} == {"image/png"}


def test_a_failed_one_shows_why() -> None:
    error = ContentPolicyError(HOSTILE, code="content_policy_violation", charged="no")
    request = ImageRequest(HOSTILE)
    shown = bundle(GeneratedImage(index=7, status="failed", request=request, task_id="task-1", error=error))
    words = assert_harmless(shown["text/html"])
    for part in ("row 7", "failed", "content_policy_violation", HOSTILE, "task-1"):
        assert part in words


def test_its_text_is_what_it_was() -> None:
    """In a terminal nothing has changed, and no link is shown anywhere."""
    image = GeneratedImage(
        index=1, status="failed", url="https://images/secret?signature=1", error=KreaError("x" * 999)
    )
    assert "text/plain" not in bundle(image)
    assert "signature" not in str(bundle(image))
    assert repr(image).startswith("GeneratedImage(index=1, request=None, status='failed'")
    assert repr(BatchReport(saved=3)).startswith("BatchReport(saved=3, failed=0")
    assert "x" * 400 not in bundle(image)["text/html"]


# --- reports ----------------------------------------------------------------------------------------------------------


def test_a_report_is_a_table() -> None:
    report = BatchReport(saved=1_234, credits=555.3, usd=8.27, wall_s=61.0, limit=Limit("rate", 5.0))
    words = assert_harmless(report._repr_html_())
    for part in ("BatchReport", "1,234", "555.30 ($8.27)", "1:01", "5/s, rate-like"):
        assert part in words
    assert "refunded" not in words  # only what there is to say


def test_a_report_of_trouble_names_it_and_is_bounded() -> None:
    errors = {f"code {number}": KreaError(HOSTILE) for number in range(50)}
    rows = tuple(
        UnknownOutcome(index=n, prompt=HOSTILE, task_id=HOSTILE, charged="unknown", reason=HOSTILE) for n in range(999)
    )
    report = BatchReport(
        failed=50,
        failures=dict.fromkeys(errors, 1),
        examples=errors,
        unknown=rows,
        open_tasks=rows,
        stopped_by=KreaError(HOSTILE),
    )
    html = report_html(report)
    words = assert_harmless(html)
    assert HOSTILE in words
    assert "and 30 more" in words
    assert len(html) < 60_000


# --- progress ---------------------------------------------------------------------------------------------------------


@given(st.text(), st.integers(0, 10**7) | st.none(), st.integers(0, 10**7), st.booleans())
def test_progress_is_harmless_whatever_the_gateway_says(reason: str, rows: int | None, saved: int, over: bool) -> None:
    figures = Figures(
        rows=rows,
        submitted=0,
        generating=0,
        generated=0,
        in_flight=3,
        saved=saved,
        failed=1,
        skipped=0,
        already_saved=0,
        credits=0.0,
        credits_projected=None,
        rate=None,
        eta_s=None,
        posts=0,
        rate_limited=0,
        limit=None,
        reasons=((f"{HOSTILE}{reason}", 1),),
        elapsed_s=0.0,
    )
    words = assert_harmless(progress_html(figures, over=over))
    assert f"{saved:,}" in words
    assert ", ended" not in words or over
