"""Makers of thumbnails that do harm: importable, because worker processes import them."""

import os
import signal
import time
from pathlib import Path

from krea_async.gallery.shrink import Shrunk, shrink


def killed_once(path: str, keep_as: str | None) -> Shrunk:
    """The first worker is killed, as by a system that is out of memory."""
    mark = Path(path).parent / "was-killed"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return shrink(path, keep_as)


def killed_by_bad(path: str, keep_as: str | None) -> Shrunk:
    """A picture whose name says so ends whoever looks at it."""
    with (Path(path).parent / "tries").open("a") as tries:
        tries.write(f"{Path(path).name}\n")
    if "bad" in path:
        os.kill(os.getpid(), signal.SIGKILL)
    return shrink(path, keep_as)


def hung(path: str, _keep_as: str | None) -> Shrunk:
    """A decoder that comes to no end."""
    Path(path).with_suffix(".pid").write_text(str(os.getpid()))
    time.sleep(600)
    return Shrunk()
