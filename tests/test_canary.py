"""A mistake in the template is paid for a few times and not a thousand: canaries first, and a breaker."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from resuming import SessionOf, accepted, foxes, intent, journal, killed_run, ordered, row
from until import until

from krea_async import (
    BatchPolicy,
    BreakerPolicy,
    ImageRequest,
)
from krea_async.sandbox import Durations, Faults, Sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
        yield sandbox


# --- canaries ---------------------------------------------------------------------------------------------------------


async def test_the_rest_waits_until_all_canaries_are_saved(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.durations = Durations(queue_s=0.02, run_s=0.1, sigma=0.8)
    sandbox.script("create", "ok", ("fail", "content_policy_violation"))
    sandbox.script("image", ("slow", 0.3))
    async with session_of(sandbox) as session:
        report = await session.render(foxes(20), tmp_path, policy=BatchPolicy(canary=3))
    tasks = list(sandbox.ledger.tasks.values())
    at_s = {line["n"]: line["t"] for line in journal(tmp_path) if line["e"] in {"saved", "failed"}}
    sent_s = {line["n"]: line["t"] for line in journal(tmp_path) if line["e"] == "intent"}
    assert max(at_s[n] for n in range(3)) <= min(sent_s[n] for n in range(3, 20))
    assert max(task.finishes for task in tasks[:3]) < tasks[3].created
    assert (report.saved, report.failed, report.stopped_by) == (19, 1, None)


async def test_when_all_canaries_fail_the_rest_is_not_paid_for(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.script("create", *[("fail", "invalid_parameters")] * 3)
    policy = BatchPolicy(canary=3)
    async with session_of(sandbox) as session:
        report = await session.render(foxes(20), tmp_path, policy=policy)
        assert len(sandbox.ledger.tasks) == 3
        next_three = await session.render(foxes(20), tmp_path, policy=policy)
    assert report.stopped_by is not None
    assert report.stopped_by.code == "canary_failed"
    assert "all 3 canary rows failed" in report.stopped_by.message
    assert (report.failed, report.saved, report.failures) == (3, 0, {"invalid_parameters": 3})
    assert not report.ok
    assert (next_three.failed, next_three.saved, next_three.stopped_by) == (3, 17, None)


async def test_a_twin_that_the_canaries_keep_from_being_sent_is_skipped(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """It was not sent, so it has not failed; and what stopped it stops the batch."""
    sandbox.durations = Durations.fixed(0.2)
    sandbox.script("create", ("fail", "invalid_parameters"))

    async def prompts() -> AsyncIterator[ImageRequest]:
        yield ImageRequest("fox", seed=7, id="maker")
        await until(lambda: sandbox.ledger.tasks)
        yield ImageRequest("fox", seed=7, id="twin")

    async with session_of(sandbox) as session:
        report = await session.render(prompts(), tmp_path, policy=BatchPolicy(canary=1))
    assert (report.failed, report.skipped, len(sandbox.ledger.tasks)) == (1, 1, 1)
    assert report.stopped_by is not None
    assert report.stopped_by.code == "canary_failed"


@pytest.mark.parametrize("rows", [0, 2, 3])
async def test_more_canaries_than_rows_are_all_rows(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, rows: int
) -> None:
    async with session_of(sandbox) as session:
        report = await session.render(foxes(rows), tmp_path, policy=BatchPolicy(canary=3))
    assert (report.saved, report.ok) == (rows, True)


async def test_canaries_are_new_rows(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    """What earlier runs have saved or ordered shows nothing of the rows to come, and waits for nobody."""
    sandbox.durations = Durations.fixed(0.2)
    async with session_of(sandbox) as session:
        ids = await ordered(session, foxes(2))
        killed_run(tmp_path, *(line for n in range(2) for line in (row(n, f"fox {n}"), intent(n), accepted(n, ids[n]))))
        report = await session.render(foxes(12), tmp_path, policy=BatchPolicy(canary=2))
        more = await session.render(foxes(20), tmp_path, policy=BatchPolicy(canary=2))
    tasks = list(sandbox.ledger.tasks.values())
    assert max(task.finishes for task in tasks[2:4]) < min(task.created for task in tasks[4:12])
    assert max(task.finishes for task in tasks[12:14]) < min(task.created for task in tasks[14:])
    assert (report.saved, more.saved, more.already_saved) == (12, 8, 12)


# --- the breaker ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (("fail", "content_policy_violation"), "content_policy_violation"),
        (("fail", "invalid_parameters"), "invalid_parameters"),
        (("status", 400), "invalid_request"),
    ],
    ids=str,
)
async def test_one_mistake_in_the_template_is_not_repeated_a_thousand_times(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, fault: tuple[str, Any], code: str
) -> None:
    sandbox.script("create", *[fault] * 200)
    async with session_of(sandbox, concurrency=8) as session:
        report = await session.render(foxes(1000), tmp_path)
        sent = sandbox.ledger.requests["create"]
        assert report.stopped_by is not None
        assert report.stopped_by.code == "breaker_open"
        assert code in report.stopped_by.message
        assert 20 <= sent <= 20 + 8
        assert (report.failed, report.saved, report.credits) == (sent, 0, 0.0)
        again = await session.render(foxes(1000), tmp_path)
    assert again.stopped_by is not None
    assert sandbox.ledger.requests["create"] - sent <= 20 + 8, "each run may pay for finding out"
    assert again.failed == report.failed + sandbox.ledger.requests["create"] - sent
    assert sandbox.ledger.charged_credits == 0.0


async def test_a_mistake_that_begins_late_is_found_as_well(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.script("create", *["ok"] * 60, *[("fail", "content_policy_violation")] * 400)
    async with session_of(sandbox, concurrency=8) as session:
        report = await session.render(foxes(400), tmp_path)
    assert (report.stopped_by is not None, report.saved) == (True, 60)
    assert 41 <= report.failed <= 41 + 16


async def test_one_row_in_ten_does_not_trip_the_breaker(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.faults = Faults(fail={"content_policy_violation": 0.1})
    async with session_of(sandbox) as session:
        report = await session.render(foxes(300), tmp_path)
    assert report.stopped_by is None
    assert report.saved + report.failed == 300
    assert report.failed > 10


async def test_without_a_breaker_every_row_is_tried(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    sandbox.faults = Faults(fail={"content_policy_violation": 1.0})
    async with session_of(sandbox) as session:
        report = await session.render(foxes(60), tmp_path, policy=BatchPolicy(breaker=None))
    assert (report.stopped_by, report.failed, len(sandbox.ledger.tasks)) == (None, 60, 60)


async def test_a_mended_template_goes_on_behind_the_breaker(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.faults = Faults(fail={"content_policy_violation": 1.0})
    policy = BatchPolicy(breaker=BreakerPolicy(rows=10, at_least=5))
    async with session_of(sandbox, concurrency=8) as session:
        stopped = await session.render(foxes(50), tmp_path, policy=policy)
        sandbox.faults = Faults()
        rest = await session.resume(tmp_path, policy=policy)
        all_of_it = await session.render(foxes(50), tmp_path, policy=policy)
        retry = BatchPolicy(retry_failed=True, retry_codes={"content_policy_violation"})
        mended = await session.render(foxes(50), tmp_path, policy=retry)
    assert 5 <= stopped.failed <= 5 + 8
    assert rest.failed == stopped.failed, "without the list, only rows that were begun are known"
    assert (all_of_it.saved, mended.saved, mended.ok) == (50 - stopped.failed - rest.saved, stopped.failed, True)
    assert sandbox.ledger.charged_credits == pytest.approx(50 * 0.45)
