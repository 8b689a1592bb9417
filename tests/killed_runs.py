"""Runs in processes of their own, to be killed: by themselves just before or within one step.

As a script it is a nursery, which has everything imported and forks a process for each run that it is told of, so that
hundreds of lives take seconds. `Nursery` is its other end, for the tests.
"""

import errno
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

import anyio
import disk_steps
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from attrs import asdict, evolve, field, frozen
from disk_steps import Answered, Asked, DirectorySynced, Posted, Step, Written, watched
from impatience import IMPATIENT

from krea_async import BatchPolicy, ImageRequest, KreaSession, RetryPolicy, scheduler
from krea_async.batch.opening import plan
from krea_async.cli.watching.running import report_json
from krea_async.sandbox import Sandbox
from krea_async.storage.journal import JournalPolicy

Rows = Sequence[Mapping[str, Any]]
When = Literal["before", "within"]
"""Within: in the middle of a write; just after any other step."""
Kill = tuple[int | str, When]
"""The step, by its number from 0 or by its name (then it is the first of that name), and when in it."""

POLICY = BatchPolicy(drain_s=5.0, journal=JournalPolicy(gather_s=0.001, follow_s=0.002, lazy_s=0.02))
"""The same rules as ever, but waits that a test can afford."""


@frozen(kw_only=True)
class Run:
    """What a process is to do. rows: None: what the directory knows. hard_links: whether the file system has any.

    planned: whether all rows are noted first, as the command line does it. policy: what differs from `POLICY`.
    """

    url: str
    key: str
    directory: str
    rows: list[dict[str, Any]] | None
    kill: Kill | None = None
    hard_links: bool = True
    planned: bool = True
    policy: dict[str, Any] = field(factory=dict)
    concurrency: int = 4


@frozen(kw_only=True)
class End:
    """How a run ended. killed_at: the step's name; None if it killed itself nowhere.

    report, and the names of all its steps: of a run that lived.
    """

    killed: bool
    killed_at: str | None = None
    report: dict[str, Any] | None = None
    steps: list[str] = field(factory=list)


# --- the tests' end ---------------------------------------------------------------------------------------------------


class Nursery:
    """Processes that fork runs, started when they are needed; `open_nursery` makes it."""

    def __init__(self, at_once: int) -> None:
        """at_once: how many runs may live at the same time."""
        self._free = anyio.Semaphore(at_once)
        self._idle: list[Process] = []
        self.started: list[Process] = []

    async def run(
        self, sandbox: Sandbox, directory: Path, rows: Rows | None, kill: Kill | None = None, **options: Any
    ) -> End:
        """One life, to its end or its killing. An exception in it is raised here. options: see `Run`."""
        async with self.begun(sandbox, directory, rows, kill, **options) as life:
            return await life.end()

    @asynccontextmanager
    async def begun(
        self, sandbox: Sandbox, directory: Path, rows: Rows | None, kill: Kill | None = None, **options: Any
    ) -> AsyncIterator["Life"]:
        """A life that has begun; wait for its end inside."""
        listed = None if rows is None else [dict(row) for row in rows]
        run = Run(url=sandbox.url, key=sandbox.key, directory=str(directory), rows=listed, kill=kill, **options)
        async with self._free:
            process = self._idle.pop() if self._idle else await self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            said = BufferedByteReceiveStream(process.stdout)
            await process.stdin.send(json.dumps(asdict(run)).encode() + b"\n")
            life = Life(said, int(await said.receive_until(b"\n", 100)))
            try:
                yield life
            finally:
                self._idle.append(process)

    async def _start(self) -> Process:
        process = await anyio.open_process([sys.executable, __file__], stderr=None)
        self.started.append(process)
        return process


class Life:
    """A run under way in a process of its own."""

    def __init__(self, said: BufferedByteReceiveStream, pid: int) -> None:
        self._said = said
        self.pid = pid

    async def end(self) -> End:
        """How it ended."""
        with anyio.fail_after(60):
            facts = json.loads(await self._said.receive_until(b"\n", 10_000_000))
        assert "error" not in facts, facts["error"]
        return End(**facts)


