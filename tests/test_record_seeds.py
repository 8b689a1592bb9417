"""Seeds that are drawn for rows without one: noted before they are sent, and no reason to take a row for another."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import cycle, product
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from attrs import evolve
from killed_runs import POLICY, End, Kill, Rows, is_called, open_nursery
from resuming import SessionOf, accepted, intent, journal, keys_of, killed_run, manifest, ordered
from until import until

from krea_async import BatchPolicy, ImageRequest
from krea_async.audit.repair import repair
from krea_async.audit.verify import verify
from krea_async.batch.noting import Noting
from krea_async.batch.opening import plan
from krea_async.estimate import estimate
from krea_async.models import MAX_SEED
from krea_async.sandbox import Durations, Faults, Sandbox
from krea_async.storage.compact import compact
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.records import Row, content_digest_of, decode, digest_of, encode, request_facts

pytest.register_assert_rewrite("whole_directory")
from whole_directory import assert_all_done, ends_of  # noqa: E402

pytestmark = pytest.mark.anyio

SEEDS = evolve(POLICY, record_seeds=True)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
        yield sandbox


def seeds_sent(sandbox: Sandbox) -> list[int | None]:
    """As the gateway was asked, one for each task."""
    return [task.request.seed for task in sandbox.ledger.tasks.values()]


def seeds_noted(directory: Path) -> list[int | None]:
    """As the journal has them, one for each row."""
    with History(directory / JOURNAL_NAME) as history:
        return [history.request(n).seed for n in range(history.rows)]


# --- what is noted ----------------------------------------------------------------------------------------------------


async def test_a_row_without_a_seed_gets_one_that_is_sent_and_noted_everywhere(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    rows = [
        ImageRequest("fox"),
        ImageRequest("owl", seed=0),
        ImageRequest("heron", seed=77),
        ImageRequest("crow", id="c"),
    ]
    async with session_of(sandbox) as session, session.render(rows, tmp_path, policy=SEEDS) as batch:
        images = {image.index: image async for image in batch}
    asked = {task.prompt: task.request.seed for task in sandbox.ledger.tasks.values()}
    assert asked["heron"] == 77
    assert all(1 <= (seed or 0) <= MAX_SEED for seed in asked.values())
    assert len(set(asked.values())) == 4
    for index, row in enumerate(rows):
        image = images[index]
        assert image.request is not None
        assert image.request == evolve(row, seed=asked[row.prompt])
    assert {row["prompt"]: row["seed"] for row in manifest(tmp_path)} == asked
    noted = {line["request"]["prompt"]: line for line in journal(tmp_path) if line["e"] == "row"}
    assert {prompt: line["request"]["seed"] for prompt, line in noted.items()} == asked
    assert {prompt: line.get("drawn") for prompt, line in noted.items()} == {
        **dict.fromkeys(asked, True),
        "heron": None,
    }


async def test_equal_rows_get_a_seed_each_and_are_as_many_pictures(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        report = await session.render(["fox"] * 40, tmp_path, policy=SEEDS)
        again = await session.render(["fox"] * 40, tmp_path, policy=SEEDS)
    assert (report.saved, report.credits, again.already_saved) == (40, 18.0, 40)
    assert len(set(seeds_sent(sandbox))) == 40
    assert verify(tmp_path).ok


class _Notes:
    """A journal that only counts."""

    rows = 0

    def plan(self, request: ImageRequest, *, index: int, stem: str | None, drawn: bool) -> Row:
        self.rows += 1
        return Row(n=self.rows - 1, index=index, request=request, stem=stem, drawn=drawn)


def drawn(rng: Random, count: int) -> list[int | None]:
    noting = Noting(_Notes(), SEEDS, rng)  # type: ignore[arg-type]
    return [noting.note(ImageRequest("fox"), index=0).request.seed for _ in range(count)]


def test_seeds_come_from_the_sessions_randomness_and_no_two_of_a_run_are_alike() -> None:
    assert drawn(Random(3), 20) == drawn(Random(3), 20) != drawn(Random(4), 20)
    noting = Noting(_Notes(), SEEDS, Random(5))  # type: ignore[arg-type]
    assert {noting._seed(n) for n in range(MAX_SEED)} == set(range(1, MAX_SEED + 1))


def test_without_the_option_no_randomness_is_used() -> None:
    rng = Random(1)
    Noting(_Notes(), BatchPolicy(), rng)  # type: ignore[arg-type]
    assert rng.random() == Random(1).random()


# --- who a row is -----------------------------------------------------------------------------------------------------


def test_a_row_is_recognised_without_the_seed_that_was_drawn() -> None:
    asked, sent = ImageRequest("fox", size="16:9"), ImageRequest("fox", size="16:9", seed=9)
    row = Row(n=0, index=0, request=sent, drawn=True)
    assert (row.digest, row.content) == (f"{digest_of(asked):016x}", f"{content_digest_of(asked):016x}")
    assert Row(n=0, index=0, request=sent).content == f"{content_digest_of(sent):016x}" != row.content
    named = Row(n=0, index=0, request=evolve(sent, id="x"), drawn=True)
    assert (named.digest, named.content) == (f"{digest_of(evolve(asked, id='x')):016x}", row.content)


@pytest.mark.parametrize("policies", [*product((True, False), repeat=3)])
async def test_switching_it_on_or_off_pays_for_nothing_twice_and_draws_nothing_anew(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, policies: tuple[bool, ...]
) -> None:
    """Three runs, the first two broken off, over a list with equal rows, names and seeds."""
    rows = [ImageRequest("fox")] * 4 + [ImageRequest("owl", seed=7)] * 2
    rows += [ImageRequest("heron", id=f"h{n}", seed=n if n % 2 else None) for n in range(6)]
    noted: list[int | None] = []
    async with session_of(sandbox, concurrency=3) as session:
        for number, record_seeds in enumerate(policies):
            async with session.render(rows, tmp_path, policy=evolve(POLICY, record_seeds=record_seeds)) as batch:
                ended = 0
                async for _ in batch:
                    ended += 1
                    if number < 2 and ended == 4 * (number + 1):
                        break
            assert seeds_noted(tmp_path)[: len(noted)] == noted
            noted = seeds_noted(tmp_path)
    assert batch.report.ok
    assert len(noted) == 12
    assert sum(seed is None for seed in noted) == 0 or not all(policies)
    assert len(sandbox.ledger.tasks) == 11
    assert sum(sandbox.ledger.charges_by_key.values()) == 11
    assert Counter(seeds_sent(sandbox)) + Counter([7]) == Counter(noted)
    assert Counter(row["seed"] for row in manifest(tmp_path)) == Counter(noted)


async def test_a_seed_that_was_drawn_makes_no_row_a_copy(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of one that got the same by chance, in this run or another, nor of one whose list says it."""
    monkeypatch.setattr(Noting, "_seed", lambda *_: 5)
    rows = [ImageRequest("fox")] * 3
    async with session_of(sandbox) as session:
        await session.render(rows, tmp_path, policy=SEEDS)
        assert seeds_sent(sandbox) == [5, 5, 5]
        grown = [*rows, ImageRequest("fox"), ImageRequest("fox", seed=5), ImageRequest("fox", seed=5, id="copy")]
        found = estimate(grown, tmp_path, policy=SEEDS)
        report = await session.render(grown, tmp_path, policy=SEEDS)
    assert (found.saved, found.to_make, found.copies) == (3, 2, 1)
    assert (report.already_saved, report.saved, report.credits) == (3, 3, found.credits)
    assert len(sandbox.ledger.tasks) == 5
    assert verify(tmp_path).ok


