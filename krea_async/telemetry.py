"""A session's events as OpenTelemetry metrics and traces; needs the extra `otel`.

    session = KreaSession(on_event=instrument())

Only the OpenTelemetry API is used: without an SDK that the application has set up, all of this does nothing.
"""

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Final

from attrs import define, field
from opentelemetry import context, metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, Meter, MeterProvider
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, TracerProvider

from krea_async._version import __version__
from krea_async.events import (
    Abandoned,
    Accepted,
    Completed,
    Event,
    Failed,
    Picture,
    Polled,
    Queued,
    RetryScheduled,
    Saved,
    Stage,
    SubmissionRefused,
    Submitted,
    TakenUp,
)

SCOPE: Final = "krea_async"

MAX_UNSAVED: Final = 10_000
"""Pictures that are made, and may be saved or not: the span of the oldest ends when there are more."""

_SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0)
_BYTES: Final = tuple(float(2**power) for power in range(14, 27))
_READS: Final = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 50.0, 100.0)

Attributes = dict[str, str | int | float]


def instrument(
    meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
) -> "Telemetry":
    """A listener for `on_event`; one may serve several sessions of one event loop. Defaults: the global providers.

    Beside another listener: `on_event=all_of(instrument(), mine)`. The parent of a picture's span is the span that was
    current when it was asked for.
    """
    return Telemetry(
        metrics.get_meter(SCOPE, __version__, meter_provider), trace.get_tracer(SCOPE, __version__, tracer_provider)
    )


class Telemetry:
    """Made by `instrument`. Call `close` at the end if you wait for tasks without saving their pictures."""

    def __init__(self, meter: Meter, tracer: Tracer) -> None:
        self._metrics = _Metrics(meter)
        self._tracer = tracer
        self._unfinished: dict[int, _Course] = {}
        self._made: dict[int, _Course] = {}
        self._reads: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Take one event in."""
        match event:
            case Polled():
                self._polled(event)
            case Queued(picture=picture):
                self._unfinished[picture.number] = _Course(context.get_current(), "submission", queued_s=event.at_s)
            case TakenUp(picture=picture):
                course = _Course(context.get_current(), "generation", is_ours=False)
                self._unfinished[picture.number] = course
                self._follows(picture, course, event.at_s)
            case Submitted() | SubmissionRefused() | RetryScheduled() | Accepted():
                self._goes_on(event)
            case Completed():
                self._completed(event)
            case Saved():
                self._saved(event)
            case Failed() | Abandoned():
                self._ended(event)

    def close(self) -> None:
        """End the spans of the pictures that were made and that nobody saved."""
        while self._made:
            self._drop_oldest()

    def _goes_on(self, event: Submitted | SubmissionRefused | RetryScheduled | Accepted) -> None:
        course = self._unfinished.get(event.picture.number) or self._made.get(event.picture.number)
        if isinstance(event, Submitted):
            self._metrics.queue.record(event.queued_s)
        elif isinstance(event, SubmissionRefused):
            self._metrics.refusals.add(1, {"krea.route": "create"})
        elif isinstance(event, RetryScheduled):
            self._metrics.retries.add(1, {"krea.stage": event.stage, "error.type": event.error})
            if event.status == 429:
                self._metrics.refusals.add(1, {"krea.route": "image"})
        else:
            self._metrics.accept.record(event.waiting_s)
        if course is None:
            return
        if isinstance(event, Submitted):
            course.submitted_s = event.at_s
        elif isinstance(event, Accepted):
            self._follows(event.picture, course, event.at_s)
        else:
            course.troubles.append(event)

    def _follows(self, picture: Picture, course: "_Course", at_s: float) -> None:
        course.stage = "generation"
        course.followed_s = at_s
        self._metrics.in_flight.add(1)
        if picture.task_id is not None:
            self._reads.setdefault(picture.task_id, 0)

    def _polled(self, event: Polled) -> None:
        for task_id in event.task_ids:
            if task_id in self._reads:
                self._reads[task_id] += 1
        if event.refused:
            self._metrics.refusals.add(1, {"krea.route": "read"})

    def _completed(self, event: Completed) -> None:
        course = self._finished(event.picture)
        self._metrics.generation.record(event.generating_s)
        if event.lag_s is not None:
            self._metrics.lag.record(event.lag_s)
        if course is None:
            return
        if course.is_ours:
            self._metrics.credits.add(event.credits)
        course.stage = "download"
        course.completed_s = event.at_s
        course.facts["krea.credits"] = event.credits
        course.picture = event.picture
        self._made[event.picture.number] = course
        if len(self._made) > MAX_UNSAVED:
            self._drop_oldest()

    def _saved(self, event: Saved) -> None:
        self._metrics.download.record(event.downloading_s)
        self._metrics.size.record(event.bytes)
        self._metrics.pictures.add(1, {"krea.outcome": "saved"})
        course = self._made.pop(event.picture.number, None)
        if course is not None:
            course.facts["krea.bytes"] = event.bytes
            self._draw(event.picture, course, event.at_s)

    def _ended(self, event: Failed | Abandoned) -> None:
        outcome: Attributes = {"krea.outcome": type(event).__name__.lower(), "krea.stage": event.stage}
        if isinstance(event, Failed):
            outcome["error.type"] = event.error
        self._metrics.pictures.add(1, outcome)
        course = self._finished(event.picture) or self._made.pop(event.picture.number, None)
        if course is not None:
            course.facts |= {"krea.charged": event.charged, **outcome}
            error = Status(StatusCode.ERROR, event.reason) if isinstance(event, Failed) else None
            self._draw(event.picture, course, event.at_s, error)

    def _finished(self, picture: Picture) -> "_Course | None":
        """The course of one that is not unfinished any more; None if it was not."""
        course = self._unfinished.pop(picture.number, None)
        if course is not None and course.stage == "generation":
            self._metrics.in_flight.add(-1)
            reads = self._reads.pop(picture.task_id or "", None)
            if reads is not None:
                self._metrics.polls.record(reads)
                course.facts["krea.polls"] = reads
        return course

    def _drop_oldest(self) -> None:
        course = self._made.pop(next(iter(self._made)))
        if course.picture is not None and course.completed_s is not None:
            end_s, course.completed_s = course.completed_s, None
            self._draw(course.picture, course, end_s)

    def _draw(self, picture: Picture, course: "_Course", end_s: float, error: Status | None = None) -> None:
        """The picture's span and those of its phases, all at once: their times are known by now."""
        phases = list(course.phases(end_s))
        root = self._tracer.start_span(
            "krea.picture",
            course.context,
            SpanKind.CLIENT,
            {**_ids(picture), **course.facts},
            start_time=_ns(phases[0][2]),
        )
        inside = trace.set_span_in_context(root, course.context)
        end_ns = _ns(phases[-1][3])
        for stage, name, begin_s, phase_end_s in phases:
            span = self._tracer.start_span(name, inside, start_time=_ns(begin_s))
            for trouble in course.troubles:
                if _stage(trouble) == stage and name != "krea.queue":
                    span.add_event(*_told(trouble), timestamp=_ns(trouble.at_s))
            if error is not None and name == phases[-1][1]:
                span.set_status(error)
            span.end(_ns(phase_end_s))
        if error is not None:
            root.set_status(error)
        root.end(end_ns)


