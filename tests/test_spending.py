"""What may be spent: caps that hold at every instant, over all runs in a directory."""

import logging
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from resuming import (
    SessionOf,
    accepted,
    foxes,
    intent,
    journal,
    killed_run,
    most_committed,
    ordered,
    pictures,
    prompts_made,
    row,
    spent,
)

from krea_async import (
    BatchPolicy,
    BatchReport,
    BudgetExceededError,
    ImageRequest,
    InsufficientCreditsError,
)
from krea_async.sandbox import Durations, Faults, Sandbox

pytestmark = pytest.mark.anyio

PRICES: dict[str, Callable[[ImageRequest], float]] = {
    "max_credits": lambda request: request.credits,
    "max_usd": lambda request: request.usd,
}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
        yield sandbox


def mixed(count: int) -> list[ImageRequest]:
    """Every third picture is a large one."""
    return [ImageRequest(f"fox {number}", quality="1K" if number % 3 else "2K") for number in range(count)]


# --- the cap ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cap", "most"), [("max_credits", 30.0), ("max_usd", 0.45)])
async def test_charged_and_reserved_never_exceed_the_cap_at_any_instant(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, cap: str, most: float
) -> None:
    """Fifty at a time, two prices, refunds, lost answers; and the second run goes on where the first one stopped."""
    sandbox.durations = Durations(queue_s=0.01, run_s=0.05, sigma=0.5)
    sandbox.faults = Faults(fail={"generation_timeout": 0.2}, drop_after=0.1, error_after=0.05, image_truncated=0.1)
    price, rows = PRICES[cap], mixed(300)
    async with session_of(sandbox, concurrency=50) as session:

        async def capped(at: float) -> BatchReport:
            caps: dict[str, Any] = {cap: at}
            return await session.render(rows, tmp_path, **caps)

        reports = [await capped(part * most) for part in (0.5, 1.0)]
        for part, report in zip((0.5, 1.0), reports, strict=True):
            assert isinstance(report.stopped_by, BudgetExceededError)
            assert report.unknown == ()
            assert f"{cap} is {part * most:g}" in report.stopped_by.message
        assert most_committed(sandbox, price) <= most
        paid = sum(price(task.request) for task in sandbox.ledger.tasks.values() if task.end == "completed")
        assert most * 0.97 - price(rows[0]) < paid <= most, "the cap is used"
        assert sandbox.ledger.unfinished == 0, "what was in flight is finished"
        assert len(pictures(tmp_path)) == sum(report.saved for report in reports)
        created = sandbox.ledger.requests["create"]
        stuck = await capped(most - 0.0001)
        assert isinstance(stuck.stopped_by, BudgetExceededError)
        assert (stuck.saved, sandbox.ledger.requests["create"]) == (0, created)
        final = await capped(10 * most)
    assert final.stopped_by is None
    assert spent(tmp_path) == pytest.approx((sandbox.ledger.charged_credits, 0.0))
    assert sandbox.ledger.duplicates == {}


@pytest.mark.parametrize(
    ("cap", "pictures_made", "is_stopped"),
    [
        ({"max_credits": 4.5}, 10, False),
        ({"max_credits": 4.49}, 9, True),
        ({"max_credits": 0.45 + 0.45 + 0.45}, 3, True),
        ({"max_credits": 0.9}, 2, True),
        ({"max_usd": 0.067}, 10, False),
        ({"max_usd": 0.0669}, 9, True),
        ({"max_usd": 0.0067 * 3}, 3, True),
        ({"max_credits": 4.5, "max_usd": 0.0134}, 2, True),
        ({"max_credits": 0.45, "max_usd": 1.0}, 1, True),
        ({"max_credits": 0.44}, 0, True),
        ({"max_credits": 0.0}, 0, True),
        ({"max_usd": 0.001}, 0, True),
    ],
    ids=str,
)
async def test_a_cap_of_exactly_so_many_pictures_makes_exactly_so_many(
    sandbox: Sandbox,
    session_of: SessionOf,
    tmp_path: Path,
    cap: dict[str, Any],
    pictures_made: int,
    is_stopped: bool,
) -> None:
    async with session_of(sandbox) as session:
        report = await session.render(foxes(10), tmp_path, **cap)
    assert (report.saved, len(sandbox.ledger.tasks)) == (pictures_made, pictures_made)
    assert (report.stopped_by is not None) is is_stopped
    assert report.failed == 0
    assert report.ok is not is_stopped


