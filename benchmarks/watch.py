"""What the sandbox's side of the wire saw of one client: the same facts for every client, whatever it tells itself."""

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from aiohttp import web
from attrs import field, frozen

from krea_async.sandbox import Ledger, Sandbox

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_CREATE = "/v1/images/generations"
_TASKS = "/v1/tasks/"
_UNFINISHED = frozenset({"pending", "processing"})


@frozen(kw_only=True)
class Facts:
    """One client's run against one sandbox. Times in seconds of the sandbox's clock.

    first_s: arrival of the first create; last_s: of the last task's making. durations_s: how long each task took, in
    the order of acceptance. lags_s: from a task's finish to the answer that first told of it. waits_s: from a prompt's
    first arrival to its first task. requests: by route. refused: creates answered 429. reads: of single tasks, in
    batches or not. charges: by prompt, for tasks that were paid for. pictures: prompt by sha256. gateway_cpu_s: of the
    process that serves, other sandboxes in it included.
    """

    first_s: float
    last_s: float
    durations_s: tuple[float, ...] = field(repr=False)
    lags_s: tuple[float, ...] = field(repr=False)
    waits_s: tuple[float, ...] = field(repr=False)
    requests: Mapping[str, int]
    refused: int
    reads: int
    max_unfinished: int
    charges: Mapping[str, int] = field(repr=False)
    pictures: Mapping[str, str] = field(repr=False)
    gateway_cpu_s: float

    @property
    def accepted(self) -> int:
        """Tasks made."""
        return len(self.durations_s)

    @property
    def api_requests(self) -> int:
        """Requests but those for pictures."""
        return sum(count for route, count in self.requests.items() if route != "image")


class WatchedSandbox(Sandbox):
    """A sandbox with somebody at the wire who looks at creates as they come and at reads as they are answered."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - `Sandbox`'s own
        super().__init__(**settings)
        self._first_sent: dict[str, float] = {}
        self._first_told: dict[str, float] = {}
        self._cpu_s = time.process_time()

    async def _open(self, handler: Handler, port: int) -> str:
        async def watched(request: web.BaseRequest) -> web.StreamResponse:
            if request.path == _CREATE:
                await self._note_create(request)
            response = await handler(request)
            if request.path.startswith(_TASKS) and isinstance(response, web.Response) and response.status == 200:
                self._note_read(response)
            return response

        return await super()._open(watched, port)

    async def _note_create(self, request: web.BaseRequest) -> None:
        now = self._clock()
        with suppress(ConnectionError, web.RequestPayloadError, ValueError, KeyError):
            self._first_sent.setdefault(json.loads(await request.read())["prompt"], now)

    def _note_read(self, response: web.Response) -> None:
        now = self._clock()
        with suppress(ValueError, TypeError, KeyError):  # a fault made it unreadable, for the client as for us
            told = json.loads(response.text or "")
            for task in told.get("data", [told]):
                if task["status"] not in _UNFINISHED:
                    self._first_told.setdefault(task["id"], now)

    def facts(self) -> Facts:
        """What happened so far."""
        return facts_of(self.ledger, self._first_sent, self._first_told, time.process_time() - self._cpu_s)


def facts_of(
    ledger: Ledger, first_sent: Mapping[str, float], first_told: Mapping[str, float], gateway_cpu_s: float
) -> Facts:
    """The ledger and what was noted at the wire, put together."""
    tasks = ledger.tasks
    first_made: dict[str, float] = {}
    for task in tasks.values():
        first_made.setdefault(task.prompt, task.created)
    charges: dict[str, int] = {}
    for (prompt, *_), count in ledger.charges_by_prompt.items():
        charges[prompt] = charges.get(prompt, 0) + count
    return Facts(
        first_s=min(first_sent.values(), default=0.0),
        last_s=max((task.created for task in tasks.values()), default=0.0),
        durations_s=tuple(task.finishes - task.created for task in tasks.values()),
        lags_s=tuple(told_s - tasks[task_id].finishes for task_id, told_s in first_told.items()),
        waits_s=tuple(made_s - first_sent[prompt] for prompt, made_s in first_made.items()),
        requests=dict(ledger.requests),
        refused=ledger.statuses["create", 429],
        reads=sum(task.reads for task in tasks.values()),
        max_unfinished=ledger.max_unfinished,
        charges=charges,
        pictures={task.sha256: task.prompt for task in tasks.values() if task.sha256 is not None},
        gateway_cpu_s=gateway_cpu_s,
    )
