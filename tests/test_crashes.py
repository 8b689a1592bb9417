"""A run may be killed at any moment and started again: nothing that was paid for is lost, and nothing is paid twice.

Runs live in processes of their own and die by SIGKILL; the gateway, with its ledger, lives here and sees it all.
"""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from itertools import count, cycle
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from killed_runs import POLICY, End, Kill, Nursery, Rows, When, is_called, open_nursery

from krea_async import DownloadPolicy, KreaSession, RetryPolicy
from krea_async.audit.report import directory_report
from krea_async.audit.report_text import report_text
from krea_async.sandbox import Durations, Faults, Sandbox

pytest.register_assert_rewrite("whole_directory")
from whole_directory import assert_all_done  # noqa: E402

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

MIXED: Rows = [
    {"prompt": "a fox", "size": "1:2"},
    {"prompt": "a fox", "size": "1:2"},
    {"prompt": "twins", "size": "1:2", "seed": 7},
    {"prompt": "an owl", "size": "1:2", "id": "night-owl"},
    {"prompt": "twins", "size": "1:2", "seed": 7},
    {"prompt": "a heron", "size": "1:2"},
]
"""Equal rows that are two pictures, equal rows that are one, a row with a name; one of them fails, see `gateway`."""

PATIENT = DownloadPolicy(retries=RetryPolicy(attempts=25, first_wait_s=0.01, max_wait_s=0.05), timeout_s=5.0)
"""In the storm one try of four goes wrong."""

ON_TOP: Rows = [{"prompt": "a new row", "size": "1:2"}, {"prompt": "another", "size": "1:2", "id": "newcomer"}]


def gateway() -> Sandbox:
    """Instant tasks; the second one that is made breaks the content policy."""
    sandbox = Sandbox(durations=Durations.instant(), scenes=1)
    sandbox.script("create", "ok", ("fail", "content_policy_violation"))
    return sandbox


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    async with open_nursery(at_once=3) as nursery:
        yield nursery


async def with_the_list(session: KreaSession, directory: Path) -> Rows:
    await session.render(MIXED, directory, policy=POLICY)
    return MIXED


async def without_the_list(session: KreaSession, directory: Path) -> Rows:
    """The list is needed only for what was not even noted before the end came."""
    if (directory / "journal.jsonl").exists():
        await session.resume(directory, policy=POLICY)
    return await with_the_list(session, directory)


async def with_rows_on_top(session: KreaSession, directory: Path) -> Rows:
    rows = [*ON_TOP, *MIXED]
    await session.render(rows, directory, policy=POLICY)
    return rows


EVERY_RUN_HAS = {
    *("writing run", "writing intent", "writing accepted", "writing completed", "writing saved", "writing end"),
    *("Posted", "Answered", "Asked"),
    *("Made .part", "Written .part", "Synced .part", "Linked .png", "Unlinked .part"),
    *("syncing the directory", "Synced journal.jsonl"),
    *("Written manifest.jsonl", "Synced manifest.jsonl", "Unlinked .journal.lock"),
}
"""Steps at which a run is killed at least once. Answered: the gateway has made a task, and nobody here knows it yet."""

NEVER = -1
BRIEF = Durations(queue_s=0.005, run_s=0.01, sigma=0.5)


