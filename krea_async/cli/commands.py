"""The commands of `krea-async` and their options."""

import functools
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click

from krea_async._version import __version__
from krea_async.audit.recorded import no_journal
from krea_async.batch.opening import plan
from krea_async.cli.batch_options import BatchOptions, batch_options
from krea_async.cli.demo import run_demo
from krea_async.cli.directory import compact_command, report_command, verify_command
from krea_async.cli.estimate import checked, estimate_command
from krea_async.cli.exits import Exit, run_to_exit
from krea_async.cli.output import put, say
from krea_async.cli.progress import StderrHandler
from krea_async.cli.sandbox import sandbox
from krea_async.estimate import estimate
from krea_async.models import QUALITIES, SIZES, ImageRequest
from krea_async.prompts import PromptList
from krea_async.session import KreaSession
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.manifest import manifest_row

F = TypeVar("F", bound=Callable[..., Any])

SESSION_OPTIONS = (
    click.option("--base-url", envvar="EVOLINK_BASE_URL", help="The gateway; a sandbox's URL to try without paying."),
    click.option(
        "--concurrency",
        type=click.IntRange(1),
        help="Unfinished tasks at the most.  [default: what the gateway allows, up to 1000]",
    ),
    click.option("--rate", type=click.FloatRange(0, min_open=True), help="Submissions per second at the most."),
    click.option(
        "--downloads", type=click.IntRange(1), default=16, show_default=True, help="Pictures fetched at a time."
    ),
    click.option("--task-timeout", type=float, default=1800.0, show_default=True, help="Seconds to follow one task."),
)


def session_options(command: F) -> F:
    """The options that every command with a session has."""
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(SESSION_OPTIONS), command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
@click.option("-v", "--verbose", count=True, help="Say more: -v what happens, -vv all of it.")
def krea_async(verbose: int) -> None:
    """Render pictures in bulk through EvoLink's krea-2-turbo API.

    The key comes from EVOLINK_API_KEY and is never an argument. Paths and JSON go to stdout, all else to stderr.

    \b
    Try it without a key:      krea-async demo
    A list of prompts:         krea-async render prompts.txt --out renders/
    What it would cost:        krea-async estimate prompts.txt renders/
    One picture:               krea-async generate "a lighthouse at dusk" --size 16:9
    Is every picture there?    krea-async verify renders/
    What did it cost?          krea-async report renders/
    A gateway of your own:     krea-async sandbox --port 8787

    \b
    Exit codes: 0 all saved; 1 internal error; 2 usage or bad input; 3 some rows failed, or
    verify found problems; 4 key refused; 5 credits or budget ran out; 6 service unavailable;
    7 unfinished; 9 disk, or the directory is in use; 130/143 after a signal.
    """  # noqa: D301 - the escapes are meant: they keep click from joining the lines
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", handlers=[StderrHandler()])


