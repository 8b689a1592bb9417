"""A line and an image host in virtual time, for `Lanes`: what moves how many bytes a second, and what is refused."""

import math
from collections.abc import Callable
from random import Random

from attrs import define, field, frozen

from krea_async.control.fetching import Lanes


@frozen(kw_only=True)
class Line:
    """per_s: bytes per second of all transfers together, by how many there are and when. each_per_s: of one at most.

    places: transfers that the host lets in at a time; others are answered 429. broken: the part that is answered 503,
    whatever the number.
    """

    per_s: Callable[[int, float], float] = lambda _lanes, _now: math.inf
    each_per_s: float = 1e6
    rtt_s: float = 0.05
    places: float = math.inf
    broken: float = 0.0
    retry_after_s: float | None = None
    sigma: float = 0.5


@define
class _Transfer:
    size_bytes: int
    begun_s: float
    answered_s: float
    left_bytes: float = math.inf


@define
class Run:
    """What came of it. limits: (when, lanes), whenever they changed."""

    seconds: float = 0.0
    moved_bytes: int = 0
    refused: int = 0
    limits: list[tuple[float, int]] = field(factory=list)

    @property
    def per_s(self) -> float:
        return self.moved_bytes / self.seconds

    @property
    def lanes(self) -> int:
        return self.limits[-1][1]


def run(lanes: Lanes, line: Line, pictures: int, *, seed: int = 1, mean_bytes: float = 1e6) -> Run:
    """So many pictures, all of which wait from the start; those that are refused come again after a while."""
    rng = Random(seed)
    sizes = [max(1, int(mean_bytes * math.exp(rng.gauss(0, line.sigma) - line.sigma**2 / 2))) for _ in range(pictures)]
    found, now, active, again = Run(), 0.0, list[_Transfer](), list[tuple[float, int]]()
    while sizes or active or again:
        sizes += [size for due_s, size in again if due_s <= now]
        again = [(due_s, size) for due_s, size in again if due_s > now]
        while sizes and lanes.wait_s(now) == 0.0:
            lanes.begun()
            active.append(_Transfer(sizes.pop(), now, now + line.rtt_s))
        if not found.limits or found.limits[-1][1] != lanes.limit:
            found.limits.append((now, lanes.limit))
        moving = [transfer for transfer in active if transfer.left_bytes < math.inf]
        share = min(line.each_per_s, line.per_s(len(moving), now) / max(1, len(moving)))
        paused_s = (lanes.wait_s(now) or math.inf) if sizes else math.inf
        step_s = min(
            [
                *(transfer.answered_s - now for transfer in active if transfer.left_bytes == math.inf),
                *(transfer.left_bytes / share for transfer in moving),
                *(due_s - now for due_s, _ in again),
                paused_s,
            ]
        )
        now += max(step_s, 1e-9)
        for transfer in moving:
            transfer.left_bytes -= share * max(step_s, 1e-9)
        for transfer in [*active]:
            if transfer.left_bytes == math.inf and transfer.answered_s <= now:
                is_broken = rng.random() < line.broken
                if len(moving) < line.places and not is_broken:
                    transfer.left_bytes = transfer.size_bytes
                    moving.append(transfer)
                    continue
                lanes.refused(now, transfer.begun_s, line.retry_after_s, told=not is_broken)
                again.append((now + (line.retry_after_s or 0.0) + rng.uniform(0.0, 0.5), transfer.size_bytes))
                found.refused += 1
                active.remove(transfer)
            elif transfer.left_bytes <= 1e-3:
                lanes.finished(now, transfer.begun_s, transfer.size_bytes)
                found.moved_bytes += transfer.size_bytes
                active.remove(transfer)
                moving.remove(transfer)
    found.seconds = now
    return found
