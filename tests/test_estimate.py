"""What a list would come to: what a batch then does is the measure, and nothing is sent to find it out."""

# ruff: noqa: ASYNC240, C408, SIM117 - looking into a directory takes no time; blocks one by one are easier to read

import time
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from attrs import asdict
from until import until

from krea_async import (
    BatchPolicy,
    ImageRequest,
    InvalidRequestError,
    JournalError,
    JournalPolicy,
    KreaSession,
    RetryPolicy,
)
from krea_async.estimate import TASK_S, Estimate, estimate
from krea_async.sandbox import Durations, Sandbox
from krea_async.storage.records import Accepted, Failed, Header, Intent, Line, Row, Saved, encode

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

ONE_TRY = RetryPolicy(attempts=1)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(durations=Durations.instant(), scenes=1, credits=None) as sandbox:
        yield sandbox


def kinds(found: Estimate) -> dict[str, int]:
    """Those that there are any of."""
    names = ("saved", "to_fetch", "failed", "unknown", "copies", "unanswered", "to_make")
    return {name: getattr(found, name) for name in names if getattr(found, name)}


def foxes(number: int) -> list[ImageRequest]:
    return [ImageRequest(f"fox {n}") for n in range(number)]


def saved(n: int, *, seconds: Sequence[float] = (0.0, 0.0, 4.0, 1.0), **facts: Any) -> Saved:
    """A picture of no bytes; `journalled` makes its file."""
    known = {"credits": 0.45, "task_id": f"task-unified-1-{n}", "files": [f"{n}.png"], "bytes": 0}
    return Saved(n=n, sha256="0" * 64, width=1024, height=1024, seconds=tuple(seconds), at_s=9.0, **{**known, **facts})


def failed(n: int, *, retryable: bool) -> Failed:
    return Failed(n=n, credits=0.45, charged="no", error="TaskFailedError", message="no", retryable=retryable, at_s=9.0)


def intent(n: int, *, age_s: float = 10.0) -> Intent:
    return Intent(n=n, key=f"key-of-row-{n:08d}", at_s=time.time() - age_s)


def journalled(directory: Path, requests: Sequence[ImageRequest], *lines: Line) -> Path:
    """A directory with a journal of these rows, in which this happened."""
    directory.mkdir(exist_ok=True)
    rows = [Row(n=n, index=n, request=request) for n, request in enumerate(requests)]
    (directory / "journal.jsonl").write_bytes(b"".join(map(encode, (Header(at_s=1.0), *rows, *lines))))
    for line in lines:
        if isinstance(line, Saved):
            (directory / line.files[0]).touch()
    return directory


# --- rows and credits -------------------------------------------------------------------------------------------------


def test_a_list_without_a_directory_is_priced_row_by_row_and_equal_seeds_once() -> None:
    fox = ImageRequest("a fox", seed=7)
    rows: list[ImageRequest | InvalidRequestError] = [
        *(fox, ImageRequest("a fox", seed=7, id="again"), ImageRequest("a fox", seed=7, quality="2K")),
        *(ImageRequest("a fox"), ImageRequest("a fox"), ImageRequest("a fox", seed=0), ImageRequest("a fox", seed=8)),
        InvalidRequestError("no row", field=None),
    ]
    found = estimate(rows)
    assert kinds(found) == {"to_make": 6, "copies": 1, "failed": 1}
    assert (found.rows, found.others, found.pictures) == (8, 0, 6)
    assert (found.credits, found.usd) == (5 * 0.45 + 1.8, round(5 * 0.0067 + 0.027, 6))
    assert kinds(estimate([fox, fox], policy=BatchPolicy(dedupe=False))) == {"to_make": 2}
    assert kinds(estimate([])) == {}