@krea_async.command()
@click.argument("prompts", metavar="PROMPTS")
@click.argument("directory", metavar="[DIRECTORY]", type=click.Path(path_type=Path), required=False)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The same as DIRECTORY.  [default: renders]")
@click.option("--format", "form", type=click.Choice(["txt", "jsonl", "csv", "tsv"]), help="Instead of the extension's.")
@click.option(
    "--ask-above", type=click.FloatRange(0), default=1.0, show_default=True, help="Dollars; on a terminal, ask first."
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@batch_options
@session_options
def render(  # noqa: PLR0917 - click calls it by name
    prompts: str,
    directory: Path | None,
    out: Path | None,
    form: Any,  # noqa: ANN401 - one of the choices
    ask_above: float,
    yes: bool,
    **options: Any,  # noqa: ANN401
) -> None:
    """Make a picture of every row of PROMPTS, a .txt, .jsonl, .csv or .tsv file or - for standard input, in DIRECTORY.

    .txt has one prompt per line, # starts a comment. The others have the fields prompt, size, quality, seed,
    nsfw_check, callback_url and id. The whole list is checked before the first picture is paid for; every bad
    row is named. Pictures are named after the row's number and prompt, or after its id.

    Rows that are in DIRECTORY already are skipped, and what an earlier run left under way is taken up: the same
    command again goes on where it stopped, and pays for nothing twice.

    Ctrl-C stops submitting and finishes what is paid for, within --drain seconds; a second one stops at once.
    """
    if directory is not None and out is not None:
        raise click.UsageError("name the directory once: as DIRECTORY or with --out")
    target = directory or out or Path("renders")
    batch = BatchOptions.taken_from(options)

    async def run() -> int:
        with PromptList.open(prompts, format=form) as rows:
            if not checked(rows):
                return Exit.USAGE
            say(f"{rows.rows} rows, {rows.credits:.2f} credits, ${rows.usd:.2f} by the price list")
            if rows.usd > ask_above and not yes and not _agreed(rows, target, batch, ask_above):
                say("nothing was submitted")
                return Exit.USAGE
            async with _session(options) as opened:
                await plan(target, rows, batch.policy)
                running = opened.render(rows, target, **batch.caps, policy=batch.policy)
                return await batch.run(running, target, rows=rows.rows)

    run_to_exit(run)


@krea_async.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@batch_options
@session_options
def resume(directory: Path, **options: Any) -> None:  # noqa: ANN401
    """Go on with what was begun in DIRECTORY, without the list that it came from.

    Pictures that are paid for are fetched first, then the rows that were not sent yet are. Rows that failed stay
    failed unless --retry-failed is given.
    """
    batch = BatchOptions.taken_from(options)

    async def run() -> int:
        if not (directory / JOURNAL_NAME).exists():
            raise no_journal(directory)
        async with _session(options) as opened:
            running = opened.resume(directory, **batch.caps, policy=batch.policy)
            return await batch.run(running, directory, rows=None)

    run_to_exit(run)


@krea_async.command()
@click.argument("prompt")
@click.option("--size", type=click.Choice(SIZES), default="1:1", show_default=True, help="Aspect ratio.")
@click.option("--quality", type=click.Choice(QUALITIES), default="1K", show_default=True, help="Resolution and price.")
@click.option("--seed", type=int, help="0 to 1048576; the same seed and prompt may give the same picture.")
@click.option("--nsfw-check", is_flag=True, help="Moderate more strictly than the API does by itself.")
@click.option("--to", default=".", show_default=True, help="File, or directory (with a slash at its end).")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON instead of the path.")
@session_options
def generate(prompt: str, to: str, as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Make one picture of PROMPT and print its path."""

    async def run() -> int:
        request = ImageRequest(
            prompt, **{name: options.pop(name) for name in ("size", "quality", "seed", "nsfw_check")}
        )
        async with _session(options) as session:
            image = await session.generate(request, to=to)
        put(json.dumps(manifest_row(image), ensure_ascii=False) if as_json else str(image.path))
        return Exit.ALL_SAVED

    run_to_exit(run)


@krea_async.command()
@click.option("--base-url", envvar="EVOLINK_BASE_URL", help="The gateway.")
def credits(base_url: str | None) -> None:  # noqa: A001 - the command's name
    """Print the balance as JSON. Costs nothing, so it also checks the key."""

    async def run() -> int:
        async with KreaSession(base_url=base_url) as session:
            balance = await session.credits()
        put(json.dumps(attrs.asdict(balance)))
        left = "without a limit" if balance.remaining is None else f"{balance.remaining:.2f}"
        say(f"{left} credits left")
        return Exit.ALL_SAVED

    run_to_exit(run)


@krea_async.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("krea-demo"), show_default=True, help="Directory.")
def demo(out: Path) -> None:
    """Render a dozen pictures through a gateway of our own: no key, no cost, no network."""
    run_to_exit(functools.partial(run_demo, out))


krea_async.add_command(estimate_command)
krea_async.add_command(verify_command)
krea_async.add_command(report_command)
krea_async.add_command(compact_command)
krea_async.add_command(sandbox)


def _session(options: dict[str, Any]) -> KreaSession:
    timeout_s = options.pop("task_timeout")
    return KreaSession(task_timeout_s=timeout_s, **options)


def _agreed(rows: PromptList, directory: Path, batch: BatchOptions, ask_above: float) -> bool:
    """Whether whoever sits at the terminal wants to spend that much; without a terminal nobody is asked."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    found = estimate(rows, directory, policy=batch.policy)
    usd = min(found.usd, batch.caps["max_usd"] or found.usd)
    if usd <= ask_above:
        return True
    pictures = f"{found.pictures} pictures ({found.credits:.2f} credits)"
    try:
        return click.confirm(f"Spend up to ${usd:.2f} on {pictures}?", default=False, err=True)
    except click.Abort:  # the end of the input, or Ctrl-C
        return False
