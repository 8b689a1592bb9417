"""Downloads: whatever the image host does, the file is the whole picture under a free name, or there is no file."""

import asyncio
import errno
import hashlib
import os
import resource
import signal
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from picture_hosts import (
    ETAG,
    SOON,
    Answer,
    Host,
    answer,
    assert_saved,
    breaking,
    chunked,
    downloads,
    names,
    no_fresh_link,
    pausing,
    picture,
    saved,
    served,
    serving,
)
from until import until

from krea_async import (
    DownloadError,
    ImageExpiredError,
    InvalidImageError,
    ServiceError,
)
from krea_async.errors import DISK_ERROR
from krea_async.storage.download import TOO_LARGE, Downloads
from krea_async.storage.part import WRITE_BYTES, Target

pytestmark = pytest.mark.anyio


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with served() as host:
        yield host


# --- the plain way ----------------------------------------------------------------------------------------------------


async def test_a_picture_comes_whole_with_one_request(host: Host, tmp_path: Path) -> None:
    body = picture(1, 700_000)
    assert_saved(await saved(host, tmp_path / "new" / "folder", serving(body)), body, tmp_path / "new" / "folder")
    assert host.ranges == [None]
    assert names(tmp_path / "new" / "folder") == ["fox.png"]


async def test_a_picture_of_20_mb_is_never_in_memory(host: Host, tmp_path: Path) -> None:
    body = memoryview(picture(1, 20_000_000))

    async def give(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": ETAG})
        response.content_length = len(body)
        await response.prepare(request)
        for start in range(0, len(body), 1 << 17):
            await response.write(bytes(body[start : start + (1 << 17)]))
        return response

    tracemalloc.start()
    try:
        found = await saved(host, tmp_path, give)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert_saved(found, bytes(body), tmp_path)
    assert peak_bytes < 4_000_000


@pytest.mark.parametrize(("form", "extension"), [("png", "png"), ("jpeg", "jpg"), ("webp", "webp")])
async def test_the_extension_follows_the_content_and_not_the_link(
    host: Host, tmp_path: Path, form: str, extension: str
) -> None:
    body = picture(1, form=form)
    assert_saved(await saved(host, tmp_path, serving(body)), body, tmp_path, f"fox.{extension}")


async def test_a_picture_without_a_known_length_is_saved(host: Host, tmp_path: Path) -> None:
    body = picture(1, 300_000)
    assert_saved(await saved(host, tmp_path, chunked(body)), body, tmp_path)


async def test_only_so_many_pictures_are_fetched_at_once(host: Host, tmp_path: Path) -> None:
    body, under_way, most = picture(1, 200_000), 0, 0
    full = anyio.Event()

    async def give(request: web.Request) -> web.StreamResponse:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 3:
            full.set()
        await full.wait()
        try:
            return await serving(body)(request)
        finally:
            under_way -= 1

    host.answers = [give]
    async with downloads(at_once=3) as loader, anyio.create_task_group() as group:
        for number in range(12):
            target = Target(directory=tmp_path, stem=f"fox {number}")
            group.start_soon(partial(loader.save, host.link, target, fresh_link=no_fresh_link))
    assert most == 3
    assert len(names(tmp_path)) == 12


# --- the .part file ---------------------------------------------------------------------------------------------------


async def test_a_picture_is_a_part_in_the_same_directory_until_it_is_whole(host: Host, tmp_path: Path) -> None:
    body, reached, go_on = picture(1, 1_500_000), anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(saved, host, tmp_path, pausing(body, 1_000_000, reached=reached, go_on=go_on))
        part = tmp_path / "fox.part"
        await until(lambda: part.exists() and part.stat().st_size > 0)
        assert names(tmp_path) == ["fox.part"]
        assert body.startswith(part.read_bytes())
        go_on.set()
    assert names(tmp_path) == ["fox.png"]
    assert (tmp_path / "fox.png").read_bytes() == body


async def test_a_cancelled_download_leaves_nothing(host: Host, tmp_path: Path) -> None:
    reached, go_on = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(saved, host, tmp_path, pausing(picture(1, 1_500_000), 1_000_000, reached=reached, go_on=go_on))
        await until((tmp_path / "fox.part").exists)
        group.cancel_scope.cancel()
    go_on.set()
    assert names(tmp_path) == []


async def test_a_download_that_is_cancelled_while_a_slow_disk_works_for_it_leaves_no_part(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, mkdir = threading.Event(), threading.Event(), os.mkdir

    def slow_mkdir(path: str, mode: int = 0o777) -> None:
        begun.set()
        go_on.wait(10)
        mkdir(path, mode)

    directory = tmp_path / "new"
    monkeypatch.setattr(os, "mkdir", slow_mkdir)
    task = asyncio.create_task(saved(host, directory, serving(picture(1))))
    await until(begun.is_set)
    task.cancel()
    await asyncio.wait({task}, timeout=0.2)  # it may wait for the disk, or end without it
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.get_running_loop().shutdown_default_executor()  # the disk has done all that it was asked for
    assert names(directory) in ([], ["fox.png"])  # nothing, or all of it
    assert all((directory / name).read_bytes() == picture(1) for name in names(directory))


async def test_a_failed_download_leaves_nothing(host: Host, tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        await saved(host, tmp_path, breaking(host, picture(1, 400_000)), answer(401))
    assert names(tmp_path) == []


@pytest.mark.parametrize("size_bytes", [3_000, 300_000])
async def test_a_part_of_another_process_is_left_alone(host: Host, tmp_path: Path, size_bytes: int) -> None:
    (tmp_path / "fox.part").write_bytes(b"x" * 900_000)
    body = picture(1, size_bytes)
    found = await saved(host, tmp_path, serving(body))
    assert found.path.read_bytes() == body
    assert names(tmp_path) == ["fox.part", "fox.png"]
    assert (tmp_path / "fox.part").read_bytes() == b"x" * 900_000


# --- broken transfers -------------------------------------------------------------------------------------------------


async def test_a_broken_transfer_goes_on_where_it_broke(host: Host, tmp_path: Path) -> None:
    body = picture(1, 900_000)
    breaks = breaking(host, body), breaking(host, body), breaking(host, body)
    assert_saved(await saved(host, tmp_path, *breaks, serving(body)), body, tmp_path)
    assert host.ranges == [None, *(f"bytes={WRITE_BYTES * number}-" for number in (1, 2, 3))]
    assert [headers.get("If-Range") for headers in host.asked] == [None, ETAG, ETAG, ETAG]


@pytest.mark.parametrize("upto", [0, 1, 5_000, 300_000, 899_999])
async def test_wherever_a_transfer_breaks_the_picture_is_right(host: Host, tmp_path: Path, upto: int) -> None:
    body = picture(1, 900_000)
    assert_saved(await saved(host, tmp_path, serving(body, upto=upto), serving(body)), body, tmp_path)
    assert len(host.asked) == 2


async def test_a_transfer_that_breaks_every_time_is_given_up(host: Host, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="connection broke") as caught:
        await saved(host, tmp_path, serving(picture(1, 900_000), upto=100))
    assert caught.value.retryable
    assert len(host.asked) == SOON.attempts
    assert names(tmp_path) == []


async def test_a_stalled_transfer_times_out_and_goes_on(host: Host, tmp_path: Path) -> None:
    body = picture(1, 900_000)
    stall = serving(body, upto=500_000, then="silence")
    assert_saved(await saved(host, tmp_path, stall, serving(body), read_s=2.0), body, tmp_path)
    assert host.ranges == [None, "bytes=500000-"]


async def test_a_try_that_takes_too_long_ends_and_the_next_one_goes_on(host: Host, tmp_path: Path) -> None:
    body = picture(1, 900_000)
    stall = serving(body, upto=800_000, then="silence")
    assert_saved(await saved(host, tmp_path, stall, serving(body), timeout_s=2.0), body, tmp_path)
    first, second = host.ranges
    assert first is None
    assert second is not None


async def test_transfers_that_stall_for_ever_are_given_up(host: Host, tmp_path: Path) -> None:
    stall = serving(picture(1, 900_000), upto=500_000, then="silence")
    with pytest.raises(DownloadError, match="within 1 s") as caught:
        await saved(host, tmp_path, stall, timeout_s=1.0)
    assert caught.value.retryable
    assert len(host.asked) == SOON.attempts
    assert names(tmp_path) == []


def with_range(body: bytes, *, start: int, etag: str = ETAG, content_range: str | None = None) -> Answer:
    """206 with the bytes from `start` on, whatever was asked for."""
    span = content_range or f"bytes {start}-{len(body) - 1}/{len(body)}"
    return answer(206, body[start:], ETag=etag, Content_Range=span)


OLD, NEW = picture(1, 800_000), picture(2, 800_000)
HOSTS_THAT_CANNOT_GO_ON = {
    "it ignores ranges": (answer(200, OLD, ETag=ETAG), OLD),
    "the picture has changed": (serving(NEW, etag='"second"'), NEW),
    "another offset": (with_range(OLD, start=WRITE_BYTES - 10), OLD),
    "a later offset": (with_range(OLD, start=WRITE_BYTES + 10), OLD),
    "no offset": (answer(206, OLD[WRITE_BYTES:], ETag=ETAG), OLD),
    "an unreadable offset": (with_range(OLD, start=WRITE_BYTES, content_range=f"bytes {WRITE_BYTES}-/x"), OLD),
    "nothing there": (answer(416, b"", Content_Range="bytes */800000"), OLD),
    "it ignores If-Range, and the picture has changed": (with_range(NEW, start=WRITE_BYTES, etag='"second"'), NEW),
    "it ignores If-Range, and the picture has another size": (
        answer(206, NEW[WRITE_BYTES:] + b"more", ETag='"second"', Content_Range=f"bytes {WRITE_BYTES}-800003/800004"),
        NEW,
    ),
}


@pytest.mark.parametrize("case", HOSTS_THAT_CANNOT_GO_ON)
async def test_a_picture_starts_over_where_the_host_cannot_go_on(host: Host, tmp_path: Path, case: str) -> None:
    second, body = HOSTS_THAT_CANNOT_GO_ON[case]
    last = serving(body, etag=ETAG if body is OLD else '"second"')
    found = await saved(host, tmp_path, breaking(host, OLD), second, last)
    assert_saved(found, body, tmp_path)
    assert host.ranges[1] == f"bytes={WRITE_BYTES}-"


@pytest.mark.parametrize("etag", ["", 'W/"first"', "first"])
async def test_without_a_strong_etag_no_range_is_asked_for(host: Host, tmp_path: Path, etag: str) -> None:
    found = await saved(host, tmp_path, breaking(host, OLD, etag=etag), serving(OLD, etag=etag))
    assert_saved(found, OLD, tmp_path)
    assert host.ranges == [None, None]


async def test_a_host_that_never_goes_on_is_asked_a_bounded_number_of_times(host: Host, tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        await saved(host, tmp_path, breaking(host, OLD), answer(416))
    assert len(host.asked) == SOON.attempts
    assert names(tmp_path) == []


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_a_host_in_trouble_is_asked_again(host: Host, tmp_path: Path, status: int) -> None:
    body = picture(1)
    assert_saved(await saved(host, tmp_path, answer(status), serving(body)), body, tmp_path)


async def test_the_pause_that_the_host_asks_for_is_kept(host: Host, tmp_path: Path) -> None:
    body = picture(1)
    assert_saved(await saved(host, tmp_path, answer(503, Retry_After="0.4"), serving(body)), body, tmp_path)
    first_s, second_s = host.asked_at_s
    assert second_s - first_s >= 0.4


# --- what is no picture -----------------------------------------------------------------------------------------------

NO_PICTURES = {
    "HTML": answer(200, b"<!doctype html><html><body>Just a moment...</body></html>", Content_Type="image/png"),
    "empty": answer(200, b"", Content_Type="image/png"),
    "wrong magic": answer(200, b"GIF89a" + bytes(400)),
    "a cut PNG of the announced length": answer(200, OLD[:700_000], ETag=ETAG),
    "a cut PNG of no announced length": chunked(OLD[:-12]),
    "a cut JPEG": answer(200, picture(1, form="jpeg")[:-2]),
    "a cut WebP": answer(200, picture(1, form="webp")[:-20]),
    "nothing but a start": answer(200, OLD[:8]),
}


@pytest.mark.parametrize("case", NO_PICTURES)
async def test_what_is_no_whole_picture_is_fetched_again_from_its_start(host: Host, tmp_path: Path, case: str) -> None:
    assert_saved(await saved(host, tmp_path, NO_PICTURES[case], serving(NEW)), NEW, tmp_path)
    assert host.ranges == [None, None]


@pytest.mark.parametrize("case", NO_PICTURES)
async def test_a_host_that_never_sends_a_picture_is_given_up(host: Host, tmp_path: Path, case: str) -> None:
    with pytest.raises(InvalidImageError) as caught:
        await saved(host, tmp_path, NO_PICTURES[case])
    assert caught.value.charged == "yes"
    assert len(host.asked) == SOON.attempts
    assert names(tmp_path) == []


# --- links ------------------------------------------------------------------------------------------------------------


class Links:
    """The task: gives these links, one for each read."""

    def __init__(self, *links: str) -> None:
        self.links = [*links]
        self.reads = 0

    async def __call__(self) -> str:
        self.reads += 1
        return self.links.pop(0)


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_a_refused_link_is_looked_up_once_and_the_new_one_is_used(
    host: Host, tmp_path: Path, status: int
) -> None:
    links = Links(host.link.replace("picture", "fresh"))
    found = await saved(host, tmp_path, answer(status), serving(OLD), fresh_link=links)
    assert_saved(found, OLD, tmp_path)
    assert host.paths == ["/picture.png", "/fresh.png"]
    assert links.reads == 1


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_a_refused_link_without_a_better_one_has_expired(host: Host, tmp_path: Path, status: int) -> None:
    links = Links(host.link)
    with pytest.raises(ImageExpiredError) as caught:
        await saved(host, tmp_path, answer(status), fresh_link=links)
    assert (caught.value.status, caught.value.charged, links.reads) == (status, "yes", 1)
    assert names(tmp_path) == []


async def test_a_link_that_is_not_there_yet_is_asked_for_again(host: Host, tmp_path: Path) -> None:
    found = await saved(host, tmp_path, answer(404), answer(404), serving(OLD), fresh_link=Links(host.link))
    assert_saved(found, OLD, tmp_path)


async def test_fresh_links_that_are_all_refused_come_to_an_end(host: Host, tmp_path: Path) -> None:
    links = Links(*(f"{host.link}?{number}" for number in range(100)))
    with pytest.raises(ImageExpiredError):
        await saved(host, tmp_path, answer(403), fresh_link=links)
    assert len(host.asked) == SOON.attempts
    assert names(tmp_path) == []


async def test_a_link_that_dies_half_way_leads_to_the_new_links_picture(host: Host, tmp_path: Path) -> None:
    """The two are not mixed, even where both hosts would name them alike."""
    links = Links(host.link.replace("picture", "fresh"))
    found = await saved(host, tmp_path, breaking(host, OLD), answer(403), serving(NEW), fresh_link=links)
    assert_saved(found, NEW, tmp_path)


async def test_an_error_of_the_fresh_read_leaves_no_file(host: Host, tmp_path: Path) -> None:
    async def broken() -> str:
        raise ServiceError("the gateway is down")

    with pytest.raises(ServiceError):
        await saved(host, tmp_path, breaking(host, OLD), answer(403), fresh_link=broken)
    assert names(tmp_path) == []


# --- the cap ----------------------------------------------------------------------------------------------------------


async def test_a_picture_as_large_as_the_cap_is_saved(host: Host, tmp_path: Path) -> None:
    assert_saved(await saved(host, tmp_path, serving(OLD), max_bytes=len(OLD)), OLD, tmp_path)


async def test_a_picture_that_is_announced_too_large_is_refused_before_it_comes(host: Host, tmp_path: Path) -> None:
    reached, go_on = anyio.Event(), anyio.Event()  # never set: the rest of the body would not come
    with anyio.fail_after(10), pytest.raises(DownloadError) as caught:
        await saved(
            host, tmp_path, pausing(OLD, 1_000, reached=reached, go_on=go_on), max_bytes=len(OLD) - 1, read_s=60.0
        )
    go_on.set()
    assert (caught.value.code, caught.value.charged) == (TOO_LARGE, "yes")
    assert len(host.asked) == 1
    assert names(tmp_path) == []


async def test_a_picture_that_turns_out_too_large_is_refused_on_the_way(host: Host, tmp_path: Path) -> None:
    written = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(OLD[:100])
        while True:
            await response.write(bytes(1 << 16))
            written += 1 << 16

    with anyio.fail_after(10), pytest.raises(DownloadError) as caught:
        await saved(host, tmp_path, endless, max_bytes=1_000_000)
    assert caught.value.code == TOO_LARGE
    assert len(host.asked) == 1
    assert written < 20_000_000  # what the sockets took, no more
    assert names(tmp_path) == []


# --- names ------------------------------------------------------------------------------------------------------------


async def test_a_finished_file_is_never_overwritten(host: Host, tmp_path: Path) -> None:
    (tmp_path / "fox.png").write_bytes(b"mine")
    (tmp_path / "fox-2.png").write_bytes(b"mine, too")
    assert_saved(await saved(host, tmp_path, serving(OLD)), OLD, tmp_path, "fox-3.png")
    assert (tmp_path / "fox.png").read_bytes() == b"mine"
    assert (tmp_path / "fox-2.png").read_bytes() == b"mine, too"


async def test_a_file_that_appears_while_the_picture_comes_in_is_not_overwritten(host: Host, tmp_path: Path) -> None:
    reached, go_on = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(saved, host, tmp_path, pausing(OLD, 500_000, reached=reached, go_on=go_on))
        await reached.wait()
        (tmp_path / "fox.png").write_bytes(b"mine")
        go_on.set()
    assert (tmp_path / "fox.png").read_bytes() == b"mine"
    assert (tmp_path / "fox-2.png").read_bytes() == OLD
    assert names(tmp_path) == ["fox-2.png", "fox.png"]


async def test_two_pictures_of_one_name_at_the_same_time_are_two_files(host: Host, tmp_path: Path) -> None:
    both = await at_the_same_time(host, tmp_path, sessions=1)
    assert sorted(path.name for path in both) == ["fox-2.png", "fox.png"]
    assert {path.read_bytes() for path in both} == {OLD, NEW}


async def test_two_sessions_that_save_one_name_at_the_same_time_do_not_spoil_each_other(
    host: Host, tmp_path: Path
) -> None:
    """As two `krea-async generate` of one prompt, or two workers on one directory, would."""
    both = await at_the_same_time(host, tmp_path, sessions=2)
    assert {path.read_bytes() for path in both} == {OLD, NEW}
    assert sorted(path.name for path in both) == names(tmp_path)


async def at_the_same_time(host: Host, directory: Path, *, sessions: int) -> list[Path]:
    """The paths of OLD and NEW, saved under one name by this many sessions; both are under way before either ends."""
    reached, go_on = [anyio.Event(), anyio.Event()], [anyio.Event(), anyio.Event()]
    host.answers = [
        pausing(body, 400_000, reached=reached[number], go_on=go_on[number]) for number, body in enumerate((OLD, NEW))
    ]
    host.part = directory / "fox.part"
    paths: list[Path] = []

    async def save(loader: Downloads) -> None:
        found = await loader.save(host.link, Target(directory=directory, stem="fox"), fresh_link=no_fresh_link)
        assert found.sha256 == hashlib.sha256(found.path.read_bytes()).hexdigest()
        paths.append(found.path)

    async with downloads() as first, downloads() as second, anyio.create_task_group() as group:
        group.start_soon(save, first)
        await reached[0].wait()
        await until(host.part.exists)
        group.start_soon(save, first if sessions == 1 else second)
        await reached[1].wait()
        for event in go_on:
            event.set()
    return paths


async def test_without_hard_links_a_picture_gets_its_name_and_takes_nobodys(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on exFAT and many network file systems."""

    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "fox.png").write_bytes(b"mine")
    assert_saved(await saved(host, tmp_path, serving(OLD)), OLD, tmp_path, "fox-2.png")
    assert_saved(await saved(host, tmp_path, serving(OLD), stem="owl"), OLD, tmp_path, "owl.png")
    assert (tmp_path / "fox.png").read_bytes() == b"mine"


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["file", "file/folder"])
async def test_a_file_where_the_directory_should_be_is_a_disk_error(host: Host, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(DownloadError) as caught:
        await saved(host, tmp_path / below, serving(OLD))
    assert (caught.value.code, caught.value.charged) == (DISK_ERROR, "yes")
    assert str(tmp_path / "file") in caught.value.message
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert len(host.asked) == 1  # the host cannot help it


async def test_a_name_that_the_disk_refuses_is_a_disk_error(host: Host, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        await saved(host, tmp_path, serving(OLD), stem="x" * 300)
    assert caught.value.code == DISK_ERROR
    assert names(tmp_path) == []


async def test_a_picture_that_cannot_be_synced_gets_no_name(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(DownloadError) as caught:
        await saved(host, tmp_path, serving(OLD))
    assert caught.value.code == DISK_ERROR
    assert names(tmp_path) == []


@pytest.fixture
def no_file_over_100_kb() -> Iterator[None]:
    """Writing more fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.usefixtures("no_file_over_100_kb")
@pytest.mark.parametrize("size_bytes", [200_000, 900_000])
async def test_a_disk_that_takes_no_more_is_a_disk_error(host: Host, tmp_path: Path, size_bytes: int) -> None:
    with pytest.raises(DownloadError, match="File too large") as caught:
        await saved(host, tmp_path, serving(picture(1, size_bytes)))
    assert caught.value.code == DISK_ERROR
    assert names(tmp_path) == []


async def test_a_name_is_free_again_after_a_failure(host: Host, tmp_path: Path) -> None:
    async with downloads() as loader:
        save = partial(loader.save, host.link, Target(directory=tmp_path, stem="fox"), fresh_link=no_fresh_link)
        host.answers = [answer(401), serving(OLD)]
        with pytest.raises(DownloadError):
            await save()
        assert_saved(await save(), OLD, tmp_path)
