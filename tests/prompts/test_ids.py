"""Two rows of one id that ask for different pictures are told before anything is paid, with both places."""

import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sheets import problems_of, rows_of, sheet

from krea_async.models import ImageRequest
from krea_async.prompts import Shard, SheetPolicy
from krea_async.prompts.ids import SeenIds


def test_both_places_are_named(tmp_path: Path) -> None:
    first = sheet(tmp_path, "a.csv", "prompt,id\nfox,x\ncat,y\n")
    second = sheet(tmp_path, "b.jsonl", '"no id"\n{"prompt": "another fox", "id": "x"}\n{"prompt": "dog", "id": "z"}\n')
    [problem] = problems_of(first, second)
    assert (problem.file, problem.line, problem.field, problem.value) == (str(second), 2, "id", "x")
    assert problem.message.startswith(f"id 'x' is also that of {first}:2, which asks for another picture")


@pytest.mark.parametrize("change", [{"size": "2:1"}, {"quality": "2K"}, {"seed": 2}, {"nsfw_check": True}])
def test_any_difference_counts(change: dict[str, Any]) -> None:
    seen = SeenIds()
    assert seen.add(ImageRequest("a", id="x"), 0, 1) is None
    assert seen.add(ImageRequest("a", id="x", **change), 3, 1 << 35) == (0, 1)
    assert seen.add(ImageRequest("b", id="y"), 3, 1 << 35) is None
    assert seen.add(ImageRequest("c", id="y"), 4, 1) == (3, 1 << 35)


def test_equal_rows_are_several_pictures_as_ever(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.csv", "prompt,id\nfox,x\nfox,x\nfox,\nfox,\n")
    assert len(rows_of(path)) == 4


def test_each_further_row_is_told_with_the_first(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.csv", "prompt,id\na,x\nb,x\na,x\nc,x\n")
    found = problems_of(path)
    assert [problem.line for problem in found] == [3, 5]
    assert all(f"{path}:2," in problem.message for problem in found)


def test_every_shard_tells_of_it(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.csv", "prompt,id\na,x\nb,x\n")
    for number in (1, 2):
        assert len(problems_of(path, policy=SheetPolicy(shard=Shard(number, 2)))) == 1


@given(rows=st.lists(st.tuples(st.text("xy", min_size=1, max_size=4), st.sampled_from("ab")), max_size=80))
def test_it_is_as_good_as_a_dictionary(rows: list[tuple[str, str]]) -> None:
    seen, known = SeenIds(), dict[str, tuple[str, int]]()
    for line, (name, prompt) in enumerate(rows):
        first = known.setdefault(name, (prompt, line))
        wanted = None if first[0] == prompt else (0, first[1])
        assert seen.add(ImageRequest(prompt, id=name), 0, line) == wanted


def test_an_id_takes_32_bytes_or_so() -> None:
    seen = SeenIds()
    numbers = list(range(10_000))
    random.Random(1).shuffle(numbers)
    tracemalloc.start()
    try:
        for line, number in enumerate(numbers):
            assert seen.add(ImageRequest("a", id=f"row {number}"), 0, line) is None
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < 50 * 10_000
    assert seen.add(ImageRequest("b", id=f"row {numbers[7_000]}"), 1, 1) == (0, 7_000)
