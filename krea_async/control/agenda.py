"""What is due when: entries in steps of 10 ms, so that adding one and taking fifty cost the same however many wait."""

import heapq
import math
from typing import Final, Generic, Protocol, TypeVar

_STEPS_PER_S: Final = 100
_ROUNDING: Final = 1e-6


class Entry(Protocol):
    """What can be due. Once it has ended it is passed over."""

    ended: bool


E = TypeVar("E", bound=Entry)


class Agenda(Generic[E]):
    """Entries by the time at which they are due; those of the same step come in the order in which they were added."""

    def __init__(self) -> None:
        self._entries: dict[int, list[E]] = {}
        self._steps: list[int] = []
        self._many = 0

    def __len__(self) -> int:
        """How many wait; those that ended meanwhile may be among them."""
        return self._many

    def add(self, entry: E, due_s: float) -> None:
        """Let `entry` be due at `due_s`, or up to a step later."""
        step = math.ceil(due_s * _STEPS_PER_S - _ROUNDING)
        entries = self._entries.get(step)
        if entries is None:
            self._entries[step] = [entry]
            heapq.heappush(self._steps, step)
        else:
            entries.append(entry)
        self._many += 1

    def first_s(self) -> float:
        """When the first entry is due; infinity if there is none."""
        while self._steps and all(entry.ended for entry in self._entries[self._steps[0]]):
            self._many -= len(self._entries.pop(heapq.heappop(self._steps)))
        return self._steps[0] / _STEPS_PER_S if self._steps else math.inf

    def full_s(self, many: int, within_s: float) -> float:
        """When `many` entries are due; but if they are not within `within_s` after the first, then."""
        first_s = self.first_s()
        if first_s == math.inf:
            return first_s
        due = 0
        for step in range(self._steps[0], math.ceil((first_s + within_s) * _STEPS_PER_S - _ROUNDING)):
            due += len(self._entries.get(step, ()))
            if due >= many:
                return step / _STEPS_PER_S
        return first_s + within_s

    def take(self, many: int, until_s: float) -> list[E]:
        """Take out up to `many` entries due until then, the oldest first."""
        taken: list[E] = []
        while len(taken) < many and self.first_s() <= until_s + _ROUNDING:
            entries = self._entries[self._steps[0]]
            room = many - len(taken)
            taken += entries[:room]
            del entries[:room]
            if not entries:
                del self._entries[heapq.heappop(self._steps)]
        self._many -= len(taken)
        return taken
