"""A report's rows as records: what the manifest says, once for each row of the directory, and fit for pandas."""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import pytest
from attrs import evolve
from killed_runs import POLICY
from resuming import SessionOf, manifest

from krea_async import BatchReport, ImageRequest, InvalidRequestError, JournalError
from krea_async.models import IndexedRequest
from krea_async.sandbox import Durations, Sandbox

pytestmark = pytest.mark.anyio

KEYS = (
    *("index", "id", "status", "file", "prompt", "size", "quality", "seed", "task_id", "bytes", "sha256"),
    *("width", "height", "credits", "queued_s", "waiting_s", "generating_s", "downloading_s"),
    *("error", "message", "charged"),
)

ROWS: Sequence[ImageRequest | InvalidRequestError] = [
    ImageRequest("fox", seed=7, id="f"),
    ImageRequest("owl", quality="2K"),
    InvalidRequestError("size '9' is not one of …", field="size"),
    ImageRequest("heron"),
]


def timeless(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Without the seconds, which the journal keeps only of pictures."""
    return [{key: value for key, value in row.items() if not key.endswith("_s")} for row in rows]


@pytest.fixture
def sandbox(sandbox: Sandbox) -> Sandbox:
    """One row fails."""
    sandbox.script("create", ("fail", "content_policy_violation"))
    return sandbox


async def test_records_are_the_manifests_lines_in_the_order_of_the_list(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox, concurrency=1) as session:
        report = await session.render(ROWS, tmp_path, policy=POLICY)
        records = report.to_records()
        assert timeless(records) == timeless(manifest(tmp_path))
        assert [row for row in records if row["file"]] == [row for row in manifest(tmp_path) if row["file"]]
    assert [row["index"] for row in records] == [0, 1, 2, 3]
    assert [row["status"] for row in records] == ["failed", "saved", "failed", "saved"]
    assert all(tuple(row) == KEYS for row in records)
    assert report.to_records() == records, "after the session as well"
    json.dumps(records)


async def test_every_row_is_told_of_once_with_its_last_end(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """Rows of earlier runs are among them, also those that this list has not."""
    async with session_of(sandbox, concurrency=1) as session:
        first = await session.render(ROWS, tmp_path, policy=POLICY)
        await session.render(ROWS, tmp_path, policy=POLICY)
        retry = evolve(POLICY, retry_failed=True, retry_codes={"content_policy_violation"})
        rows = [IndexedRequest(9, ImageRequest("new")), IndexedRequest(5, ROWS[0])]  # type: ignore[arg-type]
        async with session.render(rows, tmp_path, policy=retry) as batch:
            images = [image async for image in batch]
            during = batch.report.to_records()
        last = batch.report.to_records()
    assert len(images) == 2
    assert during == last == first.to_records() == sorted(manifest(tmp_path), key=lambda row: row["index"])
    assert [row["index"] for row in last] == [0, 1, 2, 3, 9]
    assert [row["prompt"] for row in last] == ["fox", "owl", None, "heron", "new"]
    assert [row["status"] for row in last] == ["saved", "saved", "failed", "saved", "saved"]


async def test_a_batch_under_way_tells_what_has_ended(session_of: SessionOf, tmp_path: Path) -> None:
    """Whatever the reader was given is among them already."""
    foxes = [f"fox {n}" for n in range(8)]
    async with (
        Sandbox(durations=Durations.instant(), scenes=1) as sandbox,
        session_of(sandbox, concurrency=2) as session,
        session.render(foxes, tmp_path, policy=POLICY) as batch,
    ):
        assert batch.report.to_records() == []
        seen: set[int | None] = set()
        async for image in batch:
            seen.add(image.index)
            records = batch.report.to_records()
            assert seen <= {row["index"] for row in records}
            assert {row["status"] for row in records} == {"saved"}
    assert len(batch.report.to_records()) == 8


async def test_pandas_makes_a_table_of_them(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    import pandas  # type: ignore[import-untyped]  # noqa: PLC0415 - half a second, which the others do without

    async with session_of(sandbox, concurrency=1) as session:
        report = await session.render(ROWS, tmp_path, policy=POLICY)
    table = pandas.DataFrame(report.to_records())
    assert tuple(table.columns) == KEYS
    kinds = {column: str(kind) for column, kind in table.dtypes.items()}
    assert kinds["index"] == kinds["bytes"] == "int64"
    assert {kinds[column] for column in ("credits", "queued_s", "waiting_s", "generating_s")} == {"float64"}
    assert {kinds[column] for column in ("seed", "width", "height")} == {"float64"}, "numbers, with NaN for none"
    assert table["seed"].isna().tolist() == [False, True, True, True]
    assert table["error"].isna().tolist() == [False, True, False, True]
    assert table.groupby("status")["credits"].sum().to_dict() == {"failed": 0.0, "saved": pytest.approx(2.25)}
    assert table.set_index("index").loc[1, "width"] == 2048


def test_a_report_without_a_directory_has_none() -> None:
    assert BatchReport(saved=3).to_records() == []


async def test_where_records_come_from_is_nobodys_business(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """Not in the repr, not compared, and kept by copies."""
    async with session_of(sandbox) as session:
        report = await session.render(ROWS[1:2], tmp_path, policy=POLICY)
    assert "records" not in repr(report)
    assert evolve(report, records=None) == report
    assert pickle.loads(pickle.dumps(evolve(report, limit=None, examples={}))).to_records() == report.to_records()
    assert "_records" in {attribute.name for attribute in attrs.fields(BatchReport)}


async def test_a_directory_that_cannot_be_read_is_told(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    async with session_of(sandbox) as session:
        report = await session.render(ROWS[1:2], tmp_path, policy=POLICY)
    path = tmp_path / "journal.jsonl"
    path.unlink()
    assert report.to_records() == [], "there is nothing to tell of any more"
    path.mkdir()
    with pytest.raises(JournalError):
        report.to_records()


async def test_damaged_lines_are_left_out(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    async with session_of(sandbox, concurrency=1) as session:
        report = await session.render(ROWS, tmp_path, policy=POLICY)
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"prompt":"owl"', b'"prompt":"0wl"'))
    records = report.to_records()
    assert len(records) == 4
    (unknown,) = (row for row in records if row["index"] is None)
    assert (unknown["prompt"], unknown["status"], unknown["credits"]) == (None, "saved", 1.8)
