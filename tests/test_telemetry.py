"""Metrics and traces, out of the OpenTelemetry SDK's own in-memory exporters."""

# ruff: noqa: PT012 - crashing a block takes a block

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from krea_async import Completed, ContentPolicyError, Event, KreaSession, Picture, Polled, Saved, TakenUp, all_of
from krea_async.sandbox import Durations, Faults, Limits, Sandbox
from krea_async.telemetry import MAX_UNSAVED, Telemetry, instrument

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

PHASES = ["krea.queue", "krea.submit", "krea.generate", "krea.download"]


@frozen
class Observed:
    """A listener, and all that it has measured."""

    listener: Telemetry
    tracers: TracerProvider
    _reader: InMemoryMetricReader
    _spans: InMemorySpanExporter

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())

    @property
    def roots(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == "krea.picture"]

    def inside(self, root: ReadableSpan) -> list[ReadableSpan]:
        """The spans of a picture's phases, in order."""
        inner = [span for span in self.spans if span.parent is not None and span.parent == root.context]
        return sorted(inner, key=lambda span: PHASES.index(span.name))

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data is not None else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def total(self, name: str, **attributes: object) -> float:
        """The sum of a metric over the points that have `attributes`; "krea_route" stands for krea.route."""
        wanted = {key.replace("_", ".", 1): value for key, value in attributes.items()}
        total = 0.0
        for point in self.points(name):
            assert isinstance(point, NumberDataPoint | HistogramDataPoint)
            if wanted.items() <= dict(point.attributes or {}).items():
                total += point.value if isinstance(point, NumberDataPoint) else point.sum
        return total

    def count(self, name: str) -> int:
        return sum(point.count for point in self.points(name))


