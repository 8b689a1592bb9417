"""What must be true of an output directory and the gateway's ledger, whatever happened to the runs in between."""

import json
from pathlib import Path

import pytest

from krea_async.sandbox import Sandbox
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.manifest import MANIFEST_NAME
from krea_async.storage.part import sha256_of
from krea_async.storage.replay import RowState


def assert_the_journal_knows_all_that_was_sent(sandbox: Sandbox, directory: Path) -> None:
    """No task was made under a key that was not on disk before."""
    path = directory / JOURNAL_NAME
    journal = path.read_text() if path.exists() else ""
    assert [task.id for task in sandbox.ledger.tasks.values() if f'"{task.key}"' not in journal] == []


def assert_all_is_saved_and_paid_once(sandbox: Sandbox, directory: Path, rows: int) -> None:
    """One charged task for each row, its picture on disk, both books agree, and nothing else lies around."""
    tasks = sandbox.ledger.tasks
    assert len(tasks) == rows
    assert sandbox.ledger.duplicates == {}
    assert {*sandbox.ledger.charges_by_key.values()} == {1}
    files = {path.name for path in directory.iterdir()} - {JOURNAL_NAME, MANIFEST_NAME}
    assert len(files) == rows
    assert all(name.endswith(".png") for name in files)
    with History(directory / JOURNAL_NAME) as history:
        assert history.count(RowState.SAVED) == history.rows == rows
        saved = [history.saved(n) for n in range(rows)]
        assert history.credits_settled == pytest.approx(sandbox.ledger.charged_credits)
    assert {line.task_id for line in saved} == {*tasks}
    assert {line.files[0] for line in saved} == files
    for line in saved:
        assert sha256_of(directory / line.files[0]) == line.sha256 == tasks[line.task_id or ""].sha256
    manifest = [json.loads(line) for line in (directory / MANIFEST_NAME).read_text().splitlines()]
    assert sorted(row["index"] for row in manifest) == list(range(rows))
    assert {row["file"] for row in manifest} == files