@pytest.mark.parametrize(
    ("earlier", "when"),
    [(None, "before"), (None, "within"), (("Linked .png", "within"), "within")],
    ids=["a first run, before", "a first run, within", "a second run, within"],
)
async def test_a_run_killed_at_any_step_is_resumed_to_its_end(
    nursery: Nursery, session_of: SessionOf, tmp_path: Path, earlier: Kill | None, when: When
) -> None:
    """Each step that changes the disk or asks the gateway is the last of some run, before, half-way or just after it.

    Of a first run in its directory, or of one that goes on with what a killed one left.
    """
    killed_at: list[str] = []
    problems: list[str] = []
    resumptions = cycle((with_the_list, without_the_list, with_rows_on_top))
    numbers = count()

    async def killed_and_resumed(step: int | str) -> End:
        directory, resume = tmp_path / str(next(numbers)), next(resumptions)
        async with gateway() as sandbox:
            if earlier is not None:
                assert (await nursery.run(sandbox, directory, MIXED, earlier)).killed
            end = await nursery.run(sandbox, directory, MIXED, (step, when))
            async with session_of(sandbox) as session:
                rows = await resume(session, directory)
            try:
                assert_all_done(directory, rows, sandbox)
            except AssertionError as error:
                problems.append(f"killed at step {step}, {end.killed_at}; {resume.__name__}: {error}")
        if end.killed_at:
            killed_at.append(end.killed_at)
        return end

    steps = (await killed_and_resumed(NEVER)).steps
    await all_of([partial(killed_and_resumed, step) for step in range(len(steps))], at_once=6)
    for _ in range(5):  # lines are gathered by chance, so a step may be part of another one, or not be there
        names = missed({*steps} | EVERY_RUN_HAS, killed_at)
        await all_of([partial(killed_and_resumed, name) for name in names], at_once=6)
    assert problems == []
    assert len(killed_at) > 0.8 * len(steps)  # two runs are never quite the same
    assert missed(EVERY_RUN_HAS, killed_at) == set()


def missed(steps: set[str], killed_at: list[str]) -> set[str]:
    """Those of `steps` at which no run was killed."""
    return {step for step in steps if not any(is_called(killed, step) for killed in killed_at)}


@pytest.mark.parametrize(
    "faults",
    [Faults(fail={"content_policy_violation": 0.05}), Faults.everywhere(0.03, stall_s=0.1, slow_s=0.02)],
    ids=["calm", "storm"],
)
async def test_three_hundred_rows_survive_fifty_kills_at_random(
    nursery: Nursery, session_of: SessionOf, tmp_path: Path, faults: Faults
) -> None:
    """The list grows at its top from run to run, and some runs go without it."""
    rows, rng = numbered(300), Random(3)
    async with Sandbox(durations=BRIEF, scenes=1, faults=faults) as sandbox:
        kills = lives = 0
        while kills < 50:
            known = None if lives % 5 == 4 else rows[max(0, 200 - 4 * lives) :]
            kills += (await killed_at_random(nursery, sandbox, tmp_path, known, rng)).killed
            lives += 1
            assert lives < 60
        async with session_of(sandbox, concurrency=16, downloading=PATIENT) as session:
            report = await session.render(rows, tmp_path, policy=POLICY)
        assert 0 < report.saved < 250  # those that were killed got on, and had not done all of it yet
        assert report.maybe_twice == ()
        assert_all_done(tmp_path, rows, sandbox)


async def test_what_a_gateway_without_idempotency_charges_twice_is_named(
    nursery: Nursery, session_of: SessionOf, tmp_path: Path
) -> None:
    """Nobody can prevent it there; but a row that was sent again is told of, even if the run that did it was killed."""
    rows, rng = numbered(120), Random(5)
    faults = Faults(drop_after=0.05, error_after=0.02, error=0.05)
    async with Sandbox(durations=BRIEF, scenes=1, faults=faults, idempotency=False) as sandbox:
        sandbox.script("create", *["drop_after"] * 8)  # the storm alone may spare those that matter below
        for _ in range(20):
            await killed_at_random(nursery, sandbox, tmp_path, rows, rng)
        sandbox.script("create", *["drop_after"] * 3)
        charged_before = sandbox.ledger.charges_by_prompt
        async with session_of(sandbox) as session:
            report = await session.render(rows, tmp_path, policy=POLICY)
        assert_all_done(tmp_path, rows, sandbox, charged_once=False)
        now = {asked[0] for asked, count in sandbox.ledger.charges_by_prompt.items() if count > charged_before[asked]}
        twice = {asked[0] for asked in sandbox.ledger.duplicates}
        assert twice - now
        assert twice & now
        assert twice & now <= {row.prompt for row in report.maybe_twice}
        assert twice <= {row.prompt for row in directory_report(tmp_path).maybe_twice}


