"""Packed lists are read as they are unpacked, and whatever is wrong with them is a problem with its line."""

import gzip
import io
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sheets import problems_of, prompts_of, rows_of, sheet

from krea_async.errors import InvalidRequestError
from krea_async.models import ImageRequest
from krea_async.prompts import Format, PromptList, unpacked
from krea_async.prompts.unpacked import HARMLESS_BYTES

LISTS: list[tuple[str, str]] = [
    ("p.txt.gz", "a\nb\n"),
    ("p.jsonl.gz", '"a"\n{"prompt": "b"}\n'),
    ("p.csv.gz", "prompt\na\nb\n"),
    ("P.TSV.GZ", "prompt\ta\n".replace("\ta", "") + "a\nb\n"),
]


@pytest.mark.parametrize(("name", "content"), LISTS)
def test_each_text_form_may_be_packed(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()))
    assert prompts_of(path) == ["a", "b"]


def test_packed_standard_input_says_what_is_in_it() -> None:
    assert rows_of("-", stdin=gzip.compress(b'\n{"prompt": "a"}\n')) == [ImageRequest("a")]
    assert rows_of("-", stdin=gzip.compress(b"a fox\n")) == [ImageRequest("a fox")]


def test_a_packed_list_without_the_extension_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(gzip.compress(b"a\n"))
    assert prompts_of(path) == ["a"]


def test_joined_packed_lists_are_one(tmp_path: Path) -> None:
    path = tmp_path / "p.txt.gz"
    path.write_bytes(gzip.compress(b"a\n") + gzip.compress(b"b\n"))
    assert prompts_of(path) == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "no prompt"),
        (b"\x1f", "damaged here"),
        (b"\x1f\x8b", "cut off here"),
        (b"a fox\n", "damaged here"),
        (gzip.compress(b"a\n" * 9, mtime=0)[:-1], "cut off here"),
        (gzip.compress(b"a\n" * 9, mtime=0)[:-9], "cut off here"),
        (gzip.compress(b"a\n" * 9, mtime=0)[:-8] + b"\0" * 8, "damaged here"),
        (gzip.compress(b"a\n", mtime=0) + b"rest", "damaged here"),
        (gzip.compress(b"a\n", mtime=0)[:10] + b"\xff" * 20, "damaged here"),
    ],
)
def test_what_is_no_whole_gzip_is_a_problem(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "p.txt.gz"
    path.write_bytes(data)
    found = problems_of(path)
    assert told in found[-1].message
    assert found[-1].file == str(path)
    with PromptList.open(path) as rows:
        assert not data or any(isinstance(row, InvalidRequestError) for row in rows)


def test_the_line_where_a_list_is_cut_off_is_told_and_those_before_it_are_read(tmp_path: Path) -> None:
    words = "\n".join(f"prompt {number} {zlib.crc32(b'%d' % number):x}" for number in range(5000))
    path = tmp_path / "p.txt.gz"
    whole = gzip.compress(words.encode())
    path.write_bytes(whole[: len(whole) // 2])
    with PromptList.open(path) as rows:
        [problem] = rows.check()
        read = list(rows)
    assert 1000 < problem.line < 4000
    assert len(read) == problem.line
    assert read[problem.line - 2] == ImageRequest(words.split("\n")[problem.line - 2])


def bomb(path: Path, filler: bytes, size_bytes: int) -> Path:
    packer = zlib.compressobj(9, wbits=31)
    with path.open("wb") as file:
        file.write(packer.compress(b"fine\n"))
        for _ in range(size_bytes >> 20):
            file.write(packer.compress(filler * (1 << 20)))
        file.write(packer.flush())
    return path


@pytest.mark.parametrize("filler", [b"\0", b"a"])
def test_a_bomb_is_a_problem_and_takes_no_memory(tmp_path: Path, filler: bytes) -> None:
    path = bomb(tmp_path / "p.txt.gz", filler, 8 * HARMLESS_BYTES)
    tracemalloc.start()
    try:
        found = problems_of(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "unpacks to more than 500 times its size" in found[-1].message
    assert len(found) <= 2
    assert peak < HARMLESS_BYTES


def test_a_bomb_of_blank_lines_is_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacked, "HARMLESS_BYTES", 1 << 16)
    monkeypatch.setattr(unpacked, "BOMB_RATIO", 50)
    [problem] = problems_of(bomb(tmp_path / "p.txt.gz", b"\n", 4 << 20))
    assert "unpacks to more than 50 times its size" in problem.message
    assert problem.line < 1 << 20


def test_a_list_of_one_prompt_over_and_over_is_no_bomb(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.txt.gz", "a fox in the snow, at dawn\n" * 20_000)
    assert len(prompts_of(path)) == 20_000


@given(
    data=st.binary(max_size=60),
    place=st.integers(0, 200),
    form=st.sampled_from(["txt", "jsonl", "csv", "openai-batch"]),
)
def test_any_damage_is_rows_or_problems(data: bytes, place: int, form: Format) -> None:
    whole = gzip.compress(b'prompt\n"a fox"\n' * 20)
    broken = whole[:place] + data + whole[place + len(data) :]
    with PromptList.open("-", stdin=io.BytesIO(broken), format=form) as rows:
        found = list(rows.check())
        read = list(rows)
    errors = [str(row) for row in read if isinstance(row, InvalidRequestError)]
    assert errors == [str(problem) for problem in found][: len(errors)]
    assert found or len(read) in (19, 39, 40)
