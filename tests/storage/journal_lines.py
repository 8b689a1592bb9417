"""Journals for the tests: lines with few words, sequences that a run could write, and all that a history answers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from krea_async import ImageRequest
from krea_async.errors import Charged
from krea_async.storage.history import History
from krea_async.storage.records import (
    Accepted,
    Completed,
    Failed,
    Header,
    Intent,
    Left,
    Line,
    Row,
    RunBegun,
    RunEnded,
    Same,
    Saved,
    encode,
)
from krea_async.storage.replay import RowState

HEADER = Header(at_s=1.0)
RUN = RunBegun(pid=7, version="9.8.7", at_s=2.0)
END = RunEnded(at_s=9.0)


def row(n: int, prompt: str = "", **facts: Any) -> Row:
    return Row(n=n, index=n, request=ImageRequest(prompt or f"fox {n}", **facts))


def intent(n: int, key: str = "key-1") -> Intent:
    return Intent(n=n, key=key, at_s=3.0)


def accepted(n: int, task_id: str = "task-1") -> Accepted:
    return Accepted(n=n, task_id=task_id, credits=0.45, created_s=4, at_s=4.5)


def completed(n: int) -> Completed:
    return Completed(n=n, links=["https://x.y/a.png?sig=1"], expires_s=100.0, credits=0.45, at_s=5.0)


def saved(n: int, cost: float = 0.45) -> Saved:
    return Saved(
        n=n, credits=cost, task_id="task-1", files=[f"{n}.png"], bytes=3, sha256="f", width=1, height=2, at_s=6
    )


def failed(n: int, charged: Charged = "no", cost: float = 0.45) -> Failed:
    return Failed(n=n, credits=cost, charged=charged, error="E", code="c", message="m", retryable=True, at_s=7)


def left(n: int, charged: Charged = "unknown") -> Left:
    return Left(n=n, charged=charged, error="E", message="m", at_s=8)


def same(n: int, of: int) -> Same:
    return Same(n=n, of=of)


def data_of(*lines: Line) -> bytes:
    return b"".join(map(encode, lines))


def written(path: Path, *lines: Line) -> Path:
    path.write_bytes(data_of(*lines))
    return path


def answers(history: History) -> dict[str, Any]:
    """What a history says to every question, but where its torn end is."""
    rows = range(history.rows)
    return {
        "states": [history.state(n) for n in rows],
        "rows": [history.row(n) for n in rows],
        "saved": [history.saved(n) for n in rows if history.state(n) is RowState.SAVED],
        "failed": [history.failed(n) for n in rows if history.state(n) is RowState.FAILED],
        "same": [history.same_as(n) for n in rows],
        "open": [*history.open_rows()],
        "keys": [history.kept_key(n) for n in rows],
        "counts": [history.count(state) for state in RowState],
        "sums": (history.credits_settled, history.credits_unknown, history.runs),
        "times": (history.first_s, history.last_s),
        "runs": (history.last_run, history.last_end),
        "changed": [history.changed(n, history.request(n)) for n in rows],
        "match": [history.match(history.request(n)) for n in rows],
    }


class Model:
    """The simplest thing that knows how far rows came: what a journal's lines must come to."""

    def __init__(self) -> None:
        self.states: list[RowState] = []
        self.keys: dict[int, str] = {}  # of rows under way, and of planned ones that keep theirs
        self.sent_in: dict[int, int] = {}  # the run that the key was first sent in
        self.tasks: dict[int, str] = {}
        self.verdicts: dict[int, tuple[float, float]] = {}  # credits: settled, unknown
        self.credits = [0.0, 0.0]
        self.runs = 0

    def take(self, line: Line) -> None:
        match line:
            case RunBegun():
                self.runs += 1
            case Row():
                self.states.append(RowState.PLANNED)
            case Intent(n=n):
                self.verdicts.pop(n, None)
                if self.states[n] is not RowState.INTENT:
                    self.sent_in[n] = self.runs
                self.keys[n] = line.key
                self.states[n] = RowState.INTENT
            case Accepted(n=n):
                self.tasks[n] = line.task_id
                self.states[n] = max(self.states[n], RowState.ACCEPTED)
            case Completed(n=n):
                self.states[n] = RowState.COMPLETED
            case Left(n=n):
                if self.states[n] is RowState.INTENT and line.charged == "no" and self.sent_in[n] == self.runs:
                    self.states[n] = RowState.PLANNED
            case Saved(n=n):
                self._settle(n, RowState.SAVED, (line.credits, 0.0))
            case Failed(n=n):
                costs = {"yes": (line.credits, 0.0), "unknown": (0.0, line.credits), "no": (0.0, 0.0)}
                self._settle(n, RowState.FAILED, costs[line.charged])

    def _settle(self, n: int, state: RowState, cost: tuple[float, float]) -> None:
        before = self.verdicts.get(n, (0.0, 0.0))
        self.credits = [total + new - old for total, new, old in zip(self.credits, cost, before, strict=True)]
        self.verdicts[n] = cost
        self.states[n] = state
        self.keys.pop(n, None)
        self.tasks.pop(n, None)


@st.composite
def journals(draw: st.DrawFn, max_lines: int = 40) -> list[Line]:
    """Lines in an order that runs could write: every one fits what came before it."""
    model = Model()
    lines: list[Line] = [HEADER]
    for serial in range(1, 1 + draw(st.integers(0, max_lines))):
        line = draw(st.sampled_from([*_possible(model, serial)]))
        lines.append(line)
        model.take(line)
    return lines


def _possible(model: Model, serial: int) -> Iterable[Line]:
    """The lines that may come next; `serial` makes keys and times differ."""
    yield from (RunBegun(pid=1, version="1", at_s=serial), RunEnded(at_s=serial))
    request = ImageRequest("a fox" if serial % 3 else f"fox {serial}", id=None if serial % 4 else f"id {serial % 3}")
    yield Row(n=len(model.states), index=serial, request=request)
    for n, state in enumerate(model.states):
        yield Left(n=n, charged="no" if serial % 2 else "unknown", error="E", message=f"{serial}", at_s=serial)
        yield Same(n=n, of=serial % len(model.states))
        if state in (RowState.PLANNED, RowState.INTENT, RowState.FAILED):
            yield Intent(n=n, key=model.keys.get(n, f"key-{serial}"), at_s=serial)
        if RowState.INTENT <= state <= RowState.COMPLETED:
            yield Accepted(n=n, task_id=model.tasks.get(n, f"task-{serial}"), credits=None, at_s=serial)
        if RowState.ACCEPTED <= state <= RowState.COMPLETED:
            yield Completed(n=n, links=[], expires_s=serial, at_s=serial)
        yield saved(n, cost=serial % 5)
        yield failed(n, charged=("no", "yes", "unknown")[serial % 3], cost=serial % 5)
