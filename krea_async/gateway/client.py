"""The API's five routes, each as one method: one try, one answer, or one member of the KreaError tree.

Trying again is the caller's decision, because only the caller knows what it costs: `submission` repeats a create under
its own idempotency key, `polling` reads a task later anyway, and `retrying` serves the calls that are free.
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from itertools import count
from secrets import token_hex
from typing import Final
from urllib.parse import quote, urlencode

import anyio

from krea_async.errors import InvalidRequestError, KreaError, ServiceError, TaskNotFoundError
from krea_async.gateway.refusals import error_from
from krea_async.gateway.replies import Reply, balance_from, page_from, task_from, tasks_from
from krea_async.gateway.transport import Transport
from krea_async.models import Balance, ImageRequest, Task, TaskPage

log = logging.getLogger(__name__)

MODEL: Final = "krea-2-turbo"
MAX_BATCH_IDS: Final = 50
MAX_PAGE_SIZE: Final = 50
_SINGLE_READS_AT_ONCE: Final = 8
_NO_SUCH_ROUTE: Final = frozenset({404, 405, 501})
_encoded: Final = json.JSONEncoder(ensure_ascii=False).encode  # made once: json.dumps makes one each time
_KEY_FORM: Final = re.compile(r"[A-Za-z0-9._-]{16,96}")

Readings = dict[str, Task | KreaError]
"""What a read of many tasks found, by id. TaskNotFoundError and InvalidRequestError are the gateway's word on that id;
any other error means that it was not read. An id without an entry was not in the reply, which proves nothing."""


def idempotency_keys() -> Iterator[str]:
    """Keys without end, each for one picture: taken before its first try, sent with every try."""
    prefix = f"krea-{token_hex(12)}"
    return (f"{prefix}-{number}" for number in count(1))


class Gateway:
    """The API over HTTP. `calls` counts the requests that were sent, by route."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._batch_route = True
        self.calls = dict.fromkeys(("create", "read", "read_many", "list", "credits"), 0)

    async def create(self, request: ImageRequest, *, key: str, callback_url: str | None = None) -> Task:
        """POST /v1/images/generations. callback_url: where the gateway reports the end, if `request` does not say.

        A failure says in `charged` whether a task may have been made all the same: "unknown" after a lost or an
        unreadable answer, which the same key makes safe to repeat.
        """
        if not _KEY_FORM.fullmatch(key):
            raise InvalidRequestError(
                "the idempotency key has a wrong form", field="key", value=key, allowed="16 to 96 of A-Za-z0-9._-"
            )
        self.calls["create"] += 1
        body = _body(request, callback_url)
        reply = await self._transport.exchange("POST", "/v1/images/generations", body=body, key=key)
        try:
            if reply.status != 200:
                raise error_from(reply)
            task = task_from(reply)
        except ServiceError as error:
            if error.retryable:  # it may have failed after the task was made
                error.charged = "unknown"
            raise
        if task.replayed:
            log.info("task %s was already made by an earlier try; nothing is paid twice", task.id)
        return task

    async def read(self, task_id: str) -> Task:
        """GET /v1/tasks/{task_id}."""
        self.calls["read"] += 1
        reply = await self._ask("GET", f"/v1/tasks/{quote(task_id, safe='', errors='replace')}")
        if reply.status != 200:
            raise error_from(reply, task_id=task_id)
        return task_from(reply)

    async def read_many(self, task_ids: Sequence[str]) -> Readings:
        """POST /v1/tasks/batch, or single reads where that route does not exist or refuses an id."""
        if len(task_ids) > MAX_BATCH_IDS:
            raise ValueError(f"at most {MAX_BATCH_IDS} ids, not {len(task_ids)}")
        if not task_ids:
            return {}
        if len(task_ids) > 1 and self._batch_route:
            self.calls["read_many"] += 1
            reply = await self._ask("POST", "/v1/tasks/batch", body=json.dumps({"task_ids": [*task_ids]}).encode())
            if reply.status == 200:
                return dict(tasks_from(reply))
            error = error_from(reply)
            if reply.status in _NO_SUCH_ROUTE:
                if self._batch_route:
                    log.warning("the gateway has no batch read (%s); every task is read by itself from now on", error)
                self._batch_route = False
            elif not isinstance(error, InvalidRequestError):
                raise error
        return await self.read_singly(task_ids)

    async def list_tasks(self, *, status: str | None = None, page: int = 1, page_size: int = MAX_PAGE_SIZE) -> TaskPage:
        """GET /v1/tasks."""
        self.calls["list"] += 1
        query = {"type": "image", "model": MODEL, "page": page, "page_size": page_size}
        if status is not None:
            query["status"] = status
        reply = await self._ask("GET", f"/v1/tasks?{urlencode(query)}")
        if reply.status != 200:
            raise error_from(reply)
        return page_from(reply)

    async def credits(self) -> Balance:
        """GET /v1/credits. Free, so it also checks a key."""
        self.calls["credits"] += 1
        reply = await self._ask("GET", "/v1/credits")
        if reply.status != 200:
            raise error_from(reply)
        return balance_from(reply)

    async def read_singly(self, task_ids: Sequence[str]) -> Readings:
        """GET /v1/tasks/{task_id} for each, a few at a time. Raises only if none could be read."""
        readings: Readings = {}
        failures: list[KreaError] = []
        waiting = iter(task_ids)

        async def read_in_turn() -> None:
            for task_id in waiting:
                try:
                    readings[task_id] = await self.read(task_id)
                except (TaskNotFoundError, InvalidRequestError) as error:
                    readings[task_id] = error
                except KreaError as error:
                    failures.append(error)
                    readings[task_id] = error
                    if not isinstance(error, ServiceError):  # the next read would be refused as well
                        return

        async with anyio.create_task_group() as readers:
            for _ in range(min(_SINGLE_READS_AT_ONCE, len(task_ids))):
                readers.start_soon(read_in_turn)
        if failures and len(failures) == len(readings):
            raise failures[0]
        return {task_id: readings.get(task_id, failures[0]) if failures else readings[task_id] for task_id in task_ids}

    async def _ask(self, method: str, path: str, *, body: bytes | None = None) -> Reply:
        try:
            return await self._transport.exchange(method, path, body=body)
        except ServiceError as error:
            error.charged = "no"  # reading costs nothing, whether or not it arrived
            raise


def _body(request: ImageRequest, callback_url: str | None) -> bytes:
    body: dict[str, object] = {
        "model": MODEL,
        "prompt": request.prompt,
        "size": request.size,
        "quality": request.quality,
        "nsfw_check": request.nsfw_check,
    }
    if request.seed is not None:
        body["seed"] = request.seed
    if (callback_url := request.callback_url or callback_url) is not None:
        body["callback_url"] = callback_url
    return _encoded(body).encode()
