"""A second run in a directory: every row is found again, taken up where it was left, and never paid for twice."""

import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from resuming import (
    ONE_TRY,
    SessionOf,
    accepted,
    completed,
    foxes,
    intent,
    journal,
    keys_of,
    killed_run,
    manifest,
    ordered,
    pictures,
    prompts_made,
    row,
    spent,
)

from krea_async import (
    BatchPolicy,
    ImageExpiredError,
    ImageRequest,
)
from krea_async.batch.opening import plan
from krea_async.sandbox import Durations, Sandbox
from krea_async.storage.records import Line, Saved

pytestmark = pytest.mark.anyio

RETRY_POLICY_FAILURES = BatchPolicy(retry_failed=True, retry_codes={"content_policy_violation"})


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
        yield sandbox


# --- which row is which -----------------------------------------------------------------------------------------------

LIST: list[Any] = [
    "hare",
    "owl",
    "hare",
    {"prompt": "owl", "id": "a"},
    {"prompt": "owl", "id": "b"},
    {"prompt": "owl", "quality": "2K"},
    ImageRequest("owl", seed=0),
]
"""Seven pictures: twice the same hare, and two owls of equal content without a name."""


@pytest.mark.parametrize(
    ("changed", "new"),
    [
        (lambda rows: rows, 0),
        (lambda rows: rows[::-1], 0),
        (lambda rows: [*rows[3:], *rows[:3]], 0),
        (lambda rows: rows[1:], 0),
        (lambda rows: rows[::2], 0),
        (lambda _: ["hare"], 0),
        (lambda rows: ["wolf", *rows], 1),
        (lambda rows: ["hare", *rows], 1),
        (lambda rows: [*rows[4:], "hare", "hare", "hare", *rows[:4]], 3),
        (lambda rows: [{**row, "id": "c"} if row == rows[3] else row for row in rows], 1),
        (lambda rows: [{"prompt": "hare", "nsfw_check": True}, *rows[1:]], 1),
        (lambda rows: [{"prompt": "hare", "callback_url": "https://my.org/x"}, *rows[1:]], 0),
        (lambda rows: [" hare\n", *rows[1:]], 0),
    ],
    ids=[
        *("same", "reversed", "turned", "one-removed", "many-removed", "one-left", "on-top", "one-more-on-top"),
        *("three-more", "other-id", "nsfw-check", "callback", "blanks"),
    ],
)
async def test_a_changed_list_pays_for_what_is_new_and_nothing_else(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, changed: Callable[[list[Any]], list[Any]], new: int
) -> None:
    rows = changed(LIST)
    async with session_of(sandbox) as session:
        first = await session.render(LIST, tmp_path)
        before = pictures(tmp_path)
        second = await session.render(rows, tmp_path)
    assert first.saved == 7
    assert first.credits == pytest.approx(6 * 0.45 + 1.8)
    assert (second.saved, second.already_saved, second.failed) == (new, len(rows) - new, 0)
    assert second.calls["create"] == new == len(sandbox.ledger.tasks) - 7
    assert second.credits == pytest.approx(0.45 * new)
    assert second.ok
    assert set(before) < set(pictures(tmp_path)) if new else before == pictures(tmp_path)
    assert len(manifest(tmp_path)) == 7 + new


@pytest.mark.parametrize("other", [{"prompt": "wolf"}, {"nsfw_check": True}, {"quality": "2K"}])
async def test_other_content_under_a_known_id_is_told_and_not_made(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, caplog: pytest.LogCaptureFixture, other: dict[str, Any]
) -> None:
    async with session_of(sandbox) as session:
        before = [{"id": name, "prompt": "owl"} for name in ("a", "b", "c")]
        await session.render(before, tmp_path)
        caplog.set_level(logging.INFO, logger="krea_async.batch")
        report = await session.render(
            [
                {"id": "a", "prompt": "owl", **other},
                {"id": "b", "prompt": "owl", "callback_url": "https://my.org/x"},
                {"id": "c", "prompt": "owl", **other},
            ],
            tmp_path,
        )
    assert (report.already_saved, report.calls["create"]) == (3, 0)
    first, second = [record for record in caplog.records if "was another request" in record.message]
    assert (first.levelno, second.levelno) == (logging.WARNING, logging.INFO)
    assert "row 0: 'a' was another request" in first.message
    assert "row 2: 'c' was another request" in second.message


