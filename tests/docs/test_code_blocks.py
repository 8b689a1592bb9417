"""Every block of README.md and docs/ does what it says: run against the sandbox, checked, or named with the reason."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from doc_blocks import PAGES, ROOT, Block, blocks_of
from doc_runs import (
    COMMANDS,
    DATA,
    FIGURES,
    GIVEN,
    PYTHON,
    can_run,
    check,
    check_parses,
    commands_of,
    compiled,
    environment,
    missing_lines,
    prepare,
    read_data,
    run_commands,
    run_python,
)

from krea_async.sandbox import Sandbox

MOST_NOT_RUN = 8
"""Blocks that are read and not run. Each says why; a new one needs a better reason than that it is hard."""

WITH_BLOCKS = [page for page in PAGES if blocks_of(page)]


def fate(block: Block, blocks: list[Block]) -> str:
    """What the tests do with a block: "run", "checked", "read", "file", "figure" or "not run"."""
    if block.language in FIGURES:
        return "figure"
    if block.not_run is not None:
        return "not run"
    if block.language in DATA:
        return "read"
    if block.language in PYTHON:
        is_file = block.title is not None and _is_used(block.title, blocks)
        return "file" if is_file else "run"
    return "run" if all(can_run(command) for command, _ in commands_of(block)) else "checked"


def _is_used(title: str, blocks: list[Block]) -> bool:
    """Whether a command on the page runs the file, or pytest reads it by itself."""
    lines = [command for block in blocks if block.language in COMMANDS for command, _ in commands_of(block)]
    return any(Path(title).name in line or (title.endswith("conftest.py") and "pytest" in line) for line in lines)


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_the_page_works(
    page: Path, krea_sandbox_env: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one directory, from top to bottom, as a reader would; files first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    blocks = blocks_of(page)
    for block in blocks:
        if block.title is not None:
            file = tmp_path / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
    for block in blocks:
        what = fate(block, blocks)
        try:
            _try(block, what)
        except AssertionError:
            raise
        except BaseException as error:
            error.add_note(f"in the block at {block.where}")
            raise
    assert not krea_sandbox_env.ledger.leaks


def _try(block: Block, what: str) -> None:
    if block.language in PYTHON:
        compiled(block)
    if what == "run" and block.language in PYTHON:
        run_python(block, {"__name__": "__main__"})
    elif what == "run":
        asyncio.run(prepare(block.given))
        run_commands(block, environment())
    elif what == "checked":
        for command, _ in commands_of(block):
            check(command)
    elif what == "read":
        read_data(block)


def test_no_block_is_of_an_unknown_kind() -> None:
    kinds = PYTHON | COMMANDS | DATA | FIGURES
    assert [block.where for page in PAGES for block in blocks_of(page) if block.language not in kinds] == []


def test_what_blocks_expect_is_known() -> None:
    for page in PAGES:
        for block in blocks_of(page):
            assert set(block.given) <= set(GIVEN), block.where


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    skipped = [block for page in PAGES for block in blocks_of(page) if block.not_run is not None]
    assert len(skipped) <= MOST_NOT_RUN
    assert all(len(block.not_run or "") > 10 for block in skipped)


def test_most_blocks_are_run() -> None:
    """Checking is for what cannot run, not a way out."""
    fates = Counter(fate(block, blocks_of(page)) for page in PAGES for block in blocks_of(page))
    assert fates["run"] > 2 * (fates["checked"] + fates["not run"]), fates


def test_a_wrong_option_or_command_is_found() -> None:
    """The checks themselves can fail."""
    for wrong in ("render --no-such-option x", "rendr x", "render x --canary many"):
        with pytest.raises((AssertionError, SystemExit)):
            check_parses(wrong.split())
    for wrong in ("pip install 'krea-async[nonsense]'", "python -m no_such_module", "frobnicate"):
        with pytest.raises(AssertionError):
            check(wrong)


def test_an_output_that_differs_is_found() -> None:
    assert missing_lines(["3 saved in renders, 0 failed"], "2 saved in renders, 0 failed\n") == []
    assert missing_lines(["row … failed"], "row 7 (a fox) failed\n") == []
    assert missing_lines(["3 saved in renders"], "3 saved in pictures\n") == ["3 saved in renders"]
