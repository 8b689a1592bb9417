"""The process that all clients are measured against: opens sandboxes on demand, each with an account of its own."""

import asyncio
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any, Final

from attrs import frozen

from benchmarks.watch import Facts, WatchedSandbox

KEY: Final = "sk-evo-sandbox"


@frozen
class OpenSandbox:
    """One sandbox in the gateway's process, as the measuring process knows it."""

    url: str
    facts: Callable[[], Facts]


class GatewayProcess:
    """The measuring process's end. Threads may share it: one question is asked at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = Lock()

    @contextmanager
    def sandbox(self, **settings: Any) -> Iterator[OpenSandbox]:  # noqa: ANN401 - `Sandbox`'s own
        """A fresh sandbox; `settings` are `Sandbox`'s."""
        url = self._ask("open", settings)
        try:
            yield OpenSandbox(url, lambda: self._ask("facts", url))
        finally:
            self._ask("close", url)

    def _ask(self, what: str, about: object) -> Any:  # noqa: ANN401 - by what was asked
        with self._lock:
            self._connection.send((what, about))
            return self._connection.recv()


@contextmanager
def gateway_process() -> Iterator[GatewayProcess]:
    """The process, until the end of the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # so that its end is noticed here
    try:
        yield GatewayProcess(ours)
    finally:
        process.terminate()
        process.join()


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the measuring process ends this one
    asyncio.run(_answer(connection))


async def _answer(connection: Connection) -> None:
    opened: dict[str, _Served] = {}
    async with asyncio.TaskGroup() as tasks:
        while True:
            what, about = await asyncio.to_thread(connection.recv)
            answer: Any = None
            match what:
                case "open":
                    served = _Served(WatchedSandbox(key=KEY, credits=None, **about))
                    answer = await served.begin(tasks)
                    opened[answer] = served
                case "facts":
                    answer = opened[about].sandbox.facts()
                case "close":
                    await opened.pop(about).end()
            connection.send(answer)


class _Served:
    """A sandbox in a task of its own, because a task closes what it opened in the reverse order only."""

    def __init__(self, sandbox: WatchedSandbox) -> None:
        self.sandbox = sandbox
        self._opened = asyncio.Event()
        self._closing = asyncio.Event()

    async def begin(self, tasks: asyncio.TaskGroup) -> str:
        """Open it; its URL."""
        self._task = tasks.create_task(self._serve())
        await self._opened.wait()
        return self.sandbox.url

    async def end(self) -> None:
        """Close it."""
        self._closing.set()
        await self._task

    async def _serve(self) -> None:
        async with self.sandbox:
            self._opened.set()
            await self._closing.wait()
