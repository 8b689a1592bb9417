"""What a list would cost and how long it would take. Sends nothing and writes nothing.

Rows are told apart as a batch in the same directory would: what is saved or paid for there costs nothing again. Where
only the gateway could say it (whether a task of an earlier run is finished, whether one without an answer was made),
the dearer case is counted.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from typing import Final

from attrs import frozen

from krea_async.batch.policy import BatchPolicy
from krea_async.errors import InvalidRequestError
from krea_async.models import ImageRequest, IndexedRequest, Quality
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.open_row import OpenRow
from krea_async.storage.records import Failed, Row, Saved, content_digest_of
from krea_async.storage.replay import RowState

TASK_S: Final = 45.0
"""Seconds a picture, where none were measured: `estimated_time` in the example of the vendor's reference."""

DOWNLOAD_S: Final = 1.0
ASSUMED_CONCURRENCY: Final = 64
"""Tasks at a time, when the caller names no cap: the gateway's limits are not published."""

MEASURED_PICTURES: Final = 1000
"""So many of a directory's latest pictures say how long one takes, and what it costs."""


@frozen(kw_only=True)
class Speed:
    """How long one picture takes, in seconds. pictures: how many it was measured of; 0: nobody knows, it is assumed."""

    generating_s: float = TASK_S
    downloading_s: float = DOWNLOAD_S
    pictures: int = 0

    def __str__(self) -> str:
        if self.pictures:
            return f"{self.generating_s:.1f} s a picture, the mean of the last {self.pictures} in the directory"
        return f"{self.generating_s:g} s a picture, an example of the vendor's: no speed is promised"


@frozen(kw_only=True)
class Estimate:
    """What a list comes to, before anything is sent.

    rows: of the list. others: rows that an earlier run left under way in the directory, and that the list does not
    have; a batch takes them up all the same. Each of both is one of: saved (there already), to_fetch (paid for), failed
    (and not tried again, or no valid request), unknown (may be paid for; not sent again without consent), copies (equal
    to a row that is made or saved, seed included), unanswered (sent by an earlier run, and asked for again under its
    key: paid for now, if it was not before), to_make. changed: rows whose id was another request in an earlier run;
    that one counts, and they are among the kinds as it is.
    credits, usd: of to_make and unanswered, so what is spent at the most, if no row is tried again. prices: credits of
    one picture, by quality; charged: those of them that the directory shows another price of than the list has.
    seconds: from the first submission to the last picture, if the gateway takes `concurrency` tasks at a time.
    """

    rows: int
    others: int
    saved: int
    to_fetch: int
    failed: int
    unknown: int
    copies: int
    unanswered: int
    to_make: int
    changed: int
    credits: float
    usd: float
    prices: Mapping[str, float]
    charged: frozenset[str]
    seconds: float
    speed: Speed
    concurrency: int
    rate: float | None

    @property
    def pictures(self) -> int:
        """Those that cost something, at the most."""
        return self.to_make + self.unanswered

    @property
    def basis(self) -> str:
        """What `seconds` is reckoned from, for people."""
        rate = "" if self.rate is None else f", at most {self.rate:g} submissions per second"
        return f"{self.speed}; {self.concurrency} at a time{rate}; waits at the gateway's own limits come on top"

    def is_covered_by(self, balance: float | None) -> bool:
        """Whether so many credits are enough; None: no limit is set."""
        return balance is None or balance >= self.credits


def estimate(
    requests: Iterable[ImageRequest | IndexedRequest | InvalidRequestError],
    directory: Path | None = None,
    *,
    policy: BatchPolicy | None = None,
    concurrency: int = ASSUMED_CONCURRENCY,
    rate: float | None = None,
    downloads: int = 16,
) -> Estimate:
    """What rendering `requests` into `directory` would come to; None, or one without a journal: all is new. Blocks.

    policy, concurrency, rate, downloads: as the session and the batch would have them. Raises JournalError when the
    directory's journal cannot be read.
    """
    policy = policy or BatchPolicy()
    with ExitStack() as opened:
        history = None
        if directory is not None:
            history = opened.enter_context(History(directory / JOURNAL_NAME, skip_damaged=policy.skip_damaged))
        rows = _Rows(directory or Path(), history, policy)
        for request in requests:
            rows.add(request)
        speed, charged = (Speed(), {}) if history is None else _measured(history)
    asked = [(ImageRequest("-", quality=quality), count) for quality, count in rows.paid.items()]
    prices: dict[str, float] = {one.quality: charged.get(one.quality, one.credits) for one, _ in asked}
    pictures = rows.paid.total()
    seconds = _seconds(pictures, rows.kinds["to_fetch"], speed, concurrency=concurrency, rate=rate, downloads=downloads)
    return Estimate(
        rows=rows.listed,
        others=rows.others,
        **{kind: rows.kinds[kind] for kind in _KINDS},
        changed=rows.changed,
        credits=round(sum(prices[one.quality] * count for one, count in asked), 6),
        usd=round(sum(one.usd * prices[one.quality] / one.credits * count for one, count in asked), 6),
        prices=prices,
        charged=frozenset(one.quality for one, _ in asked if prices[one.quality] != one.credits),
        seconds=round(seconds, 1),
        speed=speed,
        concurrency=concurrency,
        rate=rate,
    )


_KINDS: Final = ("saved", "to_fetch", "failed", "unknown", "copies", "unanswered", "to_make")


