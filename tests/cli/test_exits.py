"""Exit codes: what a script that runs `krea-async` can rely on, and that no code is bought with lost pictures."""

import socket
import sys
from functools import partial
from pathlib import Path

import pytest
from terminals import report_of
from test_commands import IMPATIENT, PROGRAM, Result, environment, pictures, run, run_all

from krea_async import (
    AccessDeniedError,
    AuthenticationError,
    BatchReport,
    BudgetExceededError,
    ContentPolicyError,
    DownloadError,
    ImageExpiredError,
    InsufficientCreditsError,
    InvalidImageError,
    InvalidRequestError,
    KreaError,
    RateLimitedError,
    ServiceError,
    TaskFailedError,
    TaskTimeoutError,
)
from krea_async.cli.exits import Exit, exit_of_error, exit_of_report, exit_of_signal
from krea_async.sandbox import Durations, Fault, Faults, Sandbox

pytestmark = pytest.mark.anyio

INTERRUPTED = """
import sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
"""
"""Ctrl-C, pressed while that module is loaded."""

LIST = b"a fox\nan owl\na hare\n"
SMALL_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); "


async def rendered(sandbox: Sandbox, directory: Path, *args: object, stdin: bytes = LIST, **env: str) -> Result:
    """`krea-async render -` with these arguments, in `directory`."""
    return await run("render", "-", *args, stdin=stdin, env=environment(sandbox, **env), cwd=directory)


def assert_no_traceback(*results: Result) -> None:
    for result in results:
        assert "Traceback" not in result.err, result.err


async def test_0_all_saved(sandbox: Sandbox, tmp_path: Path) -> None:
    result = await rendered(sandbox, tmp_path)
    assert (result.code, len(pictures(tmp_path / "renders"))) == (Exit.ALL_SAVED, 3)


