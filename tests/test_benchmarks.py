"""The benchmarks' own arithmetic: what an oracle could have done, what the wire showed, what was saved and paid for."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.client import FLOOR, OURS
from benchmarks.gateway import gateway_process
from benchmarks.measure import Load, side_by_side, there_and_back
from benchmarks.oracle import oracle_s, use
from benchmarks.watch import Facts, WatchedSandbox
from krea_async import KreaSession
from krea_async.sandbox import Durations, Limits

pytestmark = pytest.mark.anyio


def facts(*, first_s: float = 0.0, last_s: float = 1.0, durations_s: tuple[float, ...] = ()) -> Facts:
    nothing: dict[str, Any] = {"lags_s": (), "waits_s": (), "requests": {}, "charges": {}, "pictures": {}}
    counts: dict[str, Any] = {"refused": 0, "reads": 0, "max_unfinished": 0, "gateway_cpu_s": 0.0}
    return Facts(first_s=first_s, last_s=last_s, durations_s=durations_s, **nothing, **counts)


def test_a_bucket_gives_its_burst_at_once_and_the_rest_at_its_rate() -> None:
    assert oracle_s(facts(durations_s=(1.0,) * 120), Limits(per_second=20)) == 5.0
    assert oracle_s(facts(durations_s=(1.0,) * 20), Limits(per_second=20)) == 0.0


def test_windows_open_by_the_clock_and_not_by_the_client() -> None:
    limits = Limits(per_window=(30, 3.0))
    assert oracle_s(facts(first_s=301.0, durations_s=(1.0,) * 90), limits) == 5.0
    assert oracle_s(facts(first_s=301.0, durations_s=(1.0,) * 30), limits) == 0.0


def test_a_place_is_free_again_when_its_task_is_known_to_be_finished() -> None:
    limits, found = Limits(unfinished=2), facts(durations_s=(2.0, 4.0, 2.0, 1.0))
    assert oracle_s(found, limits) == 4.0
    assert oracle_s(found, limits, lag_s=0.5) == 4.5


def test_use_is_the_oracles_time_over_the_clients() -> None:
    assert use(facts(first_s=10.0, last_s=20.0, durations_s=(1.0,) * 120), Limits(per_second=20)) == 0.5


def test_every_other_round_goes_back() -> None:
    assert there_and_back("abc", 3) == list("abccbaabc")


async def test_the_wire_shows_when_a_task_was_told_of_and_how_long_a_prompt_waited(tmp_path: Path) -> None:
    durations, limits = Durations.fixed(0.2), Limits(per_second=5, burst=1, retry_after="fraction")
    async with WatchedSandbox(durations=durations, limits=limits, scenes=1) as sandbox:
        async with KreaSession(sandbox.key, base_url=sandbox.url) as session:
            report = await session.render(["a fox", "a hare", "an owl"], tmp_path)
        found = sandbox.facts()
    assert report.saved == found.accepted == len(found.lags_s) == len(found.waits_s) == 3
    assert found.api_requests == sum(report.calls[route] for route in ("create", "read", "read_many"))
    assert found.refused == report.calls["rate_limited"]
    assert all(0.0 <= lag_s < 10.0 for lag_s in found.lags_s)
    assert max(found.waits_s) < found.last_s - found.first_s + 0.01
    assert found.charges == {"a fox": 1, "a hare": 1, "an owl": 1}
    assert set(found.pictures.values()) == {"a fox", "a hare", "an owl"}


def test_pictures_are_held_against_the_ledger_and_a_killed_client_goes_on() -> None:
    """Ours, and the floor, which has no journal; killed when the first prompt is paid for."""
    settings = {"durations": Durations.fixed(0.5), "scenes": 1}
    with gateway_process() as gateway:
        load = Load(pictures=3, concurrency=3, settings=settings, kill_at=0.3, timeout_s=60.0)
        runs = side_by_side(gateway, {OURS: load, FLOOR: load})
    ours, floor = runs[OURS], runs[FLOOR]
    assert (ours.saved, ours.lost, ours.damaged, ours.paid_twice, ours.ended) == (3, 0, 0, 0, True)
    assert (floor.saved, floor.lost, floor.damaged, floor.ended) == (3, 0, 0, True)
    assert floor.paid_twice == floor.facts.accepted - 3 > 0
