"""The manifest: one JSON line for each finished row, whatever is in it and however the batch ends."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from until import until

from krea_async import (
    DownloadError,
    GeneratedImage,
    ImageRequest,
    InvalidRequestError,
    KreaError,
    KreaSession,
    TaskTimeoutError,
)
from krea_async.errors import DISK_ERROR
from krea_async.results import Timings
from krea_async.sandbox import Sandbox
from krea_async.storage.manifest import MANIFEST_NAME, manifest_row, open_manifest

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

KEYS = [
    *("index", "id", "status", "file", "prompt", "size", "quality", "seed", "task_id", "bytes", "sha256", "width"),
    *("height", "credits", "queued_s", "waiting_s", "generating_s", "downloading_s", "error", "message", "charged"),
]


def saved(index: int, prompt: str = "a fox") -> GeneratedImage:
    return GeneratedImage(
        index=index,
        request=ImageRequest(prompt, size="16:9", seed=7, id="row"),
        status="saved",
        task_id="task-unified-1-a",
        path=Path("out") / "row.png",
        bytes=12,
        sha256="00ff",
        width=1344,
        height=768,
        credits=0.45,
        timings=Timings(queued_s=0.12345, waiting_s=0.5, generating_s=1.0, downloading_s=2.0),
    )


def rows_in(directory: Path) -> list[dict[str, Any]]:
    """Every line by itself, so that half a line or two in one would fail."""
    text = (directory / MANIFEST_NAME).read_bytes().decode()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def saved_in(directory: Path) -> int:
    return len([*directory.glob("*.png")])


async def write(directory: Path, *images: GeneratedImage) -> None:
    async with open_manifest(directory) as manifest:
        for image in images:
            manifest.add(image)
        await manifest.flush()


def test_a_saved_row_says_what_is_known_in_a_stable_order() -> None:
    row = manifest_row(saved(3))
    assert [*row] == KEYS
    values = [3, "row", "saved", "row.png", "a fox", "16:9", "1K", 7, "task-unified-1-a", 12, "00ff", 1344, 768, 0.45]
    assert [*row.values()] == [*values, 0.123, 0.5, 1.0, 2.0, None, None, None]


@pytest.mark.parametrize(
    ("error", "code", "charged"),
    [
        (TaskTimeoutError("too long", task_id="task-unified-1-a"), "TaskTimeoutError", "unknown"),
        (DownloadError("no room", code=DISK_ERROR), "disk_error", "yes"),
        (InvalidRequestError("size 'x' is not one of"), "InvalidRequestError", "no"),
    ],
)
def test_a_failed_row_has_the_same_keys_and_says_why(error: KreaError, code: str, charged: str) -> None:
    row = manifest_row(GeneratedImage(index=0, status="failed", error=error))
    assert [*row] == KEYS
    assert (row["status"], row["error"], row["message"], row["charged"]) == ("failed", code, error.message, charged)
    assert row["prompt"] is row["file"] is row["task_id"] is None


async def test_lines_are_appended_to_those_of_earlier_runs(tmp_path: Path) -> None:
    await write(tmp_path / "new" / "out", saved(0), saved(1))
    await write(tmp_path / "new" / "out", saved(2))
    assert [row["index"] for row in rows_in(tmp_path / "new" / "out")] == [0, 1, 2]


async def test_a_line_that_a_killed_run_left_unfinished_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_text('{"index": 0}\n{"index": 1, "sta')
    await write(tmp_path, saved(2))
    lines = (tmp_path / MANIFEST_NAME).read_text().splitlines()
    assert [json.loads(lines[place])["index"] for place in (0, -1)] == [0, 2]


@pytest.mark.parametrize(
    "prompt", ["狐狸 🦊 în zăpadă", "two\nlines\r\nthree", 'a "quote" \\ back', "a\u2028b\x85c", "\x00\x1b["]
)
async def test_any_prompt_is_one_line_and_comes_back_as_it_was(tmp_path: Path, prompt: str) -> None:
    await write(tmp_path, saved(0, prompt), saved(1))
    assert [row["prompt"] for row in rows_in(tmp_path)] == [prompt, "a fox"]


async def test_letters_are_readable_as_they_are(tmp_path: Path) -> None:
    await write(tmp_path, saved(0, "狐狸 în zăpadă"))
    assert "狐狸 în zăpadă" in (tmp_path / MANIFEST_NAME).read_text(encoding="utf-8")


def _has_row(directory: Path, index: int) -> bool:
    return any(row["index"] == index for row in rows_in(directory))


async def test_rows_are_written_as_they_come_without_anybody_asking(tmp_path: Path) -> None:
    async with open_manifest(tmp_path) as manifest, anyio.create_task_group() as group:
        group.start_soon(manifest.write)
        for index in range(3):
            manifest.add(saved(index))
            await until(partial(_has_row, tmp_path, index))
        group.cancel_scope.cancel()
    assert [row["index"] for row in rows_in(tmp_path)] == [0, 1, 2]


async def test_a_thousand_rows_at_once_are_all_written_in_order(tmp_path: Path) -> None:
    async with open_manifest(tmp_path) as manifest:
        async with anyio.create_task_group() as group:
            group.start_soon(manifest.write)
            for index in range(1_000):
                manifest.add(saved(index))
                if index % 100 == 0:
                    await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        await manifest.flush()
    assert [row["index"] for row in rows_in(tmp_path)] == [*range(1_000)]


async def test_a_file_where_the_directory_should_be_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(DownloadError) as caught:
        await write(tmp_path / "out", saved(0))
    assert caught.value.code == DISK_ERROR
    assert (tmp_path / "out").read_bytes() == b"mine"


async def test_a_full_disk_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="No space left on device") as caught:
        await write(tmp_path, saved(0))
    assert caught.value.code == DISK_ERROR


# --- in a batch -------------------------------------------------------------------------------------------------------


async def test_every_row_of_a_batch_has_its_line(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    sandbox.script("create", "ok", ("fail", "content_policy_violation"))
    prompts: list[Any] = ["a fox", "a forbidden fox", {"prompt": "an owl", "size": "16x9"}, "狐狸"]
    async with session_of(sandbox, concurrency=1) as session:
        report = await session.render(prompts, tmp_path)
    rows = {row["index"]: row for row in rows_in(tmp_path)}
    assert [rows[index]["status"] for index in range(4)] == ["saved", "failed", "failed", "saved"]
    assert [rows[index]["error"] for index in (1, 2)] == ["content_policy_violation", "InvalidRequestError"]
    assert (report.saved, report.failed) == (2, 2)
    for row in rows.values():
        record = sandbox.ledger.tasks.get(row["task_id"])
        assert (row["sha256"] is None) == (row["status"] == "failed")
        if row["status"] == "saved":
            assert record is not None
            assert row["sha256"] == record.sha256
            assert row["bytes"] == (tmp_path / row["file"]).stat().st_size


@pytest.mark.parametrize("ending", ["an exception", "a cancellation", "leaving early"])
async def test_every_picture_that_was_handed_out_has_its_line(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, ending: str
) -> None:
    """Also those that finish in the same moment as the batch is ended."""
    handed_out: list[int] = []

    async def read_some() -> None:
        prompts = (f"fox {number}" for number in range(200))
        async with session_of(sandbox, concurrency=16) as session, session.render(prompts, tmp_path) as batch:
            async for image in batch:
                assert image.index is not None
                handed_out.append(image.index)
                if len(handed_out) < 20:
                    continue
                if ending == "an exception":
                    raise LookupError
                if ending == "leaving early":
                    break
                scope.cancel()

    with anyio.CancelScope() as scope:
        try:
            await read_some()
        except LookupError:
            assert ending == "an exception"
    rows = rows_in(tmp_path)
    assert {row["index"] for row in rows} >= {*handed_out}
    assert len({row["index"] for row in rows}) == len(rows) < 200
    if ending == "leaving early":  # what was paid for was waited for
        assert {row["task_id"] for row in rows if row["task_id"]} == {*sandbox.ledger.tasks}


async def test_a_manifest_that_cannot_be_written_stops_the_batch_and_loses_no_picture(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    (tmp_path / MANIFEST_NAME).symlink_to("/dev/full")
    async with session_of(sandbox, concurrency=4) as session:
        report = await session.render((f"fox {n}" for n in range(500)), tmp_path)
    assert report.stopped_by is not None
    assert report.stopped_by.code == DISK_ERROR
    assert 0 < report.saved == saved_in(tmp_path) == len(sandbox.ledger.tasks) < 500


async def test_a_directory_that_is_a_file_costs_nothing(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    async with session_of(sandbox) as session:
        with pytest.raises(DownloadError) as caught:
            await session.render(["a fox"], tmp_path / "out")
    assert caught.value.code == DISK_ERROR
    assert sandbox.ledger.requests["create"] == 0


def test_the_name_of_the_file_is_what_the_documentation_says() -> None:
    assert os.fspath(MANIFEST_NAME) == "manifest.jsonl"
