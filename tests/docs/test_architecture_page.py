"""docs/architecture.md names every module, so that whoever looks for an idea finds where it lives."""

import re
from typing import Final

from doc_blocks import ROOT

PAGE: Final = (ROOT / "docs" / "architecture.md").read_text()
TREE: Final = PAGE[PAGE.index("```\nkrea_async/") : PAGE.index("### Imports run downwards")]


def test_every_module_is_named_where_it_lives() -> None:
    """But for the sandbox, which is told as one thing."""
    listed = {name.strip() for name in re.findall(r"[\w/]+\.py", TREE)}
    modules = {path for path in (ROOT / "krea_async").rglob("*.py") if not path.name.startswith("_")}
    missing = {str(path.relative_to(ROOT)) for path in modules if path.name not in listed}
    assert {path for path in missing if "/sandbox/" not in path} == set()


def test_every_module_that_is_named_exists() -> None:
    names = {path.name for path in ROOT.glob("krea_async/**/*.py")} | {path.name for path in ROOT.glob("*/*.py")}
    assert set(re.findall(r"(?<![\w/])\w+\.py", TREE)) - names == set()
