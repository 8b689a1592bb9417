"""`krea-async gallery` and the end of `demo`, as people use them: a process of its own, its streams and exit codes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from attrs import frozen
from audited import rendered
from browsing import Shown, Visitor
from until import until

from krea_async.cli.exits import Exit
from krea_async.gallery.album import CACHE_NAME
from krea_async.sandbox import Durations, Sandbox
from krea_async.storage.history import JOURNAL_NAME

pytestmark = pytest.mark.anyio

PROGRAM = "import sys; sys.argv[0] = 'krea-async'; from krea_async.cli import main; main()"
BOUND_BY_PERMISSIONS = """
import ctypes
version, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capset(version, none) == 0
"""
"""Gives up all capabilities: root too may then write only where permission bits say so."""

WITHOUT_PILLOW = "import sys; sys.modules['PIL'] = None\n"
FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"


@frozen
class Result:
    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """Without a key: none is needed to look."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("EVOLINK_")}, **more}


def command(preamble: str = "") -> list[str]:
    return [sys.executable, "-c", preamble + PROGRAM]


async def run(*args: object, preamble: str = "", cwd: Path) -> Result:
    with anyio.fail_after(60):
        words = [*command(preamble), *map(str, args)]
        done = await anyio.run_process(words, env=environment(), cwd=cwd, check=False, start_new_session=True)
    result = Result(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in result.err, result.err
    return result


@asynccontextmanager
async def started(*args: object, cwd: Path, **env: str) -> AsyncIterator[Process]:
    words = [*command(), *map(str, args)]
    process = await anyio.open_process(
        words, env=environment(**env), cwd=cwd, stdin=subprocess.DEVNULL, start_new_session=True
    )
    async with process:
        try:
            with anyio.fail_after(60):
                yield process
        finally:
            if process.returncode is None:
                process.kill()


def parts_in(directory: Path) -> list[Path]:
    return [*directory.glob(".*.part")]


async def url_of(process: Process) -> str:
    assert process.stdout is not None
    return (await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 1000)).decode()


async def text_of(stream: Any) -> str:
    return b"".join([chunk async for chunk in stream]).decode()


# --- a page -----------------------------------------------------------------------------------------------------------


async def test_the_path_of_the_page_is_all_there_is_on_stdout(tmp_path: Path) -> None:
    renders = tmp_path / "renders"
    renders.mkdir()
    rendered(renders, 3)
    (renders / "2.png").write_text("no picture")
    with (renders / JOURNAL_NAME).open("ab") as file:
        file.write(b'{"e":"row","n":3,"x":1}\n{"e":"row","n":3,"x":1}\n{"e":"row"')
    result = await run("gallery", "renders", cwd=tmp_path)
    assert (result.code, result.out) == (0, "renders/gallery.html\n")
    assert (renders / "gallery.html").read_text().startswith("<!doctype html>")
    assert "3 rows, 3 pictures, 0 failed, 1.35 credits" in result.err
    assert "pictures without a thumbnail: 1 (2.png: cannot identify image file" in result.err
    assert "2 lines of the journal are damaged, and were left out" in result.err
    elsewhere = await run("gallery", "renders", "-o", "page.html", "--thumbnails", "none", cwd=tmp_path)
    assert (elsewhere.code, elsewhere.out) == (0, "page.html\n")


async def test_where_nothing_was_rendered_it_says_what_report_says(tmp_path: Path) -> None:
    told, result = await run("report", "nowhere", cwd=tmp_path), await run("gallery", "nowhere", cwd=tmp_path)
    assert (result.code, result.out, result.err) == (told.code, "", told.err)
    assert result.code == Exit.USAGE


@pytest.mark.parametrize("args", [["--serve", "-o", "x"], ["--serve", "--thumbnails", "none"], ["--port", "80"]])
async def test_options_that_do_not_go_together_are_refused(tmp_path: Path, args: list[str]) -> None:
    result = await run("gallery", ".", *args, cwd=tmp_path)
    assert (result.code, result.out) == (Exit.USAGE, "")
    assert "Error: " in result.err


@pytest.mark.parametrize("name", ["journal.jsonl", "0.png", "page"])
async def test_a_page_never_takes_the_place_of_what_is_paid_for(tmp_path: Path, name: str) -> None:
    rendered(tmp_path, 1)
    before = contents(tmp_path)
    result = await run("gallery", ".", "--out", name, cwd=tmp_path)
    assert (result.code, result.out) == (Exit.USAGE, "")
    assert "a page ends in .html" in result.err
    assert contents(tmp_path) == before


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def test_without_pillow_it_says_how_to_get_it(tmp_path: Path) -> None:
    rendered(tmp_path, 1)
    for args in (["gallery", "."], ["gallery", ".", "--serve"]):
        result = await run(*args, preamble=WITHOUT_PILLOW, cwd=tmp_path)
        assert (result.code, result.out) == (Exit.USAGE, "")
        assert "pip install 'krea-async[cli]'" in result.err
    result = await run("gallery", ".", "--thumbnails", "none", preamble=WITHOUT_PILLOW, cwd=tmp_path)
    assert (result.code, result.out) == (0, "gallery.html\n")


