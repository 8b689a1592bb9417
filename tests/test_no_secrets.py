"""Nothing that a session shows or keeps holds the API key, half of it, or the signature of a picture's link."""

# ruff: noqa: ASYNC240 - looking into a directory takes no time

import asyncio
import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from until import until

from krea_async import (
    AuthenticationError,
    DownloadError,
    Event,
    InvalidRequestError,
    JournalError,
    KreaError,
    KreaSession,
    Orphan,
    RetryPolicy,
    TaskFailedError,
    all_of,
)
from krea_async.sandbox import Durations, Fault, Faults, Limits, Sandbox
from krea_async.sandbox.links import Links
from krea_async.storage.history import JOURNAL_NAME
from krea_async.telemetry import instrument

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

KEY: Final = "sk-evo-LeftHalfMarked0123-RightHalfMarked4567890"
SIGNATURE: Final = "SignatureMarked"
SECRETS: Final = (KEY, KEY[: len(KEY) // 2], KEY[len(KEY) // 2 :], SIGNATURE)


class Evidence:
    """All that a session has shown: events, spans, metrics and log records by themselves, the rest as it is added."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self._reader, self._spans = InMemoryMetricReader(), InMemorySpanExporter()
        self.meters, self.tracers = MeterProvider([self._reader]), TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.told: list[Event] = []
        self._added: list[str] = []
        self.listener = all_of(_crashes, self.told.append, instrument(self.meters, self.tracers))

    def add(self, *shown: object) -> None:
        """Values by their repr and str; errors also by their facts, their pickle and the traceback with its causes."""
        for value in shown:
            self._added += [repr(value), str(value)]
            if isinstance(value, BaseException):
                self._added += traceback.format_exception(value)
            if isinstance(value, KreaError):
                self._added += [repr(value.__dict__), repr(pickle.dumps(value))]

    def add_session(self, session: KreaSession) -> None:
        """The session, its statistics, and each of its parts."""
        self.add(session, session.stats, *vars(session).values())

    def add_files(self, directory: Path) -> None:
        """What is written there, whatever it is, and its names."""
        for path in directory.rglob("*"):
            self.add(path)
            if path.is_file():
                self._added.append(path.read_bytes().decode("latin-1"))

    def texts(self) -> list[str]:
        """Every text."""
        metrics = self._reader.get_metrics_data()
        return [
            *self._added,
            *(repr(event) for event in self.told),
            *(span.to_json() for span in self._spans.get_finished_spans()),
            *([] if metrics is None else [metrics.to_json()]),
            *(f"{record.getMessage()} {record.__dict__}" for record in self._caplog.records),
            self._caplog.text,
        ]

    def assert_clean(self, *more: str) -> None:
        """No text holds a secret, nor any of `more`. Says where one does."""
        assert self.told, "nothing was told, so nothing is proved"
        assert self._caplog.records, "nothing was logged, so nothing is proved"
        assert self._spans.get_finished_spans(), "no span was made, so nothing is proved"
        found = [(secret, text) for text in self.texts() for secret in (*SECRETS, *more) if secret in text]
        assert not found, f"{found[0][0]!r} is in {found[0][1][:2000]}"


def _crashes(event: Event) -> None:
    raise ZeroDivisionError(f"a listener that prints what it got: {event!r}")


@pytest.fixture
def evidence(caplog: pytest.LogCaptureFixture) -> Iterator[Evidence]:
    caplog.set_level(logging.DEBUG)
    evidence = Evidence(caplog)
    yield evidence
    evidence.meters.shutdown()
    evidence.tracers.shutdown()


@pytest.fixture
async def marked(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A sandbox with the marked key, whose links carry the marked signature."""
    sandbox.settings.key = KEY
    plain = Links._sign
    monkeypatch.setattr(Links, "_sign", lambda *args: f"{SIGNATURE}{plain(*args)}")
    return sandbox


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def quoted(status: int, code: str) -> Fault:
    """An answer that repeats the key: short, long, and where a text is cut."""
    words = f"the key {KEY} is no good {'x' * 420}{KEY}{'y' * 200}{KEY}"
    return Fault("status", status=status, code=code, text=json.dumps({"error": {"code": code, "message": words}}))


def quoting_page(status: int) -> Fault:
    """The same as a proxy's page."""
    return Fault("status", status=status, text=f"<html>Authorization: Bearer {KEY} {'x' * 110}{KEY}</html>")


async def test_a_search_finds_what_is_there(evidence: Evidence) -> None:
    """Else the other tests prove nothing."""
    for shown in (KEY[8:-8], f"…{KEY[: len(KEY) // 2]}…"):
        evidence.add(KreaError(f"Bearer {shown}"))
    assert sum(secret in text for text in evidence.texts() for secret in SECRETS) > 0


async def test_a_batch_in_a_storm(
    marked: Sandbox, session_of: SessionOf, tmp_path: Path, cache: Path, evidence: Evidence
) -> None:
    """Refusals, lost answers, retries, failed tasks, dead links, broken pictures, and a listener that crashes."""
    marked.limits = Limits(unfinished=6)
    marked.durations = Durations.fixed(0.02)
    marked.faults = Faults(
        drop_after=0.05,
        error_after=0.05,
        garbage=0.05,
        image_expired=0.1,
        image_truncated=0.1,
        image_wrong_type=0.1,
        fail={"generation_timeout": 0.1, "content_policy_violation": 0.1},
    )
    marked.script("create", quoted(429, "rate_limit_exceeded"), quoting_page(503))
    async with session_of(marked, on_event=evidence.listener) as session:
        async with session.render([f"row {number}" for number in range(40)], tmp_path / "out") as batch:
            images = [image async for image in batch]
            evidence.add(batch, batch.progress)
        evidence.add_session(session)
        evidence.add(batch.report, *images, *(image.error for image in images if image.error is not None))
        assert SIGNATURE in "".join(str(image.url) for image in images), "the links were marked"
    evidence.add_files(tmp_path / "out")
    evidence.add_files(cache)
    assert list(cache.rglob("limit-*.json")), "what was found of the limits is kept"
    assert batch.report.saved > 20
    assert batch.report.calls["rate_limited"] > 0
    evidence.assert_clean()


async def test_a_task_and_its_job(marked: Sandbox, session_of: SessionOf, tmp_path: Path, evidence: Evidence) -> None:
    async with session_of(marked, on_event=evidence.listener) as session:
        job = await session.submit("a fox")
        task = await job.wait()
        evidence.add(job, task, await job.save(tmp_path / "fox.png"), await session.credits())
    assert SIGNATURE in task.results[0]
    evidence.assert_clean()


async def test_the_token_of_the_callbacks(
    marked: Sandbox, session_of: SessionOf, tmp_path: Path, evidence: Evidence
) -> None:
    marked.script("create", "drop_after", quoting_page(503))
    async with session_of(marked, on_event=evidence.listener) as session:
        webhooks = session.webhooks("https://pictures.example/hooks")
        token = webhooks.callback_url.rpartition("/")[2]
        report = await session.render(["one", "two"], tmp_path)
        evidence.add(webhooks, report)
        evidence.add_session(session)
    assert all(token in str(task.body["callback_url"]) for task in marked.ledger.tasks.values()), "it was sent"
    evidence.add_files(tmp_path)
    evidence.assert_clean(token)


@pytest.mark.parametrize("fault", [quoted(401, "unauthorized"), quoting_page(401)], ids=["json", "page"])
async def test_a_refused_key(
    marked: Sandbox, session_of: SessionOf, tmp_path: Path, evidence: Evidence, fault: Fault
) -> None:
    marked.script("create", fault)
    async with session_of(marked, on_event=evidence.listener) as session:
        with pytest.raises(AuthenticationError) as refused:
            await session.generate("a fox", to=tmp_path)
        with pytest.raises(KreaError) as again:
            await session.submit("a fox")
        evidence.add_session(session)
    evidence.add(refused.value, again.value)
    evidence.assert_clean()


@pytest.mark.parametrize("route", ["create", "read"])
@pytest.mark.parametrize(
    "fault",
    [quoted(400, "invalid_request"), quoting_page(400), Fault("status", status=200, text=f'"{KEY}"')],
    ids=["json", "page", "no task"],
)
async def test_a_gateway_that_quotes_the_key(
    marked: Sandbox, session_of: SessionOf, tmp_path: Path, evidence: Evidence, route: str, fault: Fault
) -> None:
    marked.script(route, *[fault] * 12)
    async with session_of(marked, on_event=evidence.listener, retries=RetryPolicy(attempts=1)) as session:
        with pytest.raises(KreaError) as caught:
            await session.generate("a fox", to=tmp_path, timeout_s=5.0)
        evidence.add_session(session)
    evidence.add(caught.value)
    evidence.assert_clean()


async def test_a_failed_task(marked: Sandbox, session_of: SessionOf, tmp_path: Path, evidence: Evidence) -> None:
    marked.script("create", ("fail", f"code_{KEY}"))
    async with session_of(marked, on_event=evidence.listener) as session:
        with pytest.raises(TaskFailedError) as caught:
            await session.generate("a fox", to=tmp_path)
    evidence.add(caught.value)
    evidence.assert_clean()


@pytest.mark.parametrize("fault", ["gone", "wrong_type", "truncated", "drop", "stalled"])
async def test_a_picture_that_cannot_be_fetched(
    marked: Sandbox, session_of: SessionOf, tmp_path: Path, evidence: Evidence, fault: str
) -> None:
    certain: dict[str, Any] = {f"image_{fault}": 1.0}
    marked.faults = Faults(**certain, stall_s=0.2)
    async with session_of(marked, on_event=evidence.listener) as session:
        with pytest.raises(DownloadError) as caught:
            await session.generate("a fox", to=tmp_path / "out" / "fox.png")
    evidence.add(caught.value)
    evidence.assert_clean()


@pytest.mark.parametrize(
    "link",
    [
        f"http://[broken/a.png?sig={SIGNATURE}",
        f"http:///a.png?sig={SIGNATURE}",
        f"http://127.0.0.1:99999/a.png?sig={SIGNATURE}",
        f"http://127.0.0.1:1/a.png?sig={SIGNATURE}",
        f"http://who:{SIGNATURE}@127.0.0.1:1/a.png",
        f"http://{'a' * 70}.example/a.png?sig={SIGNATURE}",
        f"https://127.0.0.1:1/a b.png?sig={SIGNATURE}",
        f"https://who:a '{SIGNATURE}'@127.0.0.1:1/a.png",
        f"https://127.0.0.1:1/a.png?a\n'{SIGNATURE}'",
    ],
)
async def test_a_link_that_leads_nowhere(
    marked: Sandbox,
    session_of: SessionOf,
    tmp_path: Path,
    evidence: Evidence,
    monkeypatch: pytest.MonkeyPatch,
    link: str,
) -> None:
    monkeypatch.setattr(Links, "make", lambda *_: link)
    async with session_of(marked, on_event=evidence.listener) as session:
        report = await session.render(["a fox"], tmp_path / "out")
    assert report.failed == 1
    evidence.add(report, *report.examples.values())
    evidence.add_files(tmp_path / "out")
    evidence.assert_clean()


async def test_a_damaged_journal(marked: Sandbox, session_of: SessionOf, tmp_path: Path, evidence: Evidence) -> None:
    async with session_of(marked, on_event=evidence.listener) as session:
        await session.render(["one", "two"], tmp_path)
    journal = tmp_path / JOURNAL_NAME
    whole = journal.read_bytes()
    journal.write_bytes(whole[: len(whole) // 2] + b"\xff\x00{" + whole[len(whole) // 2 + 40 :])
    async with session_of(marked, on_event=evidence.listener) as session:
        with pytest.raises(JournalError) as caught:
            await session.render(["one", "two"], tmp_path)
    evidence.add(caught.value)
    evidence.add_files(tmp_path)
    evidence.assert_clean()


@pytest.mark.parametrize("stage", ["create", "generation"])
async def test_a_call_that_is_cancelled(
    marked: Sandbox, session_of: SessionOf, tmp_path: Path, evidence: Evidence, stage: str
) -> None:
    marked.durations = Durations.fixed(60.0)
    if stage == "create":
        marked.script("create", ("slow", 0.3))
    orphans: list[Orphan] = []
    async with session_of(marked, on_event=evidence.listener, on_orphan=orphans.append) as session:
        call = asyncio.create_task(session.generate("a fox", to=tmp_path))
        await until(lambda: session.stats.calls.get(stage, session.stats.followed))
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await call
        await until(lambda: orphans)
        evidence.add_session(session)
    evidence.add(caught.value, *orphans)
    evidence.assert_clean()


async def test_settings_that_are_wrong(
    marked: Sandbox, session_of: SessionOf, tmp_path: Path, evidence: Evidence
) -> None:
    """A key with a character that no header takes, and a base URL with the key in it."""
    async with session_of(marked, on_event=evidence.listener) as session:
        await session.generate("a fox", to=tmp_path)
    for options in ({"api_key": f"{KEY}\n{KEY}"}, {"api_key": KEY, "base_url": f"https://x:{KEY}@api.example"}):
        settings: dict[str, Any] = options
        with pytest.raises((AuthenticationError, InvalidRequestError)) as caught:
            KreaSession(**settings)
        evidence.add(caught.value)
    evidence.add_session(session)
    evidence.assert_clean()
