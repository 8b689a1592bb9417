"""What `doctor` asks of the network and the disk, each within a time of its own, and none of it changes anything."""

import asyncio
import errno
import os
import shutil
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import anyio

from krea_async.cli.one_gateway import one_gateway
from krea_async.errors import KreaError, ServiceError, words_of
from krea_async.gateway.refusals import error_from
from krea_async.gateway.replies import balance_from
from krea_async.models import Balance
from krea_async.settings import Settings
from krea_async.storage.disk import sync_directory
from krea_async.storage.known_limits import cache_directory

DNS_WITHIN_S: Final = 4.0
ANSWER_WITHIN_S: Final = 5.0
CONNECTION_WITHIN_S: Final = 2.0
DISK_WITHIN_S: Final = 5.0
PROBE_BYTES: Final = 256 * 1024

T = TypeVar("T")


class Certificate(NamedTuple):
    """Of a connection that stood."""

    version: str | None
    issuer: str
    left_s: float


class Answer(NamedTuple):
    """Of the gateway to the question for the balance. off_s: this clock before its own; None: it told no time."""

    balance: Balance | None
    error: KreaError | None
    off_s: float | None


async def addresses_of(host: str) -> list[str]:
    """What the resolver says. Raises OSError, TimeoutError among them."""
    found = await abandonable(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM), DNS_WITHIN_S)
    return [*dict.fromkeys(str(address[0]) for *_, address in found)]


async def certificate_of(host: str, addresses: Sequence[str], port: int) -> Certificate:
    """What the host shows. Raises OSError, ssl.SSLError and TimeoutError among them."""
    context = ssl.create_default_context()
    with anyio.fail_after(ANSWER_WITHIN_S):
        for number, address in enumerate(addresses, 1):
            try:
                with anyio.fail_after(CONNECTION_WITHIN_S):
                    _, writer = await asyncio.open_connection(address, port, ssl=context, server_hostname=host)
                break
            except ssl.SSLError:
                raise
            except OSError:  # as where a host has an address of a kind that this network does not carry
                if number == len(addresses):
                    raise
    try:
        found: dict[str, Any] = writer.get_extra_info("peercert")
        issuer = {name: value for part in found.get("issuer", ()) for name, value in part}
        by = issuer.get("organizationName") or issuer.get("commonName") or "nobody"
        left_s = ssl.cert_time_to_seconds(found["notAfter"]) - time.time()
        return Certificate(writer.get_extra_info("ssl_object").version(), by, left_s)
    finally:
        writer.close()


async def answer_of(settings: Settings) -> Answer:
    """What the gateway says to this key, and what time it has."""
    try:
        with anyio.fail_after(ANSWER_WITHIN_S):
            async with one_gateway(settings) as transport:
                reply = await transport.exchange("GET", "/v1/credits")
    except TimeoutError:
        return Answer(None, ServiceError(f"the gateway did not answer within {ANSWER_WITHIN_S:g} s"), None)
    except KreaError as error:
        error.charged = "no"
        return Answer(None, error, None)
    now = time.time()
    off_s = None
    with suppress(TypeError, ValueError):
        off_s = now - 0.5 - parsedate_to_datetime(reply.headers.get("Date", "")).timestamp()
    if reply.status != 200:
        return Answer(None, error_from(reply), off_s)
    try:
        return Answer(balance_from(reply), None, off_s)
    except KreaError as error:
        return Answer(None, error, off_s)


def nearest_directory(directory: Path) -> Path:
    """`directory`, or the one that it would be made in. Raises OSError when something else is in its place."""
    for path in (directory.absolute(), *directory.absolute().parents):
        if path.is_dir():
            return path
        if path.exists():
            raise NotADirectoryError(errno.ENOTDIR, f"{path} is a file, not a directory")
    raise FileNotFoundError(errno.ENOENT, f"nothing of {directory} is there")


def free_bytes(directory: Path) -> int:
    """Room that this user may take. Raises OSError."""
    return shutil.disk_usage(directory).free


def sync_seconds(directory: Path) -> float:
    """How long a file of 256 KiB takes to be durable under its name. It is removed again. Raises OSError."""
    fd, name = tempfile.mkstemp(prefix=".krea-async-doctor-", dir=directory)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
        renamed = f"{name}.renamed"
        Path(name).rename(renamed)
        name = renamed
        sync_directory(directory)
        return time.perf_counter() - began
    finally:
        Path(name).unlink(missing_ok=True)


def open_files_limit() -> int | None:
    """How many files this process may open; None: no limit is known."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - not on Windows

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def cache_state() -> tuple[str | None, str | None]:
    """The cache directory, and why it cannot be written."""
    try:
        directory = cache_directory()
    except RuntimeError as error:
        return None, str(error)
    near = nearest_directory(directory)
    if not os.access(near, os.W_OK | os.X_OK):
        return str(directory), f"{near} may not be written by this user"
    return str(directory), None


async def abandonable(work: Callable[[], T], within_s: float) -> T:
    """What `work` returns, run in a thread that is left behind: a resolver or a dead share may take minutes.

    Raises TimeoutError, and what `work` raises.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[T] = loop.create_future()

    def settle(end: Callable[[], None]) -> None:
        if not ended.done():
            end()

    def run() -> None:
        try:
            end = partial(ended.set_result, work())
        except Exception as error:  # noqa: BLE001 - raised to whoever waits
            end = partial(ended.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, end)

    threading.Thread(target=run, daemon=True).start()
    with anyio.fail_after(within_s):
        return await ended


def why(error: BaseException) -> str:
    """An error in words, of whatever kind."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, OSError):
        return words_of(error)
    return str(error) or type(error).__name__
