"""The whole of a sheet: any bytes under any policy are rows or problems, twice the same, in memory for one row."""

import gzip
import io
import tracemalloc
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sheets import sheet

from krea_async.errors import InvalidRequestError
from krea_async.models import ImageRequest, IndexedRequest
from krea_async.prompts import Expansion, Format, PromptList, Shard, SheetPolicy

PARTS = [
    *(b'"', b",", b";", b"\t", b"\n", b"\r\n", b"{", b"}", b"|", b"\\", b"#", b"prompt", b"id", b"x", b"\xef\xbb\xbf"),
    *(b'{"prompt": "a {x|y}"}\n', b'{"custom_id": "x", "body": {"prompt": "a", "n": 2}}\n', b"\xff\xfe", b"\0"),
]
policies = st.builds(
    SheetPolicy,
    template=st.booleans(),
    expansion=st.sampled_from([Expansion(), Expansion(seeds=(1, 2)), Expansion(sizes=("1:1", "2:1"))]),
    defaults=st.sampled_from([{}, {"quality": "2K"}]),
    encoding=st.sampled_from(["utf-8", "cp1252", "gb18030"]),
    shard=st.sampled_from([None, Shard(1, 2)]),
    max_pictures=st.sampled_from([5, 1000]),
)


@given(
    content=st.lists(st.sampled_from(PARTS) | st.binary(max_size=4), max_size=30).map(b"".join),
    policy=policies,
    form=st.sampled_from(["txt", "jsonl", "csv", "tsv", "openai-batch"]),
    head=st.sampled_from([b"", b"prompt\n", b"prompt,id,x\n", b"prompt;id\n"]),
    packed=st.booleans(),
)
def test_any_bytes_under_any_policy_are_rows_or_problems(
    content: bytes, policy: SheetPolicy, form: Format, head: bytes, packed: bool
) -> None:
    data = gzip.compress(head + content) if packed else head + content
    with PromptList.open("-", stdin=io.BytesIO(data), format=form, policy=policy) as rows:
        found = list(rows.check())
        read = list(rows)
        again = list(rows)
    assert rows.rows == len(read)
    good = [row for row in read if not isinstance(row, InvalidRequestError)]
    assert good == [row for row in again if not isinstance(row, InvalidRequestError)]
    requests = [row.request if isinstance(row, IndexedRequest) else row for row in good]
    assert rows.credits == pytest.approx(sum(request.credits for request in requests))
    told = {str(problem) for problem in found}
    assert {str(row) for row in read if isinstance(row, InvalidRequestError)} <= told
    assert rows.listed or found


def test_a_windows_list_with_everything_is_read(tmp_path: Path) -> None:
    content = '\ufeffid;prompt;color\r\nx;"a {big|small} {color} fox;\r\nat dawn";red\r\n;;\r\ny;b;\r\n'
    policy = SheetPolicy(template=True, expansion=Expansion(sizes=("1:1", "16:9")), defaults={"quality": "2K"})
    with PromptList.open(sheet(tmp_path, "p.csv.gz", content), policy=policy) as rows:
        assert list(rows.check()) == []
        found = list(rows)
    assert found[:2] == [
        ImageRequest("a big red fox;\nat dawn", size=size, quality="2K", id=f"x-v1-{size.replace(':', 'x')}")
        for size in ("1:1", "16:9")
    ]
    assert [row.id for row in found if isinstance(row, ImageRequest)][4:] == ["y-1x1", "y-16x9"]
    assert (rows.rows, rows.listed) == (6, 2)


def test_preview_reads_no_further_than_it_must(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.txt", "{0|1|2|3|4|5|6|7|8|9}" * 4 + "\n" + "later\n" * 10_000)
    with PromptList.open(path, policy=SheetPolicy(template=True)) as rows:
        first = rows.preview(3)
        assert [(one.index, one.request.prompt) for one in first] == [(0, "0000"), (1, "0001"), (2, "0002")]
        assert rows.preview(0) == []
        assert list(rows.check()) == []
        assert rows.rows == 20_000


def peak_bytes(path: Path, policy: SheetPolicy) -> int:
    tracemalloc.start()
    try:
        with PromptList.open(path, policy=policy) as rows:
            for _ in chain(rows.check(), rows):
                pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "head", "row", "policy"),
    [
        ("p.txt.gz", "", "a fox in the snow %d\n", SheetPolicy()),
        ("p.csv", "prompt,color\n", "a {color} fox %d,red\n", SheetPolicy(template=True)),
        ("p.jsonl", "", '{"text": "a fox %d", "other": 7}\n', SheetPolicy(columns={"prompt": "text"})),
        ("p.txt", "", "a {red|blue} fox %d\n", SheetPolicy(template=True, shard=Shard(1, 2))),
        ("p.txt", "", "a fox %d\n", SheetPolicy(expansion=Expansion(seeds=range(1, 4)))),
    ],
    ids=["packed", "columns", "mapped", "template", "seeds"],
)
def test_memory_does_not_grow_with_the_list(
    tmp_path: Path, name: str, head: str, row: str, policy: SheetPolicy
) -> None:
    short, long = (
        peak_bytes(sheet(tmp_path, f"{rows}{name}", head + "".join(row % n for n in range(rows))), policy)
        for rows in (500, 4_000)
    )
    assert long < short + 100_000


def test_memory_does_not_grow_with_what_a_row_is_expanded_to(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.txt", "{0|1|2|3|4|5|6|7|8|9}{0|1|2|3|4|5|6|7|8|9}{0|1|2|3|4|5|6|7|8|9} %s\n")
    few = peak_bytes(path, SheetPolicy(template=True))
    assert peak_bytes(path, SheetPolicy(template=True, expansion=Expansion(seeds=range(1, 9)))) < few + 100_000


def test_100_000_rows_with_ids_are_read_in_order(tmp_path: Path) -> None:
    lines = "".join(f"prompt {n},row {n}\r\n" for n in range(100_000))
    with PromptList.open(sheet(tmp_path, "p.csv.gz", f"prompt,id\r\n{lines}")) as rows:
        assert list(rows.check()) == []
        assert rows.rows == 100_000
        assert all(isinstance(row, ImageRequest) and row.id == f"row {n}" for n, row in enumerate(rows))