@pytest.fixture
def observed() -> Iterator[Observed]:
    reader, spans = InMemoryMetricReader(), InMemorySpanExporter()
    meters, tracers = MeterProvider([reader]), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    yield Observed(instrument(meters, tracers), tracers, reader, spans)
    meters.shutdown()
    tracers.shutdown()


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def ids(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_picture_is_one_span_with_its_phases(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, observed: Observed
) -> None:
    sandbox.durations = Durations.fixed(0.3)
    async with session_of(sandbox, on_event=observed.listener) as session:
        image = await session.generate("a fox", to=tmp_path)
    (root,) = observed.roots
    phases = observed.inside(root)
    assert [span.name for span in phases] == PHASES
    assert root.kind is SpanKind.CLIENT
    assert root.status.status_code is StatusCode.UNSET
    assert ids(root) == {
        "krea.task.id": image.task_id,
        "krea.polls": sandbox.ledger.tasks[str(image.task_id)].reads,
        "krea.credits": 0.45,
        "krea.bytes": image.bytes,
    }
    for span, timing in zip(phases, image.timings.steps_s, strict=True):
        assert seconds(span) == pytest.approx(timing, abs=0.1)
    assert seconds(root) == pytest.approx(image.timings.total_s, abs=0.1)
    edges = [root.start_time, *(span.end_time for span in phases)]
    assert [span.start_time for span in phases] == edges[:-1], "each phase begins where the one before ended"
    assert edges[-1] == root.end_time


async def test_the_span_belongs_to_whoever_asked_for_the_picture(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, observed: Observed
) -> None:
    tracer = observed.tracers.get_tracer("a service")
    async with session_of(sandbox, on_event=observed.listener) as session:
        for number in range(2):
            with tracer.start_as_current_span(f"request {number}"):
                await session.generate("a fox", to=tmp_path / f"{number}.png")
        with tracer.start_as_current_span("batch"):
            await session.render(["one", "two"], tmp_path / "batch")
    names = {span.context.span_id: span.name for span in observed.spans if span.context is not None}
    assert [names[root.parent.span_id] for root in observed.roots if root.parent is not None] == [
        "request 0",
        "request 1",
        "batch",
        "batch",
    ]


async def test_the_metrics_of_a_batch_are_what_its_report_says(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, observed: Observed
) -> None:
    """With 429s and broken transfers, so that there is something to count."""
    sandbox.limits = Limits(unfinished=4)
    sandbox.durations = Durations.fixed(0.05)
    sandbox.faults = Faults(image_truncated=0.1)
    in_flight: list[float] = []

    def watch(event: Event) -> None:
        if isinstance(event, Polled):
            in_flight.append(observed.total("krea.tasks.in_flight"))

    async with session_of(sandbox, concurrency=8, on_event=all_of(observed.listener, watch)) as session:
        report = await session.render([f"row {number}" for number in range(30)], tmp_path)
    assert report.saved == 30
    assert observed.total("krea.pictures", krea_outcome="saved") == 30
    assert observed.total("krea.credits") == pytest.approx(report.credits)
    assert observed.total("krea.rate_limited", krea_route="create") == report.calls["rate_limited"] > 0
    assert observed.total("krea.retries", krea_stage="download") == report.calls["image"] - 30
    assert observed.total("krea.download.size") == report.bytes
    for name, total_s in zip(("queue", "accept", "generation", "download"), report.seconds.steps_s, strict=True):
        assert observed.count(f"krea.{name}.duration") == 30
        assert observed.total(f"krea.{name}.duration") == pytest.approx(total_s, abs=0.002)
    assert observed.total("krea.task.polls") == sum(task.reads for task in sandbox.ledger.tasks.values())
    assert observed.count("krea.detection.lag") > 0
    assert 0 < max(in_flight) <= 8
    assert observed.total("krea.tasks.in_flight") == 0
    assert len(observed.roots) == 30
    assert sorted(ids(root)["krea.row.index"] for root in observed.roots) == list(range(30))


async def test_what_goes_wrong_on_the_way_stands_in_its_phase(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, observed: Observed
) -> None:
    sandbox.script("create", "drop_after", ("status", 429))
    sandbox.script("image", "truncated")
    async with session_of(sandbox, on_event=observed.listener) as session:
        await session.generate("a fox", to=tmp_path)
    (root,) = observed.roots
    events = {span.name: [event.name for event in span.events] for span in observed.inside(root)}
    assert events == {
        "krea.queue": [],
        "krea.submit": ["retry", "rate_limited"],
        "krea.generate": [],
        "krea.download": ["retry"],
    }
    for span in observed.inside(root):
        assert span.start_time is not None
        assert span.end_time is not None
        assert all(span.start_time <= event.timestamp <= span.end_time for event in span.events)


async def test_a_failure_is_an_error_of_the_picture_and_of_its_phase(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, observed: Observed
) -> None:
    sandbox.script("create", ("fail", "content_policy_violation"))
    async with session_of(sandbox, on_event=observed.listener) as session:
        with pytest.raises(ContentPolicyError):
            await session.generate("a fox", to=tmp_path)
    (root,) = observed.roots
    *before, last = observed.inside(root)
    assert [span.status.status_code for span in before] == [StatusCode.UNSET] * 2
    assert last.name == "krea.generate"
    assert last.status.status_code is root.status.status_code is StatusCode.ERROR
    assert "content_policy_violation" in str(root.status.description)
    assert ids(root)["error.type"] == "content_policy_violation"
    assert ids(root)["krea.charged"] == "no"
    assert observed.total("krea.pictures", krea_outcome="failed", error_type="content_policy_violation") == 1
    assert observed.total("krea.tasks.in_flight") == observed.total("krea.credits") == 0


async def test_what_is_abandoned_is_no_error_and_not_in_flight(
    sandbox: Sandbox, session_of: SessionOf, observed: Observed
) -> None:
    sandbox.durations = Durations.fixed(60.0)
    with pytest.raises(ZeroDivisionError):
        async with session_of(sandbox, on_event=observed.listener) as session:
            await session.submit("a fox")
            assert observed.total("krea.tasks.in_flight") == 1
            raise ZeroDivisionError
    (root,) = observed.roots
    assert root.status.status_code is StatusCode.UNSET
    assert ids(root)["krea.outcome"] == "abandoned"
    assert observed.total("krea.tasks.in_flight") == 0


async def test_a_task_that_is_taken_up_costs_nothing_again(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, observed: Observed
) -> None:
    async with session_of(sandbox) as session:
        task_id = (await session.submit("a fox")).task_id
    async with session_of(sandbox, on_event=observed.listener) as session:
        await session.attach(task_id).save(tmp_path / "fox.png")
    (root,) = observed.roots
    assert [span.name for span in observed.inside(root)] == ["krea.generate", "krea.download"]
    assert observed.total("krea.credits") == 0


async def test_a_picture_that_nobody_saves_ends_when_it_was_made(
    sandbox: Sandbox, session_of: SessionOf, observed: Observed
) -> None:
    async with session_of(sandbox, on_event=observed.listener) as session:
        await (await session.submit("a fox")).wait()
    assert observed.roots == []
    observed.listener.close()
    (root,) = observed.roots
    assert [span.name for span in observed.inside(root)] == PHASES[:3]
    assert root.end_time == observed.inside(root)[-1].end_time


def test_pictures_that_nobody_saves_do_not_pile_up(observed: Observed) -> None:
    for number in range(MAX_UNSAVED + 5):
        picture = Picture(number=number, task_id=f"task-{number}")
        observed.listener(TakenUp(picture=picture))
        observed.listener(Completed(picture=picture, generating_s=1.0, lag_s=None, credits=0.45))
    assert [ids(root)["krea.task.id"] for root in observed.roots] == [f"task-{number}" for number in range(5)]
    observed.listener(Saved(picture=Picture(number=0, task_id="task-0"), downloading_s=1.0, bytes=7, credits=0.45))
    assert len(observed.roots) == 5
    assert observed.total("krea.pictures", krea_outcome="saved") == 1


def test_a_clock_that_is_set_back_makes_no_phase_negative(observed: Observed) -> None:
    picture = Picture(task_id="task-1")
    observed.listener(TakenUp(picture=picture, at_s=1000.0))
    observed.listener(Completed(picture=picture, at_s=400.0, generating_s=1.0, lag_s=None, credits=0.45))
    observed.listener(Saved(picture=picture, at_s=401.0, downloading_s=1.0, bytes=7, credits=0.45))
    assert all(seconds(span) >= 0.0 for span in observed.spans)


async def test_a_trace_that_is_not_sampled_costs_no_spans(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    spans = InMemorySpanExporter()
    tracers = TracerProvider(sampler=ALWAYS_OFF)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    async with session_of(sandbox, on_event=instrument(tracer_provider=tracers)) as session:
        image = await session.generate("a fox", to=tmp_path)
    assert image.status == "saved"
    assert spans.get_finished_spans() == ()
