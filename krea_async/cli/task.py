"""`krea-async task`: what the gateway says of one task, and its picture. Costs nothing."""

import json
import re
from contextlib import suppress
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

import click

from krea_async.cli.exits import Exit, run_to_exit
from krea_async.cli.one_gateway import one_gateway, settings_of
from krea_async.cli.options.session import session_of, session_options
from krea_async.cli.output import put, put_lines, say
from krea_async.control.backlog import LINK_LIFETIME_S
from krea_async.errors import InvalidRequestError, KreaError, TaskFailedError, TaskNotFoundError
from krea_async.gateway.client import Gateway
from krea_async.gateway.refusals import failure_of
from krea_async.gateway.retrying import retrying
from krea_async.models import Task
from krea_async.results import GeneratedImage
from krea_async.storage.links import bare_links

_FORM: Final = re.compile(r"task-unified-[A-Za-z0-9_-]{1,100}")
_EXAMPLE: Final = "task-unified-1751280000-k2t9x8a3"
_FOUND_IN: Final = "journal.jsonl and manifest.jsonl of an output directory have them"


@click.command("task", short_help="Look one task up, wait for it, or fetch its picture.")
@click.argument("task_id", metavar="ID")
@click.option("--wait", is_flag=True, help="Follow it to its end.")
@click.option(
    "--save", "to", type=click.Path(), help="Follow it, and save its picture: a file, or a directory (with a slash)."
)
@click.option("--json", "as_json", is_flag=True, help="Print what is known as JSON.")
@session_options
def task_command(task_id: str, wait: bool, to: str | None, as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Print what the gateway says of the task ID: status, times, credits, and how long its links live.

    Links are shown without what is signed in them: whoever has the whole link has the picture. --save fetches it, as
    often as you like, for nothing, and prints its path.

    Exit codes: 0 the task is completed; 3 it failed; 7 it goes on; 2 there is no such task; 4 the key was refused; 6
    the gateway could not be asked; 9 disk.
    """

    async def run() -> int:
        _check_form(task_id)
        saved: GeneratedImage | None = None
        base_url = options["base_url"]
        try:
            task = await _read(task_id, base_url)
            if (wait or to is not None) and (to is not None or not task.finished):
                saved = await _followed(task_id, to, options)
                task = await _read(task_id, base_url)
        except TaskNotFoundError as error:
            raise InvalidRequestError(
                f"the gateway does not know {task_id}: is a letter wrong, is it of another account, or has it expired? "
                f"{_FOUND_IN}",
                status=error.status,
                request_id=error.request_id,
            ) from None
        _tell(task, saved, as_json=as_json)
        return _exit_of(task)

    run_to_exit(run)


def _check_form(task_id: str) -> None:
    if not _FORM.fullmatch(task_id):
        raise InvalidRequestError(f"{task_id!r} is no task id; they look like {_EXAMPLE}, and {_FOUND_IN}")


async def _read(task_id: str, base_url: str | None) -> Task:
    settings = settings_of(base_url)
    async with one_gateway(settings) as transport:
        gateway = Gateway(transport)
        return await retrying(lambda: gateway.read(task_id), settings.retries, Random())


async def _followed(task_id: str, to: str | None, options: dict[str, Any]) -> GeneratedImage | None:
    say(f"following {task_id}, {options['task_timeout']:g} s at the most; Ctrl-C ends only the waiting")
    async with session_of(options) as session:
        job = session.attach(task_id)
        with suppress(TaskFailedError):  # which is told with all the rest
            if to is not None:
                return await job.save(to)
            await job.wait()
    return None


def _exit_of(task: Task) -> int:
    if not task.finished:
        return Exit.UNFINISHED
    return Exit.ALL_SAVED if task.status == "completed" else Exit.SOME_FAILED


def _tell(task: Task, saved: GeneratedImage | None, *, as_json: bool) -> None:
    now = datetime.now(UTC)
    if as_json:
        facts = _facts(task, now)
        facts["file"] = None if saved is None else str(saved.path)
        put(json.dumps(facts, ensure_ascii=False))
    elif saved is not None:
        say("\n".join(_lines(task, now, is_saved=True)))
        put("".join(f"{path}\n" for path in saved.paths))
    else:
        put_lines(_lines(task, now))


def _facts(task: Task, now: datetime) -> dict[str, Any]:
    ends = _links_end(task)
    error = _error_of(task)
    return {
        "task_id": task.id,
        "status": task.status,
        "progress": task.progress,
        "created": task.created,
        "estimated_time_s": task.estimated_time_s,
        "duration_s": task.duration_s,
        "credits_reserved": task.credits_reserved,
        "credits_used": task.credits_used,
        "error": None if task.error is None else {"code": task.error.code, "message": task.error.message},
        "retryable": None if error is None else error.retryable,
        "links": list(bare_links(task.results)),
        "links_end": None if ends is None else ends.timestamp(),
        "links_expired": None if ends is None else ends <= now,
    }


def _lines(task: Task, now: datetime, *, is_saved: bool = False) -> list[str]:
    lines = [f"{task.id}: {task.status}" + ("" if task.finished else f", {task.progress} %")]
    if (ordered := _moment(task.created)) is not None:
        lines.append(f"  ordered {_when(ordered)}, {_span((now - ordered).total_seconds())} ago")
    if task.duration_s is not None:
        lines.append(f"  took {task.duration_s:.1f} s")
    elif not task.finished and task.estimated_time_s is not None:
        lines.append(f"  takes about {task.estimated_time_s:.0f} s, the gateway guesses")
    if task.credits_used is not None:
        lines.append(f"  charged {task.credits_used:.2f} credits")
    elif task.credits_reserved is not None and task.status not in {"failed", "cancelled"}:
        lines.append(f"  reserved {task.credits_reserved:.2f} credits")
    error = _error_of(task)
    if error is not None:
        again = "the same prompt may do better" if error.retryable else "the same prompt would fail again"
        lines.append(f"  {error.code}: {error.message}; not charged, {again}")
    lines += [f"  {link}" for link in bare_links(task.results)]
    ends = _links_end(task)
    if ends is not None and not is_saved:
        left_s = (ends - now).total_seconds()
        lines.append(
            f"  links live until {_when(ends)}, {_span(left_s)} more; fetch with: krea-async task {task.id} --save ."
            if left_s > 0
            else f"  links ended {_when(ends)}; krea-async task {task.id} --save . tries for a fresh one"
        )
    if not task.finished:
        lines.append(f"  to wait for it: krea-async task {task.id} --wait")
    return lines


def _error_of(task: Task) -> KreaError | None:
    return failure_of(task) if task.status in {"failed", "cancelled"} else None


def _links_end(task: Task) -> datetime | None:
    """When the links are gone at the earliest: a task may have been done as soon as it was ordered."""
    return _moment(task.created + LINK_LIFETIME_S) if task.created is not None and task.results else None


def _moment(at_s: float | None) -> datetime | None:
    """None also for what no calendar has: the gateway may say anything."""
    with suppress(OverflowError, OSError, ValueError):
        return None if at_s is None else datetime.fromtimestamp(at_s, UTC)
    return None


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _span(seconds: float) -> str:
    minutes = max(0, round(seconds)) // 60
    if minutes == 0:
        return f"{max(0, round(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
