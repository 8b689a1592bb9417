"""How a batch moves, in figures: what every view of it is made of. Pure arithmetic: the time is in what it is given."""

from collections import Counter, deque
from collections.abc import Iterator
from typing import Final

from attrs import frozen

from krea_async.batch.progress import BatchProgress
from krea_async.batch.run import Batch
from krea_async.control.governor import Limit
from krea_async.events import Abandoned, Accepted, Completed, Event, Failed, Listener, TakenUp
from krea_async.results import BatchReport, GeneratedImage, error_code

RATE_WINDOW_S: Final = 20.0
ETA_WINDOW_S: Final = 120.0
"""Longer than that of the rate: an estimate that jumps is none."""

ETA_AFTER_S: Final = 4.0
ETA_AFTER_ROWS: Final = 5
SAMPLE_EVERY_S: Final = 0.5
RECENT_FAILURES: Final = 100
TOP_REASONS: Final = 3


@frozen(kw_only=True)
class Figures:
    """A batch at one moment.

    rows: of the list, None if nobody knows. submitted, generated: rows that the gateway accepted, and made; generating:
    those it is at work on. ended: rows that need nothing any more. rate: pictures saved per second, lately; None before
    it is known, and so eta_s, seconds until the list is done. credits_projected: spent at the end of the list.
    posts, rate_limited: submissions sent, and those answered 429. reasons: the most frequent of the last failures.
    """

    rows: int | None
    submitted: int
    generating: int
    generated: int
    in_flight: int
    saved: int
    failed: int
    skipped: int
    already_saved: int
    credits: float
    credits_projected: float | None
    rate: float | None
    eta_s: float | None
    posts: int
    rate_limited: int
    limit: Limit | None
    reasons: tuple[tuple[str, int], ...]
    elapsed_s: float

    @property
    def ended(self) -> int:
        """Rows with a result."""
        return self.saved + self.failed + self.skipped

    @property
    def rate_limited_share(self) -> float:
        """Of all submissions, those that were answered 429; from 0 to 1."""
        return min(1.0, self.rate_limited / self.posts) if self.posts else 0.0


