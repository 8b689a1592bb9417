"""File names: whatever the prompt or the id, the name is safe, short, and nobody else's."""

import itertools
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from krea_async.models import ImageRequest
from krea_async.storage.names import MAX_STEM_BYTES, Names, alternatives, file_stem

# The first draw of a run is slow: hypothesis reads the sources for interesting constants.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

LONGEST_SUFFIX = "-1000000-1000000.webp.part"
WINDOWS_RESERVED = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    f"{device}{digit}" for device in ("COM", "LPT") for digit in "0123456789¹²³"
}

any_text = st.text(st.characters()) | st.text(st.sampled_from("con.COM1¹ -./\\\0:é\u0301\u202e\ufe0f🦊नि\ud800\u3164"))
prompts = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: bool(text.strip()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("names")


def stem_of_id(id_: str) -> str:
    return file_stem(12, ImageRequest("a fox", id=id_))


def assert_safe(stem: str, folder: Path) -> None:
    """One component inside the folder, written and listed there, and valid by Windows' rules."""
    assert stem
    assert not stem.startswith((".", "-", " "))
    assert not stem.endswith((".", " "))
    assert not re.search(r'[<>:"/\\|?*\x00-\x1f\x7f]', stem)
    assert not any(unicodedata.category(ch) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for ch in stem)
    assert stem.partition(".")[0].rstrip(" ").upper() not in WINDOWS_RESERVED
    assert len(stem.encode()) <= MAX_STEM_BYTES
    path = folder / f"{stem}{LONGEST_SUFFIX}"
    assert path.parent == folder
    path.touch()
    assert [found.name for found in folder.iterdir()] == [path.name]
    path.unlink()


@given(prompt=prompts, index=st.integers(0, 2_000_000))
@example(prompt="z" + "\u0301" * 5000, index=1)
@example(prompt="\u0301", index=1)
@example(prompt="/" * 10_000, index=1)
@settings(calm, max_examples=500)
def test_any_prompt_gives_a_safe_stem(folder: Path, prompt: str, index: int) -> None:
    request = ImageRequest(prompt)
    stem = file_stem(index, request)
    assert stem.startswith(f"{index:05d}-")
    assert_safe(stem, folder)
    slug = stem.partition("-")[2]
    assert file_stem(index, ImageRequest(slug)) == stem, "a slug is its own slug"


@given(id_=any_text.filter(lambda text: bool(text) and not re.search("[\ud800-\udfff]", text)))
@example(id_="con" + " " * 300 + ".x")
@example(id_="COM1 .tar.gz")
@example(id_="é" * 300)
@example(id_="..")
@settings(calm, max_examples=1000)
def test_any_id_gives_a_safe_stem_that_is_its_own(folder: Path, id_: str) -> None:
    stem = stem_of_id(id_)
    assert_safe(stem, folder)
    assert stem_of_id(stem) == stem


@given(id_=st.text("abcXYZ019_-.猫é ()+,=@~'", min_size=1, max_size=60))
@settings(calm, max_examples=300)
def test_an_id_that_is_safe_stays(id_: str) -> None:
    id_ = id_.lstrip(".- ").rstrip(". ") or "x"
    assert stem_of_id(id_) == id_


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        ("A fox, in the SNOW!", "a-fox-in-the-snow"),
        ("Größe: 3½ + 4", "größe-3½-4"),
        ("日本語の猫", "日本語の猫"),
        ("नमस्ते दुनिया", "नमस्ते-दुनिया"),
        ("น้ำตก", "น้ำตก"),
        ("cafe\u0301", "café"),
        ("🦊🦊🏽", "untitled"),
        ("❤️ fox", "fox"),
        ("\u202egnp.exe", "gnp-exe"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen-zerowidth"),
        ("../../etc/passwd", "etc-passwd"),
        ("tab\tnew\nline\x00", "tab-new-line"),
        ("\u3164", "untitled"),
        ("con", "con"),
        ("snake_case", "snake-case"),
        ("a" * 10_000, "a" * 60),
        ("猫" * 10_000, "猫" * 50),
        ("b" * 59 + "e\u0301\u0323", "b" * 59),
    ],
)
def test_slugs(prompt: str, slug: str) -> None:
    assert file_stem(7, ImageRequest(prompt)) == f"00007-{slug}"


