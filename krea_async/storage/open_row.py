"""What is known of a row that was under way when its run ended."""

from attrs import frozen

from krea_async.storage.records import Accepted, Completed, Intent, Left
from krea_async.storage.replay import RowState


@frozen(kw_only=True)
class OpenRow:
    """A row that was under way when its run ended: its latest lines, and what resume needs of them.

    What no line says is None. Times are in Unix seconds; created_s is by the gateway's clock.
    """

    n: int
    state: RowState
    intent: Intent | None = None
    accepted: Accepted | None = None
    completed: Completed | None = None
    left: Left | None = None

    @property
    def key(self) -> str | None:
        """The idempotency key that the row was sent under."""
        return None if self.intent is None else self.intent.key

    @property
    def intended_s(self) -> float | None:
        """When it was first sent under this key."""
        return None if self.intent is None else self.intent.at_s

    @property
    def task_id(self) -> str | None:
        """The gateway's task."""
        return None if self.accepted is None else self.accepted.task_id

    @property
    def reserved_credits(self) -> float | None:
        """What the gateway reserved for the task."""
        return None if self.accepted is None else self.accepted.credits

    @property
    def created_s(self) -> float | None:
        """When the gateway made the task."""
        return None if self.accepted is None else self.accepted.created_s

    @property
    def expires_s(self) -> float | None:
        """When the links of the finished picture die."""
        return None if self.completed is None else self.completed.expires_s
