"""`krea-async gallery`: a directory of pictures as a page, written once, or served while a run goes on."""

import signal
import sys
import time
import webbrowser
from contextlib import AsyncExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NoReturn, Self

import anyio
import click

from krea_async.cli.exits import Exit, exit_of_signal, exit_with
from krea_async.cli.output import put, say
from krea_async.cli.watching.progress import is_painted
from krea_async.storage.disk import in_thread
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.manifest import MANIFEST_NAME

PLAIN_EVERY_S: Final = 5.0
PAINTED_EVERY_S: Final = 0.1

NO_PILLOW: Final = "thumbnails need Pillow; install it with: pip install 'krea-async[cli]'"

_PLACES: Final = ("auto", "embed", "files", "none")


@click.command("gallery", short_help="Show the pictures of a directory as a page.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="The page.  [default: DIR/gallery.html]"
)
@click.option(
    "--thumbnails",
    type=click.Choice(_PLACES),
    default="auto",
    show_default=True,
    help="In the page, as files beside the pictures, or none; auto: in the page up to 20,000.",
)
@click.option("--serve", is_flag=True, help="Show a run while it goes on, on this machine only.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="With --serve.  [default: any that is free]")
@click.option("--open", "open_it", is_flag=True, help="Open the page in the browser.")
def gallery_command(  # noqa: PLR0917 - click calls it by name
    directory: Path,
    out: Path | None,
    thumbnails: Any,  # noqa: ANN401 - one of the choices
    serve: bool,
    port: int,
    open_it: bool,
) -> None:
    """Write one page that shows all pictures of DIR, with what was asked for and what it cost, and print its path.

    It needs no network, and up to 20,000 pictures it is one file. Failed rows are there with their reasons.
    Small pictures are kept in DIR/.gallery, so the next time only new ones are made. A run may go on meanwhile.

    --serve shows it live: pictures as they land, on 127.0.0.1, for whoever has the URL that is printed. DIR need not be
    there yet. Ctrl-C ends it. No key is needed, and none is read.

    Exit codes: 0 done; 2 nothing was rendered into DIR, or the port is in use; 9 disk.
    """
    if serve and (out is not None or thumbnails != "auto"):
        raise click.UsageError("--out and --thumbnails are for a page that is written, not for --serve")
    if out is not None and out.suffix.lower() not in {".html", ".htm"}:
        raise click.UsageError(f"--out {out}: a page ends in .html; anything else may be a picture or the journal")
    if port and not serve:
        raise click.UsageError("--port goes with --serve")
    if serve:
        exit_with(partial(anyio.run, partial(_serve, directory, port, open_it=open_it)))
    exit_with(lambda: _write(directory, out, thumbnails, open_it=open_it))


def _write(directory: Path, out: Path | None, thumbnails: Any, *, open_it: bool) -> int:  # noqa: ANN401
    if thumbnails != "none" and not _has_pillow(" Or leave them out with --thumbnails none."):
        return Exit.USAGE
    from krea_async.gallery.writing import write_gallery  # noqa: PLC0415 - not for the help

    signal.signal(signal.SIGTERM, _end)
    with _Progress() as progress:
        written = write_gallery(directory, out, thumbnails=thumbnails, tell=progress.tell)
    put(str(written.page))
    totals = written.totals
    say(f"{totals.rows} rows, {totals.saved} pictures, {totals.failed} failed, {totals.credits:.2f} credits")
    if written.without:
        say(f"pictures without a thumbnail: {written.without} ({written.example})")
    if written.not_kept:
        say(f"thumbnails are not kept for the next time: {written.not_kept}")
    if totals.damaged_lines:
        say(f"{totals.damaged_lines} lines of the {written.source} are damaged, and were left out")
    if open_it:
        _open(written.page.resolve().as_uri())
    return Exit.ALL_SAVED


async def _serve(directory: Path, port: int, *, open_it: bool) -> int:
    if not _has_pillow():
        return Exit.USAGE
    from krea_async.gallery.interrupts import interrupts_heard_elsewhere  # noqa: PLC0415 - not for the help
    from krea_async.gallery.server import serving  # noqa: PLC0415

    async with AsyncExitStack() as held:
        held.enter_context(interrupts_heard_elsewhere())
        signals = held.enter_context(anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM))
        try:
            url = await held.enter_async_context(serving(directory, port=port, tell=say))
        except OSError as error:
            say(f"krea-async: port {port} cannot be had: {error.strerror or error}. Give another, or none: any will do")
            return Exit.USAGE
        put(url)
        if not any((directory / name).exists() for name in (JOURNAL_NAME, MANIFEST_NAME)):
            say(f"nothing was rendered into {directory} yet: rows are shown once there are some")
        say("Whoever has this URL can see the pictures; from this machine only. Ctrl-C ends it.")
        if open_it:
            await in_thread(lambda: _open(url))
        async for _ in signals:
            break
    return Exit.ALL_SAVED


def _end(number: int, _frame: object) -> NoReturn:
    """Leave in order, so that nothing half written lies about."""
    sys.exit(exit_of_signal(number))


def _has_pillow(more: str = "") -> bool:
    if find_spec("PIL") is not None:
        return True
    say(f"krea-async: {NO_PILLOW}.{more}")
    return False


def _open(url: str) -> None:
    if not webbrowser.open(url):
        say("no browser was found: open it yourself")


class _Progress:
    """How many thumbnails are done: painted on a terminal, a line now and then elsewhere, nothing if it is quick."""

    def __init__(self) -> None:
        self._is_painted = is_painted("auto")
        self._next_s = time.monotonic() + (0.0 if self._is_painted else PLAIN_EVERY_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_painted:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def tell(self, done: int, total: int) -> None:
        """Show it."""
        if time.monotonic() < self._next_s:
            return
        words = f"{done} of {total} thumbnails"
        if self._is_painted:
            print(f"\r{words}\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            say(words)
        self._next_s = time.monotonic() + (PAINTED_EVERY_S if self._is_painted else PLAIN_EVERY_S)