@pytest.mark.parametrize("lost", [1, 3])
async def test_a_row_that_was_sent_again_is_told_of_for_ever(nursery: Nursery, tmp_path: Path, lost: int) -> None:
    """By the run that sent it again; and where that was killed as well, by the books of the directory."""
    told, untold = tmp_path / "told", tmp_path / "untold"
    rows = [{"prompt": "a fox", "size": "1:2"}]
    async with Sandbox(durations=Durations.instant(), scenes=1, idempotency=False) as sandbox:
        for directory in (told, untold):
            for _ in range(lost):
                assert (await nursery.run(sandbox, directory, rows, ("Answered", "before"))).killed
            assert directory_report(directory).unknown[0].prompt == "a fox"
        end = await nursery.run(sandbox, told, rows)
        assert end.report is not None
        assert [row["index"] for row in end.report["maybe_twice"]] == [0]
        assert (await nursery.run(sandbox, untold, rows, ("Made .part", "before"))).killed
        await nursery.run(sandbox, untold, rows)
        for directory in (told, untold):
            report = directory_report(directory)
            assert [row.index for row in report.maybe_twice] == [0]
            assert any("may have been charged twice" in line for line in report_text(report))
        assert len(sandbox.ledger.tasks) == 2 * (lost + 1)


async def test_copies_are_made_whole_where_there_are_no_hard_links(nursery: Nursery, tmp_path: Path) -> None:
    """There a copy has bytes of its own, and can be cut in the middle."""
    rows = [{"prompt": "twins", "size": "1:2", "seed": 7}] * 2
    problems: list[str] = []

    async def killed_and_resumed(step: int) -> End:
        directory = tmp_path / f"{step}"
        async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
            end = await nursery.run(sandbox, directory, rows, (step, "within"), hard_links=False)
            await nursery.run(sandbox, directory, rows, hard_links=False)
            try:
                assert_all_done(directory, rows, sandbox)
            except AssertionError as error:
                problems.append(f"killed at step {step}, {end.killed_at}: {error}")
        return end

    steps = (await killed_and_resumed(NEVER)).steps
    copying = max(number for number, name in enumerate(steps) if name == "Made .part")
    await all_of([partial(killed_and_resumed, step) for step in range(copying - 2, len(steps))], at_once=6)
    assert problems == []


async def test_the_command_line_goes_on_without_the_list(nursery: Nursery, tmp_path: Path) -> None:
    async with gateway() as sandbox:
        assert (await nursery.run(sandbox, tmp_path, MIXED, ("Linked .png", "within"))).killed
        program = "import sys; sys.argv[0] = 'krea-async'; from krea_async.cli import main; main()"
        known = {"EVOLINK_API_KEY": sandbox.key, "EVOLINK_BASE_URL": sandbox.url}
        with anyio.fail_after(60):
            done = await anyio.run_process(
                [sys.executable, "-c", program, "resume", str(tmp_path)], env={**os.environ, **known}, check=False
            )
        assert done.returncode == 3, done.stderr  # one row broke the content policy
        assert_all_done(tmp_path, MIXED, sandbox)


def numbered(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"row {number}", "size": "1:2"} for number in range(count)]


async def killed_at_random(nursery: Nursery, sandbox: Sandbox, directory: Path, rows: Rows | None, rng: Random) -> End:
    """A life that is ended from outside: after so many requests to the gateway, and a moment more."""
    requests = sandbox.ledger.requests
    async with nursery.begun(sandbox, directory, rows, concurrency=8) as life, anyio.create_task_group() as group:

        async def kill() -> None:
            enough = requests.total() + rng.randrange(1, 20)
            while requests.total() < enough:  # noqa: ASYNC110 - the ledger has no event to wait for
                await anyio.sleep(0.001)
            await anyio.sleep(rng.uniform(0.0, 0.01))
            with suppress(ProcessLookupError):
                os.kill(life.pid, signal.SIGKILL)

        group.start_soon(kill)
        end = await life.end()
        group.cancel_scope.cancel()
    return end


async def all_of(works: list[Callable[[], Any]], *, at_once: int) -> None:
    """Do all of these, several at a time."""
    limiter = anyio.CapacityLimiter(at_once)

    async def one(work: Callable[[], Any]) -> None:
        async with limiter:
            await work()

    async with anyio.create_task_group() as group:
        for work in works:
            group.start_soon(one, work)
