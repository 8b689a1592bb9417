"""Picture links: signed, expiring, and killable one by one, without keeping a list of those handed out."""

import hmac
from hashlib import blake2b
from typing import Any

from krea_async.sandbox.settings import Settings
from krea_async.sandbox.tasks import TaskRecord


class Links:
    """Makes links and judges them. `base` is the image host's URL, known once its port is."""

    def __init__(self, settings: Settings, secret: bytes) -> None:
        self.base = ""
        self._settings = settings
        self._secret = secret
        self._dead: dict[str, int] = {}  # signature -> the status it is answered with

    def view(self, task: TaskRecord, now: float) -> dict[str, Any]:
        """The task as the API shows it at `now`, with a fresh link if it is completed."""
        completed = task.status(now) == "completed"
        return task.view(now, self.make(task, int(now + self._settings.link_life_s)) if completed else None)

    def make(self, task: TaskRecord, expires: int) -> str:
        """The URL of the task's picture, valid until `expires` (Unix seconds)."""
        return f"{self.base}/images/{task.id}.png?expires={expires}&sig={self._sign(task, expires)}"

    def refusal(self, task: TaskRecord, expires: str, sig: str, now: float) -> int | None:
        """The status to refuse this link with: 403 or 410; None: it is good."""
        if sig in self._dead:
            return self._dead[sig]
        if (
            not expires.isascii()
            or not expires.isdigit()
            or not hmac.compare_digest(sig, self._sign(task, int(expires)))
        ):
            return 403
        return 403 if now >= int(expires) else None

    def kill(self, task: TaskRecord, sig: str, status: int) -> None:
        """Answer this link with `status` from now on. Links made later, by a fresh read of the task, are good."""
        self._dead[sig] = status
        task.link_number += 1

    def _sign(self, task: TaskRecord, expires: int) -> str:
        text = f"{task.id} {task.link_number} {expires}"
        return blake2b(text.encode(), key=self._secret, digest_size=12).hexdigest()
