"""A run that is watched: every row and every change comes to every browser, however late, slow or often it comes."""

import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import asdict
from audited import picture, rendered, row, saved, write_journal
from browsing import Shown, visiting
from many import many_rows
from until import until

from krea_async import KreaSession
from krea_async.gallery import live as live_module
from krea_async.gallery.live import Live
from krea_async.gallery.reading import open_rows
from krea_async.sandbox import Durations, Sandbox
from krea_async.storage.compact import compact
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.manifest import MANIFEST_NAME
from krea_async.storage.records import Line, RunBegun, encode

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "LOOK_EVERY_S", 0.01)


def append(directory: Path, *lines: Line) -> None:
    with (directory / JOURNAL_NAME).open("ab") as file:
        file.writelines(map(encode, lines))


def recorded(directory: Path) -> dict[int, dict[str, Any]]:
    """Its rows, as they would go through JSON."""
    with open_rows(directory) as rows:
        return {n: json.loads(json.dumps(asdict(rows.tile(n)))) for n in range(len(rows))}


@asynccontextmanager
async def followed(directory: Path, **options: Any) -> AsyncIterator[Live]:
    """The directory, followed."""
    live = Live(directory, **options)
    await live.open()
    async with anyio.create_task_group() as group:
        group.start_soon(live.follow, print)
        yield live
        group.cancel_scope.cancel()
    live.close()


async def taken(live: Live, last_id: str = "", *, until: str = "totals") -> list[str]:
    """The texts of the events up to the first of that name."""
    texts = []
    async with aclosing(live.events(last_id)) as events:
        async for text in events:
            texts.append(text)
            if f"event: {until}\n" in text:
                return texts
    return texts


async def until_row(live: Live, n: int) -> None:
    await until(lambda: live.tile(n))


def id_in(texts: list[str]) -> str:
    return next(line[4:] for text in texts for line in text.splitlines() if line.startswith("id: "))


# --- a run ------------------------------------------------------------------------------------------------------------


