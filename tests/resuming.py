"""What the tests of runs after runs share: journals as a killed run left them, and what a directory says afterwards."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from krea_async import ImageRequest, KreaSession, RetryPolicy
from krea_async.sandbox import Sandbox
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.records import Accepted, Completed, Header, Intent, Line, Row, RunBegun, encode

SessionOf = Callable[..., KreaSession]

ONE_TRY = RetryPolicy(attempts=1)
LONG_AGO_S = 100_000.0


def foxes(count: int, start: int = 0) -> list[str]:
    return [f"fox {number}" for number in range(start, start + count)]


def manifest(directory: Path) -> list[dict[str, Any]]:
    """Its lines, in the order of the rows."""
    rows = [json.loads(line) for line in (directory / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    return sorted(rows, key=lambda row: row["index"])


def journal(directory: Path) -> list[dict[str, Any]]:
    """Its lines, in their order."""
    return [json.loads(line) for line in (directory / JOURNAL_NAME).read_text(encoding="utf-8").splitlines()]


def keys_of(directory: Path, n: int) -> list[str]:
    """The keys that row `n` was sent under, one for each time."""
    return [line["key"] for line in journal(directory) if line["e"] == "intent" and line["n"] == n]


def pictures(directory: Path) -> list[str]:
    """The names of the pictures, and of whatever else should not be there."""
    return sorted(path.name for path in directory.iterdir() if path.name not in {"manifest.jsonl", JOURNAL_NAME})


def spent(directory: Path) -> tuple[float, float]:
    """Credits that the journal has for settled, and for perhaps spent."""
    with History(directory / JOURNAL_NAME) as history:
        return history.credits_settled, history.credits_unknown


def killed_run(directory: Path, *lines: Line) -> None:
    """Leave the journal of a run that wrote these lines and was killed."""
    now = time.time()
    directory.mkdir(parents=True, exist_ok=True)
    begun = (Header(at_s=now - LONG_AGO_S), RunBegun(pid=1, version="0", at_s=now - LONG_AGO_S))
    (directory / JOURNAL_NAME).write_bytes(b"".join(map(encode, (*begun, *lines))))


def row(n: int, request: str | ImageRequest) -> Row:
    return Row(n=n, index=n, request=ImageRequest.of(request))


def key_of(n: int) -> str:
    return f"key-of-row-{n:08d}"


def intent(n: int, *, age_s: float = 10.0) -> Intent:
    return Intent(n=n, key=key_of(n), at_s=time.time() - age_s)


def accepted(n: int, task_id: str, *, age_s: float = 9.0) -> Accepted:
    return Accepted(n=n, task_id=task_id, credits=0.45, at_s=time.time() - age_s)


def completed(n: int, *, expires_in_s: float) -> Completed:
    return Completed(n=n, links=["https://x.y/a.png"], expires_s=time.time() + expires_in_s, credits=0.45, at_s=1.0)


async def ordered(session: KreaSession, prompts: Iterable[str | ImageRequest]) -> list[str]:
    """The ids of tasks that another run has submitted."""
    return [(await session.submit(ImageRequest.of(prompt))).task_id for prompt in prompts]


def most_committed(sandbox: Sandbox, price: Callable[[ImageRequest], float] = lambda request: request.credits) -> float:
    """The most that was charged and reserved together at any instant, by the gateway's own books."""
    changes: list[tuple[float, float]] = []
    for task in sandbox.ledger.tasks.values():
        changes.append((task.created, price(task.request)))
        if task.end != "completed":
            changes.append((task.finishes, -price(task.request)))
    total = most = 0.0
    for _, change in sorted(changes, key=lambda change: (change[0], -change[1])):
        total += change
        most = max(most, total)
    return round(most, 6)


def prompts_made(sandbox: Sandbox) -> Sequence[str]:
    """The prompts of all tasks, in the order in which they were made."""
    return [task.prompt for task in sandbox.ledger.tasks.values()]