class _Metrics:
    """The instruments."""

    def __init__(self, meter: Meter) -> None:
        def histogram(name: str, unit: str, words: str, bounds: tuple[float, ...]) -> Histogram:
            return meter.create_histogram(f"krea.{name}", unit, words, explicit_bucket_boundaries_advisory=bounds)

        self.in_flight = meter.create_up_down_counter(
            "krea.tasks.in_flight", "{task}", "Unfinished tasks that are followed"
        )
        self.pictures = meter.create_counter("krea.pictures", "{picture}", "Pictures that have ended, by outcome")
        self.refusals = meter.create_counter("krea.rate_limited", "{reply}", "Replies that were 429, by route")
        self.retries = meter.create_counter("krea.retries", "{retry}", "Tries that failed and were repeated, by stage")
        self.credits = meter.create_counter("krea.credits", "{credit}", "Spent on tasks that were submitted here")
        self.queue = histogram("queue.duration", "s", "From the request until it first left", _SECONDS)
        self.accept = histogram("accept.duration", "s", "From when it first left until its task was made", _SECONDS)
        self.generation = histogram("generation.duration", "s", "From then until it was known to be done", _SECONDS)
        self.lag = histogram("detection.lag", "s", "How late a task was known to be done", _SECONDS)
        self.polls = histogram("task.polls", "{read}", "Reads of a task until it ended", _READS)
        self.download = histogram("download.duration", "s", "From then until the picture was on disk", _SECONDS)
        self.size = histogram("download.size", "By", "Bytes of a picture", _BYTES)


@define(eq=False)
class _Course:
    """When one picture reached which phase, in Unix seconds, and what is to be said of it in its span."""

    context: Context
    stage: Stage
    is_ours: bool = True
    queued_s: float | None = None
    submitted_s: float | None = None
    followed_s: float | None = None
    completed_s: float | None = None
    picture: Picture | None = None
    troubles: list[SubmissionRefused | RetryScheduled] = field(factory=list)
    facts: Attributes = field(factory=dict)

    def phases(self, end_s: float) -> Iterator[tuple[Stage, str, float, float]]:
        """Stage, span name, begin and end of each phase that was reached; none is negative, whatever the clock did."""
        reached: tuple[tuple[Stage, str, float | None], ...] = (
            ("submission", "krea.queue", self.queued_s),
            ("submission", "krea.submit", self.submitted_s),
            ("generation", "krea.generate", self.followed_s),
            ("download", "krea.download", self.completed_s),
        )
        begun = [(stage, name, begin_s) for stage, name, begin_s in reached if begin_s is not None]
        edges = list(accumulate([*(begin_s for _, _, begin_s in begun), end_s], max))
        for (stage, name, _), (begin_s, phase_end_s) in zip(begun, pairwise(edges), strict=True):
            yield stage, name, begin_s, phase_end_s


def _stage(trouble: SubmissionRefused | RetryScheduled) -> Stage:
    return trouble.stage if isinstance(trouble, RetryScheduled) else "submission"


def _told(trouble: SubmissionRefused | RetryScheduled) -> tuple[str, Attributes]:
    """A span event's name and attributes."""
    if isinstance(trouble, RetryScheduled):
        return "retry", {"error.type": trouble.error, "krea.failures": trouble.failures, "krea.wait_s": trouble.wait_s}
    wait: Attributes = {} if trouble.retry_after_s is None else {"krea.retry_after_s": trouble.retry_after_s}
    return "rate_limited", {"krea.in_flight": trouble.in_flight, **wait}


def _ids(picture: Picture) -> Attributes:
    named = {"krea.task.id": picture.task_id, "krea.row.index": picture.index, "krea.request.id": picture.id}
    return {name: value for name, value in named.items() if value is not None}


def _ns(at_s: float) -> int:
    return int(at_s * 1e9)
