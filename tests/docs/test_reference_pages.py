"""Every public name has its place in the reference, and the reference names nothing that is not there."""

import importlib
import re
from typing import Any, Final

import pytest
from doc_blocks import ROOT

REFERENCE: Final = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
NAMED: Final = re.findall(r"^::: ([\w.]+)$", REFERENCE, re.MULTILINE)


def found(path: str) -> Any:  # a module's attribute
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("module", ["krea_async", "krea_async.prompts", "krea_async.sandbox"])
def test_every_public_name_is_there(module: str) -> None:
    """Under one of its paths: what two modules export is described once."""
    names = [name for name in importlib.import_module(module).__all__ if name != "__version__"]
    described = {path.rpartition(".")[2] for path in NAMED}
    assert [name for name in names if name not in described] == []


@pytest.mark.parametrize("path", NAMED)
def test_every_described_name_exists(path: str) -> None:
    assert found(path) is not None


def test_nothing_is_described_twice() -> None:
    assert sorted(set(NAMED)) == sorted(NAMED)
