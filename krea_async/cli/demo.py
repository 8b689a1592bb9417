"""`krea-async demo`: the whole way, from a prompt list to pictures and their page, with nothing but this package."""

import shlex
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from krea_async.cli.exits import run_to_exit
from krea_async.cli.output import say
from krea_async.cli.watching.running import run_batch
from krea_async.meter import Meter
from krea_async.models import ImageRequest
from krea_async.sandbox import Durations, Sandbox
from krea_async.session import KreaSession
from krea_async.storage.disk import in_thread

PROMPTS: Final = (
    ImageRequest("A lighthouse on a basalt cliff at dusk, long exposure", size="16:9", quality="2K", seed=11),
    ImageRequest("Terraced rice fields under morning fog, seen from above", size="3:2", seed=12),
    ImageRequest("A night train crossing a viaduct, snow in the air", size="2:1", seed=13),
    ImageRequest("Poster of a mountain observatory, screen print, four inks", size="2:3", seed=14),
    ImageRequest("Dunes after rain, low sun, fine grain", size="4:3", seed=15),
    ImageRequest("A quiet harbour with wooden boats, gouache", size="1:1", seed=16),
    ImageRequest("Northern lights above a frozen lake", size="9:16", quality="2K", seed=17),
    ImageRequest("A valley of wind turbines in late summer", size="5:4", seed=18),
    ImageRequest("Book cover: the island that was not on the map", size="4:5", seed=19),
    ImageRequest("Volcanic coast, black sand, turquoise surf", size="1:2", seed=20),
    ImageRequest("An alpine meadow in the style of a 1930s travel poster", size="3:4", seed=21),
    ImageRequest("Desert road to a distant storm, cinematic", size="1:1", quality="2K", seed=22),
)


@click.command(short_help="Render a dozen pictures without a key, cost or network.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("krea-demo"), show_default=True, help="Directory.")
def demo(out: Path) -> None:
    """Render a dozen pictures through a gateway of our own: no key, no cost, no network."""
    run_to_exit(partial(_run, out))


async def _run(directory: Path) -> int:
    say(f"{len(PROMPTS)} prompts, a local sandbox instead of the gateway: no key, no cost")
    meter = Meter()
    async with (
        Sandbox(durations=Durations(queue_s=0.3, run_s=2.0)) as sandbox,
        KreaSession(sandbox.key, base_url=sandbox.url, on_event=meter.hear) as session,
    ):
        batch = session.render(PROMPTS, directory)
        code = await run_batch(batch, directory, rows=len(PROMPTS), meter=meter)
    await in_thread(lambda: _show(directory))
    say("The real thing: set EVOLINK_API_KEY, then krea-async render prompts.txt --out renders/")
    return code


def _show(directory: Path) -> None:
    where = shlex.quote(str(directory))
    if find_spec("PIL") is None:
        say(f"The contact sheet needs Pillow: pip install 'krea-async[cli]', then krea-async gallery {where}")
        return
    from krea_async.gallery.writing import write_gallery  # noqa: PLC0415 - needs an extra

    page = write_gallery(directory).page
    say(f"Look at the pictures: {page}")
    if sys.stderr.isatty():
        say(f"To open it: krea-async gallery {where} --open")