@pytest.mark.parametrize(
    ("id_", "stem"),
    [
        ("cat_01.v2", "cat_01.v2"),
        ("Hero shot (v2)", "Hero shot (v2)"),
        ("猫：夜", "猫：夜"),  # noqa: RUF001
        ("con", "_con"),
        ("con.txt", "_con.txt"),
        ("Nul .txt", "_Nul .txt"),
        ("COM¹", "_COM¹"),
        ("LPT9.a", "_LPT9.a"),
        ("CONIN$", "_CONIN$"),
        ("console", "console"),
        ("com10", "com10"),
        ("../../etc/passwd", "etc-passwd"),
        ("/abs/path", "abs-path"),
        ("C:\\x\\y", "C-x-y"),
        ("a\0b\n\nc", "a-b-c"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("end. . ", "end"),
        ("..", "00012-a-fox"),
        ("///", "00012-a-fox"),
        (" ", "00012-a-fox"),
        ("\u202e", "00012-a-fox"),
        ("a\u202eb", "ab"),
        ("x" * 1000, "x" * MAX_STEM_BYTES),
        ("é" * 1000, "é" * (MAX_STEM_BYTES // 2)),
        ("n" * (MAX_STEM_BYTES - 1) + "é", "n" * (MAX_STEM_BYTES - 1)),
    ],
)
def test_ids(id_: str, stem: str) -> None:
    assert stem_of_id(id_) == stem


@given(prompt=prompts)
@example(prompt="con")
@example(prompt="COM¹")
@settings(calm, max_examples=300)
def test_a_stem_without_an_index_is_safe_too(folder: Path, prompt: str) -> None:
    stem = file_stem(None, ImageRequest(prompt))
    assert_safe(stem, folder)
    assert file_stem(5, ImageRequest(prompt)) == f"00005-{stem.removeprefix('_')}"


def test_alternatives_carry_the_index_first() -> None:
    assert list(itertools.islice(alternatives("a", 12), 4)) == ["a", "a-00012", "a-00012-2", "a-00012-3"]
    assert list(itertools.islice(alternatives("a", None), 3)) == ["a", "a-2", "a-3"]


def test_claims_are_unique_per_directory_until_released(tmp_path: Path) -> None:
    names = Names()
    assert [names.claim(tmp_path, "cat", index) for index in (1, 2, 2, 2)] == [
        "cat",
        "cat-00002",
        "cat-00002-2",
        "cat-00002-3",
    ]
    assert names.claim(tmp_path / "other", "cat", 5) == "cat"
    names.release(tmp_path, "cat")
    assert names.claim(tmp_path, "cat", None) == "cat"
    assert names.claim(tmp_path, "cat", None) == "cat-2"


@pytest.mark.parametrize("twin", ["Cat é", "CAT É", "cat e\u0301"])
def test_claims_are_compared_as_case_insensitive_file_systems_do(tmp_path: Path, twin: str) -> None:
    names = Names()
    names.claim(tmp_path, "cat é", None)
    assert names.claim(tmp_path / "x" / "..", twin, 3) == f"{twin}-00003"


def test_releasing_what_is_not_claimed_is_a_bug(tmp_path: Path) -> None:
    names = Names()
    names.claim(tmp_path, "a", None)
    names.release(tmp_path, "a")
    with pytest.raises(KeyError):
        names.release(tmp_path, "a")


@given(
    steps=st.lists(st.tuples(st.sampled_from(["a", "A", "ß", "ss", "a-2"]), st.none() | st.integers(0, 3)), max_size=30)
)
def test_no_two_pictures_in_flight_share_a_name(steps: list[tuple[str, int | None]]) -> None:
    names = Names()
    here = Path()
    held = [names.claim(here, stem, index) for stem, index in steps]
    assert len({name.casefold() for name in held}) == len(held)
    for name in held:
        names.release(here, name)
    assert [names.claim(here, stem, None) for stem in ("a", "ß")] == ["a", "ß"]
