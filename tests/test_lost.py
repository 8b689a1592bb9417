"""Rows whose answer was lost for good: which tasks may be theirs is told, and none is ever taken for them."""

# ruff: noqa: ASYNC240 - looking into a directory takes no time

import json
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from krea_async import (
    BatchPolicy,
    BatchReport,
    GeneratedImage,
    ImageRequest,
    JournalError,
    JournalPolicy,
    KreaSession,
    RetryPolicy,
    TimeoutPolicy,
)
from krea_async.batch import lost as lost_module
from krea_async.batch.lost import MAX_PAGES, SKEW_S, LostRow, Search, journalled, search
from krea_async.gateway.client import Gateway
from krea_async.gateway.transport import open_transport
from krea_async.models import TaskSummary
from krea_async.sandbox import Durations, Sandbox
from krea_async.storage.records import Accepted, Intent, Line, Row, encode

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

SENT_S = 1_800_000_000.0
FORGOTTEN = BatchPolicy(journal=JournalPolicy(keys_live_s=0.0))
AGAIN = BatchPolicy(journal=JournalPolicy(keys_live_s=0.0), retry_unknown=True)


class Clock:
    """The gateway's."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(durations=Durations.instant(), scenes=1, credits=None) as sandbox:
        yield sandbox


@asynccontextmanager
async def gateway_at(clock: Clock) -> AsyncIterator[tuple[Sandbox, Gateway]]:
    async with Sandbox(durations=Durations.instant(), credits=None, clock=clock) as sandbox:
        timeouts = TimeoutPolicy(connect_s=2.0, read_s=5.0)
        async with open_transport(sandbox.url, sandbox.key, connections=2, timeouts=timeouts) as transport:
            yield sandbox, Gateway(transport)


def made(sandbox: Sandbox, created_s: float, **request: Any) -> str:
    """A task of the account, made at that time by whoever; its id. Settled at the next request."""
    wanted = ImageRequest(**{"prompt": "a fox", **request})
    account = sandbox._account  # over the wire, ten thousand would take ten seconds
    return account.make(wanted, {}, key=None, callback_url=None, end="completed", now=created_s).id


def lost_row(n: int = 0, *, until_s: float = SENT_S, **request: Any) -> LostRow:
    return LostRow(n=n, request=ImageRequest(**{"prompt": "a fox", **request}), sent_s=SENT_S, until_s=until_s)


async def found(gateway: Gateway, *rows: LostRow, known: Collection[str] = ()) -> Search:
    async def known_among(task_ids: Collection[str]) -> Collection[str]:
        return {*task_ids} & {*known}

    return await search(rows, lambda page: gateway.list_tasks(page=page), known_among)


def ids(result: Search, n: int = 0) -> list[str]:
    return [task.id for task in result.candidates[n]]


# --- what the list shows ----------------------------------------------------------------------------------------------


async def test_tasks_of_that_time_which_no_row_has_are_candidates_the_nearest_first() -> None:
    clock = Clock(SENT_S + 7200)
    async with gateway_at(clock) as (sandbox, gateway):
        made(sandbox, SENT_S - SKEW_S - 2)
        early = made(sandbox, SENT_S - 500)
        known = made(sandbox, SENT_S + 1)
        near = made(sandbox, SENT_S + 2)
        late = made(sandbox, SENT_S + 900)
        made(sandbox, SENT_S + 400 + SKEW_S + 2)
        row = lost_row(until_s=SENT_S + 400)
        result = await found(gateway, row, known=[known])
    assert (ids(result), result.gap) == ([near, early, late], None)
    assert f"{near} (completed, 2 s after it)" in result.words(row)
    assert f"{early} (completed, 500 s before it)" in result.words(row)
    assert "--retry-unknown" in result.words(row)
    assert "0.45 credits ($0.0067)" in result.words(row)


async def test_a_charge_of_the_other_tier_speaks_against_a_task_and_nothing_else_does() -> None:
    async with gateway_at(Clock(SENT_S + 60)) as (sandbox, gateway):
        small = made(sandbox, SENT_S, prompt="of another program", size="16:9", seed=4)
        big = made(sandbox, SENT_S + 1, quality="2K")
        sandbox.durations = Durations.fixed(3600.0)
        running = made(sandbox, SENT_S + 2, quality="2K")
        result = await found(gateway, lost_row(0), lost_row(1, quality="2K"))
    assert set(ids(result, 0)) == {small, running}
    assert set(ids(result, 1)) == {big, running}


@pytest.mark.parametrize("charge", [None, 0.0, 0.45, 0.5])
def test_an_unlisted_charge_speaks_against_nothing(charge: float | None) -> None:
    task = TaskSummary(id="task-unified-1-a", status="completed", created=int(SENT_S), credits_used=charge)
    assert lost_row().may_be(task)


async def test_equal_rows_and_equal_tasks_are_all_named_for_each_other() -> None:
    async with gateway_at(Clock(SENT_S + 60)) as (sandbox, gateway):
        tasks = {made(sandbox, SENT_S + 1), made(sandbox, SENT_S + 1)}
        result = await found(gateway, lost_row(0), lost_row(1))
    assert set(ids(result, 0)) == set(ids(result, 1)) == tasks


async def test_many_candidates_make_no_endless_message() -> None:
    async with gateway_at(Clock(SENT_S + 600)) as (sandbox, gateway):
        for second in range(60):
            made(sandbox, SENT_S + second)
        row = lost_row()
        result = await found(gateway, row)
    assert len(ids(result)) == 60
    assert "and 55 more" in result.words(row)
    assert len(result.words(row)) < 1000


async def test_an_empty_list_says_that_there_is_none() -> None:
    async with gateway_at(Clock(SENT_S)) as (sandbox, gateway):
        result = await found(gateway, lost_row())
        assert sandbox.ledger.requests["list"] <= 2
    assert (result.candidates, result.gap) == ({0: ()}, None)
    assert "shows no task of that time" in result.words(lost_row())


async def test_without_lost_rows_nothing_is_asked() -> None:
    async with gateway_at(Clock(SENT_S)) as (sandbox, gateway):
        assert await found(gateway) == Search()
        assert not sandbox.ledger.requests


@pytest.mark.parametrize("off_s", [-300.0, 300.0, -7200.0, 7200.0])
async def test_a_wrong_clock_is_borne_within_its_bounds_and_claims_nothing_beyond_them(off_s: float) -> None:
    async with gateway_at(Clock(SENT_S + off_s + 10)) as (sandbox, gateway):
        task = made(sandbox, SENT_S + off_s)
        row = lost_row()
        result = await found(gateway, row)
        assert sandbox.ledger.requests["list"] <= 4
    assert ids(result) == ([task] if abs(off_s) < SKEW_S else [])
    assert ("within 10 minutes" in result.words(row)) == (not ids(result))


# --- few pages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("newer", [9_900, 5_000, 120, 0])
async def test_ten_thousand_tasks_are_searched_in_a_few_reads(newer: int) -> None:
    """Leaps find the time; only the pages of that time are read one by one."""
    clock = Clock(SENT_S)
    async with gateway_at(clock) as (sandbox, gateway):
        for number in range(10_000 - newer):
            made(sandbox, SENT_S - 100_000 + number)
        task = made(sandbox, SENT_S + 5)
        for number in range(newer):
            made(sandbox, SENT_S + 3600 + number)
        clock.now_s = SENT_S + 100_000
        result = await found(gateway, lost_row())
        assert sandbox.ledger.requests["list"] <= 24
    assert (ids(result), result.gap) == ([task], None)


async def test_a_list_without_end_is_left_after_a_bound_and_said_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_module, "MAX_PAGES", 10)
    async with gateway_at(Clock(SENT_S + 600)) as (sandbox, gateway):
        for number in range(1_000):
            made(sandbox, SENT_S + number / 10)
        row = lost_row()
        result = await found(gateway, row)
        assert sandbox.ledger.requests["list"] == 10 < MAX_PAGES
    assert result.gap is not None
    assert "does not tell all" in result.words(row)
    assert "shows no task" not in result.words(row)


@pytest.mark.parametrize("order", ["oldest first", "shuffled"])
async def test_an_unsorted_list_is_read_whole(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway_at(Clock(SENT_S + 9000)) as (sandbox, gateway):
        for number in range(300):
            made(sandbox, SENT_S - 2 * SKEW_S - 10 * number)
        task = made(sandbox, SENT_S)
        for number in range(300):
            made(sandbox, SENT_S + 2 * SKEW_S + 10 * number)
        listed = list(sandbox.ledger.tasks.values())
        listed.sort(key=lambda record: record.created)
        if order == "shuffled":
            Random(1).shuffle(listed)
        monkeypatch.setattr(sandbox._account, "newest_first", lambda: iter(listed))
        result = await found(gateway, lost_row())
    assert (ids(result), result.gap) == ([task], None)


@pytest.mark.parametrize("newer", range(852, 952, 7))
async def test_tasks_that_are_made_meanwhile_push_none_out_of_sight(newer: int) -> None:
    async with gateway_at(Clock(SENT_S + 9000)) as (sandbox, gateway):
        for number in range(400):
            made(sandbox, SENT_S - 2 * SKEW_S + number)
        tasks = {made(sandbox, SENT_S + number) for number in range(60)}
        for number in range(newer):
            made(sandbox, SENT_S + 2 * SKEW_S + number)

        async def read_while_others_work(page: int) -> Any:
            for _ in range(7):
                made(sandbox, SENT_S + 8999)
            return await gateway.list_tasks(page=page)

        async def none(_: Collection[str]) -> Collection[str]:
            return ()

        result = await search([lost_row()], read_while_others_work, none)
        assert sandbox.ledger.requests["list"] <= 16
    assert (set(ids(result)), result.gap) == (tasks, None)


# --- a list that cannot be read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_without_a_list_route_nothing_is_guessed(status: int) -> None:
    async with gateway_at(Clock(SENT_S + 60)) as (sandbox, gateway):
        made(sandbox, SENT_S)
        sandbox.script("list", ("status", status))
        result = await found(gateway, lost_row())
        assert sandbox.ledger.requests["list"] == 1
    assert (result.candidates, result.gap) == ({0: ()}, "the gateway has no such list")
    assert "the gateway has no such list" in result.words(lost_row())


@pytest.mark.parametrize("fault", [("status", 401), ("status", 503), "drop_before", ("garbage", "<html>")])
async def test_a_list_that_fails_is_a_gap_and_no_error(fault: Any) -> None:
    async with gateway_at(Clock(SENT_S + 60)) as (sandbox, gateway):
        made(sandbox, SENT_S)
        sandbox.script("list", fault, fault)  # a dropped GET is sent once more by the HTTP client itself
        result = await found(gateway, lost_row())
    assert result.gap
    assert "shows no task" not in result.words(lost_row())


async def test_a_list_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_module, "SEARCH_WITHIN_S", 0.2)
    async with gateway_at(Clock(SENT_S + 60)) as (sandbox, gateway):
        sandbox.script("list", "slow")
        started_s = time.monotonic()
        result = await found(gateway, lost_row())
    assert time.monotonic() - started_s < 0.9
    assert result.gap == "it could not be read through within 0.2 s"


async def test_a_task_without_a_time_is_a_gap() -> None:
    async with gateway_at(Clock(SENT_S + 60)) as (sandbox, gateway):
        body = {"data": [{"id": "task-unified-1-a", "status": "completed"}], "total": 1}
        sandbox.script("list", ("garbage", json.dumps(body)))
        result = await found(gateway, lost_row())
    assert (ids(result), result.gap) == ([], "it shows tasks without their time")


# --- tasks of other rows ----------------------------------------------------------------------------------------------


def test_ids_that_the_journal_names_are_other_rows_tasks_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    saved = b'{"e":"saved","n":1,"credits":0.45,"task":"task-saved","files":[]}\n'
    lines: list[Line] = [
        Row(n=0, index=0, request=ImageRequest('a sign: ,"task":"task-in-a-prompt"')),
        Intent(n=0, key="a-key-of-16-chars", at_s=1.0),
        Accepted(n=0, task_id="task-accepted", at_s=2.0),
        Accepted(n=0, task_id='ta"sk\\ü', at_s=2.0),
    ]
    path.write_bytes(b"".join(encode(line) for line in lines) + saved + b'{"e":"torn')
    asked = ["task-accepted", "task-saved", 'ta"sk\\ü', "task-in-a-prompt", "task-unknown"]
    assert journalled(path, asked) == {"task-accepted", "task-saved", 'ta"sk\\ü'}
    with pytest.raises(JournalError) as caught:
        journalled(tmp_path / "none", asked)
    assert caught.value.code == "disk_error"


# --- a whole batch ----------------------------------------------------------------------------------------------------


async def lose_answers(sandbox: Sandbox, session_of: SessionOf, directory: Path, *prompts: str, lost: int = 1) -> None:
    """A run whose last rows become tasks that it never hears of."""
    sandbox.script("create", *["ok"] * (len(prompts) - lost), *["drop_after"] * lost)
    async with session_of(sandbox, concurrency=1, retries=RetryPolicy(attempts=1)) as session:
        report = await session.render(prompts, directory)
    assert (report.saved, report.failed) == (len(prompts) - lost, lost)
    assert len(sandbox.ledger.tasks) == len(prompts)


async def rendered(
    sandbox: Sandbox, session_of: SessionOf, directory: Path, policy: BatchPolicy
) -> tuple[list[GeneratedImage], BatchReport]:
    """The directory is gone on with."""
    async with session_of(sandbox) as session:
        async with session.resume(directory, policy=policy) as batch:
            images = [image async for image in batch]
        return sorted(images, key=lambda image: image.index or 0), batch.report


def last_task(sandbox: Sandbox) -> str:
    return list(sandbox.ledger.tasks)[-1]


async def test_a_lone_candidate_is_named_and_not_taken_for_the_row(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """Even though it is the row's own here: in another account that has just one such task, it is not."""
    await lose_answers(sandbox, session_of, tmp_path, "a fox", "an owl", "a hare")
    own, others = last_task(sandbox), list(sandbox.ledger.tasks)[:2]
    images, report = await rendered(sandbox, session_of, tmp_path, FORGOTTEN)
    assert sandbox.ledger.requests["create"] == 3
    hare = images[-1]
    assert (hare.index, hare.status, hare.path, hare.task_id) == (2, "failed", None, None)
    assert hare.error is not None
    assert (hare.error.code, hare.error.charged) == ("unknown_outcome", "unknown")
    assert own in hare.error.message
    assert not any(task in hare.error.message for task in others)
    assert [(row.index, row.charged) for row in report.unknown] == [(2, "unknown")]
    assert len(list(tmp_path.glob("*.png"))) == 2
    journal = (tmp_path / "journal.jsonl").read_text()
    assert own in journal  # in the row's words only: it never became the row's task
    assert f'"task":"{own}"' not in journal