def test_every_kind_of_row_of_a_directory_is_told_apart(tmp_path: Path) -> None:
    requests = [ImageRequest(f"row {n}") for n in range(9)]
    requests[7] = ImageRequest("row 7", quality="2K")
    directory = journalled(
        tmp_path / "out",
        requests,
        *(intent(0), Accepted(n=0, task_id="task-unified-1-0", at_s=1.0), saved(0)),
        *(intent(1), Accepted(n=1, task_id="task-unified-1-1", at_s=1.0), saved(1)),  # its file is lost
        *(intent(2), failed(2, retryable=True)),
        *(intent(3), failed(3, retryable=False)),
        *(intent(4), Accepted(n=4, task_id="task-unified-1-4", at_s=1.0)),
        intent(5, age_s=4000.0),
        intent(6),
        intent(7),
    )
    (directory / "1.png").unlink()
    rows = [ImageRequest("new at the top"), *requests[:6], *requests[8:], ImageRequest("row 0")]
    found = estimate(rows, directory)
    assert kinds(found) == {"saved": 1, "to_fetch": 2, "failed": 2, "unknown": 1, "unanswered": 2, "to_make": 3}
    assert (found.rows, found.others) == (9, 2)
    assert found.credits == round(4 * 0.45 + 1.8, 6)
    again = estimate(rows, directory, policy=BatchPolicy(retry_failed=True, retry_unknown=True))
    assert kinds(again) == {"saved": 1, "to_fetch": 2, "failed": 1, "unanswered": 3, "to_make": 4}
    coded = BatchPolicy(retry_failed=True, retry_codes={"TaskFailedError"}, journal=JournalPolicy(keys_live_s=5000.0))
    assert kinds(estimate(rows, directory, policy=coded)) == dict(saved=1, to_fetch=2, unanswered=3, to_make=5)


def test_a_directory_without_a_journal_holds_nothing(tmp_path: Path) -> None:
    assert kinds(estimate(foxes(2), tmp_path)) == kinds(estimate(foxes(2), tmp_path / "none")) == {"to_make": 2}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("order", [1, -1])
def test_a_picture_that_the_directory_shows_or_has_ordered_is_copied_wherever_its_twins_stand(
    tmp_path: Path, order: int
) -> None:
    twins = [ImageRequest("a fox", seed=7, id=name) for name in ("first", "second", "third")]
    others = [ImageRequest("an owl", seed=7, id=name) for name in ("fourth", "fifth")]
    requests = [twins[0], twins[1], others[0]]
    ordered = Accepted(n=2, task_id="task-unified-1-2", at_s=1.0)
    copied = saved(1, task_id=None, credits=0.0)
    directory = journalled(tmp_path, requests, saved(0), copied, intent(2), ordered)
    rows = [*twins, *others][::order]
    assert kinds(estimate(rows, directory)) == {"saved": 2, "to_fetch": 1, "copies": 2}
    assert kinds(estimate([twins[2]], directory)) == {"to_fetch": 1, "copies": 1}
    (directory / "1.png").unlink()
    assert kinds(estimate(rows, directory)) == {"saved": 1, "to_fetch": 2, "copies": 2}
    (directory / "0.png").unlink()
    assert kinds(estimate([twins[2]], directory)) == {"to_fetch": 1, "to_make": 1}
    assert kinds(estimate([twins[2]], directory, policy=BatchPolicy(dedupe=False))) == {"to_fetch": 1, "to_make": 1}


def test_a_price_that_the_directory_was_charged_goes_before_the_lists(tmp_path: Path) -> None:
    requests = [*foxes(3), ImageRequest("a big one", quality="2K")]
    directory = journalled(tmp_path, requests, saved(0, credits=0.5), saved(1, credits=0.6))
    found = estimate([*requests, ImageRequest("another")], directory)
    assert found.prices == {"1K": 0.6, "2K": 1.8}
    assert found.charged == {"1K"}
    assert found.credits == 0.6 + 0.6 + 1.8
    assert found.usd == round(2 * 0.0067 * 0.6 / 0.45 + 0.027, 6)