@pytest.mark.parametrize("with_list", [True, False])
async def test_rows_that_were_noted_with_one_seed_by_chance_are_a_picture_each(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, with_list: bool
) -> None:
    killed_run(tmp_path, *(drawn_row(n, "fox", 5) for n in range(3)), intent(0))
    rows: list[str | ImageRequest] = ["fox"] * 3
    async with session_of(sandbox, concurrency=1) as session:
        resumed = (
            session.render(rows, tmp_path, policy=POLICY) if with_list else session.resume(tmp_path, policy=POLICY)
        )
        assert (await resumed).saved == 3
        report = await session.render([*rows, ImageRequest("fox", seed=5)], tmp_path, policy=POLICY)
    assert (report.saved, report.already_saved) == (1, 3)
    assert seeds_sent(sandbox) == [5] * 4


async def test_what_is_under_way_is_counted_by_what_its_list_says(tmp_path: Path) -> None:
    killed_run(tmp_path, drawn_row(0, "fox", 5), intent(0), drawn_row(1, "owl", 6), intent(1), accepted(1, "task-1"))
    rows = [ImageRequest("fox"), ImageRequest("fox", seed=5), ImageRequest("owl"), ImageRequest("owl")]
    found = estimate(rows, tmp_path)
    assert (found.unanswered, found.to_fetch, found.to_make, found.copies, found.others) == (1, 1, 2, 0, 0)


def drawn_row(n: int, prompt: str, seed: int) -> Row:
    return Row(n=n, index=n, request=ImageRequest(prompt, seed=seed), drawn=True)


