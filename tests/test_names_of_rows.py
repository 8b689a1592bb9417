"""Names of files by a template, and numbers of rows of a part of a list: the same in every run, and no two alike."""

import re
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from killed_runs import POLICY
from resuming import SessionOf, accepted, intent, journal, killed_run, manifest, ordered, pictures

from krea_async import BatchPolicy, ImageRequest, InvalidRequestError
from krea_async.audit.verify import verify
from krea_async.batch.collisions import name_problems
from krea_async.batch.opening import plan
from krea_async.models import IndexedRequest
from krea_async.sandbox import Sandbox
from krea_async.storage.compact import compact
from krea_async.storage.records import Row
from krea_async.storage.template import NameTemplate

pytestmark = pytest.mark.anyio

# --- collisions, before the run ---------------------------------------------------------------------------------------


def problems(rows: list[Any], name: str | None, **policy: Any) -> list[tuple[int, int, str]]:
    found = name_problems(rows, BatchPolicy(name=name, **policy))
    return [(problem.first, problem.second, problem.stem) for problem in found]


def test_rows_of_one_name_are_told_before_the_run() -> None:
    rows: list[Any] = [
        ImageRequest("a fox"),
        ImageRequest("An owl", id="A"),
        InvalidRequestError("no row"),
        ImageRequest("A FOX", seed=3),
        IndexedRequest(70, ImageRequest("a fox", size="16:9")),
        ImageRequest("a heron", id="a"),
    ]
    assert problems(rows, "{slug}") == [(0, 3, "a-fox"), (0, 70, "a-fox")]
    assert problems(rows, "{slug}-{size}.{ext}") == [(0, 3, "a-fox-1x1")]
    assert problems(rows, "x{id}") == [(0, 3, "x"), (0, 70, "x"), (1, 71, "xa")]
    assert problems(rows, "{index}-{slug}") == problems(rows, None) == []
    assert str(next(name_problems(rows, BatchPolicy(name="{slug}")))).startswith("rows 0 and 3 would both be named")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{index}", True),
        ("{index:06d}-{id}", True),
        ("{index}.{ext}", True),
        ("{index}{seed}", False),
        ("{index}0", False),
        ("x{index}", False),
        ("{slug}-{index}", False),
        ("{seed}-{index}", False),
    ],
)
def test_a_name_that_begins_with_the_number_is_not_looked_for_twice(template: str, expected: bool) -> None:
    """What is right of any list is right without reading it."""
    assert NameTemplate.parse(template).tells_rows_apart == expected
    rows = [ImageRequest("fox", seed=seed) for seed in (1, 11, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)]
    assert bool(problems(rows, template)) == (template == "{index}{seed}")


def test_seeds_that_are_drawn_later_tell_rows_apart() -> None:
    rows = [ImageRequest("a fox", seed=seed) for seed in (None, 0, None, 5, 5)]
    assert problems(rows, "{seed}") == [(0, 1, "x"), (0, 2, "x"), (3, 4, "5")]
    assert problems(rows, "{seed}", record_seeds=True) == [(3, 4, "5")]
    assert [second for _, second, _ in problems(rows, "{slug}", record_seeds=True)] == [1, 2, 3, 4]


def test_unicode_that_looks_the_same_collides() -> None:
    rows = [ImageRequest("x", id=id_) for id_ in ("caf\u00e9", "CAFE\u0301", "cafe")]
    assert problems(rows, "{id}") == [(0, 1, "CAF\u00c9")]


# --- names from run to run --------------------------------------------------------------------------------------------

ROWS = [ImageRequest("fox"), ImageRequest("owl", seed=3), ImageRequest("heron", id="h")]


@pytest.fixture
def named() -> BatchPolicy:
    return evolve(POLICY, name="{slug}-{seed}-{index:03d}.{ext}")


NAMED = ["fox-x-000.png", "heron-x-002.png", "owl-3-001.png"]


async def test_pictures_have_the_names_of_the_template(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, named: BatchPolicy
) -> None:
    async with session_of(sandbox) as session, session.render(ROWS, tmp_path, policy=named) as batch:
        images = {image.index: image async for image in batch}
    assert pictures(tmp_path) == NAMED
    assert [images[index].path for index in range(3)] == [
        tmp_path / name for name in ("fox-x-000.png", "owl-3-001.png", "heron-x-002.png")
    ]
    assert [row["file"] for row in manifest(tmp_path)] == ["fox-x-000.png", "owl-3-001.png", "heron-x-002.png"]
    assert [
        line["stem"] for line in sorted(journal(tmp_path), key=lambda line: line.get("index", -1)) if line["e"] == "row"
    ] == [
        "fox-x-000",
        "owl-3-001",
        "heron-x-002",
    ]
    assert verify(tmp_path).ok


