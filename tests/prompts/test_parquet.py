"""Parquet lists: rows with their numbers, types that are told apart once, and damage that is a problem."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # it tells nothing of its types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # nor does this part
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sheets import problems_of, prompts_of, rows_of

from krea_async.errors import InvalidRequestError
from krea_async.models import ImageRequest
from krea_async.prompts import PromptList, SheetPolicy, parquet


def written(directory: Path, columns: dict[str, Any], **options: Any) -> Path:
    path = directory / "p.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_all_fields_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {
            "id": ["a", None],
            "prompt": ["a fox", "b"],
            "size": ["16:9", None],
            "quality": pa.array(["2K", "1K"]).dictionary_encode(),
            "seed": [7, None],
            "nsfw_check": [True, None],
            "callback_url": pa.array([None, None]),
        },
    )
    first = ImageRequest("a fox", size="16:9", quality="2K", seed=7, nsfw_check=True, id="a")
    assert rows_of(path) == [first, ImageRequest("b")]
    assert rows_of("-", stdin=path.read_bytes()) == [first, ImageRequest("b")]


def test_what_pandas_makes_of_gaps_and_numbers_is_understood(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": ["a", "b"], "seed": [7.0, float("nan")], "id": [1, 2]})
    assert rows_of(path) == [ImageRequest("a", seed=7, id="1"), ImageRequest("b", id="2")]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"prompt": [1, 2]}, "column 'prompt' has the type int64, and not text"),
        ({"prompt": [b"a", b"b"]}, "column 'prompt' has the type binary, and not text"),
        ({"prompt": [["a"], ["b"]]}, "and not text"),
        ({"prompt": ["a", "b"], "seed": ["1", "2"]}, "column 'seed' has the type string, and not whole numbers"),
        ({"prompt": ["a", "b"], "seed": [True, False]}, "column 'seed' has the type bool"),
        ({"prompt": ["a", "b"], "nsfw_check": [1, 0]}, "column 'nsfw_check' has the type int64, and not booleans"),
        ({"prompt": ["a", "b"], "id": [1.5, 2.0]}, "column 'id' has the type double"),
        ({"promt": ["a", "b"]}, "unknown column 'promt'; did you mean 'prompt'?"),
        ({"prompt": ["a", "b"], "note": ["x", "y"]}, "unknown column 'note'"),
    ],
)
def test_a_column_of_the_wrong_type_is_told_once(tmp_path: Path, columns: dict[str, Any], told: str) -> None:
    found = problems_of(written(tmp_path, columns))
    assert told in found[0].message
    assert {problem.line for problem in found} == {1}


def test_a_bad_cell_is_told_with_the_number_of_its_row(tmp_path: Path) -> None:
    seeds = [1.0] * 700 + [7.5] + [2.0] * 10 + [-1.0]
    path = written(tmp_path, {"prompt": ["a"] * 712, "seed": seeds}, row_group_size=100)
    found = problems_of(path)
    assert [(problem.line, problem.value) for problem in found] == [(701, 7.5), (712, -1)]
    path = written(tmp_path, {"prompt": ["a", None, ""]})
    assert [problem.line for problem in problems_of(path)] == [2, 3]


def test_columns_are_mapped_and_named_by_templates(tmp_path: Path) -> None:
    columns = {"caption": ["a {n} {kind} {gone}", "b"], "n": [3, 4], "kind": ["fox", None], "gone": [None, None]}
    path = written(tmp_path, {**columns, "nested": [[1], [2]], "prompt": [1, 2]})
    mapped = {"prompt": "caption"}
    assert prompts_of(path, policy=SheetPolicy(columns=mapped, template=True)) == ["a 3 fox", "b"]
    assert prompts_of(path, policy=SheetPolicy(columns=mapped)) == ["a {n} {kind} {gone}", "b"]
    [problem] = problems_of(path, policy=SheetPolicy(columns={"prompt": "captoin"}))
    assert "the header has no column 'captoin'; did you mean 'caption'?" in problem.message


@pytest.fixture(scope="module")
def whole() -> bytes:
    buffer = io.BytesIO()
    prompts = [f"a fox number {number}" for number in range(2000)]
    pq.write_table(pa.table({"prompt": prompts}), buffer, row_group_size=500, use_dictionary=False)
    return buffer.getvalue()


@pytest.mark.parametrize("kept", [0, 3, 4, 100, 5000, -1, -8, -200])
def test_a_torn_file_is_a_problem(tmp_path: Path, whole: bytes, kept: int) -> None:
    path = tmp_path / "p.parquet"
    path.write_bytes(whole[:kept])
    [problem] = problems_of(path)
    assert "the parquet data cannot be read here" in problem.message
    assert str(problem).count("\n") == 0


def test_damage_in_the_middle_is_told_at_its_row(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "p.parquet"
    place = pq.ParquetFile(io.BytesIO(whole)).metadata.row_group(2).column(0).data_page_offset
    path.write_bytes(whole[:place] + b"\xff" * 40 + whole[place + 40 :])
    with PromptList.open(path) as rows:
        [problem] = rows.check()
        *read, last = rows
    assert 512 < problem.line <= 1001
    assert isinstance(last, InvalidRequestError)
    assert read == [ImageRequest(f"a fox number {number}") for number in range(problem.line - 1)]


@given(place=st.integers(0, 40_000), data=st.binary(min_size=1, max_size=8))
def test_any_damage_is_rows_or_problems(whole: bytes, place: int, data: bytes) -> None:
    place %= len(whole)
    broken = whole[:place] + data + whole[place + len(data) :]
    with PromptList.open("-", stdin=io.BytesIO(broken), format="parquet") as rows:
        found = list(rows.check())
        errors = [row for row in rows if isinstance(row, InvalidRequestError)]
    assert len(errors) == len(found) or not rows.listed


def test_a_packed_parquet_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="gunzip"):
        PromptList.open(tmp_path / "p.parquet.gz")


def test_without_pyarrow_the_command_that_installs_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, {"prompt": ["a"]})

    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(parquet, "import_module", missing)
    for opened in (path, "-"):
        with pytest.raises(InvalidRequestError, match=r"pip install 'krea-async\[parquet\]'"):
            PromptList.open(opened, stdin=io.BytesIO(path.read_bytes()))


def test_lists_without_parquet_do_not_import_pyarrow(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("prompt\na\n")
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from krea_async.prompts import PromptList\n"
        f"with PromptList.open({str(path)!r}) as rows: print(len(list(rows)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"1\n"


def batches(rows: int) -> Iterator[pa.RecordBatch]:
    schema = pa.schema([("prompt", pa.string())])
    for start in range(0, rows, 1000):
        prompts = [f"a fox in the snow, morning light {number}" for number in range(start, start + 1000)]
        yield pa.record_batch({"prompt": prompts}, schema=schema)


def test_memory_does_not_grow_with_the_list(tmp_path: Path) -> None:
    """Neither Python's nor Arrow's."""
    peaks = []
    for rows in (10_000, 100_000):
        path = tmp_path / f"{rows}.parquet"
        with pq.ParquetWriter(path, pa.schema([("prompt", pa.string())]), use_dictionary=False) as writer:
            for batch in batches(rows):
                writer.write_batch(batch, row_group_size=1000)
        peak = 0
        with PromptList.open(path) as prompts:
            before = pa.total_allocated_bytes()
            for number, _ in enumerate(prompts):
                if number % 500 == 0:
                    peak = max(peak, pa.total_allocated_bytes() - before)
        peaks.append(peak)
    assert peaks[1] < peaks[0] + (1 << 20)