async def test_a_row_that_was_planned_and_then_changed_is_journalled_as_it_is_sent(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """Whichever request is sent: a later run that repeats its key must repeat its body, and the books must name it."""
    await plan(tmp_path, [ImageRequest("owl", id="a")], BatchPolicy())
    async with session_of(sandbox) as session:
        report = await session.render([{"id": "a", "prompt": "wolf"}], tmp_path)
    assert report.saved == 1
    (told,) = [line["request"]["prompt"] for line in journal(tmp_path) if line["e"] == "row"]
    assert prompts_made(sandbox) == [told]
    assert [line["prompt"] for line in manifest(tmp_path)] == [told]


async def test_a_failed_row_that_was_changed_repeats_its_key_with_its_body(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    rows = [{"id": "a", "prompt": "a nicer owl"}]
    sandbox.script("create", ("fail", "content_policy_violation"), "drop_after")
    async with session_of(sandbox, retries=ONE_TRY) as session:
        await session.render([{"id": "a", "prompt": "owl"}], tmp_path)
        lost = await session.render(rows, tmp_path, policy=RETRY_POLICY_FAILURES)
        assert [unknown.charged for unknown in lost.unknown] == ["unknown"]
        report = await session.render(rows, tmp_path)
    assert report.failures == {}
    assert report.saved == 1
    assert sandbox.ledger.replays == 1
    assert len(sandbox.ledger.tasks) == 2


async def test_ten_thousand_saved_rows_cost_no_request_and_little_time(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    lines: list[Line] = []
    rows: list[str] = []
    for n in range(10_000):
        name = f"{n:05d}.png"
        (tmp_path / name).write_bytes(b"png")
        facts: dict[str, Any] = {"bytes": 3, "sha256": "0" * 64, "width": 1, "height": 1, "at_s": 1.0}
        lines += [row(n, f"fox {n}"), intent(n), accepted(n, f"task-unified-{n}")]
        lines.append(Saved(n=n, credits=0.45, task_id=f"task-unified-{n}", files=[name], **facts))
        rows += [f"fox {n}"] if n % 1000 else ["", f"fox {n}"]
    killed_run(tmp_path, *lines)
    begun_s = time.process_time()
    async with session_of(sandbox) as session:
        report = await session.render(rows, tmp_path)
    assert time.process_time() - begun_s < 10.0  # of the processor; about 2 were measured
    assert sandbox.ledger.requests.total() == 0
    assert (report.already_saved, report.failed, report.saved) == (10_000, 10, 0)
    assert report.failures == {"InvalidRequestError": 10}
    assert report.credits == 0.0


async def test_invalid_rows_stand_in_the_manifest_once(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    async with session_of(sandbox) as session:
        for _ in range(3):
            await session.render(["fox", "", "hare"], tmp_path)
    assert [line["status"] for line in manifest(tmp_path)] == ["saved", "failed", "saved"]


# --- saved rows -------------------------------------------------------------------------------------------------------


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "flipped": flipped,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("with_id", [False, True])
async def test_a_damaged_picture_is_fetched_again_from_its_task(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, damage: str, with_id: bool
) -> None:
    rows = [ImageRequest(prompt, id=f"my {prompt}" if with_id else None) for prompt in foxes(3)]
    async with session_of(sandbox) as session:
        await session.render(rows, tmp_path)
        names, books = pictures(tmp_path), manifest(tmp_path)
        whole = (tmp_path / names[1]).read_bytes()
        DAMAGES[damage](tmp_path / names[1])
        policy = BatchPolicy(check_sha256=True)
        report = await session.render(rows, tmp_path, policy=policy)
        again = await session.render(rows, tmp_path, policy=policy)
    assert (report.saved, report.already_saved, report.calls["create"]) == (1, 2, 0)
    assert again.already_saved == 3
    assert report.credits == 0.0, "it was paid for by the run before"
    assert (tmp_path / names[1]).read_bytes() == whole, "under its own name"
    assert set(names) <= set(pictures(tmp_path))
    assert len([name for name in pictures(tmp_path) if name.endswith(".png")]) == 3
    assert manifest(tmp_path)[1]["sha256"] == books[1]["sha256"]
    assert [(line["file"], line["credits"]) for line in manifest(tmp_path)] == [(name, 0.45) for name in names]
    assert spent(tmp_path) == pytest.approx((sandbox.ledger.charged_credits, 0.0))


async def test_a_flipped_bit_is_not_looked_for_unasked(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    async with session_of(sandbox) as session:
        await session.render(["fox"], tmp_path)
        flipped(tmp_path / pictures(tmp_path)[0])
        report = await session.render(["fox"], tmp_path)
    assert (report.already_saved, sandbox.ledger.requests["image"]) == (1, 1)


@pytest.mark.parametrize("end", ["link-dead", "task-forgotten"])
async def test_a_lost_picture_that_nobody_has_any_more_says_what_another_one_costs(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, end: str
) -> None:
    rows = [ImageRequest("fox"), ImageRequest("owl", quality="2K")]
    async with session_of(sandbox) as session:
        await session.render(rows, tmp_path)
        for name in pictures(tmp_path):
            (tmp_path / name).unlink()
        if end == "link-dead":
            sandbox.settings.link_life_s = 0.0
        else:
            for task_id in sandbox.ledger.tasks:
                sandbox.forget(task_id)
        async with session.render(rows, tmp_path) as batch:
            images = {image.index: image async for image in batch}
        after_s = sandbox.ledger.requests.copy()
        again = await session.render(rows, tmp_path, policy=BatchPolicy(retry_failed=True))
        assert sandbox.ledger.requests == after_s, "it is known to be gone"
    assert batch.report.calls["create"] == 0
    assert after_s["read"] <= 2 * 2, "one fresh read each, or two when the clock struck a second in between"
    for index, price in ((0, "0.45 credits"), (1, "1.8 credits")):
        error = images[index].error
        assert isinstance(error, ImageExpiredError)
        assert price in error.message
        assert error.charged == "yes", "it was saved once, so it was charged"
        assert error.task_id == images[index].task_id is not None
    verdicts = [line for line in journal(tmp_path) if line["e"] == "failed"]
    assert {(line["charged"], line["error"]) for line in verdicts} == {("yes", "ImageExpiredError")}
    assert (again.failed, again.failures) == (2, {"ImageExpiredError": 2})
    assert spent(tmp_path) == pytest.approx((2.25, 0.0)), "the second run spent nothing"
    assert sum(line["credits"] for line in manifest(tmp_path)) == pytest.approx(2.25)


async def test_a_picture_whose_link_is_past_its_day_is_rendered_again_on_request_only(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.settings.link_life_s = 0.0
    async with session_of(sandbox) as session:
        (task_id,) = await ordered(session, ["fox"])
        under_way = (row(0, "fox"), intent(0, age_s=90_000.0), accepted(0, task_id, age_s=90_000.0))
        killed_run(tmp_path, *under_way, completed(0, expires_in_s=-3600.0))
        first = await session.render(["fox"], tmp_path)
        unasked = await session.render(["fox"], tmp_path, policy=BatchPolicy(retry_failed=True))
        sandbox.settings.link_life_s = 86_400.0
        policy = BatchPolicy(retry_failed=True, retry_codes={"ImageExpiredError"})
        second = await session.render(["fox"], tmp_path, policy=policy)
        third = await session.render(["fox"], tmp_path)
    for report in (first, unasked):
        assert (report.failures, report.calls["create"]) == ({"ImageExpiredError": 1}, 0)
        assert [(unknown.task_id, unknown.charged) for unknown in report.unknown] == [(task_id, "yes")]
    assert "0.45 credits" in first.examples["ImageExpiredError"].message
    assert (second.saved, third.already_saved) == (1, 1)
    assert len(sandbox.ledger.tasks) == len(set(keys_of(tmp_path, 0))) == 2
    assert spent(tmp_path) == pytest.approx((0.9, 0.0))
    assert [line["status"] for line in manifest(tmp_path)] == ["saved"]
