"""The event loop of a command: uvloop where it is installed, and the standard one where it is not."""

import asyncio
import importlib.util
from importlib.machinery import ModuleSpec

import pytest

from krea_async.cli import exits


async def uses_uvloop() -> int:
    """An exit code that says which loop runs it."""
    return int(type(asyncio.get_running_loop()).__module__.startswith("uvloop"))


def test_commands_run_in_uvloop_where_it_is_installed() -> None:
    """Nobody has to ask for it."""
    with pytest.raises(SystemExit) as exited:
        exits.run_to_exit(uses_uvloop)
    assert exited.value.code == int(importlib.util.find_spec("uvloop") is not None)


def test_commands_run_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""

    def not_found(_name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(exits, "find_spec", not_found)
    with pytest.raises(SystemExit) as exited:
        exits.run_to_exit(uses_uvloop)
    assert exited.value.code == 0
