"""Shards: together they are the list, and each row is in one of them, the same one whatever happens to the others."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sheets import problems_of, sheet

from krea_async.errors import InvalidRequestError
from krea_async.models import ImageRequest, IndexedRequest
from krea_async.prompts import Expansion, PromptList, Shard, SheetPolicy
from krea_async.storage.records import digest_of

requests = st.builds(ImageRequest, st.text("ab", min_size=1, max_size=3), id=st.none() | st.text("xy", min_size=1))


def part(path: Path, shard: str, **settings: Any) -> list[IndexedRequest]:
    with PromptList.open(path, policy=SheetPolicy(shard=Shard.of(shard), **settings)) as rows:
        assert list(rows.check()) == []
        found = list(rows)
        assert rows.rows == len(found)
        assert rows.preview(3) == found[:3]
    indexed = [row for row in found if isinstance(row, IndexedRequest)]
    assert len(indexed) == len(found)
    return indexed


@given(rows=st.lists(requests, max_size=20), count=st.integers(1, 7))
def test_each_row_is_in_exactly_one_shard(rows: list[ImageRequest], count: int) -> None:
    shards = [Shard(number, count) for number in range(1, count + 1)]
    for index, row in enumerate(rows):
        assert sum(shard.has(row) for shard in shards) == 1
        assert sum(shard.has_error(index) for shard in shards) == 1


def test_all_shards_together_are_the_list_with_its_numbers(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.csv", "prompt,id\n" + "".join(f"prompt {n},{n if n % 3 else ''}\n" for n in range(500)))
    expansion = Expansion(seeds=(1, 2))
    parts = [part(path, f"{number}/5", expansion=expansion) for number in range(1, 6)]
    with PromptList.open(path, policy=SheetPolicy(expansion=expansion)) as rows:
        whole = [IndexedRequest(index, row) for index, row in enumerate(rows) if isinstance(row, ImageRequest)]
    assert sorted((row for one in parts for row in one), key=lambda row: row.index) == whole
    assert len(whole) == 1000
    assert all(130 < len(one) < 270 for one in parts)
    assert all([row.index for row in one] == sorted(row.index for row in one) for one in parts)


def test_a_row_stays_in_its_shard_when_others_come_and_go(tmp_path: Path) -> None:
    """Else it would be paid for again, on another machine."""
    prompts = [f"prompt {number}" for number in range(200)]
    before = part(sheet(tmp_path, "a.txt", "\n".join(prompts)), "2/3")
    changed = ["new at the top", *reversed(prompts[:150]), "new in the middle", *prompts[160:]]
    after = part(sheet(tmp_path, "b.txt", "\n".join(changed)), "2/3")
    kept = {row.request for row in before} & {ImageRequest(prompt) for prompt in changed}
    assert kept
    assert kept == {row.request for row in after} & {ImageRequest(prompt) for prompt in prompts}


def test_the_shard_follows_from_what_a_directory_knows_the_row_by() -> None:
    """Pinned: another rule would send rows to other machines in the middle of a job."""
    rows = [ImageRequest("a fox"), ImageRequest("a fox", size="16:9"), ImageRequest("a fox", id="x")]
    assert [digest_of(row) for row in rows] == [15515179697265239141, 8156012361305944463, 16390598129954579609]
    assert [Shard(number, 5).has(row) for row, number in zip(rows, (2, 4, 5), strict=True)] == [True, True, True]
    assert Shard(5, 5).has(ImageRequest("another fox", id="x"))


def test_a_bad_row_of_any_shard_is_told_to_all(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.csv", "prompt,seed\na,1\nb,-1\nc,2\n")
    for number in (1, 2, 3):
        [problem] = problems_of(path, policy=SheetPolicy(shard=Shard(number, 3)))
        assert problem.line == 3


def test_an_empty_shard_is_no_problem(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.txt", "only one\n")
    assert sorted(len(part(path, f"{number}/4")) for number in range(1, 5)) == [0, 0, 0, 1]


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/0", "2", "a/b", "", "1/2/3", "-1/5", "1.5/2", "٢/5", "9" * 5000])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"is none|not of the form") as caught:
        Shard.of(text)
    assert caught.value.allowed == "K/N with K from 1 to N, such as 2/5"
    assert len(caught.value.message) < 100
    assert Shard.of(" 2 / 5 ") == Shard(2, 5)