async def test_3_a_row_against_the_policy_fails_alone_and_is_named(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.script("create", "ok", ("fail", "content_policy_violation"))
    result = await rendered(sandbox, tmp_path)
    assert (result.code, len(result.paths)) == (Exit.SOME_FAILED, 2)
    (prompt,) = (task.prompt for task in sandbox.ledger.tasks.values() if task.end != "completed")
    row = LIST.decode().splitlines().index(prompt)
    assert f"row {row} failed ({prompt!r})" in result.err
    assert "content_policy_violation" in result.err
    assert_no_traceback(result)


async def test_4_a_wrong_key_stops_at_once(sandbox: Sandbox, tmp_path: Path) -> None:
    many = b"a fox\n" * 1_000
    wrong = {"EVOLINK_API_KEY": "sk-wrong"}
    commands = [
        partial(rendered, sandbox, tmp_path, stdin=many, **wrong),
        partial(run, "generate", "a fox", env=environment(sandbox, **wrong), cwd=tmp_path),
        partial(run, "credits", env=environment(sandbox, **wrong), cwd=tmp_path),
    ]
    results = await run_all(*commands)
    assert [(result.code, result.out) for result in results] == [(Exit.KEY_REFUSED, "")] * 3
    assert all("EVOLINK_API_KEY" in result.err and "sk-wrong" not in result.err for result in results)
    assert sandbox.ledger.requests["create"] <= 64 + 1
    assert results[0].err.count("EVOLINK_API_KEY") <= 64 + 5  # not a thousand lines
    assert_no_traceback(*results)


async def test_4_a_key_that_may_not_use_the_model(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults = Faults(deny_model=True)
    result = await rendered(sandbox, tmp_path)
    assert (result.code, result.out) == (Exit.KEY_REFUSED, "")
    assert sandbox.ledger.tasks == {}


async def test_5_when_credits_run_out_what_was_paid_for_is_saved(tmp_path: Path) -> None:
    async with Sandbox(durations=Durations.instant(), credits=5 * 0.45 + 0.1) as sandbox:
        result = await rendered(sandbox, tmp_path, "--json", "--concurrency", 6, stdin=b"a fox\n" * 40)
        report = report_of(result.out)
        assert result.code == Exit.NO_CREDITS
        assert report["saved"] == len(sandbox.ledger.tasks) == len(pictures(tmp_path / "renders")) == 5
        assert report["credits"] == sandbox.ledger.charged_credits == 2.25
        assert report["rows"] < 20  # the rest was not even tried
        assert "credits" in report["stopped_by"]
        assert "stopped early" in result.err
        assert_no_traceback(result)


async def test_6_a_gateway_that_is_no_gateway(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.script("create", *[Fault("status", status=501)] * 4)
    batch, single = await run_all(
        partial(rendered, sandbox, tmp_path),
        partial(run, "generate", "a fox", env=environment(sandbox), cwd=tmp_path),
    )
    assert (batch.code, batch.out, single.code, single.out) == (Exit.SERVICE_UNAVAILABLE, "", 6, "")
    assert_no_traceback(batch, single)


async def test_6_a_gateway_that_cannot_be_reached(sandbox: Sandbox, tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound, so that nobody else gets it, but not listening
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        batch, single, balance = await run_all(
            partial(rendered, sandbox, tmp_path, EVOLINK_BASE_URL=url),
            partial(run, "generate", "a fox", "--base-url", url, env=environment(sandbox), cwd=tmp_path),
            partial(run, "credits", "--base-url", url, env=environment(sandbox), cwd=tmp_path),
        )
    for result in (batch, single, balance):
        assert (result.code, result.out) == (Exit.SERVICE_UNAVAILABLE, ""), result.err
        assert "could not be reached" in result.err
    assert_no_traceback(batch, single, balance)


async def test_7_tasks_that_do_not_end_in_time_are_named_with_their_ids(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.durations = Durations.fixed(60.0)
    batch, single = await run_all(
        partial(rendered, sandbox, tmp_path, "--task-timeout", "0.2"),
        partial(run, "generate", "a fox", "--task-timeout", "0.2", env=environment(sandbox), cwd=tmp_path),
    )
    assert (batch.code, single.code) == (Exit.UNFINISHED, Exit.UNFINISHED)
    assert len(sandbox.ledger.tasks) == 4  # and none was submitted again
    assert all(task_id in batch.err + single.err for task_id in sandbox.ledger.tasks)
    assert_no_traceback(batch, single)


async def test_9_a_file_where_the_directory_should_be_costs_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    results = await run_all(
        partial(rendered, sandbox, tmp_path, "--out", "file"),
        partial(rendered, sandbox, tmp_path, "--out", "file/folder"),
    )
    assert [(result.code, result.out) for result in results] == [(Exit.DISK, "")] * 2
    assert all("file" in result.err for result in results)
    assert sandbox.ledger.requests["create"] == 0
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert_no_traceback(*results)


async def test_9_a_single_picture_that_cannot_be_saved_names_its_task(sandbox: Sandbox, tmp_path: Path) -> None:
    """It is paid for, so its id must not be lost."""
    (tmp_path / "file").write_bytes(b"mine")
    result = await run("generate", "a fox", "--to", "file/folder/", env=environment(sandbox), cwd=tmp_path)
    assert_no_traceback(result)
    assert (result.code, result.out) == (Exit.DISK, "")
    assert all(task_id in result.err for task_id in sandbox.ledger.tasks)


async def test_9_a_disk_that_takes_no_more_stops_the_batch(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "manifest.jsonl").symlink_to("/dev/full")
    result = await rendered(sandbox, tmp_path, "--out", "full", "--concurrency", 4, stdin=b"a fox\n" * 300)
    assert_no_traceback(result)
    assert result.code == Exit.DISK
    assert len(pictures(tmp_path / "full")) == len(result.paths) == len(sandbox.ledger.tasks) < 300


@pytest.mark.parametrize("name", ["krea_async.cli.commands", "krea_async.cli.render", "krea_async.session"])
async def test_ctrl_c_while_modules_are_loaded_has_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("test_commands.COMMAND", [sys.executable, "-c", INTERRUPTED.format(name=name) + PROGRAM])
    result = await run("render", "list.txt", env={}, cwd=tmp_path)
    assert (result.code, result.out) == (130, "")
    assert "Traceback" not in result.err


async def test_9_a_limit_on_the_size_of_files_is_a_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_commands.COMMAND", [sys.executable, "-c", SMALL_FILES + IMPATIENT + PROGRAM])
    async with Sandbox(durations=Durations.instant(), picture_bytes=400_000) as sandbox:
        result = await rendered(sandbox, tmp_path, "--concurrency", 4, stdin=b"a fox\n" * 100)
        assert (result.code, result.out) == (Exit.DISK, "")
        assert 0 < len(sandbox.ledger.tasks) < 100
        assert all(task_id in result.err for task_id in sandbox.ledger.tasks)
        assert {path.name for path in (tmp_path / "renders").iterdir()} == {"journal.jsonl", "manifest.jsonl"}
        assert_no_traceback(result)


# --- which code is which ----------------------------------------------------------------------------------------------

CODES: list[tuple[KreaError, Exit]] = [
    (AuthenticationError("?"), Exit.KEY_REFUSED),
    (AccessDeniedError("?"), Exit.KEY_REFUSED),
    (InsufficientCreditsError("?"), Exit.NO_CREDITS),
    (BudgetExceededError("?"), Exit.NO_CREDITS),
    (ServiceError("?"), Exit.SERVICE_UNAVAILABLE),
    (RateLimitedError("?"), Exit.SERVICE_UNAVAILABLE),
    (TaskTimeoutError("?"), Exit.UNFINISHED),
    (InvalidRequestError("?"), Exit.USAGE),
    (TaskFailedError("?"), Exit.SOME_FAILED),
    (ContentPolicyError("?"), Exit.SOME_FAILED),
    (ImageExpiredError("?"), Exit.SOME_FAILED),
    (InvalidImageError("?"), Exit.SOME_FAILED),
    (DownloadError("?"), Exit.SOME_FAILED),
    (DownloadError("?", code="disk_error"), Exit.DISK),
]


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda value: getattr(value, "name", type(value).__name__))
def test_an_error_that_ends_a_run_has_its_code(error: KreaError, code: Exit) -> None:
    assert exit_of_error(error) == code
    if code is not Exit.SOME_FAILED:
        assert exit_of_report(BatchReport(saved=3, stopped_by=error)) == code


def failing(*errors: KreaError, saved: int = 0) -> BatchReport:
    return BatchReport(saved=saved, failed=len(errors), examples={str(n): error for n, error in enumerate(errors)})


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (BatchReport(saved=3), Exit.ALL_SAVED),
        (BatchReport(), Exit.ALL_SAVED),
        (failing(InvalidRequestError("?"), saved=2), Exit.SOME_FAILED),
        (failing(TaskTimeoutError("?"), saved=2), Exit.UNFINISHED),
        (failing(TaskTimeoutError("?"), ContentPolicyError("?")), Exit.SOME_FAILED),
        (failing(ServiceError("?")), Exit.SERVICE_UNAVAILABLE),
        (failing(ServiceError("?"), saved=1), Exit.SOME_FAILED),
        (BatchReport(saved=1, skipped=2, stopped_by=KreaError("stopped")), Exit.UNFINISHED),
    ],
)
def test_a_batch_has_the_code_that_says_what_to_do_next(report: BatchReport, code: Exit) -> None:
    assert exit_of_report(report) == code


def test_a_signal_has_the_code_that_shells_give_it() -> None:
    assert (exit_of_signal(2), exit_of_signal(15)) == (130, 143)


def test_the_codes_are_those_of_the_documentation() -> None:
    assert [code.value for code in Exit] == [0, 1, 2, 3, 4, 5, 6, 7, 9]
