"""The live gallery is for whoever has the token, on this machine, to look at the pictures of one directory: no more."""

import gzip
import io
import socket
from pathlib import Path

import aiohttp
import anyio
import pytest
from audited import picture, rendered, row, saved, write_journal
from browsing import Visitor, visiting
from PIL import Image
from until import until
from yarl import URL

from krea_async.gallery import server as server_module
from krea_async.gallery.server import serving

pytestmark = pytest.mark.anyio

NO_STORE = "no-store"


async def raw(visitor: Visitor, request: str) -> tuple[int, str]:
    """What comes back for bytes that no client library would send."""
    with anyio.fail_after(10):
        async with await anyio.connect_tcp("127.0.0.1", visitor.port) as stream:
            await stream.send(request.replace("\n", "\r\n").encode())
            reply = b""
            try:
                while True:
                    reply += await stream.receive()
            except anyio.EndOfStream:
                return int(reply.split(b" ", 2)[1]), reply.decode(errors="replace")


PATHS = ("/", "/events", "/thumbs/0.webp", "/pictures/0/0.png", "/nothing", "/favicon.ico")


@pytest.mark.parametrize("path", PATHS)
async def test_without_the_token_nothing_is_told_not_even_what_there_is(tmp_path: Path, path: str) -> None:
    rendered(tmp_path, 1)
    async with visiting(tmp_path) as visitor:
        wrong = ["", f"{visitor.token}x", visitor.token[:-1], visitor.token.upper() + "Ö", "\udc80", " "]
        replies = set()
        for token in wrong:
            async with visitor.http.get(f"{visitor.base}{path}", params={"token": token}) as reply:
                replies.add((reply.status, await reply.read()))
        async with visitor.http.get(f"{visitor.base}{path}") as reply:
            replies.add((reply.status, await reply.read()))
            assert "Set-Cookie" not in reply.headers
        ((status, body),) = replies
        assert status == 403
        assert b"fox" not in body
        async with visitor.http.get(f"{visitor.base}{path}", cookies={"token": visitor.token}) as reply:
            assert reply.status == 403


async def test_tokens_are_long_and_never_the_same(tmp_path: Path) -> None:
    tokens = set()
    for _ in range(3):
        async with visiting(tmp_path) as visitor:
            tokens.add(visitor.token)
    assert len(tokens) == 3
    assert all(len(bytes.fromhex(token)) == 16 for token in tokens)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST:{port}", 200),
        ("evil.example", 403),
        ("evil.example:{port}", 403),
        ("127.0.0.1.evil.example:{port}", 403),
        ("127.0.0.1", 403),
        ("127.0.0.1:1", 403),
        ("[::1]:{port}", 403),
        ("", 403),
    ],
)
async def test_only_its_own_name_is_answered_to(tmp_path: Path, host: str, status: int) -> None:
    """A page from elsewhere whose name has become that of this machine is refused."""
    async with visiting(tmp_path) as visitor:
        line = f"Host: {host.format(port=visitor.port)}"
        request = f"GET /?token={visitor.token} HTTP/1.1\n{line}\nConnection: close\n\n"
        assert (await raw(visitor, request))[0] == status


