"""`krea-async credits`: what is left to spend, in words for people and as JSON for programs."""

import json
import sys
from random import Random

import attrs
import click

from krea_async.cli.exits import Exit, run_to_exit
from krea_async.cli.one_gateway import one_gateway, settings_of
from krea_async.cli.options.session import base_url_option
from krea_async.cli.output import put, say
from krea_async.gateway.client import Gateway
from krea_async.gateway.retrying import retrying
from krea_async.models import QUALITIES, ImageRequest


@click.command("credits", short_help="Print the balance.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON on a terminal, too.")
@base_url_option
def credits_command(as_json: bool, base_url: str | None) -> None:
    """Print the balance: in words on a terminal, else as JSON. Costs nothing, so it also checks the key.

    Exit codes: 0 printed; 4 the key was refused; 6 the gateway could not be asked.
    """

    async def run() -> int:
        settings = settings_of(base_url)
        async with one_gateway(settings) as transport:
            balance = await retrying(Gateway(transport).credits, settings.retries, Random())
        if sys.stdout.isatty() and not as_json:
            put(left(balance.remaining))
            return Exit.ALL_SAVED
        put(json.dumps(attrs.asdict(balance)))
        if not as_json:
            say(f"{'without a limit' if balance.remaining is None else f'{balance.remaining:.2f}'} credits left")
        return Exit.ALL_SAVED

    run_to_exit(run)


def left(remaining: float | None) -> str:
    """A balance, and what it buys by the price list; None: no limit is set."""
    if remaining is None:
        return "no limit is set on the credits"
    prices = {quality: ImageRequest("-", quality=quality).credits for quality in QUALITIES}
    counts = {quality: int(max(remaining, 0.0) / price + 1e-9) for quality, price in prices.items()}
    pictures = " or ".join(f"{count:,} pictures at {quality}" for quality, count in counts.items())
    return f"{remaining:.2f} credits left: {pictures}"
