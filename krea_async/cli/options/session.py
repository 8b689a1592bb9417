"""The options of every command that opens a session, and the session that comes of them."""

import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from krea_async.cli.options.choices import Number
from krea_async.cli.output import say
from krea_async.errors import ServiceError
from krea_async.events import Event, Listener, RetryScheduled
from krea_async.session import KreaSession

F = TypeVar("F", bound=Callable[..., Any])

TELL_AFTER: Final = 2
"""Failures in a row of one request: a connection that broke once is nothing to tell of."""

base_url_option = click.option(
    "--base-url", envvar="EVOLINK_BASE_URL", help="The gateway; a sandbox's URL to try without paying."
)

_OPTIONS = (
    base_url_option,
    click.option(
        "--concurrency",
        type=click.IntRange(1),
        help="Unfinished tasks at the most.  [default: what the gateway allows, up to 1000]",
    ),
    click.option("--rate", type=Number(1e-6), help="Submissions per second at the most."),
    click.option(
        "--downloads", type=click.IntRange(1), default=16, show_default=True, help="Pictures fetched at a time."
    ),
    click.option(
        "--task-timeout",
        type=Number(0, min_open=True),
        default=1800.0,
        show_default=True,
        help="Seconds to follow one task.",
    ),
)


def session_options(command: F) -> F:
    """The options that every command with a session has."""
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), command)


def session_of(options: dict[str, Any], on_event: Listener | None = None) -> KreaSession:
    """A session as `options` say, which are taken out of it; it tells once when the gateway cannot be reached."""
    taken = {name: options.pop(name) for name in ("base_url", "concurrency", "rate", "downloads")}
    told = False

    def listen(event: Event) -> None:
        nonlocal told
        if not told and isinstance(event, RetryScheduled) and event.status is None and event.failures == TELL_AFTER:
            told = event.error == ServiceError.__name__
            if told:
                say("the gateway cannot be reached, and is tried again; to look for the reason: krea-async doctor")
        if on_event is not None:
            on_event(event)

    return KreaSession(task_timeout_s=options.pop("task_timeout"), on_event=listen, **taken)
