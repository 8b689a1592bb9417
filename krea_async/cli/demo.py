"""`krea-async demo`: the whole way, from a prompt list to pictures, with nothing but this package."""

import sys
from pathlib import Path
from typing import Final

from krea_async.cli.running import run_batch
from krea_async.models import ImageRequest
from krea_async.sandbox import Durations, Sandbox
from krea_async.session import KreaSession

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


async def run_demo(directory: Path) -> int:
    """Render the demo's prompts into `directory` and return the exit code."""
    print(f"{len(PROMPTS)} prompts, a local sandbox instead of the gateway: no key, no cost", file=sys.stderr)
    async with (
        Sandbox(durations=Durations(queue_s=0.3, run_s=2.0)) as sandbox,
        KreaSession(sandbox.key, base_url=sandbox.url) as session,
    ):
        batch = session.render(PROMPTS, directory)
        code = await run_batch(batch, directory, rows=len(PROMPTS), as_json=False, drain_s=30.0)
    print(f"Look at the pictures in {directory}", file=sys.stderr)
    print("The real thing: set EVOLINK_API_KEY, then krea-async render prompts.txt --out renders/", file=sys.stderr)
    return code
