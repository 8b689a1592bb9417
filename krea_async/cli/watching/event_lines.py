"""`--json`: what happens in a run, as JSON lines for programs; the last one is the report.

Each line is one object: `v`, the version of this format; `event`, its name; `at`, Unix seconds; then the event's own
keys. Within a version names and keys stay what they are, and new ones may come. No line holds a key or a link.

    started                     directory, rows, credits_listed, version
    accepted, completed         index, id, task_id, of each row; completed also has credits
    saved, failed, skipped      the row as the manifest has it; skipped: it was there already, or a later run takes it
    limit_found                 kind, value; null: nothing is known any more
    progress                    every 2 s: the `Figures`
    stopping                    signal, in_flight, drain_s
    error                       code, message: why there is no report
    report                      the books, directory, exit_code
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import asdict

from krea_async._version import __version__
from krea_async.control.governor import Limit
from krea_async.errors import KreaError
from krea_async.events import Accepted, Completed, Event, LimitFound, Picture, TakenUp
from krea_async.meter import Figures
from krea_async.results import GeneratedImage, error_code
from krea_async.storage.manifest import manifest_row

VERSION: Final = 1
PROGRESS_EVERY_S: Final = 2.0


class EventLines:
    """Gives each event to `write` as a line."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def tell(self, event: str, facts: Mapping[str, object], *, at_s: float | None = None) -> None:
        """One line."""
        at = round(time.time() if at_s is None else at_s, 3)
        self._write(json.dumps({"v": VERSION, "event": event, "at": at, **facts}) + "\n")

    def hear(self, event: Event) -> None:
        """What a session tells of its pictures; for `on_event`."""
        if isinstance(event, Accepted | TakenUp):
            self.tell("accepted", _which(event.picture), at_s=event.at_s)
        elif isinstance(event, Completed):
            self.tell("completed", {**_which(event.picture), "credits": event.credits}, at_s=event.at_s)
        elif isinstance(event, LimitFound):
            self.tell("limit_found", _limit(event.limit) or {"kind": None, "value": None}, at_s=event.at_s)

    def started(self, directory: str, rows: int | None, credits_listed: float | None) -> None:
        """The run begins."""
        facts = {"directory": directory, "rows": rows, "credits_listed": credits_listed, "version": __version__}
        self.tell("started", facts)

    def ended(self, image: GeneratedImage) -> None:
        """A row has its result."""
        self.tell(image.status, manifest_row(image))

    def progress(self, figures: Figures) -> None:
        """How far the run is."""
        facts: dict[str, Any] = asdict(figures)
        facts["limit"] = _limit(figures.limit)
        facts["reasons"] = dict(figures.reasons)
        facts["ended"] = figures.ended
        facts["rate_limited_share"] = round(figures.rate_limited_share, 4)
        for name in ("rate", "eta_s", "elapsed_s", "credits"):
            facts[name] = None if facts[name] is None else round(facts[name], 3)
        self.tell("progress", facts)

    def error(self, error: KreaError) -> None:
        """The run ended without a report."""
        self.tell("error", {"code": error_code(error), "message": error.message})


def _which(picture: Picture) -> dict[str, object]:
    return {"index": picture.index, "id": picture.id, "task_id": picture.task_id}


def _limit(limit: Limit | None) -> dict[str, object] | None:
    return None if limit is None else {"kind": limit.kind, "value": limit.value}
