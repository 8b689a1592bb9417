"""Our downloads beside parallel curl and a bare aiohttp loop, over loopback; and whether their memory stays flat.

    python -m benchmarks.downloads [speed | memory ...] [--pictures 300] [--large 40] [--lanes 16] [--rounds 5]
        [--directory DIR]

speed: `--pictures` files of 200 KB and `--large` ones of 5 MB. Every client is a process of its own, one after the
other in changing order, against one server that does nothing but send a file from memory to a socket (sendfile). The
time is from the first request to the last file, without the start of the process; of curl it is the whole process,
which starts within milliseconds. bare: aiohttp, the body in memory, `write_bytes`, no check, no name, no `.part`.
memory: 100 pictures of 5 MB and 2,000, each removed once it is saved (not among the defaults: 10 GB pass).
Figures are medians of `rounds`, ratios medians of those within a round.
"""

import argparse
import asyncio
import json
import os
import resource
import socketserver
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Final

import aiohttp

from krea_async import DownloadPolicy, TimeoutPolicy
from krea_async.gateway.images import open_image_host
from krea_async.storage.download import Downloads
from krea_async.storage.part import Target

SMALL_BYTES: Final = 200_000
LARGE_BYTES: Final = 5_000_000
CLIENTS: Final = ("curl", "bare", "krea_async, sync off", "krea_async, sync on")

Fetch = Callable[[str, Path], Awaitable[None]]


def picture(size_bytes: int) -> bytes:
    """A PNG of this size: one pixel, and a private chunk that is as long as needed."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    tail = chunk(b"IDAT", zlib.compress(bytes(4))) + chunk(b"IEND", b"")
    return head + chunk(b"fiLl", Random(1).randbytes(size_bytes - len(head) - len(tail) - 12)) + tail


# --- the server -------------------------------------------------------------------------------------------------------


def serve(size_bytes: int) -> None:
    """Answer every GET with the same picture, kept alive; prints the port. Runs until it is ended."""
    file = os.memfd_create("picture")
    os.write(file, picture(size_bytes))
    head = f'HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nETag: "1"\r\nContent-Length: {size_bytes}\r\n\r\n'.encode()

    class Connection(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline():
                while self.rfile.readline() not in {b"\r\n", b""}:
                    pass
                self.connection.sendall(head, 0x8000)  # MSG_MORE: with the body in one segment
                sent = 0
                while sent < size_bytes:
                    sent += os.sendfile(self.connection.fileno(), file, sent, size_bytes - sent)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 1024

    with Server(("127.0.0.1", 0), Connection) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


@contextmanager
def served(size_bytes: int) -> Iterator[str]:
    """The URL of a server in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.downloads", "serve", str(size_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


# --- the clients ------------------------------------------------------------------------------------------------------


async def all_of(fetch: Fetch, url: str, pictures: int, directory: Path, workers: int) -> None:
    """Fetch `pictures` links with so many coroutines, as a batch's rows do: each comes back for the next."""
    links = iter([f"{url}/{number}.png" for number in range(pictures)])

    async def work() -> None:
        for link in links:
            await fetch(link, directory)

    await asyncio.gather(*(work() for _ in range(workers)))


async def bare(url: str, pictures: int, directory: Path, lanes: int) -> None:
    """What a script does."""
    async with aiohttp.ClientSession() as http:

        async def fetch(link: str, directory: Path) -> None:
            async with http.get(link) as reply:
                data = await reply.read()
            (directory / link.rpartition("/")[2]).write_bytes(data)

        await all_of(fetch, url, pictures, directory, lanes)


async def ours(url: str, pictures: int, directory: Path, lanes: int, *, sync: bool, keep: bool = True) -> None:
    """`Downloads`, with four waiting for each that is fetched."""

    async def fresh_link() -> str:
        raise AssertionError("a good link was looked up again")

    async with open_image_host(url, connections=lanes, timeouts=TimeoutPolicy()) as host:
        downloads = Downloads(host, DownloadPolicy(sync=sync), at_once=lanes, rng=Random(1))

        async def fetch(link: str, directory: Path) -> None:
            target = Target(directory=directory, stem=link.rpartition("/")[2].removesuffix(".png"))
            saved = await downloads.save(link, target, fresh_link=fresh_link)
            if not keep:
                saved.path.unlink()

        await all_of(fetch, url, pictures, directory, 4 * lanes)


