"""A row of a batch, from the list to its end: what is known of it, and what the run has come to with it."""

from attrs import define

from krea_async.control.budget import Reservation
from krea_async.models import ImageRequest, Task
from krea_async.storage.open_row import OpenRow
from krea_async.storage.records import Row, Saved
from krea_async.storage.replay import RowState


@define(eq=False)
class Entry:
    """A row of a batch. n: its number in the journal, None until it is noted there. index: in the list.

    noted: its line there, once that was read or written; what it says counts, whatever the list says now.
    key: the idempotency key that it is, or was, sent under. known: what an earlier run left of it. saved: what an
    earlier run saved of it, if that is not there any more. reservation: what the budget has set aside for it.
    sent: whether it may have reached the gateway; sent_s: when it was first sent under its key, in Unix seconds.
    lost: of a row whose answer was lost too long ago, what is known.
    """

    index: int
    request: ImageRequest
    n: int | None = None
    noted: Row | None = None
    key: str | None = None
    known: OpenRow | None = None
    saved: Saved | None = None
    reservation: Reservation | None = None
    is_canary: bool = False
    sent: bool = False
    sent_s: float | None = None
    task_id: str | None = None
    task: Task | None = None
    lost: str | None = None
    accepted_s: float = 0.0
    expires_s: float | None = None

    def take(self, row: Row) -> None:
        """Go by the row's line in the journal: what is sent under a key must be what it says."""
        self.n, self.noted, self.request = row.n, row, row.request

    @property
    def may_have_twins(self) -> bool:
        """Whether it shows the same picture as any equal row: its list gives it a seed."""
        return bool(self.request.seed) and not (self.noted is not None and self.noted.drawn)

    @property
    def is_fetchable(self) -> bool:
        """Whether the picture is made and only waits to be fetched."""
        if self.task is not None:
            return self.task.status == "completed"
        return self.task_id is not None and self.known is not None and self.known.state is RowState.COMPLETED

    @property
    def is_paid(self) -> bool:
        """Whether it may have been paid for already, so that going on costs nothing more."""
        return self.sent or self.task_id is not None or self.saved is not None

    @property
    def was_made(self) -> bool:
        """Whether its picture was made in an earlier run, and so was charged."""
        return self.saved is not None or (self.known is not None and self.known.completed is not None)

    @property
    def is_copy(self) -> bool:
        """Whether an earlier run saved it without a task of its own: the picture of another row, under its name."""
        return self.saved is not None and self.saved.task_id is None

    @property
    def resumed(self) -> bool:
        """Whether an earlier run had begun with it."""
        return self.known is not None or self.saved is not None
