"""`KreaSession`: what users hold. It owns the one task group; `composition` opens the rest."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import anyio

from krea_async.addresses import is_internal_host
from krea_async.batch.feed import Prompts
from krea_async.batch.policy import BatchPolicy
from krea_async.batch.run import Batch
from krea_async.composition import open_pipeline
from krea_async.control.backoff import RetryPolicy
from krea_async.control.governor import PacingPolicy
from krea_async.control.polling import PollPolicy
from krea_async.errors import InvalidRequestError, SessionClosedError, TaskTimeoutError
from krea_async.events import Event, Events, Orphan, check_is_plain
from krea_async.gateway.retrying import retrying
from krea_async.gateway.transport import TimeoutPolicy
from krea_async.intake import attached
from krea_async.job import Job, target_of
from krea_async.lifetime import running_loop
from krea_async.models import Balance, ImageRequest, Quality, Size
from krea_async.orders import IF_CANCELLED, IfCancelled, Orders
from krea_async.pipeline import Pipeline
from krea_async.results import GeneratedImage
from krea_async.settings import MAX_UNFINISHED, Settings
from krea_async.stats import SessionStats
from krea_async.storage.disk import make_directory
from krea_async.storage.download import DownloadPolicy
from krea_async.storage.names import file_stem
from krea_async.tasks import task_group
from krea_async.waiting import PRIORITIES, NotSubmittedError, Priority

if TYPE_CHECKING:
    from krea_async.webhooks import Webhooks


class KreaSession(anyio.AsyncContextManagerMixin):
    """A connection to the gateway, shared by everything that renders in one event loop.

        async with KreaSession() as session:
            image = await session.generate("a lighthouse at dusk", to="lighthouse.png")

    api_key, base_url: by default from EVOLINK_API_KEY and EVOLINK_BASE_URL. concurrency: tasks that may be unfinished
    on the gateway at the same time. rate: submissions per second. Both are caps on top of what the session finds out by
    itself; None: the session finds out, and lets 1,000 be unfinished at the most. downloads: pictures fetched at the
    same time. task_timeout_s: how long a task is followed. max_waiting: calls of `generate` and `submit` that may wait
    for their turn; more get a QueueFullError. on_event: called with every `Event`, on_orphan with every picture that is
    paid for and that its caller no longer waits for; both in the event loop. The policies hold the finer knobs.
    seed: of the jitter, for tests.

    Leaving the block normally waits for what is running; an exception cancels it. Raises AuthenticationError without a
    key and InvalidRequestError for a setting that cannot be; both before anything is sent.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        concurrency: int | None = None,
        rate: float | None = None,
        downloads: int = 16,
        task_timeout_s: float = 1800.0,
        retries: RetryPolicy | None = None,
        pacing: PacingPolicy | None = None,
        polling: PollPolicy | str | None = None,
        timeouts: TimeoutPolicy | None = None,
        downloading: DownloadPolicy | None = None,
        max_waiting: int | None = None,
        on_event: Callable[[Event], object] | None = None,
        on_orphan: Callable[[Orphan], object] | None = None,
        seed: int | None = None,
    ) -> None:
        self._settings = Settings(
            api_key=api_key,
            base_url=base_url,
            concurrency=MAX_UNFINISHED if concurrency is None else concurrency,
            rate=rate,
            downloads=downloads,
            task_timeout_s=task_timeout_s,
            retries=retries or RetryPolicy(),
            pacing=pacing or PacingPolicy(),
            polling=PollPolicy.of(polling),
            timeouts=timeouts or TimeoutPolicy(),
            downloading=downloading or DownloadPolicy(),
            max_waiting=max_waiting,
        )
        self._rng = Random(seed)
        self._events = Events(on_event)
        check_is_plain("on_orphan", on_orphan)
        self._on_orphan = on_orphan
        self._loop: asyncio.AbstractEventLoop | None = None
        self._orders: Orders
        self._pipeline: Pipeline | None = None

    def __repr__(self) -> str:
        return f"<KreaSession {self._settings.base_url} concurrency={self._settings.concurrency}>"

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._pipeline is not None:
            raise SessionClosedError("a session is opened once; make a new KreaSession")
        settings = self._settings
        async with open_pipeline(settings, self._events, self._rng) as pipeline, task_group() as tasks:
            self._pipeline = pipeline
            self._loop = asyncio.get_running_loop()
            self._orders = Orders(pipeline, tasks, settings.max_waiting, self._on_orphan)
            polling = anyio.CancelScope(shield=True)  # a cancelled batch still waits for what is paid for
            tasks.start_soon(_poll, pipeline, polling)
            pipeline.lifetime.begin()
            try:
                yield self
                await pipeline.drain()
            finally:
                try:
                    await pipeline.end()
                finally:
                    polling.cancel()

    async def generate(
        self,
        prompt: str | ImageRequest,
        *,
        to: "str | os.PathLike[str]" = ".",
        size: Size = "1:1",
        quality: Quality = "1K",
        seed: int | None = None,
        nsfw_check: bool = False,
        callback_url: str | None = None,
        priority: Priority = "interactive",
        timeout_s: float | None = None,
        if_cancelled: IfCancelled = "leave",
    ) -> GeneratedImage:
        """Make one picture and save it. `to`: see `Job.save`; the rest: see `ImageRequest`, which may come instead.

        priority: "interactive" leaves before the rows of batches, up to four times in a row; "batch" with them.
        timeout_s: for all of it; then TaskTimeoutError. if_cancelled: what becomes of a picture that is paid for when
        this call is cancelled, or out of time: "leave" it to `on_orphan` and `attach`, or "finish" and save it.
        Cancelled before the request has left, nothing is paid.

        Raises QueueFullError when `max_waiting` calls wait already, else the member of the KreaError tree that says
        what to do next; InvalidRequestError also when an ImageRequest comes together with options of its own.
        """
        _check_one_of("priority", priority, PRIORITIES)
        _check_one_of("if_cancelled", if_cancelled, IF_CANCELLED)
        if timeout_s is not None and not timeout_s > 0:
            raise TaskTimeoutError("timeout_s was over before anything was sent; nothing was paid", charged="no")
        options: dict[str, Any] = {
            "size": size,
            "quality": quality,
            "seed": seed,
            "nsfw_check": nsfw_check,
            "callback_url": callback_url,
        }
        if not isinstance(prompt, ImageRequest):
            prompt = ImageRequest(prompt, **options)
        elif ImageRequest(prompt.prompt, **options) != ImageRequest(prompt.prompt):
            raise InvalidRequestError("give size, quality, seed … in the ImageRequest or beside a text, not both")
        pipeline = self._open()
        with pipeline.lifetime.operation():
            target = target_of(to, file_stem(None, prompt))
            await make_directory(target.directory)
            with _told_why():
                return await self._orders.saved(
                    prompt, target, priority=priority, timeout_s=timeout_s, if_cancelled=if_cancelled
                )

    async def submit(self, request: str | ImageRequest, *, priority: Priority = "interactive") -> Job:
        """Have the gateway accept a request; it costs `request.credits`. The job is followed until the session ends.

        priority: see `generate`. Raises QueueFullError when `max_waiting` calls wait already, else the member of the
        KreaError tree that says what to do next; `charged` says whether credits were spent.
        """
        _check_one_of("priority", priority, PRIORITIES)
        pipeline = self._open()
        with pipeline.lifetime.operation(), _told_why():
            return await self._orders.submitted(ImageRequest.of(request), priority=priority)

    def attach(self, task_id: str) -> Job:
        """Follow a task that was submitted elsewhere, or before a restart. Costs nothing."""
        return attached(self._open(), task_id)

    def render(
        self,
        prompts: Prompts,
        directory: "str | os.PathLike[str]",
        *,
        max_credits: float | None = None,
        max_usd: float | None = None,
        policy: BatchPolicy | None = None,
    ) -> Batch:
        """Make a picture of every prompt, into `directory`; see `Batch`. Nothing is sent before it is entered.

        Rows that an earlier run in this directory saved are skipped, and those that it left under way are taken up;
        nothing is paid twice. max_credits, max_usd: what all runs in the directory together may spend.
        Raises TypeError for a single prompt: as a list it would be one picture a letter. Entering raises JournalError
        when the directory's journal is damaged, or in use by another process.
        """
        if isinstance(prompts, str | Mapping | ImageRequest):
            raise TypeError("render() takes a list of prompts; use generate() for one")
        return self._batch(prompts, directory, max_credits, max_usd, policy)

    def resume(
        self,
        directory: "str | os.PathLike[str]",
        *,
        max_credits: float | None = None,
        max_usd: float | None = None,
        policy: BatchPolicy | None = None,
    ) -> Batch:
        """Go on with every row that the journal in `directory` knows, without the list that they came from."""
        return self._batch(None, directory, max_credits, max_usd, policy)

    def _batch(
        self,
        prompts: Prompts | None,
        directory: "str | os.PathLike[str]",
        max_credits: float | None,
        max_usd: float | None,
        policy: BatchPolicy | None,
    ) -> Batch:
        return Batch(
            self._open(),
            prompts,
            Path(directory),
            concurrency=self._settings.concurrency,
            max_credits=max_credits,
            max_usd=max_usd,
            policy=policy or BatchPolicy(),
        )

    async def credits(self) -> Balance:
        """What is left to spend, in credits. Costs nothing, so it also checks the key."""
        pipeline = self._open()
        with pipeline.lifetime.operation():
            return await retrying(pipeline.gateway.credits, self._settings.retries, self._rng)

    def webhooks(self, public_url: str, *, notify: Callable[[str], object] | None = None) -> "Webhooks":
        """A receiver of callbacks; from now on the gateway is asked to report every new task to it.

        public_url: where the gateway reaches it; the same in every run, and called before anything is submitted.
        notify: called with the id of each task instead of this session's `notify`, to pass it on to other processes.
        Requests with a `callback_url` of their own keep it. Raises InvalidRequestError for a URL that is not public.
        """
        from krea_async.webhooks import Webhooks  # noqa: PLC0415 - a server, which most sessions do without

        pipeline, settings = self._open(), self._settings
        local = is_internal_host(urlsplit(settings.base_url).hostname or "")  # a sandbox
        webhooks = Webhooks(public_url, settings.api_key, notify or self.notify, local=local)
        pipeline.submitter.callback_url = webhooks.callback_url
        return webhooks

    def notify(self, task_id: str) -> None:
        """Read this task soon, for a callback says that it has finished; at most once a second.

        May be called from any thread. An id that the session does not follow costs nothing, nor does a closed session.
        """
        if self._pipeline is not None and self._loop is not None:
            if self._loop is running_loop():
                self._pipeline.poller.notify(task_id)
            else:
                with suppress(RuntimeError):  # that loop is closed
                    self._loop.call_soon_threadsafe(self._pipeline.poller.notify, task_id)

    @property
    def stats(self) -> SessionStats:
        """What the session is doing at this moment, and what it has found of the gateway's limits."""
        if self._pipeline is None:
            return SessionStats()
        submitter = self._pipeline.submitter
        return SessionStats(
            waiting=submitter.waiting,
            in_flight=submitter.in_flight,
            followed=self._pipeline.poller.followed,
            calls=self._pipeline.calls(),
            pace=submitter.governor.state,
            rate=submitter.governor.rate,
            limit=submitter.governor.limit,
        )

    def _open(self) -> Pipeline:
        if self._pipeline is None:
            raise SessionClosedError("the session is not open; use it inside `async with KreaSession() as session:`")
        self._pipeline.lifetime.check()
        return self._pipeline


def _check_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        words = " or ".join(map(repr, allowed))
        raise InvalidRequestError(f"{name} {value!r} is not {words}", field=name, value=value, allowed=words)


async def _poll(pipeline: Pipeline, scope: anyio.CancelScope) -> None:
    with scope:
        await pipeline.poller.run()


@contextmanager
def _told_why() -> Iterator[None]:
    """What stopped all submissions, in the words of one that was not made for it."""
    try:
        yield
    except NotSubmittedError as stopped:
        stopped.reason.message = f"not submitted, because the session takes no new requests: {stopped.reason.message}"
        raise stopped.reason from None
