"""Many prompts in, results out: every row accounted for, bounded memory, and every way to end."""

# ruff: noqa: ASYNC240, PT012, SIM117 - looking into a directory takes no time; crashing and leaving blocks takes blocks

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from clocks import Clock
from until import until

from krea_async import (
    AuthenticationError,
    BatchPolicy,
    ContentPolicyError,
    DownloadError,
    GeneratedImage,
    ImageRequest,
    InsufficientCreditsError,
    InvalidRequestError,
    JournalError,
    KreaSession,
    RetryPolicy,
    ServiceError,
    TaskTimeoutError,
)
from krea_async.sandbox import Durations, Faults, Sandbox

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

ONE_TRY = RetryPolicy(attempts=1)


class MyError(Exception):
    """The caller's own."""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Instant tasks, and few drawings: what is on the pictures is looked at elsewhere."""
    async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
        yield sandbox


def manifest(directory: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (directory / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    return sorted(rows, key=lambda row: row["index"])


def pictures(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.name not in {"manifest.jsonl", "journal.jsonl"})


def foxes(count: int, start: int = 0) -> list[str]:
    return [f"fox {number}" for number in range(start, start + count)]


async def test_every_row_comes_once_with_its_picture(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    images: list[GeneratedImage] = []
    async with session_of(sandbox, concurrency=4) as session:
        async with session.render(foxes(12), tmp_path) as batch:
            async for image in batch:
                assert image.path is not None
                assert image.path.is_file()
                images.append(image)
        assert batch.report.ok
    assert sorted(image.index for image in images if image.index is not None) == list(range(12))
    for image in images:
        assert image.request is not None
        assert image.request.prompt == f"fox {image.index}"
        assert image.path == tmp_path / f"{image.index:05d}-fox-{image.index}.png"
        assert image.sha256 == sandbox.ledger.tasks[str(image.task_id)].sha256
        assert image.sha256 == sha256(image.path.read_bytes()).hexdigest()
    assert sandbox.ledger.max_unfinished <= 4


async def test_results_come_as_they_finish(session_of: SessionOf, tmp_path: Path) -> None:
    """A slow first row holds up no other."""
    clock, order = Clock(), []
    async with Sandbox(durations=Durations.fixed(300.0), scenes=1, clock=clock) as sandbox:

        async def prompts() -> AsyncIterator[str]:
            yield "slow"
            await until(lambda: sandbox.ledger.tasks)
            sandbox.durations = Durations.instant()
            for number in range(3):
                yield f"quick {number}"

        async with session_of(sandbox) as session, session.render(prompts(), tmp_path) as batch:
            async for image in batch:
                order.append(image.index)
                if len(order) == 3:
                    clock.ahead_s = 1_000.0
    assert order[-1] == 0
    assert sorted(index for index in order if index is not None) == [0, 1, 2, 3]


async def test_awaiting_a_batch_gives_its_report(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    async with session_of(sandbox) as session:
        report = await session.render(foxes(5), tmp_path)
    assert (report.saved, report.failed, report.skipped, report.rows) == (5, 0, 0, 5)
    assert report.ok
    assert report.stopped_by is None
    assert report.credits == pytest.approx(sandbox.ledger.charged_credits)
    assert report.usd == pytest.approx(5 * ImageRequest("x").usd)
    assert report.bytes == sum(path.stat().st_size for path in pictures(tmp_path))
    assert report.calls["create"] == 5 == sandbox.ledger.requests["create"]
    assert report.calls["image"] == sandbox.ledger.requests["image"]
    assert report.wall_s > 0.0
    assert report.unknown == ()


@pytest.mark.parametrize("source", [[], (), iter([])])
async def test_an_empty_list_is_a_batch_of_nothing(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, source: Any
) -> None:
    async with session_of(sandbox) as session:
        report = await session.render(source, tmp_path / "new")
    assert report.ok
    assert report.rows == 0


async def test_prompts_are_texts_requests_and_mappings_from_any_source(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    rows: list[Any] = ["a fox", ImageRequest("a hare", seed=7), {"prompt": "an owl", "size": "1:2", "id": "owl"}]

    async def from_somewhere() -> AsyncIterator[Any]:
        for row in rows:
            await anyio.lowlevel.checkpoint()
            yield row

    async with session_of(sandbox) as session:
        sources: tuple[Any, ...] = (rows, iter(rows), (row for row in rows), from_somewhere())
        for number, source in enumerate(sources):
            assert (await session.render(source, tmp_path / str(number))).saved == 3
    asked = sandbox.ledger.tasks_by_prompt
    assert {prompt: len(tasks) for prompt, tasks in asked.items()} == {"a fox": 4, "a hare": 4, "an owl": 4}
    assert {task.request.seed for task in asked["a hare"]} == {7}
    assert {task.size for task in asked["an owl"]} == {"1:2"}
    assert [len(pictures(tmp_path / str(number))) for number in range(4)] == [3, 3, 3, 3]


async def test_bad_rows_fail_alone_and_cost_nothing(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    bad: list[Any] = [
        "",
        None,
        7,
        b"bytes",
        ["nested"],
        {},
        {"prompt": "x", "colour": "red"},
        {"prompt": "x", "size": "7:3"},
        {"prompt": "x", "size": []},
        {"prompt": "x", "seed": True},
        {"prompt": "\ud800"},
        {"prompt": "x", "id": ""},
        {1: 2},
        InvalidRequestError("line 3 could not be read", field="prompt"),
    ]
    async with session_of(sandbox) as session, session.render([*bad, "good"], tmp_path) as batch:
        images = {image.index: image async for image in batch}
    assert images[len(bad)].status == "saved"
    for index in range(len(bad)):
        assert images[index].status == "failed"
        assert isinstance(images[index].error, InvalidRequestError)
        assert images[index].credits == 0.0
    assert len(sandbox.ledger.tasks) == 1
    assert batch.report.failures == {"InvalidRequestError": len(bad)}
    assert batch.report.unknown == ()
    assert [row["charged"] for row in manifest(tmp_path)] == ["no"] * len(bad) + [None]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_error_of_the_prompt_source_comes_out_after_the_pulled_rows_are_saved(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, asynchronous: bool
) -> None:
    thrown = MyError("line 4 is missing")

    def prompts() -> Iterator[str]:
        yield from foxes(3)
        raise thrown

    async def from_afar() -> AsyncIterator[str]:
        for prompt in prompts():
            yield prompt

    seen = []
    async with session_of(sandbox) as session:
        with pytest.raises(MyError) as caught:
            async with session.render(from_afar() if asynchronous else prompts(), tmp_path) as batch:
                async for image in batch:
                    seen.append(image.status)  # noqa: PERF401 - what came before the error is kept
        assert caught.value is thrown
        assert (await session.generate("the session lives on", to=tmp_path)).status == "saved"
    assert seen == ["saved"] * 3
    assert [row["status"] for row in manifest(tmp_path)] == ["saved"] * 3


async def test_prompts_are_pulled_only_as_places_come_free(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """A reader that does not read stops the list at `concurrency`; each result read lets one more row in."""
    pulled: list[str] = []

    def prompts() -> Iterator[str]:
        for prompt in foxes(1000):
            pulled.append(prompt)
            yield prompt

    async with session_of(sandbox, concurrency=3) as session, session.render(prompts(), tmp_path) as batch:
        await until(lambda: batch.progress.saved == 3)
        await anyio.wait_all_tasks_blocked()
        assert len(pulled) == 3
        await anext(batch)
        await until(lambda: batch.progress.saved == 4)
        await anyio.wait_all_tasks_blocked()
        assert len(pulled) == 4
    assert len(sandbox.ledger.tasks) == 4


async def test_leaving_early_stops_submitting_and_saves_what_was_submitted(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(0.2)
    async with session_of(sandbox, concurrency=4) as session, session.render(foxes(500), tmp_path) as batch:
        async for _ in batch:
            break
    assert 4 <= len(sandbox.ledger.tasks) <= 9
    assert batch.report.saved == len(sandbox.ledger.tasks) == len(pictures(tmp_path))
    assert not batch.report.ok
    assert batch.report.stopped_by is not None
    assert [row["status"] for row in manifest(tmp_path)].count("saved") == len(sandbox.ledger.tasks)


async def test_leaving_early_skips_rows_that_wait_though_the_list_is_read_to_its_end(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """A short list is pulled whole at once; what still waits for its turn is as little submitted as a long one's."""
    async with session_of(sandbox, concurrency=200, rate=20.0) as session:
        async with session.render(foxes(60), tmp_path) as batch:
            async for _ in batch:
                break
    report = batch.report
    assert report.saved == len(sandbox.ledger.tasks) < 60
    assert report.saved + report.skipped == 60


