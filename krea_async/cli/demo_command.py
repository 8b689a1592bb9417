"""`krea-async demo` as a command."""

from functools import partial
from pathlib import Path

import click

from krea_async.cli.demo import run_demo
from krea_async.cli.exits import run_to_exit


@click.command(short_help="Render a dozen pictures without a key, cost or network.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("krea-demo"), show_default=True, help="Directory.")
def demo(out: Path) -> None:
    """Render a dozen pictures through a gateway of our own: no key, no cost, no network."""
    run_to_exit(partial(run_demo, out))