class Meter:
    """Counts along with one batch. `hear` is a listener for the session's `on_event`, and may be left out.

    forward: another listener. rows, credits_listed: of the list, and what it costs by the price list; None: not known.
    """

    def __init__(self, rows: int | None = None, credits_listed: float | None = None) -> None:
        self.rows = rows
        self.credits_listed = credits_listed
        self.forward: Listener | None = None
        self._submitted = self._generated = self._generating = 0
        self._reasons: deque[str] = deque(maxlen=RECENT_FAILURES)
        self._samples: deque[tuple[float, int, int]] = deque()
        self._first_ended_s: float | None = None

    def hear(self, event: Event) -> None:
        """Count what the session tells."""
        if isinstance(event, Accepted | TakenUp):
            self._submitted += 1
            self._generating += 1
        elif isinstance(event, Completed):
            self._generated += 1
            self._generating -= 1
        elif isinstance(event, Failed | Abandoned) and event.stage == "generation":
            self._generating -= 1
        if self.forward is not None:
            self.forward(event)

    def ended(self, image: GeneratedImage) -> None:
        """Count a row that has ended."""
        if image.status == "failed" and image.error is not None:
            self._reasons.append(error_code(image.error))

    def read(self, batch: Batch) -> Figures:
        """The figures of now."""
        return self.figures(batch.progress, batch.report)

    def figures(self, progress: BatchProgress, report: BatchReport) -> Figures:
        """The figures of the moment at which the batch was so far; to be asked as time goes on, not backwards."""
        ended = progress.saved + progress.failed + progress.skipped
        made = progress.saved + progress.failed  # rows that were there already tell nothing of the pace
        self._sample(progress.elapsed_s, progress.saved, made)
        rows = self.rows
        if rows is None and report.unread is not None:
            rows = ended + progress.in_flight + report.unread
        left = None if rows is None else max(0, rows - ended)
        heard = self._submitted > 0
        return Figures(
            rows=rows,
            submitted=self._submitted if heard else made + progress.in_flight,
            generating=max(0, self._generating) if heard else progress.in_flight,
            generated=self._generated if heard else progress.saved,
            in_flight=progress.in_flight,
            saved=progress.saved,
            failed=progress.failed,
            skipped=progress.skipped,
            already_saved=report.already_saved,
            credits=progress.credits,
            credits_projected=self._projected(progress, left),
            rate=self._rate(),
            eta_s=self._eta_s(left),
            posts=report.calls.get("create", 0),
            rate_limited=progress.rate_limited,
            limit=progress.limit,
            reasons=tuple(Counter(self._reasons).most_common(TOP_REASONS)),
            elapsed_s=progress.elapsed_s,
        )

    def _projected(self, progress: BatchProgress, left: int | None) -> float | None:
        if left is None:
            return None
        if self.credits_listed is not None and self.rows:
            price = self.credits_listed / self.rows
        elif progress.saved:
            price = progress.credits / progress.saved
        else:
            return progress.credits if left == 0 else None
        return round(progress.credits + left * price, 2)

    def _sample(self, now_s: float, saved: int, made: int) -> None:
        if made and self._first_ended_s is None:
            self._first_ended_s = now_s
        samples = self._samples
        if len(samples) > 1 and now_s - samples[-2][0] < SAMPLE_EVERY_S:
            samples.pop()  # the last one is always that of now
        samples.append((now_s, saved, made))
        while len(samples) > 2 and samples[1][0] <= now_s - ETA_WINDOW_S:
            samples.popleft()

    def _since(self, window_s: float) -> tuple[float, int, int]:
        """Seconds, pictures saved and rows ended between the first sample within the window and that of now."""
        now_s, saved, made = self._samples[-1]
        first = next(sample for sample in self._samples if sample[0] >= now_s - window_s)
        return now_s - first[0], saved - first[1], made - first[2]

    def _rate(self) -> float | None:
        seconds, saved, _ = self._since(RATE_WINDOW_S)
        if seconds < 1.0 or not self._samples[-1][1]:
            return None
        return saved / seconds

    def _eta_s(self, left: int | None) -> float | None:
        """From when the first row ended: before that the first pictures were only being made."""
        if not left or self._first_ended_s is None:
            return None
        seconds, _, made = self._since(min(ETA_WINDOW_S, self._samples[-1][0] - self._first_ended_s))
        if seconds < ETA_AFTER_S or made < ETA_AFTER_ROWS:
            return None
        return left * seconds / made


def described(figures: Figures) -> str:
    """The figures in words, as a log file has them."""
    total = "" if figures.rows is None else f"/{figures.rows:,}"
    return ", ".join([f"{figures.saved:,}{total} saved", *_parts(figures)])


def _parts(figures: Figures) -> Iterator[str]:
    if figures.failed:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in figures.reasons)
        yield f"{figures.failed:,} failed ({reasons})" if reasons else f"{figures.failed:,} failed"
    if figures.already_saved:
        yield f"{figures.already_saved:,} were there already"
    if not_sent := figures.skipped - figures.already_saved:
        yield f"{not_sent:,} skipped"
    yield f"{figures.in_flight:,} in flight"
    if figures.rate is not None:
        yield f"{figures.rate:.1f} pictures/s"
    yield spending(figures)
    if figures.eta_s is not None:
        yield f"ETA {clock(figures.eta_s)}"
    if figures.rate_limited:
        yield refused(figures)
    if figures.limit is not None:
        yield f"limit {figures.limit}"


def spending(figures: Figures) -> str:
    """Credits spent, and projected where more is to come."""
    projected = figures.credits_projected
    if projected is None or projected <= figures.credits:
        return f"{figures.credits:,.2f} credits"
    return f"{figures.credits:,.2f} of about {projected:,.2f} credits"


def refused(figures: Figures) -> str:
    """How many submissions were answered 429, and which share that is."""
    return f"{figures.rate_limited:,} answered 429 ({figures.rate_limited_share:.0%})"


def clock(seconds: float) -> str:
    """`seconds` as people read them: 0:07, 12:34, 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