class _Rows:
    """Tells rows apart. kinds, changed: how many. paid: pictures that cost something, by quality."""

    def __init__(self, directory: Path, history: History | None, policy: BatchPolicy) -> None:
        self.kinds: Counter[str] = Counter()
        self.paid: Counter[Quality] = Counter()
        self.listed = self.others = self.changed = 0
        self._directory = directory
        self._history = history
        self._policy = policy
        self._seen: set[int] = set()  # pictures that are there, or that an earlier row brings
        self._saved: defaultdict[int, list[int]] | None = None  # rows by what they show; read when a new row has a seed
        self._under_way: set[int] = set()
        if history is not None:
            for row in history.open_rows():
                if not history.is_lost(row.n):
                    self._under_way.add(row.n)
                    self._take_up(row, history.row(row.n))
        self.others = len(self._under_way)

    def add(self, row: ImageRequest | IndexedRequest | InvalidRequestError) -> None:
        """The list's next row."""
        request = row.request if isinstance(row, IndexedRequest) else row
        self.listed += 1
        if isinstance(request, InvalidRequestError):
            self.kinds["failed"] += 1
            return
        n = None if self._history is None else self._history.match(request)
        if n is None or self._history is None:
            self._make(request)
            return
        if self._history.changed(n, request):  # known by its id; what was noted is what is sent
            self.changed += 1
            request = self._history.request(n)
        if n in self._under_way:
            self.others -= 1  # it is counted, as what it is
        else:
            self._settled(self._history, n, request)

    def _settled(self, history: History, n: int, request: ImageRequest) -> None:
        state = history.state(n)
        if state is RowState.SAVED:
            saved = history.saved(n)
            self.kinds["saved" if self._is_there(saved) else "to_fetch"] += 1
            self._seen.add(content_digest_of(request))
        elif state is RowState.FAILED and not self._is_retried(history.failed(n)):
            self.kinds["failed"] += 1
        else:
            self._make(request)

    def _make(self, request: ImageRequest) -> None:
        if self._policy.dedupe and request.seed:
            digest = content_digest_of(request)
            if digest in self._seen or self._is_saved(digest):
                self.kinds["copies"] += 1
                return
            self._seen.add(digest)
        self.kinds["to_make"] += 1
        self.paid[request.quality] += 1

    def _take_up(self, left: OpenRow, row: Row) -> None:
        """A row that an earlier run had sent."""
        if left.state is RowState.INTENT and self._is_stale(left):
            self.kinds["unknown"] += 1
            return
        self._seen.add(content_digest_of(row.request, drawn=row.drawn))
        if left.state is RowState.INTENT:
            self.kinds["unanswered"] += 1
            self.paid[row.request.quality] += 1
        else:
            self.kinds["to_fetch"] += 1

    def _is_stale(self, row: OpenRow) -> bool:
        age_s = time.time() - (row.intended_s or 0.0)
        return age_s > self._policy.journal.keys_live_s and not self._policy.retry_unknown

    def _is_saved(self, digest: int) -> bool:
        """Whether a row of the directory, which need not be in the list, shows this picture."""
        history = self._history
        if history is None:
            return False
        if self._saved is None:
            self._saved = defaultdict(list)
            for n in range(history.rows):
                is_whole = history.state(n) is RowState.SAVED and not history.is_lost(n)
                if is_whole and (row := history.row(n)).request.seed and not row.drawn:
                    self._saved[content_digest_of(row.request)].append(n)
        return any(self._is_there(history.saved(n)) for n in self._saved.get(digest, ()))

    def _is_there(self, saved: Saved) -> bool:
        try:
            return (self._directory / saved.files[0]).stat().st_size == saved.bytes
        except OSError:
            return False

    def _is_retried(self, failed: Failed) -> bool:
        codes = self._policy.retry_codes
        return self._policy.retry_failed and (
            failed.retryable if codes is None else (failed.code or failed.error) in codes
        )


def _measured(history: History) -> tuple[Speed, dict[str, float]]:
    """How long the directory's latest pictures took, and the dearest that each quality was charged."""
    seconds: list[tuple[float, ...]] = []
    charged: dict[str, float] = {}
    for n in range(history.rows - 1, -1, -1):
        if len(seconds) == MEASURED_PICTURES:
            break
        if history.state(n) is not RowState.SAVED or history.is_lost(n):
            continue
        saved = history.saved(n)
        if saved.task_id is None or not saved.credits:  # a copy, which says nothing of either
            continue
        seconds.append(saved.seconds)
        quality = history.request(n).quality
        charged[quality] = max(saved.credits, charged.get(quality, 0.0))
    if not seconds:
        return Speed(), charged
    _, _, generating, downloading = zip(*seconds, strict=True)
    count = len(seconds)
    return Speed(generating_s=sum(generating) / count, downloading_s=sum(downloading) / count, pictures=count), charged


def _seconds(
    pictures: int, to_fetch: int, speed: Speed, *, concurrency: int, rate: float | None, downloads: int
) -> float:
    """A batch fetches first what is paid for. Then whatever is slowest sets the pace: tasks, rate or downloads."""
    fetching_s = ceil(to_fetch / downloads) * speed.downloading_s
    if not pictures:
        return fetching_s
    made_s = ceil(pictures / concurrency) * speed.generating_s
    let_s = speed.generating_s + ((pictures - 1) / rate if rate is not None else 0.0)
    saved_s = speed.generating_s + (ceil(pictures / downloads) - 1) * speed.downloading_s
    return fetching_s + max(made_s, let_s, saved_s) + speed.downloading_s