async def test_without_a_template_the_journal_says_nothing_of_names(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        await session.render(ROWS, tmp_path, policy=POLICY)
    assert pictures(tmp_path) == ["00000-fox.png", "00001-owl.png", "h.png"]
    for line in journal(tmp_path):
        assert not {"stem", "drawn"} & line.keys()


@pytest.mark.parametrize("later", [None, "{index}", "{slug}-{seed}-{index:03d}"], ids=["none", "another", "the same"])
@pytest.mark.parametrize("with_list", [True, False])
@pytest.mark.parametrize("compacted", [True, False])
async def test_a_row_that_was_noted_keeps_its_name_whatever_the_next_run_says(
    sandbox: Sandbox,
    session_of: SessionOf,
    tmp_path: Path,
    named: BatchPolicy,
    later: str | None,
    with_list: bool,
    compacted: bool,
) -> None:
    """Planned, or under way when its run was killed; resumed with the list, grown at its top, or without."""
    async with session_of(sandbox) as session:
        (task_id,) = await ordered(session, [ROWS[0]])
        rows = [
            Row(n=n, index=n, request=row, stem=stem) for n, (row, stem) in enumerate(zip(ROWS, STEMS, strict=True))
        ]
        killed_run(tmp_path, *rows, intent(0), accepted(0, task_id), intent(1))
        (tmp_path / "fox-x-000.part").write_bytes(b"half")
        if compacted:
            compact(tmp_path)
        policy = evolve(POLICY, name=later)
        if with_list:
            await session.render([ImageRequest("new"), *ROWS], tmp_path, policy=policy)
        else:
            await session.resume(tmp_path, policy=policy)
    new = [] if not with_list else [{None: "00000-new.png", "{index}": "0.png"}.get(later, "new-x-000.png")]
    assert pictures(tmp_path) == sorted([*NAMED, *new])
    assert len(sandbox.ledger.tasks) == 3 + with_list
    assert verify(tmp_path).ok


STEMS = ["fox-x-000", "owl-3-001", "heron-x-002"]


async def test_a_row_of_an_older_journal_keeps_the_usual_name(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, named: BatchPolicy
) -> None:
    killed_run(tmp_path, *(Row(n=n, index=n, request=row) for n, row in enumerate(ROWS)))
    async with session_of(sandbox) as session:
        await session.render(ROWS, tmp_path, policy=named)
    assert pictures(tmp_path) == ["00000-fox.png", "00001-owl.png", "h.png"]


async def test_a_picture_that_is_fetched_again_has_its_name_again(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, named: BatchPolicy
) -> None:
    async with session_of(sandbox) as session:
        await session.render(ROWS, tmp_path, policy=named)
        for name in NAMED[:2]:
            (tmp_path / name).unlink()
        report = await session.render(ROWS, tmp_path, policy=POLICY)
    assert (report.saved, pictures(tmp_path)) == (2, NAMED)


async def test_names_that_collide_are_told_apart_by_the_number_and_nothing_is_overwritten(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    (tmp_path / "FOX.png").write_bytes(b"mine")
    rows = [ImageRequest("fox", size=size) for size in ("1:1", "1:2", "2:1")] + [ImageRequest("fox", seed=7)] * 2
    async with session_of(sandbox) as session:
        report = await session.render(rows, tmp_path, policy=evolve(POLICY, name="{slug}"))
        again = await session.render(rows, tmp_path, policy=evolve(POLICY, name="{slug}"))
    assert (report.saved, again.already_saved) == (5, 5)
    assert (tmp_path / "FOX.png").read_bytes() == b"mine"
    files = [row["file"] for row in manifest(tmp_path)]
    assert len(set(files)) == 5
    assert all(re.fullmatch(rf"fox(-{index:05d})?\.png", name) for index, name in enumerate(files))
    assert len(sandbox.ledger.tasks) == 4  # the last two are copies, which have names of their own
    assert verify(tmp_path).problems == ()


async def test_a_plan_notes_the_names(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, named: BatchPolicy
) -> None:
    await plan(tmp_path, ROWS, named)
    async with session_of(sandbox) as session:
        await session.resume(tmp_path, policy=POLICY)
    assert pictures(tmp_path) == NAMED


async def test_pictures_under_way_are_expected_by_their_names(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """A picture that a killed run had named already, and not noted, is no stranger to `verify`."""
    killed_run(tmp_path, Row(n=0, index=0, request=ROWS[0], stem="my-fox"), intent(0), accepted(0, "task-unified-1-a"))
    for name in ("my-fox.png", "my-fox-00000.png", "00000-fox.png"):
        (tmp_path / name).write_bytes(b"x")
    assert verify(tmp_path).strays == ("00000-fox.png",)


# --- parts of lists ---------------------------------------------------------------------------------------------------


async def test_rows_of_a_part_of_a_list_keep_their_numbers(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    rows = [IndexedRequest(index, ImageRequest(f"fox {index}")) for index in (1, 6, 11)]
    bad = InvalidRequestError("row 12 is bad", field="size")
    async with session_of(sandbox) as session:
        async with session.render([*rows, bad], tmp_path, policy=POLICY) as batch:
            images = sorted([image async for image in batch], key=lambda image: image.index or 0)
            assert batch.report.unread == 0
        again = await session.render(rows, tmp_path, policy=POLICY)
        await plan(tmp_path / "planned", rows, POLICY)
        resumed = await session.resume(tmp_path / "planned", policy=POLICY)
    assert [image.index for image in images] == [1, 6, 11, 12]
    assert pictures(tmp_path)[:3] == ["00001-fox-1.png", "00006-fox-6.png", "00011-fox-11.png"]
    assert pictures(tmp_path / "planned") == ["00001-fox-1.png", "00006-fox-6.png", "00011-fox-11.png"]
    assert [row["index"] for row in manifest(tmp_path)] == [1, 6, 11, 12]
    assert (again.already_saved, resumed.saved) == (3, 3)
    assert batch.report.failed == 1
    assert len(sandbox.ledger.tasks) == 6


async def test_all_parts_of_a_list_together_are_the_list(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """Files of several machines put together do not collide; and canaries and copies are what they were."""
    whole = [ImageRequest("fox") if n % 2 else ImageRequest("owl", seed=7) for n in range(12)]
    async with session_of(sandbox) as session:
        for part in range(3):
            rows = [IndexedRequest(n, whole[n]) for n in range(part, 12, 3)]
            report = await session.render(rows, tmp_path / str(part), policy=evolve(POLICY, canary=1))
            assert report.saved == 4
        await session.render(whole, tmp_path / "whole", policy=POLICY)
    parts = [name for part in range(3) for name in pictures(tmp_path / str(part))]
    assert sorted(parts) == pictures(tmp_path / "whole")
