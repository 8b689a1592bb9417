"""Downloads side by side: which is next, what holds a lane and what does not, and what is held in memory meanwhile."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from picture_hosts import (
    Answer,
    Host,
    answer,
    assert_saved,
    begun,
    downloads,
    names,
    no_fresh_link,
    picture,
    saved,
    served,
    serving,
)
from until import until

from krea_async import DownloadError, RetryPolicy
from krea_async.storage import download
from krea_async.storage.download import Downloads
from krea_async.storage.part import Part, SavedPicture, Target

pytestmark = pytest.mark.anyio

BODY = picture(1, 30_000)
PATIENT = RetryPolicy(attempts=5, first_wait_s=600.0, max_wait_s=600.0)


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with served() as host:
        yield host


async def save(
    loader: Downloads, host: Host, directory: Path, stem: str, expires_in_s: float | None = None
) -> SavedPicture:
    """A picture of its own path at the host."""
    return await loader.save(
        host.link.replace("picture", stem),
        Target(directory=directory, stem=stem),
        fresh_link=no_fresh_link,
        expires_s=None if expires_in_s is None else time.time() + expires_in_s,
    )


def by_path(otherwise: Answer, **answers: Answer) -> Answer:
    """An answer of its own for some pictures; it is given once."""

    async def give(request: web.Request) -> web.StreamResponse:
        return await answers.pop(Path(request.path).stem, otherwise)(request)

    return give


def held_back(go_on: asyncio.Event) -> Answer:
    async def give(request: web.Request) -> web.StreamResponse:
        await go_on.wait()
        return await serving(BODY)(request)

    return give


async def test_waiting_pictures_are_fetched_by_the_time_their_links_die(host: Host, tmp_path: Path) -> None:
    go_on = asyncio.Event()
    host.answers = [by_path(serving(BODY), first=held_back(go_on))]
    async with downloads(at_once=1) as loader, anyio.create_task_group() as group:
        for stem, expires_in_s in (("first", 9.0), ("c", 3000.0), ("unknown", None), ("a", 1000.0), ("b", 2000.0)):
            group.start_soon(save, loader, host, tmp_path, stem, expires_in_s)
        await until(lambda: len(host.asked) == 1)
        group.start_soon(save, loader, host, tmp_path, "dying", 100.0)
        group.start_soon(save, loader, host, tmp_path, "dead", -100.0)
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    order = [Path(path).stem for path in host.paths]
    assert order == ["first", "dying", "a", "b", "c", "unknown", "dead"]
    assert len(names(tmp_path)) == len(order)  # the dead link was good after all


async def test_a_picture_that_waits_for_its_next_try_holds_nobody_up(host: Host, tmp_path: Path) -> None:
    host.answers = [by_path(serving(BODY), sick=answer(500))]
    async with downloads(at_once=1, retries=PATIENT) as loader:
        sick = asyncio.create_task(save(loader, host, tmp_path, "sick", 10.0))
        await until(lambda: len(host.asked) == 1)
        await asyncio.gather(*(save(loader, host, tmp_path, f"well-{number}") for number in range(5)))
        assert [Path(path).stem for path in host.paths] == ["sick", *(f"well-{number}" for number in range(5))]
        sick.cancel()
        await asyncio.wait([sick])
    assert names(tmp_path) == [f"well-{number}.png" for number in range(5)]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_pause_that_the_host_names_is_kept_by_all_downloads(host: Host, tmp_path: Path, status: int) -> None:
    host.answers = [by_path(serving(BODY), refused=answer(status, Retry_After="0.5"))]
    async with downloads(at_once=16) as loader, anyio.create_task_group() as group:
        group.start_soon(save, loader, host, tmp_path, "refused")
        await until(lambda: loader._turns.lanes._paused_until_s > 0.0)
        for number in range(8):
            group.start_soon(save, loader, host, tmp_path, f"other-{number}")
    first_s, *others_s = host.asked_at_s
    assert min(others_s) - first_s >= 0.5
    assert len(names(tmp_path)) == 9


async def test_one_who_is_cancelled_while_waiting_leaves_nothing_and_holds_nobody_up(
    host: Host, tmp_path: Path
) -> None:
    go_on = asyncio.Event()
    host.answers = [by_path(serving(BODY), first=held_back(go_on))]
    async with downloads(at_once=1) as loader:
        first, second, third = (
            asyncio.create_task(save(loader, host, tmp_path, stem)) for stem in ("first", "second", "third")
        )
        await until(lambda: len(host.asked) == 1)
        second.cancel()
        await asyncio.wait([second])
        go_on.set()
        await asyncio.gather(first, third)
        assert_saved(await save(loader, host, tmp_path, "second"), BODY, tmp_path, "second.png")  # its name is free
    assert names(tmp_path) == ["first.png", "second.png", "third.png"]


async def test_a_slow_disk_stops_no_transfer_until_too_much_is_in_memory(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures that are here wait for the disk without a lane: but only so many, or memory would fill."""
    go_on, publish = threading.Event(), Part._publish

    def slow(part: Part, target: Target, *, sync: bool) -> SavedPicture:
        go_on.wait(30)
        return publish(part, target, sync=sync)

    monkeypatch.setattr(Part, "_publish", slow)
    monkeypatch.setattr(download, "LANDING", 3)
    host.answers = [serving(BODY)]
    async with downloads(at_once=2) as loader, anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(save, loader, host, tmp_path, f"fox-{number}")
        await until(lambda: len(host.asked) == 3 + 2)
        await anyio.sleep(0.1)  # that nothing more happens takes time to see
        assert len(host.asked) == 3 + 2
        go_on.set()
    assert len(names(tmp_path)) == 20


async def test_a_small_picture_over_a_line_that_breaks_often_arrives_piece_by_piece(host: Host, tmp_path: Path) -> None:
    """The first try takes it in one piece; after a break every byte that came is kept."""
    body = picture(1, 200_000)

    async def give(request: web.Request) -> web.StreamResponse:
        response = await begun(request, body, '"first"')
        start = len(body) - (response.content_length or 0)
        await response.write(body[start : start + 70_000])
        if start + 70_000 < len(body) and request.transport is not None:
            request.transport.close()
        return response

    found = await saved(host, tmp_path, give, retries=RetryPolicy(attempts=5, first_wait_s=0.01, max_wait_s=0.02))
    assert_saved(found, body, tmp_path)
    assert len(host.asked) <= 4
    assert host.ranges[-1] is not None


async def test_a_small_picture_costs_one_visit_to_a_thread(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, turns = asyncio.get_running_loop(), 0
    run_in_executor = loop.run_in_executor

    def counting(*arguments: Any) -> object:
        nonlocal turns
        turns += 1
        return run_in_executor(*arguments)

    monkeypatch.setattr(loop, "run_in_executor", counting)
    body = picture(1, 200_000)
    assert_saved(await saved(host, tmp_path, serving(body)), body, tmp_path)
    assert turns == 1


async def test_many_failures_leave_every_lane_free(host: Host, tmp_path: Path) -> None:
    host.answers = [answer(401)]
    async with downloads(at_once=2) as loader:
        results = await asyncio.gather(
            *(save(loader, host, tmp_path, f"fox-{number}") for number in range(30)), return_exceptions=True
        )
        assert {type(result) for result in results} == {DownloadError}
        host.answers = [serving(BODY)]
        with anyio.fail_after(10):
            await asyncio.gather(*(partial(save, loader, host, tmp_path)(f"owl-{number}") for number in range(40)))
    assert len(names(tmp_path)) == 40