async def test_leaving_after_the_last_result_is_not_leaving_early(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        async with session.render(foxes(3), tmp_path) as batch:
            for _ in range(3):
                await anext(batch)
        assert batch.report.ok


async def test_the_report_after_the_end_is_for_good(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    """Neither what the session does afterwards nor its end is the batch's."""
    async with session_of(sandbox) as session:
        async with session.render(foxes(3), tmp_path) as batch:
            async for _ in batch:
                pass
        at_the_end = batch.report
        await session.generate("another", to=tmp_path)
        await session.credits()
        assert batch.report == at_the_end
        sandbox.script("create", ("status", 401))
        with pytest.raises(AuthenticationError):
            await session.submit("refused")
        assert batch.report.ok
    assert batch.report == at_the_end


async def test_stop_finishes_what_was_submitted_and_skips_the_rest(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(0.3)
    images: list[GeneratedImage] = []
    async with session_of(sandbox, concurrency=20, rate=10.0) as session:
        async with session.render(foxes(200), tmp_path) as batch:
            await until(lambda: len(sandbox.ledger.tasks) >= 2)
            batch.stop()
            batch.stop()
            images.extend([image async for image in batch])
        assert (await session.generate("only this batch was stopped", to=tmp_path)).status == "saved"
    by_status = {status: sum(image.status == status for image in images) for status in ("saved", "failed", "skipped")}
    assert by_status["failed"] == 0
    assert by_status["saved"] == len(sandbox.ledger.tasks) - 1
    assert by_status["skipped"] > 0
    assert len(images) == batch.report.rows <= 20
    for image in images:
        if image.status == "skipped":
            assert image.request is not None
            assert image.task_id is None
            assert image.error is not None
            assert image.error.charged == "no"


async def test_an_exception_in_the_body_cancels_and_comes_out_bare(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(60.0)
    thrown = MyError("mine")
    async with session_of(sandbox) as session:
        with anyio.fail_after(5.0):
            with pytest.raises(MyError) as caught:
                async with session.render(foxes(5), tmp_path):
                    await until(lambda: len(sandbox.ledger.tasks) == 5)
                    raise thrown
            assert caught.value is thrown
            sandbox.durations = Durations.instant()
            assert (await session.generate("alive", to=tmp_path)).status == "saved"
    assert [path.name for path in pictures(tmp_path)] == ["alive.png"]


async def test_rows_saved_before_a_crash_of_the_body_are_in_the_manifest(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox, concurrency=3) as session:
        with pytest.raises(MyError):
            async with session.render(foxes(30), tmp_path) as batch:
                async for image in batch:
                    if image.index == 5:
                        raise MyError
    rows = manifest(tmp_path)
    assert {row["file"] for row in rows} == {path.name for path in pictures(tmp_path)}
    assert len(rows) >= 6


async def test_a_batch_runs_once(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    async with session_of(sandbox) as session:
        batch = session.render(foxes(1), tmp_path)
        await batch
        with pytest.raises(RuntimeError, match="once"):
            await batch
    assert len(sandbox.ledger.tasks) == 1


async def test_nothing_is_sent_before_a_batch_is_entered(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        batch = session.render(foxes(1), tmp_path / "out")
        await anyio.wait_all_tasks_blocked()
    assert batch.report.rows == 0
    assert sandbox.ledger.requests.total() == 0
    assert not (tmp_path / "out").exists()


async def test_the_manifest_has_a_line_for_every_row(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    rows: list[Any] = [*foxes(20), "", {"prompt": "ein Füchslein\n„so“", "id": "ü"}]
    async with session_of(sandbox, concurrency=3) as session:
        report = await session.render(rows, tmp_path)
    lines = manifest(tmp_path)
    assert [line["index"] for line in lines] == list(range(22))
    assert (report.saved, report.failed) == (21, 1)
    for line in lines:
        if line["status"] == "saved":
            content = (tmp_path / line["file"]).read_bytes()
            assert line["sha256"] == sha256(content).hexdigest()
            assert line["bytes"] == len(content)
            assert line["task_id"] in sandbox.ledger.tasks
    assert lines[20]["error"] == "InvalidRequestError"
    assert lines[21]["prompt"] == "ein Füchslein\n„so“"


@pytest.mark.parametrize(
    "row_id",
    ["same", "../../etc/passwd", "/etc/passwd", "a\0b", "dots...", "CON", "con.txt", "x" * 5000, "🦊" * 300, "..",
     "-rf", "manifest.jsonl", "a\\b", "SAME\u202egnp"],
)  # fmt: skip
async def test_equal_and_hostile_ids_end_as_unique_files_inside_the_directory(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, row_id: str
) -> None:
    directory = tmp_path / "in"
    async with session_of(sandbox) as session:
        async with session.render([{"prompt": "a fox", "id": row_id}] * 3, directory) as batch:
            paths = {image.path async for image in batch}
    assert len(paths) == 3
    for path in paths:
        assert path is not None
        assert path.resolve().parent == directory.resolve()
        assert path.is_file()
        assert not path.name.startswith((".", "-"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
    assert len(pictures(directory)) == 3


async def test_the_report_says_why_rows_failed_and_which_may_have_cost(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.script(
        "create", ("fail", "content_policy_violation"), ("fail", "content_policy_violation"), "drop_after", "cancelled"
    )
    async with session_of(sandbox, concurrency=1, retries=ONE_TRY) as session:
        async with session.render([*foxes(5), ""], tmp_path) as batch:
            images = {image.index: image async for image in batch}
    report = batch.report
    assert (report.saved, report.failed, report.rows) == (1, 5, 6)
    assert report.failures["content_policy_violation"] == 2
    assert sum(report.failures.values()) == 5
    assert isinstance(report.examples["content_policy_violation"], ContentPolicyError)
    assert set(report.examples) == set(report.failures)
    (unknown,) = report.unknown
    assert (unknown.index, unknown.prompt, unknown.charged, unknown.task_id) == (2, "fox 2", "unknown", None)
    assert isinstance(images[2].error, ServiceError)
    assert report.credits == pytest.approx(0.45)


async def test_unknown_and_paid_outcomes_keep_their_task_ids(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(60.0)
    async with session_of(sandbox, task_timeout_s=0.2) as session:
        late = await session.render(["late"], tmp_path / "late")
        sandbox.durations = Durations.instant()
        sandbox.faults = Faults(image_empty=1.0)
        broken = await session.render(["broken"], tmp_path / "broken")
    late_id, broken_id = sandbox.ledger.tasks
    assert [(row.task_id, row.charged) for row in late.unknown] == [(late_id, "unknown")]
    assert isinstance(next(iter(late.examples.values())), TaskTimeoutError)
    assert [(row.task_id, row.charged) for row in broken.unknown] == [(broken_id, "yes")]
    assert (late.credits, broken.credits) == (0.0, 0.45)
    assert late.calls["create"] == broken.calls["create"] == 1


async def test_a_directory_takes_one_batch_at_a_time(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    """Two would both find the same rows unsaved, and pay for each of them twice."""
    async with session_of(sandbox) as session, session.render(foxes(3), tmp_path) as first:
        with pytest.raises(JournalError, match="in use by another session of this process"):
            await session.render(foxes(3), tmp_path)
        assert [image.status async for image in first] == ["saved"] * 3
        await session.render(["elsewhere"], tmp_path / "other")
    assert len(sandbox.ledger.tasks) == 4


async def test_sixteen_rows_that_no_service_answered_stop_the_batch(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.faults = Faults(error=1.0)
    async with session_of(sandbox, concurrency=1, retries=ONE_TRY) as session:
        report = await session.render(foxes(500), tmp_path)
    assert isinstance(report.stopped_by, ServiceError)
    assert report.failed == 16
    assert report.rows <= 17
    assert not report.ok


async def test_a_row_that_the_service_refused_breaks_the_row_of_unanswered_ones(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """A prompt that the gateway turned down shows that the gateway is there."""
    for _ in range(20):
        sandbox.script("create", ("error", 503), ("fail", "content_policy_violation"))
    async with session_of(sandbox, concurrency=1, retries=ONE_TRY) as session:
        report = await session.render(foxes(41), tmp_path)
    assert report.stopped_by is None
    assert (report.failed, report.saved) == (40, 1)


@pytest.mark.parametrize(("status", "kind"), [(401, AuthenticationError), (402, InsufficientCreditsError)])
async def test_a_refused_account_stops_the_batch_and_saves_what_is_paid(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, status: int, kind: type[Exception]
) -> None:
    sandbox.durations = Durations.fixed(0.1)
    sandbox.script("create", *["ok"] * 6, ("status", status))
    async with session_of(sandbox, concurrency=4) as session:
        report = await session.render(foxes(500), tmp_path)
    assert isinstance(report.stopped_by, kind)
    assert report.saved == len(sandbox.ledger.tasks) == len(pictures(tmp_path))
    assert 6 <= report.saved <= 10
    assert report.failed == 1
    assert report.rows <= 15
    assert report.unknown == ()


async def test_a_disk_error_stops_the_batch_and_blames_no_row_that_was_not_sent(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """What was never submitted cost nothing, whatever the row that met the disk error cost."""
    directory = tmp_path / "out"
    async with session_of(sandbox, concurrency=8, rate=10.0) as session:
        images: list[GeneratedImage] = []
        async with session.render(foxes(500), directory) as batch:
            async for image in batch:
                if not images:
                    directory.rename(tmp_path / "gone")
                    directory.write_text("in the way")
                images.append(image)
        report = batch.report
    assert report.stopped_by is not None
    assert report.stopped_by.code == "disk_error"
    assert report.failed >= 1
    assert report.skipped >= 1
    assert report.rows < 30
    paid = set(sandbox.ledger.tasks)
    for image in images:
        if image.status == "saved":  # before the directory was moved
            assert image.path is not None
            assert (tmp_path / "gone" / image.path.name).exists()
            continue
        assert isinstance(image.error, DownloadError | JournalError)
        if image.status == "failed":
            assert image.error.task_id == image.task_id
            assert (image.error.charged == "no") == (image.task_id not in paid)
    skipped = [image.error for image in images if image.status == "skipped"]
    assert {error.charged for error in skipped if error} == {"no"}
    assert {error.task_id for error in skipped if error} == {None}


async def test_a_directory_that_is_a_file_is_an_error_before_anything_is_sent(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("in the way")
    pulled: list[str] = []

    def prompts() -> Iterator[str]:
        for prompt in foxes(5):
            pulled.append(prompt)
            yield prompt

    async with session_of(sandbox) as session:
        with pytest.raises(DownloadError) as caught:
            await session.render(prompts(), tmp_path / "out")
    assert caught.value.charged == "no"
    assert caught.value.code == "disk_error"
    assert not pulled
    assert sandbox.ledger.requests.total() == 0


async def test_a_batch_in_another_task_holds_up_the_exit_and_is_finished(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(0.1)
    async with session_of(sandbox, concurrency=3) as session:
        batch = session.render(foxes(9), tmp_path)

        async def render() -> None:
            await batch

        task = asyncio.create_task(render())
        await until(lambda: sandbox.ledger.tasks)
    await task
    assert batch.report.saved == 9


async def test_cancelling_a_batch_without_a_drain_ends_it_at_once_and_leaves_nothing_half_done(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(60.0)
    async with session_of(sandbox) as session:
        with anyio.fail_after(5.0):
            with anyio.move_on_after(0.3) as scope:
                await session.render(foxes(5), tmp_path, policy=BatchPolicy(drain_s=0.0))
            assert scope.cancelled_caught
    assert not pictures(tmp_path)


async def test_progress_adds_up(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    async with session_of(sandbox, concurrency=2) as session:
        async with session.render([*foxes(4), ""], tmp_path) as batch:
            async for _ in batch:
                progress = batch.progress
                assert progress.in_flight + progress.saved + progress.failed <= 5
                assert 0 <= progress.in_flight <= 2
        progress = batch.progress
    assert (progress.in_flight, progress.saved, progress.failed, progress.skipped) == (0, 4, 1, 0)
    assert progress.elapsed_s == batch.report.wall_s
