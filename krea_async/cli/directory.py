"""`krea-async verify`, `report` and `compact`: what an output directory holds, what it cost, and making it smaller."""

import json
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import click
from attrs import asdict

from krea_async.audit.recorded import no_journal
from krea_async.audit.repair import RepairReport, repair
from krea_async.audit.report import directory_report
from krea_async.audit.report_text import report_text
from krea_async.audit.verify import Problem, VerifyReport, verify
from krea_async.cli.exits import Exit, exit_with
from krea_async.cli.options.choices import DirectoryPath
from krea_async.cli.options.session import base_url_option
from krea_async.cli.output import put, say
from krea_async.session import KreaSession
from krea_async.storage.compact import compact
from krea_async.storage.history import JOURNAL_NAME

MAX_NAMES_SHOWN: Final = 20

_DIRECTORY: Final = click.argument("directory", metavar="DIR", type=DirectoryPath(path_type=Path))


@click.command("verify", short_help="Compare the pictures of a directory with what was saved.")
@_DIRECTORY
@click.option("--repair", "with_repair", is_flag=True, help="Fetch again what is damaged or missing; costs nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON report instead of the bad files' paths.")
@click.option("--no-decode", is_flag=True, help="Do not read every pixel: faster, and finds less.")
@base_url_option
def verify_command(directory: Path, with_repair: bool, as_json: bool, no_decode: bool, base_url: str | None) -> None:
    """Compare every picture that was saved in DIR with its file.

    Each must be there, with the bytes that were saved, whole, decodable, of the documented size, and no second copy.
    Prints the paths of those that are not. --repair fetches them again as long as the gateway has them, keeps a damaged
    file beside the new one, and says what the rest would cost. It never orders a picture.

    Exit codes: 0 all is well; 3 problems are left; 2 nothing was rendered into DIR; 9 disk, or DIR is in use.
    """

    def run() -> int:
        report = verify(directory, decode=not no_decode)
        repaired = anyio.run(partial(_repaired, directory, report, base_url)) if with_repair else None
        left = report.problems if repaired is None else tuple(one.problem for one in repaired.left)
        if as_json:
            put(json.dumps(_verify_json(report, repaired)))
        else:
            _tell(report, repaired)
            names = dict.fromkeys(problem.file for problem in left if problem.kind != "unsafe_name")
            put("".join(f"{directory / name}\n" for name in names))
        return Exit.SOME_FAILED if left or report.damaged_lines else Exit.ALL_SAVED

    exit_with(run)


@click.command("report", short_help="Print the books of a directory.")
@_DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def report_command(directory: Path, as_json: bool) -> None:
    """Print the books of DIR: rows, credits, failures, times, and what nobody knows the end of.

    Exit codes: 0 printed; 2 nothing was rendered into DIR; 9 disk.
    """

    def run() -> int:
        report = directory_report(directory)
        put(json.dumps(report.as_json()) if as_json else "\n".join(report_text(report)))
        return Exit.ALL_SAVED

    exit_with(run)


@click.command("compact", short_help="Make the journal of a directory smaller.")
@_DIRECTORY
def compact_command(directory: Path) -> None:
    """Make the journal of DIR smaller: what is done with is left out, what resume needs is kept.

    Exit codes: 0 done; 2 nothing was rendered into DIR; 9 disk, or DIR is in use.
    """

    def run() -> int:
        if not (directory / JOURNAL_NAME).is_file():
            raise no_journal(directory)
        before, after = compact(directory)
        say(f"{directory / JOURNAL_NAME}: {before} bytes before, {after} after")
        return Exit.ALL_SAVED

    exit_with(run)


async def _repaired(directory: Path, report: VerifyReport, base_url: str | None) -> RepairReport:
    if not any(problem.repairable for problem in report.problems):
        return await repair(None, directory, report.problems)  # which needs no key
    async with KreaSession(base_url=base_url) as session:
        return await repair(session, directory, report.problems)


def _verify_json(report: VerifyReport, repaired: RepairReport | None) -> dict[str, Any]:
    facts = asdict(report)
    facts["directory"] = str(report.directory)
    facts["ok"] = report.ok
    facts["repair"] = None
    if repaired is not None:
        facts["repair"] = asdict(repaired)
        facts["repair"]["rerender_credits"] = repaired.rerender_credits
        facts["repair"]["rerender_usd"] = repaired.rerender_usd
    return facts


def _tell(report: VerifyReport, repaired: RepairReport | None) -> None:
    decoded = f"{report.decoded} decoded with {report.decoder}" if report.decoder else "none decoded"
    say(f"{report.rows} saved rows by the {report.source}, {report.files} files, {decoded}")
    if repaired is None:
        for problem in report.problems:
            say(_described(problem, problem.message))
        if again := len({problem.n for problem in report.problems if problem.repairable}):
            say(f"{again} rows may be fetched again with --repair, at no cost")
    else:
        for problem in repaired.repaired:
            say(_described(problem, f"repaired; {problem.message}"))
        for one in repaired.left:
            say(_described(one.problem, f"{one.problem.message}; {one.outlook}: {one.reason}"))
        if repaired.rerender_credits:
            price = f"{repaired.rerender_credits:.2f} credits, ${repaired.rerender_usd:.2f}"
            say(f"rendering again what is gone costs {price} by the price list")
    _say_names("picture files belong to no row", report.strays)
    _say_names("downloads were not finished; a run that goes on removes its own", report.parts)
    if report.damaged_lines:
        numbers = ", ".join(map(str, report.damaged_lines[:MAX_NAMES_SHOWN]))
        say(f"{len(report.damaged_lines)} lines of the {report.source} are damaged, and were left out: {numbers}")


def _described(problem: Problem, words: str) -> str:
    return f"row {problem.index} ({problem.file}): {words}"


def _say_names(words: str, names: tuple[str, ...]) -> None:
    if names:
        more = ", …" if len(names) > MAX_NAMES_SHOWN else ""
        say(f"{len(names)} {words}: {', '.join(names[:MAX_NAMES_SHOWN])}{more}")
