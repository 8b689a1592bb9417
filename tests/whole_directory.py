"""What is true of an output directory and of the account once all is done, whatever happened on the way."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from krea_async import ImageRequest
from krea_async.audit.verify import verify
from krea_async.sandbox import Sandbox
from krea_async.storage.history import History
from krea_async.storage.records import Failed, Intent, Saved, decode
from krea_async.storage.replay import RowState

Rows = Sequence[Mapping[str, Any]]


def assert_all_done(directory: Path, rows: Rows, sandbox: Sandbox, *, charged_once: bool = True) -> None:
    """Every row has ended, and books, files and the gateway's ledger say the same. Rows may fail only as tasks did."""
    ends = ends_of(directory)
    assert Counter(map(_asked, (request for request, _ in ends))) == Counter(
        _asked(ImageRequest.of(row)) for row in rows
    )
    assert_keys_are_used_once(directory)
    _assert_files(directory, ends)
    _assert_manifest(directory, ends)
    _assert_account(directory, ends, sandbox, charged_once=charged_once)
    report = verify(directory, decode=False)
    assert (report.problems, report.strays, report.parts, report.damaged_lines) == ((), (), (), ())


def ends_of(directory: Path) -> list[tuple[ImageRequest, Saved | Failed]]:
    """How each row of the journal has ended; it is valid, and no row is open."""
    with History(directory / "journal.jsonl") as history:
        assert (history.torn_at, history.unended, history.damaged) == (None, False, ())
        assert history.last_end is not None
        states = [history.state(n) for n in range(history.rows)]
        assert set(states) <= {RowState.SAVED, RowState.FAILED}
        return [
            (history.request(n), history.saved(n) if state is RowState.SAVED else history.failed(n))
            for n, state in enumerate(states)
        ]


def assert_keys_are_used_once(directory: Path) -> None:
    """No row was ever sent under two keys, and no two rows under one. For runs that retry nothing."""
    lines = (directory / "journal.jsonl").read_bytes().splitlines()
    sent = {(line.n, line.key) for line in map(decode, lines) if isinstance(line, Intent)}
    assert len(sent) == len({n for n, _ in sent}) == len({key for _, key in sent})


def _assert_files(directory: Path, ends: list[tuple[ImageRequest, Saved | Failed]]) -> None:
    """There are the books and one picture for each saved row, under a name that nothing had to be added to."""
    names = [name for _, end in ends if isinstance(end, Saved) for name in end.files]
    assert sorted(path.name for path in directory.iterdir()) == sorted([*names, "journal.jsonl", "manifest.jsonl"])
    for request, end in ends:
        if isinstance(end, Saved):
            (name,) = end.files
            data = (directory / name).read_bytes()
            assert (len(data), sha256(data).hexdigest()) == (end.bytes, end.sha256)
            words = re.sub(r"\W+", "-", request.prompt)
            assert re.fullmatch(request.id or rf"\d{{5}}-{words}", name.removesuffix(".png"))


def _assert_manifest(directory: Path, ends: list[tuple[ImageRequest, Saved | Failed]]) -> None:
    """It has one line for each row, and that says what the journal says."""
    lines = [json.loads(line) for line in (directory / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    told = Counter(
        (
            row["prompt"],
            row["id"],
            row["seed"],
            row["status"],
            row["file"],
            row["sha256"],
            row["task_id"],
            row["credits"],
        )
        for row in lines
    )
    known = Counter(
        (request.prompt, request.id, request.seed, "saved", end.files[0], end.sha256, end.task_id, end.credits)
        if isinstance(end, Saved)
        else (request.prompt, request.id, request.seed, "failed", None, None, end.task_id, 0.0)
        for request, end in ends
    )
    assert told == known


def _assert_account(
    directory: Path, ends: list[tuple[ImageRequest, Saved | Failed]], sandbox: Sandbox, *, charged_once: bool
) -> None:
    """Each row has the task that was made for it, and no task but these was made: so each is charged once.

    Rows with the same seed share one. Unless the gateway charged one twice: then at least the row has one of the two.
    """
    tasks = sandbox.ledger.tasks
    task_ids = [end.task_id for _, end in ends if end.task_id is not None]
    assert len(set(task_ids)) == len(task_ids)
    if charged_once:
        assert set(task_ids) == set(tasks)
        assert set(sandbox.ledger.charges_by_key.values()) <= {1}
    for request, end in ends:
        task = tasks.get(end.task_id or "")
        if task is not None:
            assert task.asked == _asked(request)[1:]
            assert (task.end == "completed") == isinstance(end, Saved)
            assert task.credits_charged == (end.credits if isinstance(end, Saved) else 0.0)
        if isinstance(end, Saved):
            made = [task for task in tasks.values() if task.asked == _asked(request)[1:] and task.end == "completed"]
            assert end.sha256 in {task.sha256 for task in made}
            assert len(made) == 1 or not (request.seed and charged_once)


def _asked(request: ImageRequest) -> tuple[str | None, str, str, str, int | None]:
    return request.id, request.prompt, request.size, request.quality, request.seed
