"""Rows that show the same picture: it is paid for once, in this run and in all others, and has every name."""

from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from resuming import (
    SessionOf,
    accepted,
    intent,
    journal,
    killed_run,
    manifest,
    ordered,
    pictures,
    prompts_made,
    row,
    spent,
)
from until import until

from krea_async import BatchPolicy, ImageExpiredError, ImageRequest
from krea_async.sandbox import Durations, Faults, Sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
        yield sandbox


def twins(count: int, **facts: Any) -> list[ImageRequest]:
    return [ImageRequest("fox", **{"seed": 7, "id": f"fox-{number}", **facts}) for number in range(count)]


async def test_equal_rows_are_paid_for_once_and_have_every_name(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        async with session.render(twins(20), tmp_path) as batch:
            images = [image async for image in batch]
        again = await session.render(twins(20), tmp_path, policy=BatchPolicy(check_sha256=True))
    (task,) = sandbox.ledger.tasks.values()
    assert task.fetched == 1
    assert pictures(tmp_path) == sorted(f"fox-{number}.png" for number in range(20))
    assert {sha256((tmp_path / name).read_bytes()).hexdigest() for name in pictures(tmp_path)} == {task.sha256}
    assert {image.sha256 for image in images} == {task.sha256}
    assert {(image.width, image.height) for image in images} == {(1024, 1024)}
    assert sorted(image.credits for image in images) == [0.0] * 19 + [0.45]
    assert (batch.report.saved, batch.report.credits, again.already_saved) == (20, 0.45, 20)
    assert sorted(line["credits"] for line in manifest(tmp_path)) == [0.0] * 19 + [0.45]
    assert spent(tmp_path) == (0.45, 0.0)


async def test_names_that_come_from_the_prompt_are_told_apart_too(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox, concurrency=1) as session:
        report = await session.render([ImageRequest("fox", seed=7)] * 3, tmp_path)
    assert (report.saved, len(sandbox.ledger.tasks)) == (3, 1)
    assert pictures(tmp_path) == ["00000-fox.png", "00001-fox.png", "00002-fox.png"]


@pytest.mark.parametrize(
    "other",
    [{"seed": 8}, {"size": "1:2"}, {"quality": "2K"}, {"nsfw_check": True}, {"seed": 0}, {"seed": None}],
    ids=["seed", "size", "quality", "nsfw-check", "seed-0", "no-seed"],
)
async def test_what_may_look_different_is_made_for_itself(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, other: dict[str, Any]
) -> None:
    async with session_of(sandbox) as session:
        await session.render([*twins(1), ImageRequest("fox", id="other", **{"seed": 7, **other})], tmp_path)
    assert len(sandbox.ledger.tasks) == 2


@pytest.mark.parametrize("seed", [None, 0])
async def test_without_a_seed_every_row_is_its_own_picture(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, seed: int | None
) -> None:
    async with session_of(sandbox) as session:
        await session.render(twins(3, seed=seed), tmp_path)
    assert len(sandbox.ledger.tasks) == 3


async def test_on_request_every_row_is_paid_for(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    async with session_of(sandbox) as session:
        report = await session.render(twins(3), tmp_path, policy=BatchPolicy(dedupe=False))
    assert len(sandbox.ledger.tasks) == 3
    assert report.credits == pytest.approx(1.35)


async def test_without_hard_links_there_are_copies(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    async with session_of(sandbox) as session:
        report = await session.render(twins(3), tmp_path)
    assert (report.saved, len(sandbox.ledger.tasks)) == (3, 1)
    files = [tmp_path / name for name in pictures(tmp_path)]
    assert [file.name for file in files] == ["fox-0.png", "fox-1.png", "fox-2.png"]
    assert len({file.stat().st_ino for file in files}) == 3
    assert len({file.read_bytes() for file in files}) == 1


async def test_when_the_maker_fails_the_next_one_makes_it(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """One after the other: there is never more than one that may be paid for."""
    sandbox.durations = Durations.fixed(0.05)
    sandbox.script("create", ("fail", "generation_timeout"), ("fail", "generation_timeout"))
    async with session_of(sandbox) as session:
        report = await session.render(twins(8), tmp_path)
    assert (report.saved, report.failed) == (6, 2)
    assert len(sandbox.ledger.tasks) == 3
    assert sandbox.ledger.max_unfinished == 1
    assert report.credits == 0.45


async def test_when_the_picture_is_refused_for_each_of_them_all_fail(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.faults = Faults(fail={"content_policy_violation": 1.0})
    async with session_of(sandbox, concurrency=4) as session:
        report = await session.render(twins(6), tmp_path)
    assert (report.failed, sandbox.ledger.max_unfinished) == (6, 1)


@pytest.mark.parametrize("concurrency", [4, 64])
async def test_twins_among_others_in_any_order_race_for_nothing(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, concurrency: int
) -> None:
    """Ten pictures of five names each, mixed, with failures and lost answers."""
    sandbox.durations = Durations(queue_s=0.01, run_s=0.02, sigma=0.5)
    sandbox.faults = Faults(fail={"generation_timeout": 0.2}, drop_after=0.05, image_truncated=0.1)
    rows = [ImageRequest("fox", seed=1 + number * 7 % 10, id=f"row {number}") for number in range(50)]
    async with session_of(sandbox, concurrency=concurrency) as session:
        report = await session.render(rows, tmp_path)
        assert sandbox.ledger.duplicates == {}
        while report.failed:
            report = await session.render(rows, tmp_path, policy=BatchPolicy(retry_failed=True))
    assert sandbox.ledger.duplicates == {}
    assert sandbox.ledger.charged_credits == pytest.approx(4.5)
    assert len(pictures(tmp_path)) == 50
    assert len({(tmp_path / name).read_bytes() for name in pictures(tmp_path)}) == 10


# --- what copies cost -------------------------------------------------------------------------------------------------


async def test_a_copy_takes_nothing_from_the_budget(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    rows = [*twins(30), ImageRequest("owl", seed=7), *twins(30, id=None)]
    async with session_of(sandbox) as session:
        report = await session.render(rows, tmp_path, max_credits=0.9)
    assert report.stopped_by is None
    assert (report.saved, report.credits) == (61, 0.9)


async def test_a_copy_is_no_canary(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    """The picture of a copy says nothing new about the template."""
    sandbox.script("create", "ok", ("fail", "invalid_parameters"))
    rows = [*twins(5), *(ImageRequest("owl", seed=seed) for seed in range(1, 10))]
    async with session_of(sandbox) as session:
        report = await session.render(rows, tmp_path, policy=BatchPolicy(canary=2))
    tasks = list(sandbox.ledger.tasks.values())
    assert (report.saved, report.failed, len(tasks)) == (13, 1, 10)
    canaries = [task for task in tasks if task.created < tasks[2].created]
    assert len(canaries) == 2
    assert max(task.finishes for task in canaries) <= tasks[2].created


# --- run after run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [lambda rows: rows, lambda rows: rows[::-1]], ids=["below", "on-top"])
@pytest.mark.parametrize("concurrency", [1, 64])
async def test_a_new_name_for_a_picture_of_an_earlier_run_costs_nothing(
    sandbox: Sandbox,
    session_of: SessionOf,
    tmp_path: Path,
    order: Callable[[list[ImageRequest]], list[ImageRequest]],
    concurrency: int,
) -> None:
    """Wherever in the list it stands."""
    async with session_of(sandbox, concurrency=concurrency) as session:
        await session.render(twins(1), tmp_path)
        report = await session.render(order(twins(3)), tmp_path)
    assert (report.saved, report.already_saved, report.credits) == (2, 1, 0.0)
    assert len(sandbox.ledger.tasks) == 1


async def test_a_picture_that_an_earlier_run_ordered_is_waited_for(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """A killed run had ordered it for one name; the others are not a reason to order it again."""
    sandbox.durations = Durations.fixed(0.3)
    first, *others = twins(4)
    async with session_of(sandbox) as session:
        (task_id,) = await ordered(session, [first])
        killed_run(tmp_path, row(0, first), intent(0), accepted(0, task_id), row(1, others[0]))
        report = await session.render([*others[::-1], first], tmp_path)
    assert (report.saved, len(sandbox.ledger.tasks)) == (4, 1)
    assert len(pictures(tmp_path)) == 4


async def test_a_row_that_had_failed_does_not_free_the_others_to_pay(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.script("create", ("fail", "content_policy_violation"))
    before, failed, after = twins(3)

    async def prompts() -> AsyncIterator[ImageRequest]:
        yield before
        await until(lambda: len(sandbox.ledger.tasks) == 2)
        yield failed
        yield after

    async with session_of(sandbox) as session:
        await session.render([failed], tmp_path)
        sandbox.durations = Durations.fixed(0.3)
        report = await session.render(prompts(), tmp_path)
    assert (report.saved, report.failed) == (2, 1)
    assert len(sandbox.ledger.tasks) == 2


async def test_a_failed_row_that_is_retried_takes_the_picture_of_its_twin(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.script("create", ("fail", "generation_timeout"))
    async with session_of(sandbox, concurrency=1) as session:
        first = await session.render(twins(2), tmp_path)
        second = await session.render(twins(2), tmp_path, policy=BatchPolicy(retry_failed=True))
    assert (first.saved, first.failed, second.saved, second.already_saved) == (1, 1, 1, 1)
    assert len(sandbox.ledger.tasks) == 2
    assert spent(tmp_path) == (0.45, 0.0)


@pytest.mark.parametrize("deleted", [["fox-0"], ["fox-1"], ["fox-0", "fox-1"], ["fox-0", "fox-1", "fox-2"]])
@pytest.mark.parametrize("order", [lambda rows: rows, lambda rows: rows[::-1]], ids=["as-before", "reversed"])
async def test_deleted_names_come_back_without_paying(
    sandbox: Sandbox,
    session_of: SessionOf,
    tmp_path: Path,
    deleted: list[str],
    order: Callable[[list[ImageRequest]], list[ImageRequest]],
) -> None:
    async with session_of(sandbox, concurrency=1) as session:
        await session.render(twins(3), tmp_path)
        names = pictures(tmp_path)
        for name in deleted:
            (tmp_path / f"{name}.png").unlink()
        report = await session.render(order(twins(3)), tmp_path)
        again = await session.render(order(twins(3)), tmp_path)
    assert (report.saved, report.already_saved, again.already_saved) == (len(deleted), 3 - len(deleted), 3)
    assert len(sandbox.ledger.tasks) == 1
    assert pictures(tmp_path) == names
    assert len({(tmp_path / name).read_bytes() for name in names}) == 1
    assert spent(tmp_path) == (0.45, 0.0)


async def test_names_whose_picture_nobody_has_any_more_fail_and_are_not_paid_for(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        await session.render(twins(3), tmp_path)
        for name in pictures(tmp_path):
            (tmp_path / name).unlink()
        sandbox.settings.link_life_s = 0.0
        async with session.render(twins(3), tmp_path) as batch:
            errors = [image.error async for image in batch]
        again = await session.render(twins(3), tmp_path)
    assert [type(error) for error in errors] == [ImageExpiredError] * 3
    assert (batch.report.calls["create"], again.failed, len(sandbox.ledger.tasks)) == (0, 3, 1)
    assert [line["e"] for line in journal(tmp_path)].count("intent") == 1
    assert spent(tmp_path) == (0.45, 0.0)


async def test_a_flipped_bit_in_all_names_of_a_picture_is_mended_in_all(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """They are one file with several names, so they rot together."""
    policy = BatchPolicy(check_sha256=True)
    async with session_of(sandbox) as session:
        await session.render(twins(3), tmp_path)
        names = pictures(tmp_path)
        whole = (tmp_path / names[0]).read_bytes()
        (tmp_path / names[0]).write_bytes(whole[:-1] + b"!")
        report = await session.render(twins(3), tmp_path, policy=policy)
        again = await session.render(twins(3), tmp_path, policy=policy)
    assert (report.saved, again.already_saved, len(sandbox.ledger.tasks)) == (3, 3, 1)
    assert [name for name in pictures(tmp_path) if name.endswith(".png")] == names
    assert {(tmp_path / name).read_bytes() for name in names} == {whole}


async def test_a_stop_lets_no_twin_hang(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    sandbox.durations = Durations.fixed(0.3)
    async with session_of(sandbox) as session:
        async with session.render(twins(10), tmp_path) as batch:
            await until(lambda: sandbox.ledger.tasks)
            batch.stop()
            statuses = [image.status async for image in batch]
        report = await session.resume(tmp_path)
    assert statuses.count("saved") >= 1
    assert set(statuses) <= {"saved", "skipped"}
    assert report.failed == 0
    assert prompts_made(sandbox) == ["fox"]