@pytest.mark.parametrize("content", [b"not a journal\n", b'{"e":"journal","v":99,"t":1.0,"crc":"00000000"}\nx\n'])
def test_a_journal_that_cannot_be_believed_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal.jsonl").write_bytes(content * 2)
    with pytest.raises(JournalError):
        estimate(foxes(1), tmp_path)
    with pytest.raises(JournalError) as caught:
        estimate(foxes(1), tmp_path / "journal.jsonl")
    assert caught.value.code == "disk_error"


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pictures", "concurrency", "rate", "seconds"),
    [
        (0, 64, None, 0.0),
        (1, 64, None, TASK_S + 1.0),
        (64, 64, None, TASK_S + 4.0),
        (65, 64, None, 2 * TASK_S + 1.0),
        (640, 64, None, 10 * TASK_S + 1.0),
        (640, 64, 0.5, TASK_S + 639 * 2.0 + 1.0),
        (640, 64, 100.0, 10 * TASK_S + 1.0),
        (6400, 6400, None, TASK_S + 400.0),
    ],
)
def test_time_follows_what_is_slowest(pictures: int, concurrency: int, rate: float | None, seconds: float) -> None:
    found = estimate(foxes(pictures), concurrency=concurrency, rate=rate)
    assert found.seconds == seconds
    assert "an example of the vendor's" in found.basis
    assert f"{concurrency} at a time" in found.basis
    assert ("submissions per second" in found.basis) == (rate is not None)


def test_measured_seconds_go_before_assumed_ones_and_what_is_paid_for_is_fetched_first(tmp_path: Path) -> None:
    requests = foxes(40)
    lines: list[Line] = [saved(n, seconds=(9.0, 0.1, 2.0 + 2 * n, 0.5)) for n in range(3)]  # on average 4 s
    lines.append(saved(3, task_id=None, credits=0.0, seconds=(0.0, 0.0, 0.0, 0.0)))
    for n in range(4, 24):
        lines += [intent(n), Accepted(n=n, task_id=f"task-unified-1-{n}", at_s=1.0)]
    found = estimate(requests, journalled(tmp_path, requests, *lines), concurrency=8)
    assert kinds(found) == {"saved": 4, "to_fetch": 20, "to_make": 16}
    assert found.seconds == 2 * 0.5 + 2 * 4.0 + 0.5
    assert (found.speed.pictures, found.speed.generating_s) == (3, 4.0)
    assert "4.0 s a picture, the mean of the last 3 in the directory" in found.basis


def test_only_the_latest_pictures_are_read_for_the_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("krea_async.estimate.MEASURED_PICTURES", 5)
    requests = foxes(10)
    lines = [saved(n, seconds=(0.0, 0.0, 100.0 if n < 4 else 3.0, 1.0)) for n in range(9)]
    speed = estimate(requests, journalled(tmp_path, requests, *lines)).speed
    assert (speed.pictures, speed.generating_s) == (5, 3.0)


def test_a_balance_covers_what_it_reaches(tmp_path: Path) -> None:
    found = estimate(foxes(2), tmp_path)
    assert [found.is_covered_by(balance) for balance in (None, 0.9, 0.89)] == [True, True, False]


# --- the batch is the measure -----------------------------------------------------------------------------------------


def random_list(rng: Random, serial: "count[int]") -> list[ImageRequest]:
    """Rows with many equal ones among them, in any order."""
    pool = [
        ImageRequest(
            f"fox {rng.randrange(6)}",
            seed=rng.choice((None, 0, 1, 2)),
            quality=rng.choice(("1K", "1K", "2K")),
            id=rng.choice((None, f"id-{next(serial)}")),
        )
        for _ in range(20)
    ]
    return rng.sample(pool, len(pool))


def test_a_row_whose_id_was_noted_with_another_quality_costs_what_is_sent(tmp_path: Path) -> None:
    """The journal's row counts, so its price does."""
    journalled(tmp_path, [ImageRequest("a fox", id="f", quality="2K")])
    found = estimate([ImageRequest("a fox", id="f", quality="1K"), ImageRequest("an owl", id="o")], tmp_path)
    assert found.credits == ImageRequest("a fox", quality="2K").credits + ImageRequest("an owl").credits
    assert (found.to_make, found.changed) == (2, 1)


