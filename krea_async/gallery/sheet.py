"""What a contact sheet shows, as plain values: `reading` finds them in a directory, `page` writes them as HTML.

A sheet of 100,000 rows is never in memory as a whole: tiles and thumbnails come one by one.
"""

from collections.abc import Iterable
from typing import Final, Literal

from attrs import field, fields, frozen

Status = Literal["saved", "failed", "running", "waiting"]
Step = Literal["sent", "accepted", "completed"]


@frozen(kw_only=True)
class Tile:
    """One row of the directory. What is not known, or not yet, is None.

    n: its number in the directory, the key: unique, from 0. index: its number in its list, which several may share
    where several lists were rendered into one directory. step: how far a running one is: sent, accepted by the
    gateway, or completed there and on its way here. file: the picture's name in the directory. is_missing: the file is
    gone. copy_of: the `n` of the row whose picture it shows as well. prompt and what else was asked for is None where
    the row's own line is lost. credits: what it cost; of a running one, what is reserved. width, height: pixels.
    seconds: from being queued to being saved. error, message, charged ("no", "yes", "unknown"): of a failed one.
    at_s: when it ended, in Unix seconds.
    """

    n: int
    index: int | None = None
    id: str | None = None
    status: Status
    step: Step | None = None
    file: str | None = None
    is_missing: bool = False
    copy_of: int | None = None
    prompt: str | None = None
    size: str | None = None
    quality: str | None = None
    seed: int | None = None
    nsfw_check: bool = False
    task_id: str | None = None
    credits: float | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    error: str | None = None
    message: str | None = None
    charged: str | None = None
    at_s: float | None = None


@frozen(kw_only=True)
class Totals:
    """The sums of a directory. credits, usd: charged for certain; unknown: nobody knows whether they were.

    bytes, seconds: sums over saved rows. first_s, last_s: Unix seconds of the records' begin and last line. has_ended:
    whether the last run ended in order, False while one goes on or when one was killed. stopped_by: the code of what
    ended it before its list did. damaged_lines: how many lines could not be read and were left out.
    """

    rows: int = 0
    saved: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0
    credits: float = 0.0
    credits_unknown: float = 0.0
    usd: float = 0.0
    bytes: int = 0
    seconds: float = 0.0
    runs: int = 0
    first_s: float | None = None
    last_s: float | None = None
    has_ended: bool = True
    stopped_by: str | None = None
    damaged_lines: int = 0


@frozen(kw_only=True)
class Sheet:
    """A directory at one moment. title: its name. source: what was read. made_at_s: when, in Unix seconds.

    base_url: of the directory, as seen from the page: relative, quoted, with a slash at its end. tiles: in the order of
    `n`, `totals.rows` of them; may be iterated more than once.
    """

    title: str
    made_at_s: float
    base_url: str = "./"
    source: Literal["journal", "manifest"] = "journal"
    totals: Totals = field(factory=Totals)
    tiles: Iterable[Tile] = ()


@frozen(kw_only=True)
class Thumbnail:
    """A tile's small picture: in the page (`webp`), or beside it (`url`, relative and quoted).

    With neither, `note` says why there is none.
    """

    n: int
    webp: bytes | None = field(default=None, repr=False)
    url: str | None = None
    note: str | None = None


TILE_COLUMNS: Final = tuple(attribute.name for attribute in fields(Tile))