# --- later runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_list", [True, False])
@pytest.mark.parametrize("compacted", [True, False])
@pytest.mark.parametrize("policy", [SEEDS, POLICY], ids=["on", "off"])
async def test_a_resume_sends_the_seeds_that_were_noted(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, with_list: bool, compacted: bool, policy: BatchPolicy
) -> None:
    """Of a row that was sent and not answered, one that was accepted, and one that was only noted."""
    rows = [ImageRequest(prompt) for prompt in ("fox", "owl", "heron")]
    async with session_of(sandbox) as session:
        (task_id,) = await ordered(session, [ImageRequest("owl", seed=12)])
        noted = [drawn_row(n, row.prompt, 11 + n) for n, row in enumerate(rows)]
        killed_run(tmp_path, *noted, intent(0), intent(1), accepted(1, task_id))
        if compacted:
            compact(tmp_path)
        report = await (
            session.render(rows, tmp_path, policy=policy) if with_list else session.resume(tmp_path, policy=policy)
        )
        async with session.render(rows, tmp_path, policy=policy) as batch:
            images = {image.index: image async for image in batch}
    assert report.saved == 3
    assert sorted(seed or 0 for seed in seeds_sent(sandbox)) == [11, 12, 13]
    assert [row["seed"] for row in manifest(tmp_path)] == [11, 12, 13]
    assert [images[n].request for n in range(3)] == [row.request for row in noted], "skipped ones tell it as well"


