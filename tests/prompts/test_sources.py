"""Several files, globs and standard input are one list: in an order that anybody can foretell, each file once."""

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sheets import problems_of, prompts_of, rows_of, sheet

from krea_async.errors import InvalidRequestError
from krea_async.models import ImageRequest
from krea_async.prompts import PromptList
from krea_async.prompts.sources import HELD_FILES, _natural


def test_files_are_one_list_in_the_order_in_which_they_are_named(tmp_path: Path) -> None:
    second = sheet(tmp_path, "a.txt", "three\n")
    first = sheet(tmp_path, "b.csv", "prompt\none\ntwo\n")
    with PromptList.open(first, second) as rows:
        assert list(rows.check()) == []
        assert list(rows) == [ImageRequest(prompt) for prompt in ("one", "two", "three")]
        assert (rows.rows, rows.listed, rows.name) == (3, 3, f"{first} and 1 more")
        assert rows.preview(2)[1].index == 1
        assert rows.preview(9)[2].request.prompt == "three"


def test_a_globs_files_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("p10", "p9", "p1", "q1", "p09", "p"):
        sheet(tmp_path, f"lists/{name}.txt", f"{name}\n")
    sheet(tmp_path, "lists/.hidden.txt", "hidden\n")
    (tmp_path / "lists" / "directory.txt").mkdir()
    assert prompts_of(str(tmp_path / "lists" / "*.txt")) == ["p1", "p09", "p9", "p10", "p", "q1"]


def test_two_stars_are_all_directories_below(tmp_path: Path) -> None:
    for place in ("a.txt", "x/b.txt", "x/y/c.txt"):
        sheet(tmp_path, place, f"{place}\n")
    assert sorted(prompts_of(str(tmp_path / "**" / "*.txt"))) == ["a.txt", "x/b.txt", "x/y/c.txt"]


@given(names=st.permutations(["a1", "a01", "a10", "a2", "b", "a", "10", "9", "A1", "a1b2", "a1b10", "9" * 30]))
def test_the_order_of_names_does_not_depend_on_how_they_are_found(names: list[str]) -> None:
    wanted = ["9", "10", "9" * 30, "A1", "a", "a01", "a1", "a1b2", "a1b10", "a2", "a10", "b"]
    assert sorted(names, key=_natural) == wanted


def test_a_file_is_never_taken_for_a_glob(tmp_path: Path) -> None:
    sheet(tmp_path, "p1.txt", "not this\n")
    assert prompts_of(sheet(tmp_path, "p[1].txt", "brackets\n")) == ["brackets"]
    assert prompts_of(sheet(tmp_path, "p?.txt", "question\n")) == ["question"]
    assert prompts_of(sheet(tmp_path, "*.txt", "star\n")) == ["star"]


@pytest.mark.parametrize("directory", ["take [1]", "a*b/c?d", "[x]/[y]"])
def test_directories_that_are_there_are_no_globs(tmp_path: Path, directory: str) -> None:
    sheet(tmp_path, f"{directory}/1.txt", "one\n")
    sheet(tmp_path, f"{directory}/deeper/2.txt", "two\n")
    assert prompts_of(str(tmp_path / directory / "*.txt")) == ["one"]
    assert prompts_of(str(tmp_path / directory / "**" / "*.txt")) == ["one", "two"]
    assert prompts_of(str(tmp_path / directory / "d*r" / "?.txt")) == ["two"]


def test_a_glob_that_finds_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"no file matches .*check the pattern") as caught:
        PromptList.open(tmp_path / "*.csv")
    assert caught.value.value == str(tmp_path / "*.csv")


def test_a_file_that_two_patterns_find_is_read_once(tmp_path: Path) -> None:
    one, two = sheet(tmp_path, "1.txt", "one\n"), sheet(tmp_path, "2.txt", "two\n")
    (tmp_path / "link.txt").symlink_to(one)
    pattern = str(tmp_path / "*.txt")
    assert prompts_of(two, pattern, pattern) == ["two", "one"]


def test_a_file_that_is_named_twice_is_a_mistake(tmp_path: Path) -> None:
    path = sheet(tmp_path, "1.txt", "one\n")
    with pytest.raises(InvalidRequestError, match="named twice; for several pictures"):
        PromptList.open(path, path.parent / "." / path.name)
    with pytest.raises(InvalidRequestError, match="- is named twice"):
        PromptList.open("-", "-", stdin=io.BytesIO(b"a"))


def test_no_list_at_all_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="no list is named"):
        PromptList.open()


def test_problems_name_the_file_and_its_line(tmp_path: Path) -> None:
    good = sheet(tmp_path, "good.txt", "one\ntwo\n")
    bad = sheet(tmp_path, "bad.jsonl", '"three"\n{"prompt": "four", "size": "16x9"}\n')
    worse = sheet(tmp_path, "worse.csv", "prompt,seed\nfive,-1\n")
    found = problems_of(good, bad, worse)
    assert [(problem.file, problem.line, problem.field) for problem in found] == [
        (str(bad), 2, "size"),
        (str(worse), 2, "seed"),
    ]


def test_a_newline_in_a_files_name_stays_out_of_its_problems(tmp_path: Path) -> None:
    sheet(tmp_path, "a\nb.csv", "prompt,seed\nx,-1\n")
    [problem] = problems_of(str(tmp_path / "*.csv"))
    assert str(problem).count("\n") == 0
    assert r"a\nb.csv" in problem.file


def test_a_name_that_is_no_utf8_is_read(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    Path(os.fsdecode(path)).write_text("a\0b\n")
    [problem] = problems_of(str(tmp_path / "*.txt"))
    str(problem).encode()  # can be printed


def test_standard_input_is_one_of_several(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.txt", "file\n")
    assert [row.prompt for row in rows_of(path, "-", stdin=b'"piped"\n')] == ["file", "piped"]


def test_one_bad_source_closes_those_before_it(tmp_path: Path) -> None:
    """An open file that nobody closes is a ResourceWarning, and warnings are errors here."""
    path = sheet(tmp_path, "p.txt", "file\n")
    for _ in range(3):
        with pytest.raises(InvalidRequestError, match="does not exist"):
            PromptList.open(path, tmp_path / "missing.txt")


def test_the_name_that_was_meant_is_told(tmp_path: Path) -> None:
    sheet(tmp_path, "prompts.txt", "a\n")
    with pytest.raises(InvalidRequestError, match=r"check the path; did you mean 'prompts.txt'\?"):
        PromptList.open(tmp_path / "promts.txt")


def many(directory: Path) -> list[Path]:
    return [sheet(directory, f"p{number}.txt", f"prompt {number}\n") for number in range(HELD_FILES + 20)]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_more_files_than_may_be_open_are_read(tmp_path: Path) -> None:
    paths = many(tmp_path)
    before = open_files()
    with PromptList.open(str(tmp_path / "*.txt")) as rows:
        during = open_files()
        assert list(rows.check()) == []
        assert list(rows) == [ImageRequest(path.read_text().strip()) for path in paths]
    assert during - before <= HELD_FILES


@pytest.mark.parametrize("change", ["other words\n", "", None])
def test_a_file_that_changed_since_it_was_checked_is_an_error_and_not_rendered(
    tmp_path: Path, change: str | None
) -> None:
    last = many(tmp_path)[-1]
    with PromptList.open(str(tmp_path / "*.txt")) as rows:
        assert list(rows.check()) == []
        if change is None:
            last.unlink()
        else:
            last.write_text(change)
        *_, row = rows
    assert isinstance(row, InvalidRequestError)
    assert ("has changed" if change is not None else "is gone") in row.message
