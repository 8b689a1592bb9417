"""Sheets that are rendered: what a later run of the same or a longer one pays for."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sheets import sheet

from krea_async.prompts import Expansion, PromptList, Shard, SheetPolicy
from krea_async.sandbox import Sandbox
from krea_async.session import KreaSession

pytestmark = pytest.mark.anyio


def pictures(directory: Path) -> list[str]:
    return [path.name for path in directory.glob("machine*/*.png")]


async def test_two_machines_make_the_list_once_and_no_file_twice(
    tmp_path: Path, sandbox: Sandbox, session_of: Callable[..., KreaSession]
) -> None:
    """Run twice, with a row put in at the top in between: only that one is paid for the second time."""
    prompts = [f"prompt {number}" for number in range(12)]
    made = []
    for rows in (prompts, ["new", *prompts]):
        path = sheet(tmp_path, "p.txt", "\n".join(rows))
        for number in (1, 2):
            with PromptList.open(path, policy=SheetPolicy(shard=Shard(number, 2))) as shard:
                assert list(shard.check()) == []
                async with session_of(sandbox) as session:
                    report = await session.render(shard, tmp_path / f"machine{number}")
                assert report.failed == 0
        made.append(len(sandbox.ledger.tasks))
    assert made == [12, 13]
    assert sandbox.ledger.duplicates == {}
    names = pictures(tmp_path)
    assert len(set(names)) == len(names) == 13


async def test_more_seeds_later_pay_for_what_is_new(
    tmp_path: Path, sandbox: Sandbox, session_of: Callable[..., KreaSession]
) -> None:
    path = sheet(tmp_path, "p.csv", "prompt,id\na {red|blue} fox,x\nb,\n")
    made = []
    for last in (2, 2, 4):
        policy = SheetPolicy(template=True, expansion=Expansion(seeds=range(1, last + 1)))
        with PromptList.open(path, policy=policy) as rows:
            assert list(rows.check()) == []
            async with session_of(sandbox) as session:
                assert (await session.render(rows, tmp_path / "out")).failed == 0
        made.append(len(sandbox.ledger.tasks))
    assert made == [6, 6, 12]