# --- disks ------------------------------------------------------------------------------------------------------------


async def test_a_directory_that_is_read_only_is_shown_by_a_page_elsewhere(tmp_path: Path) -> None:
    renders = tmp_path / "renders"
    renders.mkdir()
    rendered(renders, 2)
    renders.chmod(0o555)
    try:
        result = await run("gallery", "renders", preamble=BOUND_BY_PERMISSIONS, cwd=tmp_path)
        assert (result.code, result.out) == (Exit.DISK, "")
        assert "cannot write renders/gallery.html: Permission denied" in result.err
        result = await run("gallery", "renders", "--out", "page.html", preamble=BOUND_BY_PERMISSIONS, cwd=tmp_path)
        assert (result.code, result.out) == (0, "page.html\n")
        assert "thumbnails are not kept for the next time: Permission denied" in result.err
        page = (tmp_path / "page.html").read_text()
        assert 'data-rows="0 1"' in page or 'data-rows="1 0"' in page
        assert '"./renders/"' in page
    finally:
        renders.chmod(0o755)


async def test_a_full_disk_leaves_the_page_that_was_there(tmp_path: Path) -> None:
    rendered(tmp_path, 2)
    (tmp_path / "gallery.html").write_text("the one before")
    result = await run("gallery", ".", preamble=FULL_DISK, cwd=tmp_path)
    assert (result.code, result.out) == (Exit.DISK, "")
    assert "cannot write gallery.html: File too large" in result.err
    assert (tmp_path / "gallery.html").read_text() == "the one before"
    assert parts_in(tmp_path) == []


SMALL_DISK = """
set -u
mkdir small
mount -t tmpfs -o size=64k none small
"$@" gallery renders --out small/gallery.html
echo $?
ls -A small
"""


async def test_a_small_disk_that_fills_up_has_no_half_page(tmp_path: Path) -> None:
    """A real one, where the system lets one be mounted; else the limit on files above is all there is to try."""
    own = ["unshare", "--map-root-user", "--mount"]
    with_mount = [*own, "mount", "-t", "tmpfs", "none", str(tmp_path)]
    may_mount = bool(shutil.which(own[0])) and not (await anyio.run_process(with_mount, check=False)).returncode
    if not may_mount:
        await test_a_full_disk_leaves_the_page_that_was_there(tmp_path)
        return
    (tmp_path / "renders").mkdir()
    rendered(tmp_path / "renders", 2)
    script = [*own, "sh", "-c", SMALL_DISK, "sh", *command()]
    with anyio.fail_after(60):
        done = await anyio.run_process(script, env=environment(), cwd=tmp_path, check=False)
    err = done.stderr.decode()
    assert done.stdout.decode().split() == [str(int(Exit.DISK))], err
    assert "cannot write small/gallery.html: No space left on device" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_leaves_no_half_page_and_no_process(tmp_path: Path, number: signal.Signals) -> None:
    rendered(tmp_path, 150)
    async with started("gallery", ".", cwd=tmp_path) as process:
        await until(lambda: [*(tmp_path / CACHE_NAME).glob("*.webp")], within_s=60)
        os.killpg(process.pid, number)  # as a terminal does: the workers get it too
        err = await text_of(process.stderr)
        assert await process.wait() == 128 + number, err
    assert "Traceback" not in err
    assert not (tmp_path / "gallery.html").exists()
    assert parts_in(tmp_path) == []
    await until(lambda: not _is_group(process.pid))


async def test_a_worker_does_not_hear_ctrl_c(tmp_path: Path) -> None:
    """Not even while it starts: it would answer with a KeyboardInterrupt, in the midst of the gallery's event loop."""
    rendered(tmp_path, 60)
    async with started("gallery", ".", cwd=tmp_path) as process:
        async with interrupted_children_of(process):
            err = await text_of(process.stderr)
        assert await process.wait() == 0, err
    assert "60 rows, 60 pictures" in err
    assert "Traceback" not in err
    assert "without a thumbnail" not in err


