"""One task's life. Its state follows from three times, so that waiting tasks cost nothing: no timer, no coroutine."""

from typing import Any, Final

from attrs import define, field

from krea_async.models import ImageRequest

MODEL: Final = "krea-2-turbo"

_MESSAGES: Final = {
    "content_policy_violation": "The prompt violates the content policy",
    "generation_timeout": "The generation took too long",
    "resource_exhausted": "No capacity is left at the moment",
    "generation_failed_no_content": "The model returned no picture",
}


@define(kw_only=True, eq=False)
class TaskRecord:
    """Everything the sandbox knows of a task. Times are Unix seconds.

    request: what was asked for. body: the create request's JSON, as sent. key: its Idempotency-Key. seed_used: the
    request's seed, or the gateway's own choice. end: "completed", "cancelled", or the error code it fails with.
    fetched: how often its picture was sent to the last byte. sha256, picture_bytes: of its picture, None until that is
    first drawn. link_number: one more for each link that died before its time. forgotten: the gateway answers 404.
    """

    id: str
    request: ImageRequest
    body: dict[str, Any] = field(repr=False)
    seed_used: int
    key: str | None
    created: float
    starts: float
    finishes: float
    end: str
    estimate_s: int
    callback_url: str | None = None
    credits_charged: float = 0.0
    reads: int = 0
    fetched: int = 0
    sha256: str | None = None
    picture_bytes: int | None = None
    link_number: int = 0
    forgotten: bool = False

    @property
    def prompt(self) -> str:
        """What was to be shown."""
        return self.request.prompt

    @property
    def size(self) -> str:
        """Its aspect ratio."""
        return self.request.size

    @property
    def quality(self) -> str:
        """Its tier, "1K" or "2K"."""
        return self.request.quality

    @property
    def asked(self) -> tuple[str, str, str, int | None]:
        """Prompt, size, quality, and the seed as it was asked for: what makes two tasks duplicates of each other."""
        return self.prompt, self.size, self.quality, self.request.seed

    def status(self, now: float) -> str:
        """The documented status word at `now`."""
        if now >= self.finishes:
            return self.end if self.end in {"completed", "cancelled"} else "failed"
        return "processing" if now >= self.starts else "pending"

    def progress(self, now: float) -> int:
        """Percent done at `now`; 100 only when completed."""
        if now >= self.finishes:
            return 100 if self.end == "completed" else 99
        if now < self.starts:
            return 0
        return min(99, int(100 * (now - self.starts) / (self.finishes - self.starts)))

    def view(self, now: float, link: str | None) -> dict[str, Any]:
        """The task as the API shows it at `now`; `link` is its picture's, for a completed one."""
        status = self.status(now)
        usage: dict[str, Any] = {
            "billing_rule": "per_call",
            "credits_reserved": self.request.credits,
            "user_group": "default",
        }
        shown: dict[str, Any] = {
            "created": int(self.created),
            "id": self.id,
            "model": MODEL,
            "object": "image.generation.task",
            "progress": self.progress(now),
            "status": status,
            "task_info": {"can_cancel": False, "estimated_time": self.estimate_s},
            "type": "image",
            "usage": usage,
        }
        if status in {"pending", "processing"}:
            return shown
        usage["credits_used"] = self.credits_charged
        shown["duration"] = round(self.finishes - self.created, 3)
        if status == "completed":
            shown["results"] = [link]
        elif status == "failed":
            shown["error"] = {"code": self.end, "message": _MESSAGES.get(self.end, self.end.replace("_", " "))}
        return shown

    def summary(self, now: float) -> dict[str, Any]:
        """The task's line in the account's list."""
        status = self.status(now)
        return {
            "id": self.id,
            "status": status,
            "model": MODEL,
            "type": "image",
            "progress": self.progress(now),
            "created_at": int(self.created),
            "has_results": status == "completed",
            "credits_used": self.credits_charged,
        }
