"""Pictures whose links die: the share that is lost, by the order in which a backlog is fetched.

A batch was finished over 8.5 hours, the client comes back 15 hours after its last picture: half an hour to nine hours
of life are left. rho: the bytes whose links die in an hour, beside those that the line moves in an hour. Eight lanes
share the line evenly; a link that dies before its picture is here loses it. "project" is `FetchQueue`, told what a
transfer takes by `Lanes`. "skip, sizes known" knows each picture's size beforehand, which a client does not, and so
keeps the small ones: it loses fewer pictures than bytes. "cannot arrive" is the part of the bytes that no order saves.
"""

import argparse
import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from random import Random
from statistics import fmean
from typing import Final, Protocol

from attrs import frozen

from krea_async.control.backlog import LINK_LIFETIME_S
from krea_async.control.fetching import FetchQueue, Lanes

HOUR_S: Final = 3600.0
FINISHED_OVER_S: Final = 8.5 * HOUR_S
AWAY_S: Final = 15 * HOUR_S
MEDIAN_BYTES: Final = 2e6
LANES: Final = 8
RHOS: Final = (0.3, 0.65, 0.95, 1.1, 1.5, 2.0)
BAR: Final = 0.01
"""The project's order may lose so much more than the bytes that cannot arrive in time in any order."""


@frozen
class Picture:
    """learnt_s: when it joins the queue. stated_s, dies_s: when its link dies, as the client knows it, and in truth."""

    size_bytes: float
    learnt_s: float
    finished_s: float
    stated_s: float
    dies_s: float


class Order(Protocol):
    """Who is next."""

    def add(self, picture: Picture) -> None: ...  # noqa: D102
    def pop(self, now: float, per_s: float) -> Picture | None: ...  # noqa: D102


class Project:
    """The project's own queue."""

    def __init__(self, lanes: Lanes) -> None:
        self._queue: FetchQueue[Picture] = FetchQueue()
        self._lanes = lanes

    def add(self, picture: Picture) -> None:  # noqa: D102
        self._queue.add(picture, picture.stated_s)

    def pop(self, now: float, per_s: float) -> Picture | None:  # noqa: ARG002, D102
        return self._queue.pop(now, self._lanes.takes_s) if self._queue else None


class By:
    """Any other order: by a key; skip: what is known to come too late is left out."""

    def __init__(self, key: Callable[[Picture], float], *, skip: bool = False) -> None:
        self._key = key
        self._skip = skip
        self._heap: list[tuple[float, int, Picture]] = []
        self._added = 0

    def add(self, picture: Picture) -> None:  # noqa: D102
        self._added += 1
        heapq.heappush(self._heap, (self._key(picture), self._added, picture))

    def pop(self, now: float, per_s: float) -> Picture | None:  # noqa: D102
        while self._heap:
            picture = heapq.heappop(self._heap)[2]
            if not (self._skip and now + picture.size_bytes / per_s > picture.stated_s):
                return picture
        return None


def orders(lanes: Lanes, rng: Random) -> dict[str, Order]:
    """The project's order and the others, by name."""
    return {
        "project": Project(lanes),
        "skip, sizes known": By(lambda picture: picture.stated_s, skip=True),
        "earliest deadline": By(lambda picture: picture.stated_s),
        "completion off by 1 h": By(lambda picture: picture.finished_s + rng.gauss(0.0, HOUR_S)),
        "by chance": By(lambda _: rng.random()),
        "smallest first": By(lambda picture: picture.size_bytes),
        "newest first": By(lambda picture: -picture.finished_s),
    }


NAMES: Final = tuple(orders(Lanes(LANES), Random(0)))


def backlog(pictures: int, seed: int, *, fresh: float, longer_s: float) -> list[Picture]:
    """What waits when the client is back at moment 0, and beside it `fresh` times as many that are finished later."""
    rng = Random(seed)
    finished = [rng.uniform(-AWAY_S - FINISHED_OVER_S, -AWAY_S) for _ in range(pictures)]
    finished += [rng.uniform(0.0, FINISHED_OVER_S) for _ in range(int(fresh * pictures))]
    return [
        Picture(
            MEDIAN_BYTES * math.exp(0.5 * rng.gauss(0.0, 1.0)),
            max(0.0, finished_s),
            finished_s,
            finished_s + LINK_LIFETIME_S,
            finished_s + LINK_LIFETIME_S + longer_s,
        )
        for finished_s in finished
    ]


def lost(name: str, pictures: Sequence[Picture], rho: float, seed: int) -> float:
    """The share of the pictures whose links die before they are here."""
    old = [picture for picture in pictures if picture.finished_s < 0.0]
    per_s = sum(picture.size_bytes for picture in old) / FINISHED_OVER_S / rho / LANES
    lanes = Lanes(LANES)
    order = orders(lanes, Random(seed))[name]
    coming = sorted(pictures, key=lambda picture: picture.learnt_s, reverse=True)
    free_s = [0.0] * LANES
    saved = 0
    while True:
        now = heapq.heappop(free_s)
        while coming and coming[-1].learnt_s <= now:
            order.add(coming.pop())
        picture = order.pop(now, per_s)
        if picture is None:
            if not coming:
                return 1.0 - saved / len(pictures)
            heapq.heappush(free_s, coming[-1].learnt_s)
            continue
        ends_s = now + picture.size_bytes / per_s
        lanes.begun()
        if ends_s <= picture.dies_s:
            saved += 1
            lanes.finished(ends_s, now, int(picture.size_bytes))
        else:
            lanes.ended()
        heapq.heappush(free_s, max(now, min(ends_s, picture.dies_s)))


def print_lost(title: str, names: Sequence[str], seeds: Iterable[int], pictures: int, **shape: float) -> None:
    """One table: a line for each rho, a column for each order, the mean over the seeds."""
    print(f"\n{title}\n")
    head = [*names, "cannot arrive"] if not shape else [*names]
    print(f"| rho | {' | '.join(head)} |")
    print("|---" * (len(head) + 1) + "|")
    backlogs = {seed: backlog(pictures, seed, **{"fresh": 0.0, "longer_s": 0.0, **shape}) for seed in seeds}
    for rho in RHOS:
        shares = [fmean(lost(name, waiting, rho, seed) for seed, waiting in backlogs.items()) for name in names]
        figures = [f"{100 * share:.1f}" for share in shares]
        if not shape:
            least = max(0.0, 1.0 - (LINK_LIFETIME_S - AWAY_S) / FINISHED_OVER_S / rho)
            figures[0] += f" (bar {100 * (least + BAR):.1f})"
            figures.append(f"{100 * least:.1f}")
        print(f"| {rho} | {' | '.join(figures)} |", flush=True)


def main(options: argparse.Namespace) -> None:
    """Print the tables: percent of the pictures that are lost."""
    pictures = 4_000 if options.quick else 20_000
    print(f"Percent of {pictures} finished pictures whose links die before they are fetched")
    print_lost("All waits when the client is back", NAMES, options.seeds, pictures)
    some = ("project", "earliest deadline", "newest first")
    print_lost("Half as many again are finished meanwhile", some, options.seeds, pictures, fresh=0.5)
    some = ("project", "skip, sizes known", "earliest deadline")
    print_lost("Links live an hour longer than is known", some, options.seeds, pictures, longer_s=HOUR_S)
