"""The API host: routes, who may call, what a create must look like; and, on request, everything that can go wrong."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from aiohttp import web

from krea_async.errors import InvalidRequestError
from krea_async.models import MAX_CALLBACK_URL_CHARS, ImageRequest
from krea_async.sandbox.account import Account
from krea_async.sandbox.callbacks import CallbackDesk
from krea_async.sandbox.faults import Dice, Fault
from krea_async.sandbox.ledger import Ledger
from krea_async.sandbox.limiter import Limiter
from krea_async.sandbox.links import Links
from krea_async.sandbox.replies import Refusal, Reply, failed, garbled, json_reply, too_many
from krea_async.sandbox.settings import Settings
from krea_async.sandbox.tasks import MODEL
from krea_async.sandbox.wire import Wire

MAX_BODY_BYTES: Final = 1 << 20
MAX_BATCH: Final = 50
MAX_PAGE: Final = 50

_TASKS: Final = "/v1/tasks/"
_ID_PREFIX: Final = "task-unified-"
_KEY_FORM: Final = re.compile(r"[A-Za-z0-9._-]{16,96}")
_BEFORE_ALL_TIME: Final = float("-inf")  # when every task is still pending, as each create's answer says


class GatewayApp:
    """Answers every request of the API port; an aiohttp low-level handler."""

    def __init__(
        self,
        *,
        settings: Settings,
        account: Account,
        ledger: Ledger,
        dice: Dice,
        links: Links,
        callbacks: CallbackDesk,
        wire: Wire,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._account = account
        self._ledger = ledger
        self._dice = dice
        self._links = links
        self._callbacks = callbacks
        self._wire = wire
        self._clock = clock
        self._limiter = Limiter(settings.limits, clock())
        self._in_hand: set[str] = set()  # idempotency keys of creates that are still being handled

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request, one answer (or less, if a fault so wishes)."""
        if request.path == "/sandbox/ledger":
            return self._wire.whole(json_reply(self._ledger.as_json(with_tasks=request.query.get("tasks") != "0")))
        route = _route(request.method, request.path)
        self._ledger.requests[route] += 1
        fault = None if route == "other" else self._dice.next_fault(route, self._settings.faults)
        if fault is not None:
            return await self._damaged(route, request, fault)
        reply = await self._reply(route, request)
        self._ledger.statuses[route, reply.status] += 1
        return self._wire.whole(reply)

    async def _damaged(self, route: str, request: web.BaseRequest, fault: Fault) -> web.StreamResponse:
        faults, rng = self._settings.faults, self._dice.rng
        match fault.name:
            case "error" | "status":
                reply = failed(fault, rng)
            case "error_after":
                await self._reply(route, request)
                reply = failed(fault, rng)
            case "garbage":
                reply = garbled(await self._reply(route, request), fault, rng)
            case "slow":
                with self._working_on(request.headers.get("Idempotency-Key")):
                    with suppress(Refusal):
                        await _body(request)  # now: the client may have left after the pause
                    await self._wire.pause(faults.slow_s if fault.wait_s is None else fault.wait_s)
                reply = await self._reply(route, request)
            case "drop_before" | "drop_after":
                if fault.name == "drop_after":
                    await self._reply(route, request)
                self._ledger.statuses[route, 0] += 1
                return self._wire.hang_up(request)
            case _:
                reply = await self._reply(route, request, fault)
        self._ledger.statuses[route, reply.status] += 1
        if fault.name == "stalled":
            half = rng.choice((0, len(reply.body) // 2))  # headers only, or half a body
            return await self._wire.part(
                request, reply, half if fault.at_bytes is None else fault.at_bytes, faults.stall_s
            )
        return self._wire.whole(reply)

    async def _reply(self, route: str, request: web.BaseRequest, fault: Fault | None = None) -> Reply:
        now = self._clock()
        self._account.settle(now)
        try:
            self._authenticate(request)
            self._limit(route, now)
            match route:
                case "create":
                    return await self._create(request, fault)
                case "read":
                    return self._read(request.path.removeprefix(_TASKS), now, fault)
                case "batch":
                    return await self._batch(request, now, fault)
                case "list":
                    return self._list(request, now)
                case "credits":
                    return self._credits()
                case _:
                    raise Refusal(404, f"No route {request.method} {request.path}")
        except Refusal as refusal:
            return refusal.reply

    def _authenticate(self, request: web.BaseRequest) -> None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        right = key.strip() != "" if self._settings.key is None else key.strip() == self._settings.key
        if scheme.lower() != "bearer" or not right:
            raise Refusal(401, "The API key is missing or wrong")

    def _limit(self, route: str, now: float) -> None:
        limits = self._settings.limits
        if limits is not self._limiter.limits:
            self._limiter = Limiter(limits, now)
        if route in limits.routes and (wait_s := self._limiter.take(now)) > 0:
            raise too_many(wait_s, limits, "requests", now)

    async def _create(self, request: web.BaseRequest, fault: Fault | None) -> Reply:
        body = await _json_object(request)
        wanted, callback_url = self._wanted(body)
        key = self._key(request)
        if key is not None and (first := self._account.replayed(key, body)) is not None:
            return json_reply(first.view(_BEFORE_ALL_TIME, None), headers={"idempotency-replayed": "true"})
        faults = self._settings.faults
        if faults.deny_model:
            raise Refusal(403, f"This key may not use the model {MODEL}")
        task = self._account.make(
            wanted,
            body,
            key=key,
            callback_url=callback_url,
            end=self._dice.next_end(faults, fault),
            now=self._clock(),
        )
        if callback_url is not None:
            self._callbacks.follow(task, callback_url)
        return json_reply(task.view(_BEFORE_ALL_TIME, None))

    def _wanted(self, body: dict[str, Any]) -> tuple[ImageRequest, str | None]:
        if body.get("model") != MODEL:
            raise Refusal(400, f"model {body.get('model')!r} is not {MODEL}")
        callback_url = body.get("callback_url")
        local = self._settings.allow_local_callbacks and _is_plain_url(callback_url)
        try:
            wanted = ImageRequest(
                body.get("prompt", ""),
                size=body.get("size", "1:1"),
                quality=body.get("quality", "1K"),
                seed=body.get("seed"),
                nsfw_check=body.get("nsfw_check", False),
                callback_url=None if local else callback_url,
            )
        except (InvalidRequestError, TypeError) as exc:  # TypeError: an unhashable size
            raise Refusal(400, str(exc)) from exc
        return wanted, callback_url

    def _key(self, request: web.BaseRequest) -> str | None:
        key = request.headers.get("Idempotency-Key")
        if key is None or not self._settings.idempotency:
            return None
        if not _KEY_FORM.fullmatch(key):
            raise Refusal(400, "Idempotency-Key is not 16 to 96 characters of A-Z a-z 0-9 . _ -")
        if key in self._in_hand:
            raise Refusal(409, "The first request is still being worked out", code="paid_outcome_unknown")
        return key

    @contextmanager
    def _working_on(self, key: str | None) -> Iterator[None]:
        if key is None or key in self._in_hand:
            yield
            return
        self._in_hand.add(key)
        try:
            yield
        finally:
            self._in_hand.discard(key)

    def _read(self, task_id: str, now: float, fault: Fault | None) -> Reply:
        if not task_id.startswith(_ID_PREFIX):
            raise Refusal(400, f"{task_id!r} is no task id", code="invalid_task_id")
        task = self._account.find(task_id)
        if task is None or (fault is not None and fault.name == "missing"):
            raise Refusal(404, f"Task {task_id} is unknown or has expired", code="resource_not_found")
        task.reads += 1
        return json_reply(self._links.view(task, now))

    async def _batch(self, request: web.BaseRequest, now: float, fault: Fault | None) -> Reply:
        if not self._settings.batch_route:
            raise Refusal(404, "No route POST /v1/tasks/batch")
        ids = (await _json_object(request)).get("task_ids")
        if not isinstance(ids, list) or not 1 <= len(ids) <= MAX_BATCH or not all(isinstance(i, str) for i in ids):
            raise Refusal(400, f"task_ids is not a list of 1 to {MAX_BATCH} task ids")
        shown = []
        missing = 1.0 if fault is not None and fault.name == "missing" else self._settings.faults.missing
        for task_id in ids:
            task = self._account.find(task_id)
            if task is not None and not self._dice.strikes(missing):
                task.reads += 1
                shown.append(self._links.view(task, now))
        return json_reply({"data": shown})

    def _list(self, request: web.BaseRequest, now: float) -> Reply:
        if not self._settings.list_route:
            raise Refusal(404, "No route GET /v1/tasks")
        query = request.query
        page, page_size = (
            _whole(query.get("page", "1"), "page"),
            _whole(query.get("page_size", "20"), "page_size", MAX_PAGE),
        )
        found = list(self._account.newest_first())
        if query.get("type", "image") != "image" or query.get("model", MODEL) != MODEL:
            found = []
        if (status := query.get("status")) is not None:
            found = [task for task in found if task.status(now) == status]
        shown = [task.summary(now) for task in found[(page - 1) * page_size : page * page_size]]
        return json_reply({"data": shown, "total": len(found), "page": page, "page_size": page_size})

    def _credits(self) -> Reply:
        remaining, used = self._account.remaining, self._account.used
        unlimited = remaining is None
        token = {
            "remaining_credits": 0 if unlimited else remaining,
            "unlimited_credits": unlimited,
            "used_credits": used,
        }
        user = {"remaining_credits": 1_000_000_000 if unlimited else remaining, "used_credits": used}
        return json_reply({"success": True, "message": "", "data": {"token": token, "user": user}})


def _route(method: str, path: str) -> str:
    match method, path:
        case "POST", "/v1/images/generations":
            return "create"
        case "POST", "/v1/tasks/batch":
            return "batch"
        case "GET", "/v1/tasks":
            return "list"
        case "GET", "/v1/credits":
            return "credits"
        case "GET", _ if path.startswith(_TASKS):
            return "read"
        case _:
            return "other"


async def _body(request: web.BaseRequest) -> bytes:
    """The request's body, the same each time. Raises Refusal: 413 beyond MAX_BODY_BYTES, 400 if it is not all there."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Refusal(413, f"The body is larger than {MAX_BODY_BYTES} bytes") from None
    except (ConnectionError, web.RequestPayloadError):
        raise Refusal(400, "The body ended early") from None


async def _json_object(request: web.BaseRequest) -> dict[str, Any]:
    """The request's body. Raises Refusal: as `_body`, and 400 for anything but a JSON object."""
    try:
        body = json.loads(await _body(request))
    except ValueError:
        raise Refusal(400, "The body is no JSON") from None
    if not isinstance(body, dict):
        raise Refusal(400, "The body is no JSON object")
    return body


def _is_plain_url(value: object) -> bool:
    return isinstance(value, str) and value.startswith(("http://", "https://")) and len(value) <= MAX_CALLBACK_URL_CHARS


def _whole(text: str, name: str, most: int = 1_000_000_000) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:12]) <= most:
        raise Refusal(400, f"{name} {text!r} is not a whole number from 1 to {most}")
    return int(text)
