"""docs/howto/configuration.md and docs/reference/commands.md agree with the code: settings, policies, options."""

import inspect
import re
import subprocess
import sys
from typing import Any, Final

import attrs
import pytest
from doc_blocks import PAGES, ROOT, prose_of
from doc_runs import check_parses

import krea_async
from krea_async import KreaSession
from krea_async.cli import commands
from krea_async.cli.watching import event_lines

PAGE: Final = (ROOT / "docs" / "howto" / "configuration.md").read_text()
POLICIES: Final = [name for name in krea_async.__all__ if name.endswith("Policy")]


def row_of(name: str) -> str:
    """The table's row that begins with this name."""
    return next((line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")), "")


@pytest.mark.parametrize("name", POLICIES)
def test_every_field_of_every_policy_is_there_with_its_default(name: str) -> None:
    row = row_of(name)
    for field in attrs.fields(getattr(krea_async, name)):
        if isinstance(field.default, bool | int | float | None) and field.name != "max_bytes":
            assert f"`{field.name}={field.default!r}`" in row, field.name
        else:
            assert f"`{field.name}" in row, field.name


def test_every_setting_of_a_session_is_there() -> None:
    names = list(inspect.signature(KreaSession).parameters)
    assert [name for name in names if not row_of(name)] == []


def test_the_page_of_all_options_is_up_to_date() -> None:
    """Else: python docs/theme/commands.py."""
    script = ROOT / "docs" / "theme" / "commands.py"
    printed = subprocess.run(
        [sys.executable, str(script), "--print"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert printed == (ROOT / "docs" / "reference" / "commands.md").read_text(), "run: python docs/theme/commands.py"


def test_every_command_is_on_its_page() -> None:
    page = (ROOT / "docs" / "howto" / "command-line.md").read_text()
    names = commands.krea_async.list_commands(_context())
    assert len(names) > 10
    assert [name for name in names if not re.search(rf"^\| `{name}[ `]", page, re.MULTILINE)] == []


def test_every_event_of_the_json_lines_is_on_its_page() -> None:
    page = (ROOT / "docs" / "howto" / "command-line.md").read_text()
    told = set(re.findall(r"[`, ]`?([a-z_]+)`", page))
    source = inspect.getsource(event_lines)
    events = set(re.findall(r'\.tell\("(\w+)"', source)) | {"saved", "failed", "skipped"}
    assert len(events) > 6
    assert events - told == set()


def named_in_prose() -> list[Any]:
    """Every `krea-async …` in running text, with its page."""
    found = [(page, words) for page in PAGES for words in re.findall(r"`krea-async ([^`]+)`", prose_of(page))]
    return [pytest.param(words, id=f"{page.name}: {words}") for page, words in found]


@pytest.mark.parametrize("words", named_in_prose())
def test_a_command_that_the_text_names_exists(words: str) -> None:
    """Capital words stand for arguments; a command alone is a name, not a call."""
    name, *rest = words.split()
    if name == "COMMAND" or not rest:
        assert name in {"COMMAND", "--help"} or name in commands.krea_async.list_commands(_context())
        return
    check_parses([name, *(word.strip("[]").lower() for word in rest if word != "…")])


def _context() -> Any:
    return commands.krea_async.make_context("krea-async", ["credits"])
