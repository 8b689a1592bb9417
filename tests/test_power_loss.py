"""The power may go at any moment: what was not synced is lost, torn or hollow, and still nothing is paid twice.

A run is recorded, step by step; so is one that goes on after a power cut. After every prefix of the steps, and under
every model of what a power cut leaves, the journal is opened and compared with the pictures and with what had been
sent. Wherever that leaves another disk or another account than before, the rows are also rendered to the end, against
a gateway that holds what it held at that moment.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from copy import copy
from hashlib import sha256
from pathlib import Path

import anyio
import pytest
from attrs import evolve, frozen
from disk_steps import Answered, Asked, Posted, Step, Synced, Written, watched
from killed_runs import POLICY, Rows
from lost_power import POWER_CUTS, Disk, Recording, Survivors, held_in, restored

from krea_async import ImageRequest, KreaError, KreaSession
from krea_async.batch.opening import plan
from krea_async.sandbox import Durations, Sandbox
from krea_async.storage.compact import compact
from krea_async.storage.history import History
from krea_async.storage.journal import JournalPolicy
from krea_async.storage.records import Accepted, Intent, Line, decode
from krea_async.storage.replay import RowState

pytest.register_assert_rewrite("whole_directory")
from whole_directory import assert_all_done, ends_of  # noqa: E402

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

ROWS: Rows = [
    {"prompt": "a fox", "size": "1:2"},
    {"prompt": "twins", "size": "1:2", "seed": 7},
    {"prompt": "an owl", "size": "1:2", "id": "night-owl"},
    {"prompt": "twins", "size": "1:2", "seed": 7},
    {"prompt": "a heron", "size": "1:2"},
]

UNHURRIED = evolve(POLICY, journal=JournalPolicy(gather_s=0.001, follow_s=0.001, lazy_s=0.15))
"""Lines that nobody is in a hurry for come to the disk later than any read of a task: so what must wait is seen to."""


@frozen(kw_only=True)
class Recorded:
    """A run from its begin to its end. held: what was in `root` before; made: the keys that the gateway knew before.

    directory: where it worked, below `root`. sandbox: the gateway that it asked.
    """

    root: Path
    directory: Path
    held: Survivors
    made: frozenset[str]
    sandbox: Sandbox
    steps: list[Step]

    def journal_of(self, left: Survivors) -> bytes:
        """The journal's bytes."""
        return left.get(str(self.directory / "journal.jsonl"), b"")


@frozen(eq=False, kw_only=True)
class Moment:
    """When the power went, after so many steps. left: what the disk holds. posted, answered: keys of creates."""

    steps: int
    cut: str
    left: Survivors
    posted: frozenset[str]
    answered: frozenset[str]

    def __str__(self) -> str:
        return f"after {self.steps} steps, {self.cut}"

    @property
    def made(self) -> frozenset[str]:
        """The keys of the tasks that the gateway has: a create that was not answered may have come there or not."""
        return self.answered if self.cut == "at random" else self.posted


def moments_of(recorded: Recorded) -> Iterator[Moment]:
    """Every moment between two steps, under every model."""
    disk = Disk(recorded.held)
    posted = answered = recorded.made
    for number, step in enumerate([None, *recorded.steps]):
        if step is not None:
            disk.happened(step)
        if isinstance(step, Posted):
            posted |= {step.key}
        if isinstance(step, Answered):
            answered |= {step.key}
        for cut in POWER_CUTS:
            yield Moment(steps=number, cut=cut.name, left=disk.after(cut), posted=posted, answered=answered)


@asynccontextmanager
async def gateway_with(sandbox: Sandbox | None, keys: frozenset[str]) -> AsyncIterator[Sandbox]:
    """A gateway that has those tasks of `sandbox` that were made under these keys, and no others."""
    async with Sandbox(durations=Durations.instant(), scenes=1) as then:
        account = then._account
        for task in sandbox.ledger.tasks.values() if sandbox is not None else ():
            if task.key in keys:
                account.tasks[task.id] = account._by_key[str(task.key)] = copy(task)
        yield then


@pytest.fixture(params=["a first run", "a run after a power cut"])
async def recorded(request: pytest.FixtureRequest, tmp_path: Path, session_of: SessionOf) -> Recorded:
    """The second one goes on after half a line was written; one row breaks the content policy."""

    async def run(name: str, sandbox: Sandbox, left: Survivors, was: Path, made: frozenset[str]) -> Recorded:
        root, recording = tmp_path / name, Recording()
        root.mkdir()
        restored(left, was, root)
        held, directory = held_in(root), root / "studio" / "night"
        with watched(root, recording):
            async with session_of(sandbox, concurrency=2) as session:
                await plan(directory, map(ImageRequest.of, ROWS), POLICY)
                await session.render(ROWS, directory, policy=UNHURRIED)
        assert_all_done(directory, ROWS, sandbox)
        return Recorded(root=root, directory=directory, held=held, made=made, sandbox=sandbox, steps=recording.steps)

    async with gateway_with(None, frozenset()) as sandbox:
        sandbox.script("create", "ok", "ok", ("fail", "content_policy_violation"))
        first = await run("first", sandbox, {}, tmp_path, frozenset())
    if request.param == "a first run":
        return first
    cut = next(moment for moment in moments_of(first) if len(moment.answered) == 3 and is_torn(first, moment))
    async with gateway_with(first.sandbox, cut.made) as sandbox:
        return await run("second", sandbox, cut.left, first.root, cut.made)