async def test_a_run_that_begins_after_the_gallery_appears_row_by_row(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """Two browsers see the same: one from before there was a directory, one that came in the middle."""
    directory = tmp_path / "renders"
    sandbox.durations = Durations(queue_s=0.05, run_s=0.3, sigma=0.5)
    first, second = Shown(), Shown()
    async with visiting(directory) as visitor, AsyncExitStack() as held:
        events = await held.enter_async_context(visitor.events())
        assert (await anext(events))[0] == "waiting"
        async with anyio.create_task_group() as group:

            async def render() -> None:
                async with session_of(sandbox, concurrency=4) as session:
                    await session.render((f"fox {n}" for n in range(16)), directory)

            group.start_soon(render)
            with anyio.fail_after(20):
                while first.totals.get("saved", 0) < 3:
                    first.take(await anext(events))
            later = await held.enter_async_context(visitor.events())
            await second.until_totals(later)
            assert second.totals["saved"] < 16
            await first.until_totals(events, saved=16, has_ended=True)
            await second.until_totals(later, saved=16, has_ended=True)
        assert first.rows == second.rows == recorded(directory)
        steps = [name for name in first.names if name != "waiting"]
        first_steps = [name for name, _ in groupby(steps)]  # what is read in two goes is told in two
        assert first_steps[:3] == ["reset", "rows", "totals"] or first_steps[:2] == ["reset", "totals"]
        assert steps.count("reset") == 1
        assert steps.count("totals") >= 4
        file = first.rows[7]["file"]
        assert (await visitor.get(f"/pictures/7/{file}"))[1] == (directory / file).read_bytes()
        assert (await visitor.get("/thumbs/7.webp"))[0] == 200
        assert visitor.said == []


async def test_only_what_has_changed_is_sent(tmp_path: Path) -> None:
    rendered(tmp_path, 5)
    shown = Shown()
    async with visiting(tmp_path) as visitor, visitor.events() as events:
        await shown.until_totals(events, rows=5)
        shown.changed.clear()
        append(tmp_path, RunBegun(pid=2, version="1", at_s=2000.0), row(5), saved(1, picture(1), at_s=2001.0), row(6))
        await shown.until_totals(events, rows=7)
        assert sorted(shown.changed) == [1, 5, 6]
        assert shown.rows == recorded(tmp_path)


async def test_a_browser_that_comes_back_gets_what_it_missed_and_nothing_else(tmp_path: Path) -> None:
    rendered(tmp_path, 5)
    shown = Shown()
    async with visiting(tmp_path) as visitor:
        async with visitor.events() as events:
            await shown.until_totals(events, rows=5)
        shown.names.clear()
        shown.changed.clear()
        append(tmp_path, row(5), row(6))
        async with visitor.events(shown.last_id) as events:
            await shown.until_totals(events, rows=7)
        assert shown.names.count("reset") == 0
        assert shown.changed == [5, 6]
        assert shown.rows == recorded(tmp_path)
        shown.names.clear()
        async with visitor.events(shown.last_id) as events:
            await shown.until_totals(events, rows=7)
        assert shown.names == ["totals"]


@pytest.mark.parametrize(
    "last_id", ["x", "-", "0-0", "ffffffff-3", "{epoch}-99999", "{epoch}--1", "{epoch}-" + "9" * 50]
)
async def test_an_id_that_is_not_known_begins_anew(tmp_path: Path, last_id: str) -> None:
    rendered(tmp_path, 2)
    async with followed(tmp_path) as live:
        epoch = id_in(await taken(live)).partition("-")[0]
        texts = await taken(live, last_id.format(epoch=epoch))
        assert texts[0].startswith("event: reset\n")
        assert len(texts) == 3


# --- another journal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["compacted", "removed and begun anew", "removed"])
async def test_a_journal_that_is_another_begins_anew(tmp_path: Path, what: str) -> None:
    rendered(tmp_path, 3)
    shown = Shown()
    async with visiting(tmp_path) as visitor, visitor.events() as events:
        await shown.until_totals(events, rows=3)
        shown.names.clear()
        if what == "compacted":
            compact(tmp_path)
            await shown.until_totals(events, rows=3)
            assert shown.names == ["reset", "rows", "totals"]
        else:
            (tmp_path / MANIFEST_NAME).unlink()
            (tmp_path / JOURNAL_NAME).unlink()
            with anyio.fail_after(10):
                while "waiting" not in shown.names:
                    shown.take(await anext(events))
        if what == "removed and begun anew":
            write_journal(tmp_path, row(0, "another fox"))
            await shown.until_totals(events, rows=1)
        if what != "removed":
            assert shown.rows == recorded(tmp_path)


async def test_a_manifest_alone_is_shown_and_a_journal_takes_its_place(tmp_path: Path) -> None:
    rendered(tmp_path, 3)
    (tmp_path / JOURNAL_NAME).unlink()
    shown = Shown()
    async with visiting(tmp_path) as visitor, visitor.events() as events:
        await shown.until_totals(events, rows=3)
        assert {tile["status"] for tile in shown.rows.values()} == {"saved"}
        write_journal(tmp_path, row(0, "a new run"))
        await shown.until_totals(events, rows=1)
        assert [tile["prompt"] for tile in shown.rows.values()] == ["a new run"]


async def test_what_cannot_be_read_is_told_once_and_shown_again_once_it_can(tmp_path: Path) -> None:
    rendered(tmp_path, 1)
    shown = Shown()
    async with visiting(tmp_path) as visitor, visitor.events() as events:
        await shown.until_totals(events, rows=1)
        (tmp_path / JOURNAL_NAME).rename(tmp_path / "away")
        (tmp_path / JOURNAL_NAME).mkdir()
        await until(lambda: visitor.said)
        (tmp_path / JOURNAL_NAME).rmdir()
        shutil.copy(tmp_path / "away", tmp_path / JOURNAL_NAME)
        append(tmp_path, row(1))
        await shown.until_totals(events, rows=2)
        assert len(visitor.said) == 1
        assert "no plain file" in visitor.said[0]


# --- many -------------------------------------------------------------------------------------------------------------


async def test_a_browser_too_far_behind_begins_anew_and_the_log_stays_short(tmp_path: Path) -> None:
    rendered(tmp_path, 3)
    async with followed(tmp_path, log_rows=64) as live:
        early = recent = id_in(await taken(live))
        for start in range(3, 303, 50):
            append(tmp_path, *(row(n) for n in range(start, start + 50)))
            await until_row(live, start + 49)
            recent = id_in(await taken(live, recent))
        assert (await taken(live, early))[0].startswith("event: reset\n")
        append(tmp_path, row(303))
        await until_row(live, 303)
        (rows, _) = await taken(live, recent)
        assert rows.startswith("event: rows\n")
        assert len(live._log) <= 64 + 8 + 50


async def test_one_that_does_not_read_holds_nothing_up_and_no_memory(tmp_path: Path) -> None:
    """It is sent a block only when it has taken the one before; what it then gets is the newest."""
    count = 20_000
    many_rows(tmp_path, count, prompt="a long prompt " * 20)
    shown = Shown()
    async with visiting(tmp_path) as visitor, visitor.events() as stalled:
        assert (await anext(stalled))[0] == "reset"  # and then it reads no more
        before = _rss_bytes()
        async with visitor.events() as events:
            await shown.until_totals(events, rows=count)
            append(tmp_path, row(count))
            await shown.until_totals(events, rows=count + 1)
        assert len(shown.rows) == count + 1
        assert _rss_bytes() - before < 150_000_000  # most of it is `shown`
        late = Shown()
        await late.until_totals(stalled, rows=count + 1)
        assert len(late.rows) == count + 1


async def test_silence_is_broken_now_and_then_so_that_who_is_gone_is_noticed(tmp_path: Path) -> None:
    rendered(tmp_path, 1)
    async with followed(tmp_path, alive_every_s=0.01) as live, aclosing(live.events()) as events:
        texts = [await anext(events) for _ in range(5)]
    assert texts[3:] == [": still there\n\n"] * 2


async def test_streams_end_when_it_is_stopped(tmp_path: Path) -> None:
    async with followed(tmp_path) as live:
        events = live.events()
        assert (await anext(events)).startswith("event: waiting\n")
        live.stop()
        with anyio.fail_after(5):
            assert [text async for text in events] == []


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
