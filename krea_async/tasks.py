"""A task group whose single failure leaves it as itself, so that callers can catch the error they know."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup


@asynccontextmanager
async def task_group() -> AsyncIterator[TaskGroup]:
    """Anyio's task group; a lone exception comes out bare, several come out as an ExceptionGroup."""
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseExceptionGroup as failures:
        if len(failures.exceptions) > 1:
            raise
        error = failures.exceptions[0]
        context, suppressed = error.__context__, error.__suppress_context__
        try:
            raise error
        finally:  # a raise would put the group in the place of what led to the error
            error.__context__, error.__suppress_context__ = context, suppressed
