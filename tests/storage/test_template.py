"""Templates of file names: they say what they say, whatever the row, and are refused with the place that is wrong."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_names import any_text, assert_safe, folder, prompts  # noqa: F401 - a fixture is used by its name

from krea_async import BatchPolicy, ImageRequest, InvalidRequestError
from krea_async.models import MAX_SEED, QUALITIES, SIZES
from krea_async.storage.names import MAX_STEM_BYTES, file_stem
from krea_async.storage.template import FIELDS, NameTemplate

FOX = ImageRequest("A fox, in the SNOW!", size="16:9", quality="2K", seed=7, id="Fox/1")


@pytest.mark.parametrize(
    ("template", "stem"),
    [
        ("{index:06d}-{slug}-{seed}.{ext}", "000012-a-fox-in-the-snow-7"),
        ("{index}_{size}_{quality}_{width}x{height}", "12_16x9_2K_2688x1472"),
        ("{id}", "Fox-1"),
        ("{slug:.5}-{seed:04}", "a-fox-0007"),
        ("{slug:.2}|{id:.3}", "a-Fox"),
        ("{{{index}}}", "{12}"),
        ("{index:d}.{quality}.{ext}", "12.2K"),
        ("狐-{index:03d}.", "狐-012"),
        (" .-{seed}", "7"),
        ("con", "_con"),
        ("...", "Fox-1"),
        ("a fox", "a fox"),
    ],
)
def test_a_template_says_what_the_file_is_called(template: str, stem: str) -> None:
    assert NameTemplate.parse(template).stem(12, FOX) == stem


def test_what_a_row_has_not_is_left_out_and_a_seed_of_the_gateways_is_x() -> None:
    template = NameTemplate.parse("{id}-{seed:06d}-{slug}.{ext}")
    assert [template.stem(0, ImageRequest("fox", seed=seed)) for seed in (None, 0, 5)] == [
        "x-fox",
        "x-fox",
        "000005-fox",
    ]


@pytest.mark.parametrize(
    ("template", "marked", "words"),
    [
        ("{index:06d}-{sluge}.{ext}", "sluge}.{ext}", "unknown field 'sluge'; did you mean 'slug'?"),
        ("{prompt}", "prompt}", "did you mean 'slug'?"),
        ("{Index}", "Index}", "did you mean 'index'?"),
        ("{date}", "date}", "unknown field 'date'"),
        ("{index.__class__}", ".__class__}", "'.__class__' cannot follow 'index'"),
        ("{index[0]}", "[0]}", "'[0]' cannot follow 'index'"),
        ("{slug!r}", "!r}", "'!r' cannot follow 'slug'"),
        ("{slug!r:>{width}}", "{slug!r:>{width}}", "not closed"),
        ("{index:{width}}", "{index:{width}}", "not closed"),
        ("{index:6}", "6}", "'6' is no way to write 'index'"),
        ("{index:>99999999}", ">99999999}", "is no way to write"),
        ("{index:0999999999d}", "0999999999d}", "is no way to write"),
        ("{index:,}", ",}", "is no way to write"),
        ("{slug:06d}", "06d}", "is no way to write 'slug'"),
        ("{slug:}", "}", "is no way to write 'slug'"),
        ("a-{}", "}", "the field has no name"),
        ("a-{0}", "0}", "unknown field '0'"),
        ("{index", "{index", "not closed"),
        ("index}", "}", "not opened"),
        ("{ext}-{index}", "ext}-{index}", "only at the very end"),
        ("{index}{ext}", "ext}", "only at the very end"),
        ("{quality}/{index}", "/{index}", "one directory"),
        ("..\\{index}", "\\{index}", "one directory"),
        ("{index}.PNG", ".PNG", "the extension follows the picture"),
        ("", "", "gives no name"),
        (".{ext}", ".{ext}", "gives no name"),
    ],
)
def test_a_template_that_is_wrong_is_refused_with_its_place(template: str, marked: str, words: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        BatchPolicy(name=template)
    first, shown, caret = caught.value.message.splitlines()
    assert words in first
    assert "allowed: " in first
    assert shown == f"  {template}"
    assert template[caret.index("^") - 2 :] == marked
    assert (caught.value.field, caught.value.value) == ("name", template)


@pytest.mark.parametrize("value", [7, b"{index}", ["{index}"]])
def test_what_is_no_text_is_no_template(value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="is no template"):
        BatchPolicy(name=value)


REQUESTS = st.builds(
    ImageRequest,
    prompts,
    size=st.sampled_from(SIZES),
    quality=st.sampled_from(QUALITIES),
    seed=st.none() | st.integers(0, MAX_SEED),
    id=st.none() | any_text.filter(lambda text: bool(text) and not re.search("[\ud800-\udfff]", text)),
)
TEMPLATES = st.lists(
    st.sampled_from([f"{{{name}}}" for name in FIELDS if name != "ext"] + ["{index:06d}", "{slug:.7}", "{id:.3}", "{{"])
    | any_text.map(lambda text: re.sub(r"[{}/\\]", "", text)),
    min_size=1,
).map("".join)


@given(template=TEMPLATES, request_=REQUESTS, index=st.integers(0, 2_000_000))
@example(template="{id}", request_=ImageRequest("x", id="é" * 300), index=1)
@example(template="{id} {id} {id}", request_=ImageRequest("x", id="z" + "\u0301" * 90), index=1)
@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=500)
def test_any_row_gets_a_safe_name_and_the_journal_gives_back_the_same(
    folder: Path,  # noqa: F811
    template: str,
    request_: ImageRequest,
    index: int,
) -> None:
    try:
        parsed = NameTemplate.parse(template)
    except InvalidRequestError as error:
        assert "gives no name" in error.message or "the extension follows" in error.message  # noqa: PT017
        return
    stem = parsed.stem(index, request_)
    assert_safe(stem, folder)
    assert file_stem(0, ImageRequest("another"), stem) == stem


@given(st.text("{}ind.ex:[]!06d /\\slug", max_size=20))
def test_a_template_is_a_name_or_told_why_not_with_a_place_in_it(text: str) -> None:
    try:
        stem = NameTemplate.parse(text).stem(3, FOX)
    except InvalidRequestError as error:
        _, shown, caret = error.message.splitlines()
        assert shown == f"  {text}"
        assert 2 <= caret.index("^") <= 2 + len(text)
    else:
        assert 0 < len(stem.encode()) <= MAX_STEM_BYTES


@pytest.mark.parametrize("noted", ["../../etc/passwd", "/etc/passwd", "con", ".hidden", "a\0b", "x" * 999])
def test_a_name_in_a_journal_is_not_believed(tmp_path: Path, noted: str) -> None:
    """Whoever hands on a directory may have written anything, with a right checksum."""
    assert_safe(file_stem(0, FOX, noted), tmp_path)