def test_a_damaged_journal_is_estimated_where_a_batch_would_go_on_with_it(tmp_path: Path) -> None:
    """`render --skip-damaged` asks before it spends, and must not end there."""
    journal = journalled(tmp_path, foxes(3), saved(0), saved(1)) / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"fox 1", b"FOX 1"))
    with pytest.raises(JournalError):
        estimate(foxes(3), tmp_path)
    found = estimate(foxes(3), tmp_path, policy=BatchPolicy(skip_damaged=True))
    assert kinds(found) == {"saved": 1, "to_make": 2}


@pytest.mark.parametrize("seed", range(3))
async def test_a_batch_pays_what_was_estimated(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, seed: int
) -> None:
    """Run, break off, change the list, lose a file: each time the rest costs what was said before."""
    rng = Random(seed)
    rows = random_list(rng, serial := count())
    policy = BatchPolicy(breaker=None)
    for round_number in range(4):
        found = estimate(rows, tmp_path, policy=policy)
        assert sum(kinds(found).values()) == found.rows + found.others
        before, charged = len(sandbox.ledger.tasks), sandbox.ledger.charged_credits
        sandbox.script("create", *(["ok"] * 3 + [("fail", "content_policy_violation")]) * (round_number == 3))
        async with session_of(sandbox, concurrency=8, retries=ONE_TRY) as session:
            async with session.render(rows, tmp_path, policy=policy) as batch:
                images = []
                async for image in batch:
                    images.append(image)
                    if round_number < 2 and len(images) == rng.randrange(2, 10):
                        break
        made = len(sandbox.ledger.tasks) - before
        if round_number >= 2:
            failures = batch.report.failed - found.failed
            assert made - failures <= found.pictures <= made
            if not failures:
                assert round(sandbox.ledger.charged_credits - charged, 6) == found.credits
        assert made <= found.pictures + 1
        for path in rng.sample(sorted(tmp_path.glob("*.png")), 1):
            path.unlink()
        rows = [*random_list(rng, serial)[:3], *rows] if round_number == 0 else rng.sample(rows, len(rows))


async def test_an_answer_that_was_lost_is_paid_at_most_once_more(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.script("create", "drop_after", "drop_before", "ok")
    async with session_of(sandbox, concurrency=1, retries=ONE_TRY) as session:
        await session.render(foxes(3), tmp_path)
    found = estimate(foxes(3), tmp_path)
    assert kinds(found) == {"saved": 1, "unanswered": 2}
    before = sandbox.ledger.charged_credits
    async with session_of(sandbox) as session:
        assert (await session.render(foxes(3), tmp_path)).saved == 2
    assert round(sandbox.ledger.charged_credits - before, 6) == 0.45 <= found.credits == 0.9


async def test_a_running_batch_is_not_disturbed(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    """Its directory is locked against other runs; looking is allowed, and changes nothing."""
    sandbox.durations = Durations.fixed(0.4)
    async with session_of(sandbox, concurrency=4) as session:
        async with session.render(foxes(4), tmp_path) as batch:
            journal = tmp_path / "journal.jsonl"
            await until(lambda: journal.read_bytes().count(b'"accepted"') >= 4, within_s=5)
            before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
            requests = sandbox.ledger.requests.total() - sandbox.ledger.requests["batch"]
            found = estimate(foxes(4), tmp_path)
            assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
            assert sandbox.ledger.requests.total() - sandbox.ledger.requests["batch"] == requests
            assert kinds(found) == {"to_fetch": 4}
            async for image in batch:
                assert image.status == "saved"


def test_an_estimate_is_all_plain_values() -> None:
    """So that it can be printed as JSON."""
    facts = asdict(estimate(foxes(1)))
    assert {type(value) for value in facts.values()} <= {int, float, dict, frozenset, type(None)}
