"""The options that `render` and `resume` share, and the batch that comes of them."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import click
from attrs import evolve, field, frozen

from krea_async.batch.policy import BatchPolicy
from krea_async.batch.run import Batch
from krea_async.cli.options.choices import Number
from krea_async.cli.watching.progress import Mode
from krea_async.errors import InvalidRequestError
from krea_async.events import Listener
from krea_async.meter import Meter
from krea_async.storage.journal import JournalPolicy
from krea_async.storage.template import NameTemplate

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--max-credits", type=Number(0), help="What all runs in the directory may spend, at most."),
    click.option("--max-usd", type=Number(0), help="The same in dollars."),
    click.option("--canary", type=click.IntRange(0), default=0, help="So many new rows run to their end first."),
    click.option("--no-breaker", is_flag=True, help="Go on even if row after row fails for one fault of the prompts."),
    click.option("--no-dedupe", is_flag=True, help="Pay for rows that are equal, seed included, one by one."),
    click.option("--retry-failed", is_flag=True, help="Send failed rows again where another try may help."),
    click.option("--code", "codes", multiple=True, help="With --retry-failed: rows of this error code, and no others."),
    click.option("--retry-unknown", is_flag=True, help="Send rows again that may have been charged already."),
    click.option("--check-sha256", is_flag=True, help="Read pictures that are there already, not only their size."),
    click.option("--skip-damaged", is_flag=True, help="Go on although lines of the journal are damaged."),
    click.option("--no-sync", is_flag=True, help="Do not wait for the disk: a power cut may lose what was paid for."),
    click.option("--drain", "drain_s", type=Number(0), default=30.0, show_default=True, help="Seconds."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but what somebody has to act on."),
    click.option("--plain", is_flag=True, help="Lines instead of bars, also on a terminal."),
    click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines instead of the pictures' paths."),
)

_NEW_ROW_OPTIONS = (
    click.option("--name", help="Template of the file names, such as '{index:06d}-{slug}.{ext}'."),
    click.option("--record-seeds", is_flag=True, help="Choose and record a seed for rows without one."),
)


def batch_options(command: F) -> F:
    """The options of every command that runs a batch."""
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), command)


def new_row_options(command: F) -> F:
    """Those of a command that notes new rows: a row that is noted keeps its name and its seed."""
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_NEW_ROW_OPTIONS), command)


@frozen(kw_only=True)
class BatchOptions:
    """What the user said of the batch. mode: how its progress is shown."""

    caps: dict[str, float | None]
    policy: BatchPolicy
    mode: Mode
    as_json: bool
    meter: Meter = field(factory=Meter)

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> Self:
        """Take the options of a batch out of `options`; what is left is for the session."""
        caps = {name: options.pop(name) for name in ("max_credits", "max_usd")}
        codes = options.pop("codes")
        if codes and not options["retry_failed"]:
            raise click.UsageError("--code says which rows --retry-failed sends again; give both")
        try:
            if (name := options.get("name")) is not None:
                NameTemplate.parse(name)
        except InvalidRequestError as error:
            raise click.UsageError(f"--{error.message}") from error  # it begins with "name"
        policy = BatchPolicy(
            dedupe=not options.pop("no_dedupe"),
            retry_codes=codes or None,
            read_balance=True,
            journal=JournalPolicy(sync=not options.pop("no_sync")),
            **{name: options.pop(name) for name in _POLICY_FIELDS if name in options},
        )
        if options.pop("no_breaker"):
            policy = evolve(policy, breaker=None)
        quiet, plain = options.pop("quiet"), options.pop("plain")
        mode: Mode = "quiet" if quiet else "plain" if plain else "auto"
        return cls(caps=caps, policy=policy, mode=mode, as_json=options.pop("as_json"))

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is to be said but what somebody has to act on."""
        return self.mode == "quiet"

    @property
    def on_event(self) -> Listener:
        """For the session that the batch runs in: what it tells is counted, and shown."""
        return self.meter.hear

    async def run(self, batch: Batch, directory: Path, *, rows: int | None, credits_listed: float | None = None) -> int:
        """Run `batch` and return the exit code. rows, credits_listed: of the list, if they are known."""
        from krea_async.cli.watching.running import run_batch  # noqa: PLC0415 - whoever asks for help does without

        return await run_batch(
            batch,
            directory,
            rows=rows,
            as_json=self.as_json,
            drain_s=self.policy.drain_s,
            mode=self.mode,
            meter=self.meter,
            credits_listed=credits_listed,
        )


_POLICY_FIELDS = (
    "drain_s",
    "canary",
    "retry_failed",
    "retry_unknown",
    "check_sha256",
    "skip_damaged",
    "name",
    "record_seeds",
)
