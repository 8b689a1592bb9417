"""A session under limits that nobody told it of: what it finds, says, keeps, and does not pass."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from krea_async import Event, KreaSession, LimitFound, PacingPolicy, SubmissionRefused, TimeoutPolicy
from krea_async.sandbox import Durations, Limits, Sandbox
from krea_async.storage.known_limits import KnownLimits

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]
PATIENT = TimeoutPolicy(connect_s=20.0, read_s=20.0)
BRISK = PacingPolicy(first_rate=50.0, longest_pause_s=0.5)


def foxes(many: int) -> list[str]:
    return [f"fox number {number}" for number in range(many)]


async def test_a_limit_per_second_is_found_told_and_kept(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.limits = Limits(per_second=40.0, burst=10)
    told: list[Event] = []
    caplog.set_level(logging.INFO, logger="krea_async")
    async with session_of(sandbox, pacing=BRISK, timeouts=PATIENT, on_event=told.append) as session:
        report = await session.render(foxes(300), tmp_path)
        found = session.stats.limit
        refused = sandbox.ledger.rate_limited
    assert report.saved == 300
    assert found is not None
    assert found.kind == "rate"
    assert 5.0 < found.value < 100.0
    assert sum(isinstance(event, SubmissionRefused) for event in told) == refused > 0
    opinions = [event.limit for event in told if isinstance(event, LimitFound)]
    assert opinions
    assert any(f"limit looks like {opinions[-1]}" in line for line in caplog.messages)

    known = KnownLimits(sandbox.url, sandbox.key).load()  # the next session begins with it
    assert known is not None
    assert known.kind == "rate"


async def test_a_limit_of_unfinished_tasks_is_seldom_run_into(session_of: SessionOf, tmp_path: Path) -> None:
    durations = Durations(queue_s=0.0, run_s=0.1, sigma=0.5)
    async with (
        Sandbox(durations=durations, limits=Limits(unfinished=8)) as sandbox,
        session_of(sandbox, pacing=BRISK, timeouts=PATIENT) as session,
    ):
        report = await session.render(foxes(300), tmp_path)
        found, refused = session.stats.limit, sandbox.ledger.rate_limited
    assert report.saved == 300
    assert found is not None  # of which kind, tests/control/test_governor.py asks, with a clock that no load disturbs
    assert refused < 60


async def test_what_was_found_can_be_left_unkept(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sandbox.limits = Limits(per_second=40.0, burst=10)
    unkept = PacingPolicy(first_rate=50.0, longest_pause_s=0.5, remember=False)
    async with session_of(sandbox, pacing=unkept, timeouts=PATIENT) as session:
        await session.render(foxes(100), tmp_path / "renders")
        assert session.stats.limit is not None
    assert not (tmp_path / "cache").exists()


async def test_a_session_that_met_no_limit_keeps_nothing_and_says_what_it_does(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    session = session_of(sandbox)
    assert session.stats.calls == {}
    async with session:
        await session.render(foxes(20), tmp_path / "renders")
        stats = session.stats
    assert (stats.in_flight, stats.waiting, stats.followed) == (0, 0, 0)
    assert stats.calls["create"] == 20
    assert stats.limit is None
    assert stats.pace == "slow start"
    assert session.stats.calls["create"] == 20, "what was done can be asked for after the end"
    assert not (tmp_path / "cache").exists()


async def test_a_listener_that_fails_stops_nothing(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.limits = Limits(per_second=40.0, burst=5)

    def fails(event: Event) -> None:
        raise ValueError(f"I never expected {event}")

    async with session_of(sandbox, pacing=BRISK, timeouts=PATIENT, on_event=fails) as session:
        report = await session.render(foxes(60), tmp_path)
    assert report.saved == 60
    assert "the listener for events failed at SubmissionRefused" in caplog.text


async def test_the_caller_s_caps_hold_although_the_gateway_would_take_more(
    session_of: SessionOf, tmp_path: Path
) -> None:
    async with (
        Sandbox(durations=Durations.fixed(0.2), scenes=1) as sandbox,
        session_of(sandbox, concurrency=5, rate=10.0) as session,
    ):
        await session.credits()  # the first submission does not pay for the connection
        report = await session.render(foxes(60), tmp_path)
        assert report.saved == 60
        assert sandbox.ledger.max_unfinished <= 5
        times = sorted(task.created for task in sandbox.ledger.tasks.values())
        assert times[-1] - times[0] >= 59 / 30.0 * 0.95


async def test_only_as_many_rows_are_begun_as_can_leave_soon(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    """However many places there are, a limit lets most of them stay empty, and their rows unread."""
    sandbox.limits = Limits(per_window=(3, 3600.0), retry_after="seconds", retry_after_s=0.2)
    taken = 0

    def rows() -> Iterator[str]:
        nonlocal taken
        for row in foxes(5_000):
            taken += 1
            yield row

    async with session_of(sandbox) as session:
        async with session.render(rows(), tmp_path) as batch:
            seen = 0
            async for _ in batch:
                seen += 1
                if seen == 3:
                    break
        assert taken <= 3 + 64 + 64
