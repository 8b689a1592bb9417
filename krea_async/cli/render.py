"""`krea-async render` and `resume`: a list, or what is left of one, into a directory."""

import shlex
import sys
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click

from krea_async.audit.recorded import no_journal
from krea_async.batch.collisions import name_problems
from krea_async.batch.opening import plan
from krea_async.batch.policy import BatchPolicy
from krea_async.cli.estimate import changed_words, checked
from krea_async.cli.exits import Exit, exit_with, in_loop, run_to_exit
from krea_async.cli.options.batch import BatchOptions, batch_options, new_row_options
from krea_async.cli.options.choices import DirectoryPath, Number
from krea_async.cli.options.paths import told_apart
from krea_async.cli.options.session import session_of, session_options
from krea_async.cli.options.sheet import SheetOptions, sheet_options
from krea_async.cli.output import say
from krea_async.cli.preview import preview_lines
from krea_async.cli.question import agreed
from krea_async.estimate import estimate
from krea_async.prompts import Expansion, PromptList
from krea_async.storage.history import JOURNAL_NAME

MAX_PROBLEMS_SHOWN: Final = 20
DEFAULT_DIRECTORY: Final = Path("renders")


@click.command(short_help="Make a picture of every row of prompt lists.")
@click.argument("prompts", metavar="PROMPTS... [DIRECTORY]", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--out", type=DirectoryPath(path_type=Path), help="The same as DIRECTORY.  [default: renders]")
@sheet_options
@click.option("--ask-above", type=Number(0), default=1.0, show_default=True, help="Dollars; on a terminal, ask first.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@new_row_options
@batch_options
@session_options
def render(prompts: tuple[str, ...], out: Path | None, ask_above: float, yes: bool, **options: Any) -> None:  # noqa: ANN401
    """Make a picture of every row of PROMPTS in DIRECTORY.

    PROMPTS are .txt, .jsonl, .csv, .tsv (each also as .gz) or .parquet files, patterns such as 'lists/*.csv', or - for
    standard input. .txt has one prompt per line, # starts a comment. The others have the fields prompt, size, quality,
    seed, nsfw_check, callback_url and id. The whole list is checked before the first picture is paid for; every bad
    row is named. Pictures are named after the row's number and prompt, after its id, or as --name says.

    Rows that are in DIRECTORY already are skipped, and what an earlier run left under way is taken up: the same
    command again goes on where it stopped, and pays for nothing twice.

    Ctrl-C stops submitting and finishes what is paid for, within --drain seconds; a second one stops at once.
    """
    lists, directory = told_apart(prompts, out)
    target = directory or DEFAULT_DIRECTORY
    sheet, batch = SheetOptions.taken_from(options), BatchOptions.taken_from(options)

    async def submit(rows: PromptList) -> int:
        async with session_of(options, on_event=batch.on_event) as opened:
            await plan(target, rows, batch.policy)
            running = opened.render(rows, target, **batch.caps, policy=batch.policy)
            code = await batch.run(running, target, rows=rows.rows, credits_listed=rows.credits)
        _point_to_doctor(code, target)
        return code

    def run() -> int:
        with sheet.open(lists) as rows:
            if not (checked(rows) and _named(rows, batch.policy)):
                return Exit.USAGE
            if not batch.is_quiet:
                say(f"{rows.rows} rows, {rows.credits:.2f} credits, ${rows.usd:.2f} by the price list")
                if sheet.policy.template or sheet.policy.expansion != Expansion():
                    say("\n".join(preview_lines(rows)))
            if not yes and not _may_spend(rows, target, batch, ask_above):
                return Exit.USAGE
            return in_loop(lambda: submit(rows))

    exit_with(run)  # what is asked is asked outside of the event loop, where Ctrl-C is heard at once


@click.command(short_help="Go on with what was begun in a directory, without its list.")
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
        async with session_of(options, on_event=batch.on_event) as opened:
            running = opened.resume(directory, **batch.caps, policy=batch.policy)
            code = await batch.run(running, directory, rows=None)
        _point_to_doctor(code, directory)
        return code

    run_to_exit(run)


def _named(rows: PromptList, policy: BatchPolicy) -> bool:
    """Whether every picture has a name of its own; rows that would share one are named on stderr."""
    problems = list(islice(name_problems(rows, policy), MAX_PROBLEMS_SHOWN + 1))
    for problem in problems[:MAX_PROBLEMS_SHOWN]:
        say(f"{rows.name}: {problem}")
    if problems:
        more = "and more; " if len(problems) > MAX_PROBLEMS_SHOWN else ""
        say(f"{more}mend --name; nothing was submitted")
    return not problems


def _point_to_doctor(code: int, directory: Path) -> None:
    if code in {Exit.SERVICE_UNAVAILABLE, Exit.DISK}:
        first = "make room, or mend the directory; " if code == Exit.DISK else ""
        say(f"  {first}to look for the reason: krea-async doctor --out {shlex.quote(str(directory))}")


def _may_spend(rows: PromptList, directory: Path, batch: BatchOptions, ask_above: float) -> bool:
    """Whether whoever sits at the terminal wants to spend that much; without a terminal nobody is asked."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    if rows.usd <= ask_above and not (directory / JOURNAL_NAME).exists():  # where rows may cost more than listed
        return True
    found = estimate(rows, directory, policy=batch.policy)
    if found.changed:
        say(f"of these rows {changed_words(found)}")
    usd = min(found.usd, batch.caps["max_usd"] or found.usd)
    if usd <= ask_above:
        return True
    pictures = f"{found.pictures} pictures ({found.credits:.2f} credits)"
    try:
        if agreed(f"Spend up to ${usd:.2f} on {pictures}?"):
            return True
    except KeyboardInterrupt:
        say("\nnothing was submitted")
        raise
    say("nothing was submitted")
    return False