async def test_a_request_without_a_host_is_refused(tmp_path: Path) -> None:
    async with visiting(tmp_path) as visitor:
        assert (await raw(visitor, f"GET /?token={visitor.token} HTTP/1.0\n\n"))[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
async def test_nothing_can_be_done_but_looking(tmp_path: Path, method: str) -> None:
    rendered(tmp_path, 1)
    async with visiting(tmp_path) as visitor:
        for path in PATHS:
            url = f"{visitor.base}{path}"
            async with visitor.http.request(method, url, params={"token": visitor.token}) as reply:
                assert reply.status == 405
                assert reply.headers["Allow"] == "GET,HEAD"


async def test_it_listens_on_the_loopback_address_and_on_no_other(tmp_path: Path) -> None:
    async with visiting(tmp_path) as visitor:
        with socket.socket(socket.AF_INET6) as probe:
            probe.settimeout(2)
            assert probe.connect_ex(("::1", visitor.port)) != 0
        own = socket.gethostbyname(socket.gethostname())
        if not own.startswith("127."):
            with socket.socket() as probe:
                probe.settimeout(2)
                assert probe.connect_ex((own, visitor.port)) != 0
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", visitor.port)) == 0


async def test_every_reply_tells_the_browser_to_keep_it_to_itself(tmp_path: Path) -> None:
    rendered(tmp_path, 1)
    async with visiting(tmp_path) as visitor:
        for path in PATHS:
            if path == "/events":
                continue
            _, _, headers = await visitor.get(path)
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
            assert "Access-Control-Allow-Origin" not in headers
        status, page, headers = await visitor.get("/")
        assert (status, headers["Cache-Control"]) == (200, NO_STORE)
        assert headers.getone("Content-Type") == "text/html; charset=utf-8"
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert visitor.token.encode() not in page
        assert b'"live":true' in page


# --- pictures ---------------------------------------------------------------------------------------------------------


async def test_pictures_and_thumbnails_come_as_they_are(tmp_path: Path) -> None:
    lines = rendered(tmp_path, 2)
    async with visiting(tmp_path) as visitor:
        data = (tmp_path / "1.png").read_bytes()
        status, body, headers = await visitor.get("/pictures/1/1.png")
        assert (status, body, headers["Content-Type"]) == (200, data, "image/png")
        status, body, headers = await visitor.get("/pictures/1/1.png", headers={"Range": "bytes=10-19"})
        assert (status, body) == (206, data[10:20])
        status, body, headers = await visitor.get("/thumbs/1.webp")
        assert (status, headers["Content-Type"]) == (200, "image/webp")
        with Image.open(io.BytesIO(body)) as image:
            assert image.size == (221, 463)
        kept = headers["ETag"]
        status, body, _ = await visitor.get("/thumbs/1.webp", headers={"If-None-Match": kept})
        assert (status, body) == (304, b"")
        assert len([*(tmp_path / ".gallery").iterdir()]) == 1
        (tmp_path / "1.png").write_bytes(picture(9) + b"changed")
        status, _, headers = await visitor.get("/thumbs/1.webp", headers={"If-None-Match": kept})
        assert (status, headers["ETag"] != kept) == (200, True)
        assert lines[1].files == ("1.png",)


TRICKS = (
    "/pictures/0/journal.jsonl",
    "/pictures/0/manifest.jsonl",
    "/pictures/0/stray.png",
    "/pictures/0/1.png",
    "/pictures/1/0.png",
    "/pictures/2/2.png",
    "/pictures/3/..%2Foutside.png",
    "/pictures/4/link.png",
    "/pictures/0/..%2f..%2fetc%2fpasswd",
    "/pictures/0/%2e%2e/journal.jsonl",
    "/pictures/0/../../outside.png",
    "/pictures/0/0.png%00",
    "/pictures/0/0.png/",
    "/pictures/00000000000000000000000000/0.png",
    "/pictures/-1/0.png",
    "/pictures/9999/0.png",
    "/pictures/\u0660/0.png",
    "//etc/passwd",
    "/.gallery/",
    "/thumbs/2.webp",
    "/thumbs/3.webp",
    "/thumbs/4.webp",
    "/thumbs/../journal.jsonl",
    "/thumbs/999999999999999999.webp",
)


async def test_a_packed_file_beside_a_picture_is_not_sent_in_its_place(tmp_path: Path) -> None:
    """aiohttp would, to whoever takes gzip."""
    rendered(tmp_path, 2)
    (tmp_path / "1.png.gz").write_bytes(gzip.compress(b"something else"))
    async with visiting(tmp_path) as visitor:
        status, body, _ = await visitor.get("/pictures/1/1.png", headers={"Accept-Encoding": "gzip"})
        assert (status, body) == (200, (tmp_path / "1.png").read_bytes())


async def test_only_files_that_the_journal_names_and_that_lie_there_are_served(tmp_path: Path) -> None:
    inside = tmp_path / "renders"
    inside.mkdir()
    (tmp_path / "outside.png").write_bytes(picture(7))
    for name in ("0.png", "1.png", "stray.png"):
        (inside / name).write_bytes(picture())
    (inside / "link.png").symlink_to(tmp_path / "outside.png")
    files = ("0.png", "1.png", "2.png", "../outside.png", "link.png")
    ends = (saved(n, picture(), files=[name]) for n, name in enumerate(files))
    write_journal(inside, *(row(n) for n in range(5)), *ends)
    async with visiting(inside) as visitor:
        for path in TRICKS:
            url = URL(f"{visitor.base}{path}?token={visitor.token}", encoded=path.isascii())
            async with visitor.http.get(url) as reply:
                assert (reply.status, len(await reply.read()) < 200) == (404, True), path
            if path.isascii():
                request = f"GET {path}?token={visitor.token} HTTP/1.1\nHost: localhost:{visitor.port}\n"
                assert (await raw(visitor, f"{request}Connection: close\n\n"))[0] in {400, 404}, path
        assert (await visitor.get("/pictures/0/0.png"))[0] == 200


async def test_a_picture_that_cannot_be_shrunk_says_why(tmp_path: Path) -> None:
    rendered(tmp_path, 1)
    (tmp_path / "0.png").write_text("no picture")
    async with visiting(tmp_path) as visitor:
        status, body, headers = await visitor.get("/thumbs/0.webp")
        assert (status, headers.getone("Content-Type")) == (404, "text/plain; charset=utf-8")
        assert b"cannot identify" in body


async def test_who_scrolls_on_leaves_no_work_behind_and_no_worker_dead(tmp_path: Path) -> None:
    """Requests that are given up before their turn are forgotten; those that are begun are kept for the next time."""
    rendered(tmp_path, 30)

    def made() -> int:
        return len([*(tmp_path / ".gallery").glob("*.webp")])

    async with visiting(tmp_path) as visitor:
        async with anyio.create_task_group() as group:  # the workers are there before anything is given up
            for n in range(2):
                group.start_soon(visitor.get, f"/thumbs/{n}.webp")
        async with anyio.create_task_group() as group:
            for n in range(2, 30):
                group.start_soon(visitor.get, f"/thumbs/{n}.webp")
            await until(lambda: made() > 2, within_s=60)
            group.cancel_scope.cancel()
        status, body, _ = await visitor.get("/thumbs/29.webp")
        assert (status, body[:4]) == (200, b"RIFF")
        assert made() < 15


async def test_several_at_once_get_the_same(tmp_path: Path) -> None:
    rendered(tmp_path, 4)
    bodies: dict[int, set[bytes]] = {n: set() for n in range(4)}
    async with visiting(tmp_path) as visitor:

        async def look(n: int) -> None:
            status, body, _ = await visitor.get(f"/thumbs/{n}.webp")
            assert status == 200
            bodies[n].add(body)

        async with anyio.create_task_group() as group:
            for n in (0, 1, 2, 3) * 5:
                group.start_soon(look, n)
    assert {len(found) for found in bodies.values()} == {1}


# --- begin and end ----------------------------------------------------------------------------------------------------


async def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    async with visiting(tmp_path) as visitor:
        with pytest.raises(OSError, match="address already in use"):
            async with serving(tmp_path, port=visitor.port, tell=print):
                pass


async def test_it_ends_at_once_while_browsers_watch_and_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_CLOSE_WITHIN_S", 0.2)
    rendered(tmp_path, 1)
    with (tmp_path / "0.png").open("ab") as file:
        file.truncate(200_000_000)
    async with aiohttp.ClientSession() as http:
        with anyio.fail_after(10):
            async with serving(tmp_path, tell=print) as url:
                visitor = Visitor.of(http, url)
                async with visitor.events() as events:
                    assert (await anext(events))[0] == "reset"
                    picture_url = f"{visitor.base}/pictures/0/0.png"
                    reply = await http.get(picture_url, params={"token": visitor.token})
                    assert await reply.content.readany()  # and no more of it
                    while_open = anyio.current_time()
        reply.close()
        assert anyio.current_time() - while_open < 5
