"""`krea-async generate`: one picture."""

import json
from typing import Any

import click

from krea_async.cli.exits import Exit, run_to_exit
from krea_async.cli.options.choices import OneOf
from krea_async.cli.options.session import session_of, session_options
from krea_async.cli.output import put
from krea_async.models import QUALITIES, SIZES, ImageRequest
from krea_async.storage.manifest import manifest_row


@click.command(short_help="Make one picture and print its path.")
@click.argument("prompt")
@click.option("--size", type=OneOf(SIZES), default="1:1", show_default=True, help="Aspect ratio.")
@click.option("--quality", type=OneOf(QUALITIES), default="1K", show_default=True, help="Resolution and price.")
@click.option("--seed", type=int, help="0 to 1048576; the same seed and prompt may give the same picture.")
@click.option("--nsfw-check", is_flag=True, help="Moderate more strictly than the API does by itself.")
@click.option(
    "--to", type=click.Path(), default=".", show_default=True, help="File, or directory (with a slash at its end)."
)
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON instead of the path.")
@session_options
def generate(prompt: str, to: str, as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Make one picture of PROMPT and print its path."""

    async def run() -> int:
        request = ImageRequest(
            prompt, **{name: options.pop(name) for name in ("size", "quality", "seed", "nsfw_check")}
        )
        async with session_of(options) as session:
            image = await session.generate(request, to=to)
        put(json.dumps(manifest_row(image), ensure_ascii=False) if as_json else str(image.path))
        return Exit.ALL_SAVED

    run_to_exit(run)