async def test_a_task_of_another_program_is_never_saved_as_the_rows_picture(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """The row never arrived, and somebody else asked for the same at that moment."""
    sandbox.script("create", "drop_before")
    async with session_of(sandbox, retries=RetryPolicy(attempts=1)) as session:
        await session.render(["a fox"], tmp_path)
    async with session_of(sandbox) as another_program:
        job = await another_program.submit("a fox")
    (fox,), _ = await rendered(sandbox, session_of, tmp_path, FORGOTTEN)
    assert (fox.status, fox.task_id) == ("failed", None)
    assert job.task_id in str(fox.error)
    assert not list(tmp_path.glob("*.png"))
    assert sandbox.ledger.requests["create"] == 2


async def test_with_consent_the_row_is_sent_under_its_key_and_paid_once_if_that_is_known(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    await lose_answers(sandbox, session_of, tmp_path, "a fox")
    (fox,), _ = await rendered(sandbox, session_of, tmp_path, FORGOTTEN)
    assert fox.status == "failed"
    lists = sandbox.ledger.requests["list"]
    (fox,), report = await rendered(sandbox, session_of, tmp_path, AGAIN)
    assert (fox.status, fox.task_id, report.unknown, report.maybe_twice) == ("saved", last_task(sandbox), (), ())
    assert len(sandbox.ledger.tasks) == 1
    assert sandbox.ledger.requests["list"] == lists


async def test_with_consent_and_a_forgotten_key_the_report_says_that_it_may_be_paid_twice(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.settings.idempotency = False
    await lose_answers(sandbox, session_of, tmp_path, "a fox")
    (fox,), report = await rendered(sandbox, session_of, tmp_path, AGAIN)
    assert (fox.status, len(sandbox.ledger.tasks)) == ("saved", 2)
    assert [row.index for row in report.maybe_twice] == [0]


async def test_equal_rows_that_were_lost_together_are_both_left_to_a_person(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    await lose_answers(sandbox, session_of, tmp_path, "a fox", "a fox", "a fox", lost=2)
    images, report = await rendered(sandbox, session_of, tmp_path, FORGOTTEN)
    first, *twins = sandbox.ledger.tasks
    assert [image.status for image in images] == ["skipped", "failed", "failed"]
    for image in images[1:]:
        assert all(task in str(image.error) for task in twins)
        assert first not in str(image.error)
    assert (len(report.unknown), sandbox.ledger.requests["create"]) == (2, 3)


async def test_a_gateway_without_the_list_changes_nothing_but_the_words(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.settings.list_route = False
    await lose_answers(sandbox, session_of, tmp_path, "a fox")
    (fox,), _ = await rendered(sandbox, session_of, tmp_path, FORGOTTEN)
    assert fox.error is not None
    assert fox.error.code == "unknown_outcome"
    assert "the gateway has no such list" in fox.error.message
    assert sandbox.ledger.requests["create"] == 1


async def test_as_long_as_the_key_is_known_the_row_is_asked_for_and_not_searched(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    await lose_answers(sandbox, session_of, tmp_path, "a fox")
    (fox,), _ = await rendered(sandbox, session_of, tmp_path, BatchPolicy())
    assert (fox.status, fox.task_id) == ("saved", last_task(sandbox))
    assert len(sandbox.ledger.tasks) == 1
    assert "list" not in sandbox.ledger.requests
