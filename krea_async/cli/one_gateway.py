"""The API without a session: one connection, one question, for commands that follow nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from krea_async.control.backoff import RetryPolicy
from krea_async.control.governor import PacingPolicy
from krea_async.control.polling import PollPolicy
from krea_async.gateway.transport import TimeoutPolicy, Transport, open_transport
from krea_async.settings import Settings
from krea_async.storage.download import DownloadPolicy


def settings_of(base_url: str | None, api_key: str | None = None) -> Settings:
    """Settings with the key and the address that a session would have. Raises what a session would."""
    return Settings(
        api_key=api_key,
        base_url=base_url,
        concurrency=1,
        rate=None,
        downloads=1,
        task_timeout_s=1.0,
        retries=RetryPolicy(attempts=3),
        pacing=PacingPolicy(),
        polling=PollPolicy(),
        timeouts=TimeoutPolicy(),
        downloading=DownloadPolicy(),
    )


@asynccontextmanager
async def one_gateway(settings: Settings) -> AsyncIterator[Transport]:
    """A transport with one connection."""
    async with open_transport(
        settings.base_url, settings.api_key, connections=1, timeouts=settings.timeouts
    ) as transport:
        yield transport
