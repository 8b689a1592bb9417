"""What earlier sessions found of the gateway's limits: one small file for each host and key, in the user's cache.

Only a prior: a session begins with it and believes what it meets. A file that is gone, broken, old or cannot be written
costs the next session a few refused requests, and nothing else; so no error of the disk leaves this module. The key is
not in it, nor anything it could be guessed from.
"""

import hashlib
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Final

from krea_async.control.governor import Limit

log = logging.getLogger(__name__)

MAX_AGE_S: Final = 7 * 24 * 3600.0
"""What was found longer ago than this is not believed any more."""

_PURPOSE: Final = b"krea-async"


def cache_directory() -> Path:
    """Where this system's programs keep what they can do without. Raises RuntimeError where nobody knows a home."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        root = "~/Library/Caches"
    else:
        root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "krea-async"


class KnownLimits:
    """The file of one host and key."""

    def __init__(self, base_url: str, api_key: str) -> None:
        account = hashlib.blake2b(f"{base_url}\n{api_key}".encode(), digest_size=16, person=_PURPOSE).hexdigest()
        self._name = f"limit-{account}.json"

    def load(self) -> Limit | None:
        """What was found last; None if nothing, or too long ago."""
        try:
            found = json.loads((cache_directory() / self._name).read_bytes())
            limit, at_s = Limit(found["kind"], float(found["value"])), float(found["at_s"])
        except (OSError, RuntimeError, ValueError, KeyError, TypeError):
            return None
        return limit if 0 <= time.time() - at_s < MAX_AGE_S else None

    def save(self, limit: Limit) -> None:
        """Keep what was found, for the next session."""
        line = json.dumps({"kind": limit.kind, "value": limit.value, "at_s": time.time()})
        try:
            directory = cache_directory()
            directory.mkdir(parents=True, exist_ok=True)
            new = directory / f"{self._name}.{os.getpid()}.new"
            new.write_text(line, encoding="ascii")
            new.replace(directory / self._name)
        except (OSError, RuntimeError) as error:
            log.debug("what was found of the limits is not kept: %s", error)
