"""Pictures in a FastAPI service: `uvicorn fastapi_service:app`. One session for each process, shared by all requests.

    POST /pictures            the picture itself, when it is made
    POST /orders              202 and a task_id as soon as the gateway has accepted it
    GET  /orders/ID/events    its progress, as server-sent events; the last one is "saved" or "failed"
    GET  /orders/ID           the picture
    GET  /ready               200 as long as requests are welcome

The id of an order is the gateway's own, so an order outlives the service: asked for its progress after a restart, the
service follows the task again and saves the picture. That costs nothing.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import Annotated, Any

import anyio
from attrs import define, field
from fastapi import Depends, FastAPI, HTTPException, Path, Request
from fastapi.responses import FileResponse, JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from krea_async import (
    ContentPolicyError,
    GeneratedImage,
    ImageRequest,
    InvalidRequestError,
    Job,
    KreaError,
    KreaSession,
    QueueFullError,
    TaskNotFoundError,
    TaskTimeoutError,
)

log = logging.getLogger(__name__)

PICTURES = FilePath(os.environ.get("PICTURES", "pictures"))
PUBLIC_URL = os.environ.get("PUBLIC_URL")  # such as https://pictures.example.org; None: no callbacks
ANSWER_S = float(os.environ.get("ANSWER_S", "60"))  # how long POST /pictures waits for its picture
DRAIN_S = 25.0  # what is under way gets this long to finish after a SIGTERM
MAX_WAITING = 5_000  # requests beyond that are told to come back later


@define(eq=False)
class Service:
    """The session, and the orders that are being saved, each once, however many ask for it."""

    session: KreaSession
    saving: dict[str, tuple[Job, asyncio.Task[GeneratedImage]]] = field(factory=dict)

    def save(self, job: Job) -> None:
        """Save the picture once it is made. The session does not close before that."""
        task = asyncio.create_task(job.save(PICTURES / job.task_id), name=job.task_id)
        self.saving[job.task_id] = job, task
        task.add_done_callback(self._ended)

    def order(self, task_id: str) -> tuple[Job, asyncio.Task[GeneratedImage]]:
        """The order as it is being saved; taken up again if it is not, such as after a restart."""
        if task_id not in self.saving:
            self.save(self.session.attach(task_id))
        return self.saving[task_id]

    def _ended(self, task: asyncio.Task[GeneratedImage]) -> None:
        del self.saving[task.get_name()]
        if not task.cancelled() and (error := task.exception()):
            log.warning("order %s is not saved: %s", task.get_name(), error)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """The session lives as long as the process serves."""
    with anyio.CancelScope() as drain:
        async with KreaSession(max_waiting=MAX_WAITING) as session:
            if PUBLIC_URL is not None:  # callbacks wake the session; without them it polls
                app.mount("/callbacks", session.webhooks(f"{PUBLIC_URL}/callbacks").asgi)
            yield {"service": Service(session)}
            drain.deadline = anyio.current_time() + DRAIN_S


app = FastAPI(lifespan=lifespan)


def service_of(request: Request) -> Service:
    """What the lifespan made."""
    service: Service = request.state.service
    return service


Shared = Annotated[Service, Depends(service_of)]
TaskId = Annotated[str, Path(pattern=r"^task-unified-[\w-]{1,100}$")]  # it also names a file


class Wanted(BaseModel):
    """The body of an order; ImageRequest checks the values."""

    prompt: str
    size: str = "1:1"
    quality: str = "1K"
    seed: int | None = None

    def request(self) -> ImageRequest:
        """Raises InvalidRequestError."""
        return ImageRequest.of(self.model_dump())


@app.exception_handler(KreaError)
async def refused(_: Request, error: KreaError) -> JSONResponse:
    """What the caller may do next decides the status. `task_id` is there if the picture may be fetched later."""
    match error:
        case InvalidRequestError() | ContentPolicyError():
            status = 422
        case TaskNotFoundError():
            status = 404
        case TaskTimeoutError():
            status = 504
        case QueueFullError():
            status = 503
        case _:
            status = 502
    body = {"error": type(error).__name__, "code": error.code, "task_id": error.task_id, "charged": error.charged}
    return JSONResponse(body, status, headers={"Retry-After": "10"} if status == 503 else None)


@app.post("/pictures")
async def picture(wanted: Wanted, service: Shared) -> FileResponse:
    """Make one picture while the caller waits. What is paid for is saved even if the time is up."""
    image = await service.session.generate(
        wanted.request(), to=f"{PICTURES}/", timeout_s=ANSWER_S, if_cancelled="finish"
    )
    return _file(image.path)


@app.post("/orders", status_code=202)
async def order(wanted: Wanted, service: Shared) -> dict[str, str]:
    """Have the gateway accept one picture; it is saved whether anybody asks for it or not."""
    job = await service.session.submit(wanted.request())
    service.save(job)
    return {"task_id": job.task_id, "events": f"/orders/{job.task_id}/events"}


@app.get("/orders/{task_id}/events", response_class=EventSourceResponse)
async def events(task_id: TaskId, service: Shared) -> AsyncIterator[ServerSentEvent]:
    """The order's progress whenever it changes, then how it ended."""
    if _saved(task_id) is None:
        job, saving = service.order(task_id)
        told = -1
        while not saving.done():
            if job.progress > told:
                told = job.progress
                yield ServerSentEvent(event="progress", data={"status": job.status, "percent": told})
            await asyncio.wait({saving}, timeout=0.5)
        if error := saving.exception():
            yield ServerSentEvent(event="failed", data={"error": type(error).__name__})
            return
    yield ServerSentEvent(event="saved", data={"picture": f"/orders/{task_id}"})


@app.get("/orders/{task_id}")
async def ordered(task_id: TaskId) -> FileResponse:
    """The picture of an order that is saved."""
    if (path := _saved(task_id)) is None:
        raise HTTPException(404, "not saved; its events say how far it is")
    return _file(path)


@app.get("/ready")
async def ready(service: Shared) -> JSONResponse:
    """For the load balancer: busy processes are left alone for a moment. Asks the gateway nothing."""
    stats = service.session.stats
    return JSONResponse(
        {"waiting": stats.waiting, "in_flight": stats.in_flight}, 200 if stats.waiting < MAX_WAITING else 503
    )


def _saved(task_id: str) -> FilePath | None:
    paths = (PICTURES / f"{task_id}.{kind}" for kind in ("png", "jpg", "webp"))
    return next((path for path in paths if path.exists()), None)


def _file(path: FilePath | None) -> FileResponse:
    if path is None:
        raise HTTPException(502, "there is no picture")
    return FileResponse(path)
