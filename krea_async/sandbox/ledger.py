"""What happened, for tests to assert on: every task, every charge, every request, every header that leaked."""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from krea_async.sandbox.account import Account
from krea_async.sandbox.tasks import TaskRecord

Asked = tuple[str, str, str, int | None]


class Ledger:
    """A live view. Readable from any thread; `as_json` is also served at GET /sandbox/ledger.

    requests: by route. statuses: answers by (route, status); status 0 is a connection closed without an answer.
    picture_bytes: sent by the image host. leaks: every secret that host saw. callbacks: "tries", "delivered", "failed".
    """

    def __init__(self, account: Account, clock: Callable[[], float]) -> None:
        self.requests: Counter[str] = Counter()
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.callbacks: Counter[str] = Counter()
        self.picture_bytes = 0
        self.leaks: list[str] = []
        self._account = account
        self._clock = clock

    @property
    def tasks(self) -> dict[str, TaskRecord]:
        """Every task made, by id, oldest first."""
        self._account.settle(self._clock())
        return dict(self._account.tasks)

    def status(self, task_id: str) -> str:
        """The task's status now, as the API would tell."""
        return self._account.tasks[task_id].status(self._clock())

    @property
    def tasks_by_prompt(self) -> dict[str, list[TaskRecord]]:
        """Every task made, by prompt."""
        tasks: defaultdict[str, list[TaskRecord]] = defaultdict(list)
        for task in self.tasks.values():
            tasks[task.prompt].append(task)
        return dict(tasks)

    @property
    def charged_credits(self) -> float:
        """Credits charged for completed tasks."""
        self._account.settle(self._clock())
        return self._account.used

    @property
    def reserved_credits(self) -> float:
        """Credits held for unfinished tasks."""
        self._account.settle(self._clock())
        return self._account.reserved

    @property
    def remaining_credits(self) -> float | None:
        """The balance; None: without limit."""
        self._account.settle(self._clock())
        return self._account.remaining

    @property
    def charges_by_key(self) -> Counter[str | None]:
        """How many tasks each Idempotency-Key paid for (completed, or still unfinished and reserved)."""
        return Counter(task.key for task in self._paid())

    @property
    def charges_by_prompt(self) -> Counter[Asked]:
        """How many tasks each (prompt, size, quality, seed as asked) paid for."""
        return Counter(task.asked for task in self._paid())

    @property
    def duplicates(self) -> dict[Asked, int]:
        """Those of `charges_by_prompt` that were paid for more than once."""
        return {asked: count for asked, count in self.charges_by_prompt.items() if count > 1}

    @property
    def unfinished(self) -> int:
        """Tasks pending or processing now."""
        self._account.settle(self._clock())
        return self._account.unfinished

    @property
    def max_unfinished(self) -> int:
        """The most tasks that were ever unfinished at once."""
        return self._account.max_unfinished

    @property
    def replays(self) -> int:
        """Creates that were answered with the task an earlier one had made."""
        return self._account.replays

    @property
    def rate_limited(self) -> int:
        """Requests answered 429."""
        return sum(count for (_, status), count in self.statuses.items() if status == 429)

    def as_json(self, *, with_tasks: bool = True) -> dict[str, Any]:
        """Everything as JSON values; `with_tasks`: the tasks one by one, too."""
        facts: dict[str, Any] = {
            "task_count": len(self.tasks),
            "charged_credits": self.charged_credits,
            "reserved_credits": self.reserved_credits,
            "remaining_credits": self.remaining_credits,
            "requests": dict(self.requests),
            "statuses": {f"{route} {status}": count for (route, status), count in self.statuses.copy().items()},
            "rate_limited": self.rate_limited,
            "unfinished": self.unfinished,
            "max_unfinished": self.max_unfinished,
            "replays": self.replays,
            "picture_bytes": self.picture_bytes,
            "leaks": list(self.leaks),
            "callbacks": dict(self.callbacks),
            "duplicates": [
                {"prompt": prompt, "size": size, "quality": quality, "seed": seed, "charges": count}
                for (prompt, size, quality, seed), count in self.duplicates.items()
            ],
            "keys_charged_twice": [key for key, count in self.charges_by_key.items() if key is not None and count > 1],
        }
        if with_tasks:
            now = self._clock()
            facts["tasks"] = [_as_json(task, now) for task in self.tasks.values()]
        return facts

    def _paid(self) -> list[TaskRecord]:
        now = self._clock()
        return [task for task in self.tasks.values() if task.end == "completed" or now < task.finishes]


def _as_json(task: TaskRecord, now: float) -> dict[str, Any]:
    return {
        "id": task.id,
        "prompt": task.prompt,
        "size": task.size,
        "quality": task.quality,
        "seed": task.request.seed,
        "seed_used": task.seed_used,
        "key": task.key,
        "body": task.body,
        "status": task.status(now),
        "end": task.end,
        "credits_charged": task.credits_charged,
        "created": task.created,
        "finished": task.finishes if now >= task.finishes else None,
        "reads": task.reads,
        "fetched": task.fetched,
        "sha256": task.sha256,
        "picture_bytes": task.picture_bytes,
    }
