"""`krea-async estimate`: a list is checked and priced, and nothing of it is sent."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import anyio
import click
from attrs import asdict

from krea_async.cli.exits import Exit, exit_of_error, run_to_exit
from krea_async.cli.options.choices import DirectoryPath, Number
from krea_async.cli.options.paths import told_apart
from krea_async.cli.options.session import base_url_option
from krea_async.cli.options.sheet import SheetOptions, sheet_options
from krea_async.cli.output import put, put_lines, say
from krea_async.cli.preview import preview_facts, preview_lines, rows_by_quality
from krea_async.errors import KreaError, ServiceError
from krea_async.estimate import ASSUMED_CONCURRENCY, Estimate, estimate
from krea_async.meter import clock
from krea_async.models import ImageRequest, Quality
from krea_async.prompts import PromptList
from krea_async.session import KreaSession
from krea_async.settings import KEY_VARIABLE
from krea_async.storage.disk import in_thread

BALANCE_WITHIN_S: Final = 10.0
"""How long the balance is waited for; the estimate can do without."""

_KINDS: Final = {
    "saved": "saved already",
    "to_fetch": "paid for and to be fetched",
    "copies": "copies of equal rows",
    "failed": "failed before, and left so",
    "unknown": "that may be paid for and are not sent again without --retry-unknown",
    "unanswered": "to be asked for again under their keys",
    "to_make": "to be made",
}


@click.command("estimate", short_help="Price a list, and say how long it takes.")
@click.argument("prompts", metavar="PROMPTS... [DIR]", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--out", type=DirectoryPath(path_type=Path), help="The same as DIR.")
@sheet_options
@click.option("--json", "as_json", is_flag=True, help="Print the estimate as JSON.")
@click.option("--concurrency", type=click.IntRange(1), default=ASSUMED_CONCURRENCY, show_default=True)
@click.option("--rate", type=Number(1e-6), help="Submissions per second at the most.")
@base_url_option
def estimate_command(  # noqa: PLR0917 - click calls it by name
    prompts: tuple[str, ...],
    out: Path | None,
    as_json: bool,
    concurrency: int,
    rate: float | None,
    base_url: str | None,
    **options: Any,  # noqa: ANN401
) -> None:
    """Print what rendering PROMPTS into DIR would cost, how long it would take, and whether the balance is enough.

    Nothing is submitted, and no file is written. What DIR holds already, or has paid for, costs nothing again. Prices
    are the list's, or what was charged in DIR; the time is a guess, and its basis is printed with it. Without a key the
    balance is left out.

    Exit codes: 0 printed, whether or not the balance is enough; 2 the list has bad rows, each is named; 4 the key was
    refused; 6 the balance could not be read; 9 the journal in DIR cannot be read.
    """
    lists, directory = told_apart(prompts, out)
    sheet = SheetOptions.taken_from(options)

    async def run() -> int:
        with sheet.open(lists) as rows:
            if not checked(rows):
                return Exit.USAGE
            found = await in_thread(lambda: estimate(rows, directory, concurrency=concurrency, rate=rate))
            counts = await in_thread(lambda: rows_by_quality(rows))
            preview, first = preview_lines(rows), preview_facts(rows)
        balance, missing = await _balance(base_url)
        if as_json:
            facts = {**_as_json(found, balance, missing), "by_quality": _by_quality(counts, found), "preview": first}
            put(json.dumps(facts))
        else:
            lines = _as_text(found, rows.name, directory, balance, missing)
            prices = ", ".join(_priced(quality, count, found) for quality, count in counts.items())
            put_lines([*lines, f"the list: {prices}", *preview, "nothing was submitted"])
        if missing is None:
            return Exit.ALL_SAVED
        say(f"krea-async: the balance is left out: {missing}")
        return exit_of_error(missing) if _has_key() else Exit.ALL_SAVED

    run_to_exit(run)


def checked(rows: PromptList) -> bool:
    """Whether the list has no bad row; each one is named on stderr."""
    problems = 0
    for problem in rows.check():
        problems += 1
        say(str(problem))
    if problems:
        words = "one problem" if problems == 1 else f"{problems} problems"
        say(f"{words} in {rows.name}; nothing was submitted")
    return not problems


def changed_words(found: Estimate) -> str:
    """What is to be known of rows whose id was another request before."""
    return (
        f"{found.changed} have an id that was another request in an earlier run, which counts; a new id makes another"
    )


def _has_key() -> bool:
    return bool(os.environ.get(KEY_VARIABLE, "").strip())


async def _balance(base_url: str | None) -> tuple[float | None, KreaError | None]:
    """The credits left (None: no limit is set), or why they are not known."""
    if not _has_key():
        return None, KreaError(f"there is no API key: set {KEY_VARIABLE}")
    try:
        with anyio.move_on_after(BALANCE_WITHIN_S):
            async with KreaSession(base_url=base_url) as session:
                return (await session.credits()).remaining, None
    except KreaError as error:
        return None, error
    return None, ServiceError(f"the gateway did not say it within {BALANCE_WITHIN_S:g} s")


def _as_json(found: Estimate, balance: float | None, missing: KreaError | None) -> dict[str, object]:
    facts: dict[str, object] = asdict(found)
    facts["charged"] = sorted(found.charged)
    facts["basis"] = found.basis
    facts["balance"] = balance
    facts["balance_known"] = missing is None
    facts["enough"] = found.is_covered_by(balance) if missing is None else None
    return facts


def _priced(quality: str, rows: int, found: Estimate) -> str:
    each = found.prices.get(quality, ImageRequest("-", quality=cast("Quality", quality)).credits)
    return f"{rows} at {quality} for {each:g} credits each"


def _by_quality(counts: Mapping[str, int], found: Estimate) -> dict[str, dict[str, float]]:
    listed = {quality: ImageRequest("-", quality=cast("Quality", quality)).credits for quality in counts}
    return {
        quality: {"rows": rows, "credits_each": found.prices.get(quality, listed[quality])}
        for quality, rows in counts.items()
    }


def _as_text(
    found: Estimate, name: str, directory: Path | None, balance: float | None, missing: KreaError | None
) -> list[str]:
    where = "" if directory is None else f", into {directory}"
    lines = [f"{found.rows} rows of {name}{where}"]
    if found.others:
        lines.append(f"{found.others} rows more that an earlier run left under way there")
    counts = asdict(found)
    lines += [f"  {counts[kind]} {words}" for kind, words in _KINDS.items() if counts[kind] or kind == "to_make"]
    if found.changed:
        lines.append(f"  {changed_words(found)}")
    differing = ", ".join(f"{quality} at {found.prices[quality]:g} credits" for quality in sorted(found.charged))
    source = f"as charged there before ({differing})" if differing else "by the price list"
    lines.append(f"cost: {found.credits:.2f} credits, ${found.usd:.2f} {source}")
    lines.append(f"time: about {clock(found.seconds)} ({found.basis})")
    if missing is None and balance is None:
        lines.append("balance: no limit is set")
    elif missing is None and balance is not None:
        short = found.credits - balance
        verdict = "enough" if short <= 0 else f"{short:.2f} too few"
        lines.append(f"balance: {balance:.2f} credits, {verdict}")
    return lines
