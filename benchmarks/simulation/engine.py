"""Clients with governors against one gateway, event by event, in virtual time.

A request reaches the gateway 40 to 60 ms after it left, its answer is back 30 to 70 ms later, and one in ten takes a
tenth of a second more. Tasks last a log-normal time. A client learns of a completion by polling, so it learns late.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, Protocol

from attrs import define, field, frozen

from benchmarks.simulation.servers import Limiter
from krea_async.control.governor import Sent

MAX_POSTS_AT_ONCE: Final = 64


class Pacer(Protocol):
    """What decides when a client's next submission leaves: the project's `Governor`, or a rival with its interface."""

    def wait_s(self, now: float, in_flight: int) -> float | None: ...  # noqa: D102
    def sent(self, now: float, in_flight: int) -> Sent: ...  # noqa: D102
    def accepted(self, now: float, sent: Sent) -> None: ...  # noqa: D102
    def rejected(self, now: float, sent: Sent, retry_after_s: float | None) -> float: ...  # noqa: D102


RetryAfter = Callable[[float], float | None]
"""What a gateway that has to refuse for so many seconds says in `Retry-After`."""


def unnamed(_wait_s: float) -> float | None:
    """No Retry-After."""
    return None


def whole_seconds(wait_s: float) -> float | None:
    """The truth, rounded up as HTTP has it."""
    return float(math.ceil(wait_s))


def always(retry_after_s: float) -> RetryAfter:
    """The same, whatever is true."""
    return lambda _wait_s: retry_after_s


def task_times(tasks: int, seed: int, *, median_s: float = 8.0, sigma: float = 0.5) -> list[float]:
    """How long each task takes, in seconds: log-normal."""
    rng = Random(seed * 7919 + 17)
    return [median_s * math.exp(sigma * rng.gauss(0.0, 1.0)) for _ in range(tasks)]


@frozen(kw_only=True)
class World:
    """What all clients share. task_s: task times, taken in the order of acceptance, over and over.

    lag_s: the shortest and longest time until a client learns of a completion. slower: by what the times on the wire
    are multiplied.
    """

    limiter: Limiter
    seed: int
    task_s: Sequence[float]
    retry_after: RetryAfter = unnamed
    lag_s: tuple[float, float] = (0.15, 1.1)
    slower: float = 1.0


@define(eq=False)
class Client:
    """A client and what became of its prompts.

    prompts: how many it has; math.inf: it never runs out. ready_s: from when on each one is there; empty: all, from the
    start on. starts_s, leaves_s: nothing is sent before and from then on. max_unfinished: the caller's own cap.
    timers_late_s: its timers are late by up to this. accepted_at, refused_at: when the gateway said so.
    """

    pacer: Pacer
    prompts: float = math.inf
    ready_s: Sequence[float] = ()
    starts_s: float = 0.0
    leaves_s: float = math.inf
    max_unfinished: float = math.inf
    timers_late_s: float = 0.0
    sent_at: list[float] = field(factory=list)
    accepted_at: list[float] = field(factory=list)
    refused_at: list[float] = field(factory=list)
    longest_wait_s: float = 0.0
    posting: int = 0
    unfinished: int = 0
    _next: int = 0
    _again: list[int] = field(factory=list)  # a heap: the refused ones, which go before all others
    _first_sent_s: dict[int, float] = field(factory=dict)
    woken_at_s: float = math.inf

    @property
    def done(self) -> bool:
        """Whether all prompts were accepted."""
        return len(self.accepted_at) >= self.prompts

    def prompt_ready_s(self) -> float:
        """When there is a prompt to send; infinite: never, unless one is refused."""
        if self._again:
            return self.starts_s
        if self._next >= self.prompts:
            return math.inf
        return max(self.starts_s, self.ready_s[self._next] if self.ready_s else 0.0)

    def take(self, now: float) -> int:
        """The prompt at the head of the queue leaves."""
        if self._again:
            return heapq.heappop(self._again)
        self._next += 1
        self._first_sent_s[self._next - 1] = now
        return self._next - 1

    def put_back(self, prompt: int) -> None:
        """A refused prompt goes back to its place in the queue."""
        heapq.heappush(self._again, prompt)

    def note_accepted(self, prompt: int, now: float) -> None:
        """The client knows that its prompt was accepted."""
        self.longest_wait_s = max(self.longest_wait_s, now - self._first_sent_s.pop(prompt))

    def note_end(self, now: float) -> None:
        """Prompts that were never accepted have waited as well."""
        end_s = min(now, self.leaves_s)
        self.longest_wait_s = max(self.longest_wait_s, *(end_s - first for first in self._first_sent_s.values()), 0.0)


class Simulation:
    """Runs clients until all prompts are accepted, or to the end of the time."""

    def __init__(self, world: World, clients: Sequence[Client]) -> None:
        self._world = world
        self._clients = clients
        self._random = Random(world.seed)
        self._events: list[tuple[float, int, Callable[..., None], Client, object]] = []
        self._number = 0
        self._unfinished = 0
        self._granted = 0

    def run(self, until_s: float) -> float:
        """Let the time pass, until all prompts are accepted. Returns when that was, or `until_s`."""
        for client in self._clients:
            self._at(client.starts_s, self._woken, client, None)
        now = 0.0
        while self._events and not self._done():
            now, _, happens, client, what = heapq.heappop(self._events)
            if now > until_s:
                break
            happens(now, client, what)
            self._send(now, client)
        for client in self._clients:
            client.note_end(min(now, until_s))
        return min(now, until_s)

    def _done(self) -> bool:
        return all(client.done for client in self._clients)

    def _at(self, when_s: float, happens: Callable[..., None], client: Client, what: object) -> None:
        self._number += 1
        heapq.heappush(self._events, (when_s, self._number, happens, client, what))

    def _send(self, now: float, client: Client) -> None:
        """Let everything leave that may, and wake the client when the next may."""
        pacer = client.pacer
        while client.posting < MAX_POSTS_AT_ONCE and client.starts_s <= now < client.leaves_s:
            ready_s = client.prompt_ready_s()
            if ready_s > now:
                self._wake(ready_s, client)
                return
            in_flight = client.posting + client.unfinished
            if in_flight >= client.max_unfinished:
                return
            wait_s = pacer.wait_s(now, in_flight)
            if wait_s is None:
                return
            if wait_s > 0.0:
                late_s = client.timers_late_s and self._random.uniform(0.0, client.timers_late_s)
                self._wake(now + wait_s + late_s, client)
                return
            sent = pacer.sent(now, in_flight)
            prompt = client.take(now)
            client.posting += 1
            client.sent_at.append(now)
            there_s = self._world.slower * (0.04 + 0.02 * self._random.random())
            self._at(now + there_s, self._arrived, client, (prompt, sent))

    def _wake(self, when_s: float, client: Client) -> None:
        if when_s < client.woken_at_s - 1e-9:
            client.woken_at_s = when_s
            self._at(when_s, self._woken, client, None)

    def _woken(self, now: float, client: Client, _: None) -> None:
        if now >= client.woken_at_s - 1e-9:
            client.woken_at_s = math.inf

    def _arrived(self, now: float, client: Client, what: tuple[int, Sent]) -> None:
        world, uniform = self._world, self._random.random
        wait_s = world.limiter.wait_s(now, self._unfinished)
        back_s = world.slower * (0.03 + 0.04 * uniform() + (self._random.expovariate(10.0) if uniform() < 0.1 else 0.0))
        if wait_s == 0.0:
            world.limiter.take(now)
            self._unfinished += 1
            client.accepted_at.append(now)
            self._at(now + back_s, self._told_accepted, client, what)
            self._at(now + world.task_s[self._granted % len(world.task_s)], self._finished, client, None)
            self._granted += 1
        else:
            client.refused_at.append(now)
            self._at(now + 0.6 * back_s, self._told_refused, client, (*what, world.retry_after(wait_s)))

    def _told_accepted(self, now: float, client: Client, what: tuple[int, Sent]) -> None:
        prompt, sent = what
        client.posting -= 1
        client.unfinished += 1
        client.note_accepted(prompt, now)
        client.pacer.accepted(now, sent)

    def _told_refused(self, now: float, client: Client, what: tuple[int, Sent, float | None]) -> None:
        prompt, sent, retry_after_s = what
        client.posting -= 1
        own_wait_s = client.pacer.rejected(now, sent, retry_after_s)
        if own_wait_s > 0.0:
            self._at(now + own_wait_s, self._joins_again, client, prompt)
        else:
            client.put_back(prompt)

    def _joins_again(self, _now: float, client: Client, prompt: int) -> None:
        client.put_back(prompt)

    def _finished(self, now: float, client: Client, _: None) -> None:
        self._unfinished -= 1
        shortest_s, longest_s = self._world.lag_s
        self._at(now + shortest_s + (longest_s - shortest_s) * self._random.random(), self._learnt, client, None)

    def _learnt(self, _now: float, client: Client, _: None) -> None:
        client.unfinished -= 1