def client(name: str, url: str, pictures: int, directory: Path, lanes: int) -> None:
    """One client under measurement, in this process: prints what it used."""
    runs: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare(url, pictures, directory, lanes),
        "krea_async, sync off": lambda: ours(url, pictures, directory, lanes, sync=False),
        "krea_async, sync on": lambda: ours(url, pictures, directory, lanes, sync=True),
        "memory": lambda: ours(url, pictures, directory, lanes, sync=False, keep=False),
    }
    before, started_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    asyncio.run(runs[name]())
    wall_s, after = time.perf_counter() - started_s, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"cpu_s": cpu_s, "wall_s": wall_s, "peak_mb": after.ru_maxrss / 1024}))


def measured(name: str, url: str, pictures: int, directory: Path, lanes: int) -> dict[str, float]:
    """What one client used. All its pictures must be there, but for "memory", which keeps none."""
    if name == "curl":
        return curl(url, pictures, directory, lanes)
    arguments = ["client", name, url, str(pictures), str(directory), str(lanes)]
    command = [sys.executable, "-m", "benchmarks.downloads", *arguments]
    used: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return used


def curl(url: str, pictures: int, directory: Path, lanes: int) -> dict[str, float]:
    """`curl -Z` with the same number of transfers at a time."""
    transfers = "".join(f'url = "{url}/{n}.png"\noutput = "{directory}/{n}.png"\n' for n in range(pictures))
    command = ["curl", "--silent", "--fail", "--parallel", "--parallel-max", str(lanes), "--config", "-"]
    started_s = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # its progress
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(transfers)
    _, status, used = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise AssertionError(f"curl ended with {process.returncode}")
    return {"cpu_s": used.ru_utime + used.ru_stime, "wall_s": wall_s, "peak_mb": used.ru_maxrss / 1024}


# --- the tables -------------------------------------------------------------------------------------------------------


def speed(options: argparse.Namespace) -> None:
    """Bytes per second and CPU, beside curl's of the same round."""
    for pictures, size_bytes in ((options.pictures, SMALL_BYTES), (options.large, LARGE_BYTES)):
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in CLIENTS}
        with served(size_bytes) as url:
            for number in range(options.rounds):
                for name in CLIENTS if number % 2 == 0 else CLIENTS[::-1]:
                    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
                        runs[name].append(measured(name, url, pictures, Path(directory), options.lanes))
                        found = [path.stat().st_size for path in Path(directory).iterdir()]
                        if found != [size_bytes] * pictures:
                            raise AssertionError(f"{name} did not save all pictures whole")
        print(f"\n{pictures} pictures of {size_bytes / 1e6:g} MB, {options.lanes} at a time, {options.rounds} rounds\n")
        print("| client | MB per second | beside curl | CPU ms per picture | peak MB |\n|---|---|---|---|---|")
        for name, used in runs.items():
            beside = median(other["wall_s"] / run["wall_s"] for run, other in zip(used, runs["curl"], strict=True))
            mb_per_s = pictures * size_bytes / 1e6 / median(run["wall_s"] for run in used)
            cpu_ms = 1000 * median(run["cpu_s"] for run in used) / pictures
            print(f"| {name} | {mb_per_s:.0f} | {beside:.2f} | {cpu_ms:.2f} ", end="")
            print(f"| {median(run['peak_mb'] for run in used):.0f} |", flush=True)


def memory(options: argparse.Namespace) -> None:
    """Peak memory for few pictures and for many."""
    print("\n| pictures of 5 MB | peak MB |\n|---|---|")
    with served(LARGE_BYTES) as url:
        for pictures in (100, 2000):
            with tempfile.TemporaryDirectory(dir=options.directory) as directory:
                used = measured("memory", url, pictures, Path(directory), options.lanes)
            print(f"| {pictures} | {used['peak_mb']:.0f} |", flush=True)


MEASUREMENTS: Final = {"speed": speed, "memory": memory}


def main() -> None:
    """Run what is asked for and print the tables; "serve" and "client" are for the processes that this one starts."""
    match sys.argv[1:]:
        case ["serve", size_bytes]:
            return serve(int(size_bytes))
        case ["client", name, url, pictures, directory, lanes]:
            return client(name, url, int(pictures), Path(directory), int(lanes))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurements", nargs="*", default=["speed"], metavar="|".join(MEASUREMENTS))
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--large", type=int, default=40)
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory")
    options = parser.parse_args()
    for name in options.measurements:
        MEASUREMENTS[name](options)
    return None


if __name__ == "__main__":
    main()
