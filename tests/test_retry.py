"""Rows that failed stay failed until somebody asks for another try, and then only where it may help."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from resuming import ONE_TRY, SessionOf, foxes, journal, keys_of, manifest, pictures, prompts_made, spent

from krea_async import BatchPolicy, ContentPolicyError, InvalidRequestError, TaskFailedError
from krea_async.sandbox import Durations, Faults, Sandbox

pytestmark = pytest.mark.anyio

RETRY = BatchPolicy(retry_failed=True)

WORTH_IT = (
    "generation_timeout",
    "resource_exhausted",
    "service_error",
    "service_unavailable",
    "quota_exceeded",
    "unknown_error",
)
NOT_WORTH_IT = (
    "content_policy_violation",
    "invalid_parameters",
    "generation_failed_no_content",
    "image_processing_error",
    "image_dimension_mismatch",
    "request_cancelled",
    "resource_not_found",
)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
        yield sandbox


async def test_failed_rows_stay_failed_and_are_told_again(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.script("create", ("fail", "content_policy_violation"), ("fail", "generation_timeout"), "cancelled")
    async with session_of(sandbox, concurrency=1) as session:
        async with session.render(foxes(4), tmp_path) as batch:
            before = {image.index: image async for image in batch}
        books = manifest(tmp_path)
        requests = sandbox.ledger.requests.copy()
        async with session.render(foxes(4), tmp_path) as batch:
            after = {image.index: image async for image in batch}
    assert sandbox.ledger.requests == requests
    assert isinstance(after[0].error, ContentPolicyError)
    assert isinstance(after[1].error, TaskFailedError)
    for index in range(3):
        first, second = before[index].error, after[index].error
        assert first is not None
        assert second is not None
        assert str(first) == str(second)
        assert (second.retryable, second.charged, second.task_id) == (first.retryable, "no", before[index].task_id)
    report = batch.report
    assert (report.failed, report.already_saved, report.saved) == (3, 1, 0)
    assert report.failures == {"content_policy_violation": 1, "generation_timeout": 1, "request_cancelled": 1}
    assert (report.credits, report.credits_refunded) == (0.0, 0.0), "this run had nothing to do with it"
    assert report.unknown == ()
    assert manifest(tmp_path) == books


async def test_the_vendors_table_says_which_codes_are_worth_another_try(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """One row for each code, one that the gateway refused at once, and one that was saved."""
    codes = [*WORTH_IT, *NOT_WORTH_IT]
    sandbox.script("create", *(("fail", code) for code in codes), ("status", 400))
    prompts = foxes(len(codes) + 2)
    async with session_of(sandbox, concurrency=1) as session:
        first = await session.render(prompts, tmp_path)
        second = await session.render(prompts, tmp_path, policy=RETRY)
        third = await session.render(prompts, tmp_path, policy=RETRY)
    assert (first.saved, first.failed) == (1, len(codes) + 1)
    assert prompts_made(sandbox)[-len(WORTH_IT) :] == prompts[: len(WORTH_IT)]
    assert (second.saved, second.failed, second.already_saved) == (len(WORTH_IT), len(NOT_WORTH_IT) + 1, 1)
    assert second.failures == dict.fromkeys([*NOT_WORTH_IT, "invalid_request"], 1)
    assert third.calls["create"] == 0
    assert [line["status"] for line in manifest(tmp_path)] == [
        *["saved"] * len(WORTH_IT),
        *["failed"] * (len(NOT_WORTH_IT) + 1),
        "saved",
    ]
    assert sum(line["credits"] for line in manifest(tmp_path)) == pytest.approx(sandbox.ledger.charged_credits)
    assert spent(tmp_path) == pytest.approx((sandbox.ledger.charged_credits, 0.0))
    assert isinstance(first.examples["invalid_request"], InvalidRequestError)
    assert len(pictures(tmp_path)) == len(WORTH_IT) + 1


async def test_codes_choose_the_rows_and_nothing_else_is_sent(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """The user who names a code knows better than the table."""
    sandbox.script(
        "create",
        ("fail", "content_policy_violation"),
        ("fail", "generation_timeout"),
        ("fail", "content_policy_violation"),
        ("status", 400),
    )
    policy = BatchPolicy(retry_failed=True, retry_codes=["content_policy_violation", "invalid_request"])
    async with session_of(sandbox, concurrency=1) as session:
        await session.render(foxes(5), tmp_path)
        report = await session.render(foxes(5), tmp_path, policy=policy)
    assert prompts_made(sandbox)[4:] == ["fox 0", "fox 2", "fox 3"]
    assert (report.saved, report.failures) == (3, {"generation_timeout": 1})


def test_codes_without_the_wish_to_retry_are_a_mistake() -> None:
    """An option that would have no effect is not taken."""
    with pytest.raises(ValueError, match="retry_failed"):
        BatchPolicy(retry_codes={"generation_timeout"})


async def test_a_row_may_fail_time_and_again_each_time_under_a_key_of_its_own(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.script("create", *[("fail", "generation_timeout"), ("fail", "service_error")] * 2)
    async with session_of(sandbox) as session:
        failures = [dict((await session.render(["fox"], tmp_path, policy=RETRY)).failures) for _ in range(4)]
        assert [line["error"] for line in manifest(tmp_path)] == ["service_error"]
        saved = await session.render(["fox"], tmp_path, policy=RETRY)
        again = await session.render(["fox"], tmp_path, policy=RETRY)
    assert failures == [{"generation_timeout": 1}, {"service_error": 1}] * 2
    assert (saved.saved, saved.credits, again.already_saved) == (1, 0.45, 1)
    keys = keys_of(tmp_path, 0)
    assert len(keys) == len(set(keys)) == len(sandbox.ledger.tasks) == 5
    assert [line["status"] for line in manifest(tmp_path)] == ["saved"]
    assert spent(tmp_path) == (0.45, 0.0)
    assert pictures(tmp_path) == ["00000-fox.png"]


async def test_a_retry_whose_answer_was_lost_is_no_new_retry(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """From then on it is a row under way: the next run goes on with it under the key of the retry, unasked."""
    sandbox.script("create", ("fail", "generation_timeout"), "drop_after")
    async with session_of(sandbox, retries=ONE_TRY) as session:
        await session.render(["fox"], tmp_path)
        lost = await session.render(["fox"], tmp_path, policy=RETRY)
        report = await session.render(["fox"], tmp_path)
    assert [row.charged for row in lost.unknown] == ["unknown"]
    assert report.saved == 1
    first, second, third = keys_of(tmp_path, 0)
    assert first != second == third
    assert len(sandbox.ledger.tasks) == 2
    assert sandbox.ledger.replays == 1
    assert spent(tmp_path) == (0.45, 0.0)


async def test_resume_without_the_list_retries_too(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    sandbox.script("create", "ok", ("fail", "generation_timeout"), ("fail", "invalid_parameters"))
    async with session_of(sandbox, concurrency=1) as session:
        await session.render(foxes(3), tmp_path)
        untouched = await session.resume(tmp_path)
        report = await session.resume(tmp_path, policy=RETRY)
    assert (untouched.failed, untouched.calls["create"]) == (2, 0)
    assert (report.saved, report.failed, report.already_saved) == (1, 1, 1)
    assert [line["index"] for line in manifest(tmp_path)] == [0, 1, 2]


async def test_storms_of_failures_are_worn_down_and_the_books_still_add_up(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.faults = Faults(fail={"generation_timeout": 0.3, "resource_exhausted": 0.2}, drop_after=0.05)
    runs = 0
    async with session_of(sandbox) as session:
        while (await session.render(foxes(60), tmp_path, policy=RETRY)).failed:
            runs += 1
            assert runs < 20
            assert spent(tmp_path) == pytest.approx((sandbox.ledger.charged_credits, 0.0))
    assert runs > 1
    assert sandbox.ledger.charged_credits == pytest.approx(60 * 0.45)
    assert sandbox.ledger.duplicates == {}
    keys = [line["key"] for line in journal(tmp_path) if line["e"] == "intent"]
    assert len(keys) == len(set(keys)) == len(sandbox.ledger.tasks)
    assert [line["status"] for line in manifest(tmp_path)] == ["saved"] * 60
