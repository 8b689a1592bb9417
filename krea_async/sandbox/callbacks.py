"""The gateway's side of `callback_url`: one POST when a task has finished, tried again while nobody says 2xx."""

import json
from collections.abc import Callable

import aiohttp
import anyio
from anyio.abc import TaskGroup

from krea_async.sandbox.account import Account
from krea_async.sandbox.ledger import Ledger
from krea_async.sandbox.links import Links
from krea_async.sandbox.settings import Settings
from krea_async.sandbox.tasks import TaskRecord

_TIMEOUT = aiohttp.ClientTimeout(total=10.0)


class CallbackDesk:
    """Follows those tasks that have a callback_url; every waiting delivery is owned by `group` and ends with it."""

    def __init__(
        self,
        *,
        settings: Settings,
        account: Account,
        ledger: Ledger,
        links: Links,
        clock: Callable[[], float],
        http: aiohttp.ClientSession,
        group: TaskGroup,
    ) -> None:
        self._settings = settings
        self._account = account
        self._ledger = ledger
        self._links = links
        self._clock = clock
        self._http = http
        self._group = group

    def follow(self, task: TaskRecord, url: str) -> None:
        """Deliver the task to `url` as soon as it has finished."""
        self._group.start_soon(self._deliver, task, url)

    async def _deliver(self, task: TaskRecord, url: str) -> None:
        await anyio.sleep(max(0.0, task.finishes - self._clock()))
        now = max(self._clock(), task.finishes)  # a timer may fire a moment early
        self._account.settle(now)  # billing comes first
        body = json.dumps(self._links.view(task, now)).encode()
        for wait_s in (0.0, *self._settings.callback_waits_s):
            await anyio.sleep(wait_s)
            self._ledger.callbacks["tries"] += 1
            if await self._accepted(url, body):
                self._ledger.callbacks["delivered"] += 1
                return
        self._ledger.callbacks["failed"] += 1

    async def _accepted(self, url: str, body: bytes) -> bool:
        headers = {"Content-Type": "application/json"}
        try:
            async with self._http.post(
                url, data=body, headers=headers, timeout=_TIMEOUT, allow_redirects=False
            ) as response:
                return 200 <= response.status < 300
        except (aiohttp.ClientError, TimeoutError, ValueError):  # ValueError: a URL that only this client cannot read
            return False