async def test_a_failed_row_is_sent_again_with_its_seed_and_tells_it(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.script("create", ("fail", "generation_timeout"))
    async with session_of(sandbox) as session:
        await session.render(["fox"], tmp_path, policy=SEEDS)
        async with session.render(["fox"], tmp_path) as batch:
            told = [image.request async for image in batch]
        await session.render(["fox"], tmp_path, policy=evolve(SEEDS, retry_failed=True))
    (seed,) = set(seeds_sent(sandbox))
    assert len(sandbox.ledger.tasks) == 2
    assert told == [ImageRequest("fox", seed=seed)]
    assert len(set(keys_of(tmp_path, 0))) == 2


async def test_rows_that_an_earlier_run_noted_without_a_seed_stay_without(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """Their line is written. What is new gets one."""
    await plan(tmp_path, [ImageRequest("fox")], POLICY)
    async with session_of(sandbox) as session:
        await session.render(["owl", "fox"], tmp_path, policy=SEEDS)
    asked = {task.prompt: task.request.seed for task in sandbox.ledger.tasks.values()}
    assert asked["fox"] is None
    assert asked["owl"]


async def test_a_lost_picture_can_be_made_again(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    """`verify --repair` names the seed where only another order helps; and that brings the same picture."""
    async with session_of(sandbox) as session:
        await session.render(["fox", "owl"], tmp_path, policy=SEEDS)
        rows = manifest(tmp_path)
        lost, before = tmp_path / rows[0]["file"], (tmp_path / rows[0]["file"]).read_bytes()
        lost.unlink()
        sandbox.faults = Faults(image_gone=1.0)
        found = verify(tmp_path)
        repaired = await repair(session, tmp_path, found.problems)
        sandbox.faults = Faults()
        (left,) = repaired.left
        assert left.outlook == "gone"
        assert left.reason.endswith(f"its seed was {rows[0]['seed']}")
        assert left.problem.seed == rows[0]["seed"]
        again = await session.render([ImageRequest("fox", seed=left.problem.seed)], tmp_path / "again")
    assert again.saved == 1
    assert next((tmp_path / "again").glob("*.png")).read_bytes() == before


# --- the format -------------------------------------------------------------------------------------------------------


def test_a_line_says_what_is_used_and_nothing_else() -> None:
    fox = ImageRequest("fox", seed=5)
    plain, named, drawn, both = (
        Row(n=0, index=0, request=fox, **facts)
        for facts in ({}, {"stem": "a"}, {"drawn": True}, {"stem": "a", "drawn": True})
    )
    assert [[*json.loads(encode(row))][5:-1] for row in (plain, named, drawn, both)] == [
        ["request"],
        ["request", "stem"],
        ["request", "drawn"],
        ["request", "stem", "drawn"],
    ]
    for row in (plain, named, drawn, both):
        assert decode(encode(row)) == row
    assert encode(plain) == (
        b'{"e":"row","n":0,"digest":"%s","content":"%s","index":0,"request":{"prompt":"fox","seed":5}'
        % (plain.digest.encode(), plain.content.encode())
        + encode(plain)[-19:]
    )


def test_only_a_line_that_says_so_is_of_a_drawn_seed(tmp_path: Path) -> None:
    hostile = ImageRequest('fox","drawn":true', seed=5, id=',"drawn":true')
    for row, expected in (
        (Row(n=0, index=0, request=hostile, stem=',"drawn":true'), False),
        (drawn_row(0, "fox", 5), True),
    ):
        killed_run(tmp_path, row)
        with History(tmp_path / JOURNAL_NAME) as history:
            assert history.has_drawn == expected == history.row(0).drawn


# --- crashes ----------------------------------------------------------------------------------------------------------

MIXED: Rows = [
    {"prompt": "a fox", "size": "1:2"},
    {"prompt": "a fox", "size": "1:2"},
    {"prompt": "twins", "size": "1:2", "seed": 7},
    {"prompt": "an owl", "size": "1:2", "id": "night-owl"},
    {"prompt": "twins", "size": "1:2", "seed": 7},
]


@pytest.mark.parametrize("planned", [True, False])
async def test_a_run_killed_at_any_step_has_sent_the_seed_that_is_in_its_journal(
    session_of: Callable[..., Any], tmp_path: Path, planned: bool
) -> None:
    """And later runs, with the option or without, with the list or without, send the same and nothing twice."""
    problems: list[str] = []
    killed_at: Counter[str] = Counter()
    resumptions = cycle(product((True, False), (True, False)))

    async def killed_and_resumed(kill: Kill) -> End:
        with_list, record_seeds = next(resumptions)
        directory = tmp_path / f"{kill[0]}-{kill[1]}"
        later = evolve(POLICY, record_seeds=record_seeds)
        async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
            end = await nursery.run(sandbox, directory, MIXED, kill, planned=planned, policy={"record_seeds": True})
            noted = seeds_noted(directory) if (directory / JOURNAL_NAME).exists() else []
            sent = set(seeds_sent(sandbox))
            async with session_of(sandbox) as session:
                if not with_list and noted:
                    await session.resume(directory, policy=later)
                await session.render(MIXED, directory, policy=later)
            try:
                assert sent <= set(noted), "what was sent was noted before"
                requests = [request for request, _ in ends_of(directory)]
                assert [request.seed for request in requests][: len(noted)] == noted
                assert_all_done(directory, [request_facts(request) for request in requests], sandbox)
                assert len(sandbox.ledger.tasks) == 4
                assert all(request.seed for request in requests[: None if record_seeds else len(noted)])
            except AssertionError as error:
                problems.append(f"killed at {kill}, {end.killed_at}; {with_list=}, {record_seeds=}: {error}")
        killed_at.update([end.killed_at] if end.killed_at else [])
        return end

    async with open_nursery(at_once=3) as nursery:
        steps = (await killed_and_resumed((-1, "before"))).steps
        async with anyio.create_task_group() as group:
            limiter = anyio.CapacityLimiter(6)

            async def one(kill: Kill) -> None:
                async with limiter:
                    await killed_and_resumed(kill)

            for step in range(*sending(steps)):
                group.start_soon(partial(one, (step, "within" if step % 2 else "before")))
            for name in ("writing intent", "writing accepted", "Posted", "Answered"):
                group.start_soon(partial(one, (name, "before")))
                group.start_soon(partial(one, (name, "within")))
    assert problems == []
    assert killed_at["Posted"] >= 2
    assert killed_at["Answered"] >= 2


def sending(steps: list[str]) -> tuple[int, int]:
    """From the first step that notes a row to the last that sends one."""
    noting = next(number for number, step in enumerate(steps) if is_called(step, "writing row"))
    return noting, max(number for number, step in enumerate(steps) if step == "Answered") + 1


async def test_a_lost_answer_is_asked_for_again_with_the_same_seed(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """Within a run, and by the next one: the same key comes with the same body, or the gateway would refuse it."""
    sandbox.faults = Faults(drop_after=1.0)
    async with session_of(sandbox) as session:
        async with session.render(["fox"] * 3, tmp_path, policy=evolve(SEEDS, drain_s=0.0)) as batch:
            await until(lambda: len(sandbox.ledger.tasks) == 3)
            batch.stop(drain_s=0.0)
        sandbox.faults = Faults()
        await session.render(["fox"] * 3, tmp_path)
    assert len(sandbox.ledger.tasks) == 3
    assert Counter(seeds_sent(sandbox)) == Counter(seeds_noted(tmp_path))
    assert {len(set(keys_of(tmp_path, n))) for n in range(3)} == {1}