@asynccontextmanager
async def open_nursery(*, at_once: int) -> AsyncIterator[Nursery]:
    """A nursery where so many runs may live at the same time."""
    nursery = Nursery(at_once)
    try:
        yield nursery
    finally:
        for process in nursery.started:
            with anyio.move_on_after(20, shield=True):
                await process.aclose()  # its standard input ends, and so does it


# --- the nursery's end ------------------------------------------------------------------------------------------------


class _Killer:
    """Counts the steps, and kills its own process in one of them. Says first which one that is."""

    def __init__(self, kill: Kill | None, said: int) -> None:
        self.steps: list[str] = []
        self._at, self._when = kill or (-1, "before")
        self._said = said

    def before(self, step: Step) -> None:
        if self._is_the_one(step):
            if self._when == "before":
                self._die(step)
            elif isinstance(step, Written):
                _write(step.fd, step.data[: len(step.data) // 2])
                self._die(step)

    def after(self, step: Step) -> None:
        if self._is_the_one(step):
            self._die(step)
        self.steps.append(name_of(step))

    def _is_the_one(self, step: Step) -> bool:
        if isinstance(self._at, int):
            return self._at == len(self.steps)
        return is_called(name_of(step), self._at)

    def _die(self, step: Step) -> NoReturn:
        _write(self._said, json.dumps({"killed_at": name_of(step)}).encode())
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed")


_write = os.write  # the real one: the killer's own words are no step


def name_of(step: Step) -> str:
    """The step in words: what kind of file it is about, and for the journal, which events."""
    match step:
        case Written(path=path, data=data) if path.endswith("journal.jsonl"):
            events = {line.split(b'"', 4)[3].decode() for line in data.splitlines()}
            return f"writing {'+'.join(sorted(events))}"
        case Posted() | Answered() | Asked():
            return type(step).__name__
        case DirectorySynced():
            return "syncing the directory"
        case _:
            return f"{type(step).__name__} {_kind_of(getattr(step, 'path', ''))}"


def is_called(step: str, name: str) -> bool:
    """Whether a step has this name; one that writes several events has also the name of each alone."""
    verb, _, events = step.partition(" ")
    return name == step or (verb == "writing" and name in {f"writing {event}" for event in events.split("+")})


def _kind_of(path: str) -> str:
    name = Path(path).name
    return name if name.startswith((".", "journal", "manifest")) else Path(path).suffix


def _no_links(source: str, path: str) -> NoReturn:
    raise PermissionError(errno.EPERM, "no hard links here", source, None, path)


async def _live(run: Run, said: int) -> dict[str, Any]:
    killer = _Killer(run.kill, said)
    directory = Path(run.directory)
    if not run.hard_links:
        disk_steps.real["link"] = _no_links
    with watched(directory, killer):
        async with KreaSession(run.key, base_url=run.url, concurrency=run.concurrency, **IMPATIENT) as session:
            policy = evolve(POLICY, **run.policy)
            if run.rows is None:
                batch = session.resume(directory, policy=policy)
            else:
                if run.planned:
                    await plan(directory, [ImageRequest.of(row) for row in run.rows], policy)
                batch = session.render(run.rows, directory, policy=policy)
            report = await batch
    return {"report": report_json(report), "steps": killer.steps}


def _child(line: str, said: int) -> NoReturn:
    try:
        run = Run(**json.loads(line))
        facts = anyio.run(_live, run, said)
    except BaseException:  # noqa: BLE001 - told to the test, which raises
        facts = {"error": traceback.format_exc()}
    _write(said, json.dumps(facts).encode())
    os._exit(0)


def _say(line: str) -> None:
    _write(1, line.encode() + b"\n")


def _nursery() -> None:
    logging.disable()
    vars(scheduler)["_POLL_BACKOFF"] = RetryPolicy(first_wait_s=0.05, max_wait_s=0.2)  # no setting of a session
    for line in sys.stdin:
        heard, said = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(heard)
            _child(line, said)
        os.close(said)
        _say(str(pid))
        with os.fdopen(heard, "rb") as words:
            facts = json.loads(words.read() or b"{}")
        _, status = os.waitpid(pid, 0)
        facts["killed"] = os.WIFSIGNALED(status)
        _say(json.dumps(facts))


if __name__ == "__main__":
    _nursery()
