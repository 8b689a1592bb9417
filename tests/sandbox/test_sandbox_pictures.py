import zlib
from io import BytesIO
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from krea_async.models import QUALITIES, SIZES, ImageRequest, Quality, Size
from krea_async.sandbox.pictures import draw


def opened(png: bytes) -> Image.Image:
    Image.open(BytesIO(png)).verify()
    picture = Image.open(BytesIO(png))
    picture.load()
    return picture


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("size", SIZES)
def test_a_picture_is_a_png_of_the_documented_size(size: Size, quality: Quality) -> None:
    pixels = ImageRequest("a fox", size=size, quality=quality).pixels
    picture = opened(draw(*pixels, size.encode()).complete("x"))
    assert (picture.format, picture.size) == ("PNG", pixels)


def test_equal_scenes_are_equal_bytes_and_others_look_different() -> None:
    """Different in most of their pixels, not only in a comment."""
    first, again, other = (draw(1024, 1024, scene).complete("x") for scene in (b"1", b"1", b"2"))
    assert first == again
    one, two = (opened(png).convert("L").tobytes() for png in (first, other))
    assert sum(a != b for a, b in zip(one, two, strict=True)) > len(one) / 2


def test_a_picture_has_something_to_look_at() -> None:
    for number in range(20):
        colours = opened(draw(1024, 1024, bytes([number])).complete("x")).convert("RGB").getcolors(1 << 20)
        assert colours is not None
        assert len(colours) > 30
        assert max(count for count, _ in colours) < 1024 * 1024 / 2


@settings(max_examples=60, deadline=None)
@given(width=st.integers(100, 400), height=st.integers(100, 400), scene=st.binary(max_size=16))
def test_any_scene_fills_any_size(width: int, height: int, scene: bytes) -> None:
    assert opened(draw(width, height, scene).complete("x")).size == (width, height)


def test_the_comment_makes_the_file_its_own_and_changes_no_pixel() -> None:
    drawing = draw(1024, 1024, b"1")
    one, two = drawing.complete("one"), drawing.complete("two")
    assert one != two
    assert opened(one).tobytes() == opened(two).tobytes()
    assert opened(one).info["Comment"] == "one"


def test_noise_makes_the_file_larger_and_changes_no_pixel() -> None:
    drawing, noise = draw(1024, 1024, b"1"), Random(1).randbytes(100_000)
    padded = drawing.padded(noise).complete("x")
    assert len(padded) == len(drawing.complete("x")) + len(noise) + 12
    assert opened(padded).tobytes() == opened(drawing.complete("x")).tobytes()
    assert len(zlib.compress(padded)) > 99_000