async def test_nor_does_a_worker_of_a_live_gallery(tmp_path: Path) -> None:
    rendered(tmp_path, 4)
    async with started("gallery", ".", "--serve", cwd=tmp_path) as process, aiohttp.ClientSession() as http:
        visitor = Visitor.of(http, await url_of(process))
        async with visitor.events() as events:
            while (await anext(events))[0] != "rows":
                pass
        async with interrupted_children_of(process):
            for n in range(4):
                status, body, _ = await visitor.get(f"/thumbs/{n}.webp")
                assert status == 200, body
        process.send_signal(signal.SIGINT)
        err = await text_of(process.stderr)
        assert await process.wait() == 0
    assert "Traceback" not in err


@asynccontextmanager
async def interrupted_children_of(process: Process) -> AsyncIterator[None]:
    """Each of them hears Ctrl-C again and again, from its first moment."""

    def interrupt_all() -> None:
        with suppress(FileNotFoundError):  # the process ends while it is looked at
            for children in Path(f"/proc/{process.pid}/task").glob("*/children"):
                with suppress(FileNotFoundError, ProcessLookupError):
                    for child in children.read_text().split():
                        os.kill(int(child), signal.SIGINT)

    async def interrupt() -> None:
        while True:
            interrupt_all()
            await anyio.sleep(0.001)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(interrupt)
        yield
        tasks.cancel_scope.cancel()


def _is_group(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- live -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_run_in_another_process_is_shown_while_it_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    """The gallery is there first, has no key, and ends in order while a browser watches."""
    (tmp_path / "list.txt").write_text("".join(f"fox number {n}\n" for n in range(12)))
    shown = Shown()
    async with (
        Sandbox(durations=Durations(queue_s=0.1, run_s=0.5, sigma=0.5)) as sandbox,
        started("gallery", "renders", "--serve", cwd=tmp_path) as gallery,
        aiohttp.ClientSession(read_bufsize=2**23) as http,
    ):
        visitor = Visitor.of(http, await url_of(gallery))
        async with visitor.events() as events:
            assert (await anext(events))[0] == "waiting"
            known = {"EVOLINK_API_KEY": sandbox.key, "EVOLINK_BASE_URL": sandbox.url}
            async with started("render", "list.txt", "--out", "renders", cwd=tmp_path, **known) as render:
                seen = set()
                while shown.totals.get("saved", 0) < 12 or not shown.totals["has_ended"]:
                    shown.take(await anext(events))
                    seen.add(shown.totals.get("saved", 0))
                assert len(seen) > 2
                await text_of(render.stdout)
                assert await render.wait() == 0
            assert {row["status"] for row in shown.rows.values()} == {"saved"}
            assert (await visitor.get("/thumbs/3.webp"))[0] == 200
            gallery.send_signal(number)
            assert [event async for event in events] == []
        err = await text_of(gallery.stderr)
        assert await gallery.wait() == 0
    assert "nothing was rendered into renders yet" in err
    assert "Ctrl-C ends it" in err
    assert "Traceback" not in err


async def test_a_port_that_is_taken_or_not_allowed_is_told(tmp_path: Path) -> None:
    async with started("gallery", ".", "--serve", cwd=tmp_path) as first:
        port = (await url_of(first)).split(":")[2].split("/")[0]
        result = await run("gallery", ".", "--serve", "--port", port, cwd=tmp_path)
        assert (result.code, result.out) == (Exit.USAGE, "")
        assert f"port {port} cannot be had" in result.err
        assert "in use" in result.err


async def test_a_journal_that_cannot_be_read_ends_it_before_it_serves(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_NAME).mkdir()
    result = await run("gallery", ".", "--serve", cwd=tmp_path)
    assert (result.code, result.out) == (Exit.DISK, "")
    assert "no plain file" in result.err


# --- demo -------------------------------------------------------------------------------------------------------------


async def test_the_demo_ends_with_its_page(tmp_path: Path) -> None:
    began = anyio.current_time()
    result = await run("demo", "--out", "here", cwd=tmp_path)
    assert result.code == 0
    assert anyio.current_time() - began < 40  # some 6 s on a machine that does nothing else
    page = tmp_path / "here" / "gallery.html"
    assert "Look at the pictures: here/gallery.html" in result.err
    assert sorted(result.out.split()) == sorted(f"here/{path.name}" for path in (tmp_path / "here").glob("*.png"))
    assert page.read_text().count("UklGR") == 12  # "RIFF", as base64 begins with it
    rows = json.loads(page.read_text().split('data-block="rows">')[1].split("</script>")[0])["rows"]
    assert len(rows) == 12


async def test_the_demo_without_pillow_says_how_to_get_its_page(tmp_path: Path) -> None:
    result = await run("demo", "--out", "here", preamble=WITHOUT_PILLOW, cwd=tmp_path)
    assert result.code == 0
    assert "The contact sheet needs Pillow: pip install 'krea-async[cli]', then krea-async gallery here" in result.err
    assert not (tmp_path / "here" / "gallery.html").exists()