def is_torn(recorded: Recorded, moment: Moment) -> bool:
    """Whether the journal ends in half a line."""
    return not recorded.journal_of(moment.left).endswith(b"\n")


def lines_of(data: bytes) -> list[Line]:
    """The lines of a journal, but for half a one at its end."""
    return [decode(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


async def test_the_model_has_seen_every_write(recorded: Recorded) -> None:
    """A disk on which all the steps happened holds what the directory holds: so nothing is done behind its back."""
    *_, last = (moment for moment in moments_of(recorded) if moment.cut == "all kept")
    assert last.left == held_in(recorded.root)


async def test_nothing_is_done_before_the_line_that_it_depends_on_is_synced(recorded: Recorded) -> None:
    """No create leaves before its intent is on the disk, and no task is asked for before its id is."""
    written = named_in(lines_of(recorded.journal_of(recorded.held)))
    synced: set[str] = set()
    posts = reads = 0
    for step in recorded.steps:
        match step:
            case Written(path=path, data=data) if path.endswith("journal.jsonl"):
                written |= named_in(lines_of(data))
            case Synced(path) if path.endswith("journal.jsonl"):
                synced |= written
            case Posted(key):
                posts += 1
                assert key in synced
            case Asked(task_ids):
                reads += 1
                assert {*task_ids} <= synced
    assert posts + len(recorded.made) >= len(recorded.sandbox.ledger.tasks) == 4
    assert posts > 0
    assert reads > 0


def named_in(lines: list[Line]) -> set[str]:
    """The keys and the task ids in these lines."""
    return {
        line.key if isinstance(line, Intent) else line.task_id for line in lines if isinstance(line, Intent | Accepted)
    }


async def test_the_journal_is_right_whenever_the_power_goes(recorded: Recorded, tmp_path: Path) -> None:
    """It opens, and knows all that was sent, each row by one key; the pictures that it calls saved are there, whole."""
    path = tmp_path / "journal.jsonl"
    moments = 0
    for moment in moments_of(recorded):
        moments += 1
        path.write_bytes(recorded.journal_of(moment.left))
        with History(path) as history:
            assert history.damaged == (), moment
            intents = [line for line in lines_of(path.read_bytes()[: history.torn_at]) if isinstance(line, Intent)]
            assert {line.key for line in intents} >= moment.posted, moment
            pairs = {(line.n, line.key) for line in intents}
            assert len(pairs) == len({n for n, _ in pairs}) == len({key for _, key in pairs}), moment
            for n in range(history.rows):
                if history.state(n) is RowState.SAVED:
                    saved = history.saved(n)
                    picture = moment.left[str(recorded.directory / saved.files[0])]
                    assert (len(picture), sha256(picture).hexdigest()) == (saved.bytes, saved.sha256), moment
    assert moments == len(POWER_CUTS) * (len(recorded.steps) + 1)


async def test_the_rows_are_done_whenever_the_power_went(
    recorded: Recorded, session_of: SessionOf, tmp_path: Path
) -> None:
    """Each is made once and paid for once, and nothing is left of what the power cut left."""
    different = {(frozenset(moment.left.items()), moment.made): moment for moment in moments_of(recorded)}
    problems: list[str] = []
    limiter = anyio.CapacityLimiter(6)

    async def gone_on_with(number: int, moment: Moment) -> None:
        root = tmp_path / f"{number}"
        restored(moment.left, recorded.root, root)
        directory = root / recorded.directory.relative_to(recorded.root)
        async with limiter, gateway_with(recorded.sandbox, moment.made) as sandbox, session_of(sandbox) as session:
            try:
                if number % 2 and (directory / "journal.jsonl").exists():
                    await session.resume(directory, policy=POLICY)
                await session.render(ROWS, directory, policy=POLICY)
                assert_all_done(directory, ROWS, sandbox)
            except (AssertionError, KreaError, ValueError) as error:
                problems.append(f"{moment}: {error}")

    async with anyio.create_task_group() as group:
        for number, moment in enumerate(different.values()):
            group.start_soon(gone_on_with, number, moment)
    assert problems == []
    assert len(different) > len(recorded.steps)


async def test_a_compaction_happens_as_a_whole_or_not_at_all(recorded: Recorded, tmp_path: Path) -> None:
    """There is the old journal or the new one, and they say the same."""
    ends, held, recording = ends_of(recorded.directory), held_in(recorded.root), Recording()
    with watched(recorded.root, recording):
        before, after = compact(recorded.directory)
    assert after < before
    sizes = set()
    for moment in moments_of(evolve(recorded, held=held, steps=recording.steps)):
        (tmp_path / "journal.jsonl").write_bytes(recorded.journal_of(moment.left))
        sizes.add(len(recorded.journal_of(moment.left)))
        assert ends_of(tmp_path) == ends, moment
    assert sizes == {before, after}