async def test_at_the_cap_the_error_says_the_cap_what_is_spent_and_what_is_needed(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        async with session.render(["fox", ImageRequest("owl", quality="2K")], tmp_path, max_credits=2.0) as batch:
            images = [image async for image in batch]
        higher = await session.render(["fox", ImageRequest("owl", quality="2K")], tmp_path, max_credits=2.25)
    stopped_by = batch.report.stopped_by
    assert isinstance(stopped_by, BudgetExceededError)
    assert re.findall(r"[\d.]+", stopped_by.message) == ["2", "0.45", "1.8"]
    assert [(image.status, image.credits) for image in images] == [("saved", 0.45), ("skipped", 0.0)] or [
        image.status for image in images
    ] == ["skipped", "saved"]
    assert batch.report.left == 1
    assert (higher.saved, higher.already_saved, higher.ok) == (1, 1, True)


async def test_the_cap_covers_what_earlier_runs_spent_ordered_or_may_have_spent(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """One saved, one at the gateway, one of which nobody knows: together they leave room for one more under 1.8."""
    async with session_of(sandbox) as session:
        await session.render(["saved"], tmp_path)
        (task_id,) = await ordered(session, ["ordered"])
        under_way = (row(1, "ordered"), intent(1), accepted(1, task_id), row(2, "unknown"), intent(2, age_s=90_000.0))
        with (tmp_path / "journal.jsonl").open("ab") as file:
            other = tmp_path / "other"
            killed_run(other, row(0, "saved"), *under_way)
            file.writelines((other / "journal.jsonl").read_bytes().splitlines(keepends=True)[3:])
        report = await session.render(["saved", "ordered", "unknown", *foxes(5)], tmp_path, max_credits=1.8)
    assert prompts_made(sandbox) == ["saved", "ordered", "fox 0"]
    assert (report.saved, report.already_saved) == (2, 1)
    assert isinstance(report.stopped_by, BudgetExceededError)


async def test_a_price_that_differs_from_the_table_is_logged_and_counts(
    sandbox: Sandbox,
    session_of: SessionOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Dearer(ImageRequest):
        credits = 0.6

    monkeypatch.setattr("krea_async.sandbox.gateway_app.ImageRequest", Dearer)
    caplog.set_level(logging.WARNING, logger="krea_async")
    async with session_of(sandbox) as session:
        report = await session.render(foxes(10), tmp_path, max_credits=3.0)
    assert [record.getMessage() for record in caplog.records] == [
        "a 1K picture costs 0.6 credits, not 0.45 as expected; that is what is counted from now on"
    ]
    assert (report.saved, report.credits) == (5, 3.0)
    assert most_committed(sandbox) == 3.0
    assert isinstance(report.stopped_by, BudgetExceededError)
    assert re.findall(r"[\d.]+", report.stopped_by.message) == ["3", "3", "0.6"]
    assert spent(tmp_path) == (3.0, 0.0)


async def test_an_account_that_runs_dry_in_the_middle_is_topped_up_and_gone_on_with(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations.fixed(0.05)
    sandbox._account.granted = 4.6
    async with session_of(sandbox, concurrency=4) as session:
        dry = await session.render(foxes(30), tmp_path, policy=BatchPolicy(read_balance=True))
    assert isinstance(dry.stopped_by, InsufficientCreditsError)
    assert dry.saved == 10 == len(sandbox.ledger.tasks)
    assert dry.unknown == ()
    assert (dry.balance_before, dry.balance_after) == (4.6, 0.1)
    sandbox._account.granted = 1_000.0
    async with session_of(sandbox, concurrency=4) as session:
        report = await session.render(foxes(30), tmp_path)
    assert (report.saved, report.already_saved, report.ok) == (20, 10, True)
    assert sandbox.ledger.duplicates == {}
    keys = {line["n"]: set[str]() for line in journal(tmp_path) if line["e"] == "intent"}
    for line in journal(tmp_path):
        if line["e"] == "intent":
            keys[line["n"]].add(line["key"])
    assert all(len(of_row) == 1 for of_row in keys.values()), "what was refused is sent again under its key"
