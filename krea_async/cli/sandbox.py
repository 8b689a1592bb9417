"""`krea-async sandbox`: the local gateway as a server, for trying things and for tests in any language."""

import json
import signal
import sys
from typing import Any

import anyio
import click

from krea_async.cli.options.choices import OneOf
from krea_async.sandbox import Durations, Faults, Limits, Sandbox


@click.command(short_help="Serve a local gateway to try things on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8787, show_default=True, help="Of the API; 0: any.")
@click.option("--image-port", type=click.IntRange(0, 65535), default=0, help="Of the image host.  [default: any]")
@click.option("--key", default="sk-evo-sandbox", show_default=True, help="The API key that is accepted.")
@click.option("--credits", "balance", type=float, default=100_000.0, show_default=True, help="The account's balance.")
@click.option("--queue", type=float, default=0.2, show_default=True, help="Median seconds that tasks queue.")
@click.option("--run", "running", type=float, default=2.0, show_default=True, help="Median seconds that tasks run.")
@click.option("--sigma", type=float, default=0.3, show_default=True, help="Spread of both; 0: all the same.")
@click.option("--per-second", type=float, help="Limit: submissions per second (a token bucket).")
@click.option("--burst", type=int, help="Size of that bucket.  [default: one second's worth]")
@click.option("--per-window", type=(int, float), metavar="COUNT SECONDS", help="Limit: submissions per window.")
@click.option("--unfinished", type=int, help="Limit: unfinished tasks at a time.")
@click.option("--retry-after", type=OneOf(["seconds", "fraction", "date", "text"]), help="How a 429 names a time.")
@click.option("--faults", type=click.FloatRange(0, 1), default=0.0, help="Probability of each fault at every step.")
@click.option("--stall", type=float, default=30.0, show_default=True, help="Seconds that a stalled reply stalls.")
@click.option("--picture-bytes", type=int, help="Pad every picture to this size.")
@click.option("--scenes", type=int, help="Draw at most this many different pictures (for load tests).")
@click.option("--no-batch-route", is_flag=True, help="Answer 404 to batch reads.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of every random decision.")
def sandbox(**options: Any) -> None:  # noqa: ANN401 - click's own
    """Serve a local gateway that behaves like EvoLink's, makes real pictures and costs nothing.

    Prints its URLs as one line of JSON on stdout once it serves; GET /sandbox/ledger tells what happened.
    """
    try:
        anyio.run(_serve, options)
    except OSError as error:
        sys.exit(f"krea-async: the sandbox cannot be opened: {error.strerror or error}")


async def _serve(options: dict[str, Any]) -> None:
    async with Sandbox(
        port=options["port"],
        image_port=options["image_port"],
        key=options["key"],
        credits=options["balance"],
        durations=Durations(queue_s=options["queue"], run_s=options["running"], sigma=options["sigma"]),
        limits=Limits(
            per_second=options["per_second"],
            burst=options["burst"],
            per_window=options["per_window"],
            unfinished=options["unfinished"],
            retry_after=options["retry_after"],
        ),
        faults=Faults.everywhere(options["faults"], stall_s=options["stall"]),
        picture_bytes=options["picture_bytes"],
        scenes=options["scenes"],
        batch_route=not options["no_batch_route"],
        seed=options["seed"],
    ) as gateway:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            print(json.dumps({"url": gateway.url, "image_url": gateway.image_url, "key": gateway.key}), flush=True)
            print(
                f"In another terminal:\n  export EVOLINK_BASE_URL={gateway.url} EVOLINK_API_KEY={gateway.key}\n"
                '  krea-async generate "a lighthouse at dusk"\nCtrl-C ends it.',
                file=sys.stderr,
                flush=True,
            )
            async for _ in signals:
                break
