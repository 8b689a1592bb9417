"""What is said after a run: what failed with an example each, what to do about it, and the commands to go on with."""

from pathlib import Path
from typing import Any

import pytest
from test_commands import environment, run

from krea_async import (
    BatchReport,
    BudgetExceededError,
    ContentPolicyError,
    DownloadError,
    ImageExpiredError,
    InvalidRequestError,
    KreaError,
    Limit,
    ServiceError,
    TaskFailedError,
    TaskTimeoutError,
    UnknownOutcome,
)
from krea_async.cli.watching.summary import MAX_ROWS_SHOWN, advice, summarise, summary, what_is_open
from krea_async.sandbox import Durations, Sandbox

pytestmark = pytest.mark.anyio

OUT = Path("renders")


def failing(*errors: KreaError, **facts: Any) -> BatchReport:
    """Each error once, the first one more often."""
    failures = {str(error.code or type(error).__name__): 1 for error in errors}
    examples = dict(zip(failures, errors, strict=True))
    return BatchReport(failed=len(errors), failures=failures, examples=examples, **facts)


def test_a_run_without_trouble_is_told_in_three_lines() -> None:
    report = BatchReport(saved=3, credits=1.35, usd=0.0201, wall_s=7.2)
    assert summary(report, OUT) == [
        "3 saved in renders, 0 failed; 1.35 credits ($0.02) in 0:07",
        "  every row: renders/manifest.jsonl",
        "  look at the pictures: krea-async gallery renders",
    ]


def test_every_reason_has_an_example_and_what_to_do() -> None:
    policy = ContentPolicyError("The prompt violates the policy", code="content_policy_violation")
    slow = TaskFailedError("It took too long", code="generation_timeout", retryable=True)
    lines = summary(failing(policy, slow, saved=1), OUT)
    assert lines[1:] == [
        "  1 x content_policy_violation: The prompt violates the policy",
        "    not charged; rewrite the prompt: the same one fails again",
        "  1 x generation_timeout: It took too long",
        "    not charged; another try may help: --retry-failed",
        "  every row: renders/manifest.jsonl",
        "  try those again where it may help: krea-async resume renders --retry-failed",
        "  look at the pictures: krea-async gallery renders",
    ]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InvalidRequestError("?"), "not charged; mend the row in the list"),
        (TaskFailedError("?"), "not charged; change the prompt or its options"),
        (ServiceError("?"), "not charged; a later run tries again"),
        (TaskTimeoutError("?"), "may be charged; the task goes on: a later run fetches its picture, at no cost"),
        (DownloadError("?"), "charged; a later run fetches it, at no cost"),
        (
            ImageExpiredError("?", code="no link"),
            "charged; its link is gone: --retry-failed --code 'no link' pays for a new picture",
        ),
    ],
)
def test_what_to_do_follows_from_the_error(error: KreaError, words: str) -> None:
    assert advice(error) == words


def test_the_last_line_goes_on_with_what_a_later_run_takes_up_by_itself() -> None:
    """And only then: rows that were refused for their content stay failed in every run."""
    go_on = ["  go on with: krea-async resume renders"]
    assert what_is_open(failing(ServiceError("?")), OUT) == go_on
    assert what_is_open(BatchReport(saved=1, unread=3), OUT) == go_on
    assert what_is_open(failing(ContentPolicyError("?")), OUT) == []
    assert what_is_open(BatchReport(saved=1), OUT) == []


def test_a_run_that_its_cap_ended_says_how_to_raise_it() -> None:
    stopped = BudgetExceededError("the cap of 1 credits is reached")
    lines = summary(BatchReport(saved=2, unread=4, stopped_by=stopped), OUT)
    assert lines[1:3] == [
        "  stopped early: the cap of 1 credits is reached",
        "    first of all: raise --max-credits or --max-usd",
    ]
    assert lines[-1] == "  go on with: krea-async resume renders"


def test_commands_can_be_copied_whatever_the_directory_is_called() -> None:
    lines = summary(BatchReport(saved=1, unread=1), Path("my renders; rm x"))
    assert "  look at the pictures: krea-async gallery 'my renders; rm x'" in lines
    assert lines[-1] == "  go on with: krea-async resume 'my renders; rm x'"


def test_a_disaster_does_not_flood_the_terminal() -> None:
    """A million rows in doubt are counted, and some are named."""
    rows = tuple(
        UnknownOutcome(index=n, prompt="?", task_id=f"task-{n}", charged="unknown", reason="lost") for n in range(5_000)
    )
    errors = [KreaError("?", code=f"code {number}") for number in range(500)]
    report = failing(*errors, unknown=rows, maybe_twice=rows, open_tasks=rows, limit=Limit("rate", 5.0))
    lines = summary(report, OUT)
    assert len(lines) < 120
    assert "  and 480 more reasons; the manifest has them all" in lines
    assert "  5000 rows may have been charged without a picture:" in lines
    assert sum("lost" in line for line in lines) == MAX_ROWS_SHOWN
    assert lines[-1].startswith("  5000 tasks go on at the gateway: task-0, task-1")


def test_what_the_gateway_says_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    nasty = KreaError("\x1b]0;owned\x07 [bold]x[/bold]", code="co\x1b[2Jde")
    summarise(failing(nasty, saved=1), OUT, "plain")
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "[bold]x[/bold]" in err


@pytest.mark.parametrize("columns", [30, 60, 140])
def test_a_terminal_gets_the_same_with_colours_and_a_table_where_it_fits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    for name in ("CI", "TF_BUILD", "TEAMCITY_VERSION", "JENKINS_URL", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    nasty = ContentPolicyError("[red]\x1b]0;owned\x07", code="content_policy_violation")
    summarise(failing(nasty, saved=1), OUT, "auto")
    err = capsys.readouterr().err
    assert "]0;owned" in err
    assert "\x1b]" not in err
    assert "[red]" in err
    assert ("what to do" in err) == (columns == 140)
    assert "content_policy_violation" in err
    assert "krea-async gallery renders" in err


def test_quiet_is_silent_about_success_only(capsys: pytest.CaptureFixture[str]) -> None:
    doubt = UnknownOutcome(index=1, prompt="?", task_id=None, charged="unknown", reason="lost")
    summarise(BatchReport(saved=3), OUT, "quiet")
    assert capsys.readouterr().err == ""
    for report in (BatchReport(saved=3, unread=1), BatchReport(failed=1), BatchReport(saved=1, maybe_twice=(doubt,))):
        summarise(report, OUT, "quiet")
        assert capsys.readouterr().err != ""


async def test_the_commands_of_the_last_lines_work(tmp_path: Path) -> None:
    """Whatever they say is typed again, word by word."""
    (tmp_path / "list.txt").write_text("a fox\nan owl\na hare\n")
    async with Sandbox(durations=Durations.instant()) as sandbox:
        env = environment(sandbox)
        sandbox.script("create", ("fail", "generation_timeout"))
        first = await run("render", "list.txt", "my renders", "--max-credits", 0.5, env=env, cwd=tmp_path)
        assert first.err.splitlines()[-1] == "  go on with: krea-async resume 'my renders'"
        again = await run("resume", "my renders", env=env, cwd=tmp_path)
        (retry,) = [line for line in again.err.splitlines() if "--retry-failed" in line and "krea-async" in line]
        assert retry.endswith("krea-async resume 'my renders' --retry-failed")
        last = await run("resume", "my renders", "--retry-failed", env=env, cwd=tmp_path)
    assert (last.code, len(last.paths)) == (0, 3)
