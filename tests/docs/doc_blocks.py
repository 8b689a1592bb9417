"""The fenced blocks of README.md, CONTRIBUTING.md and docs/, so that tests can run every one of them.

A comment before a block says what a reader cannot see:

    <!-- given: session, prompts -->     the names that the block expects (doc_runs.GIVEN makes them)
    <!-- not run: needs an account -->   why the block is only read, not run; tests count these
    <!-- fails -->                       the commands may end with any exit code, as in an example of an error

A block with a title, as in ```csv title="prompts.csv", is a file: it is written before the page's other blocks run.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import frozen

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))

_FENCE: Final = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w+-]*)(?P<rest>[^`\n]*)$")
_TITLE: Final = re.compile(r'title="([^"]+)"')
_SAID: Final = re.compile(r"<!--\s*(given|not run|fails)(?::\s*(.*?))?\s*-->", re.DOTALL)


@frozen(kw_only=True)
class Block:
    """One fenced block. line: of its first line of text, from 1. title: the file that it is. given: names it expects.

    not_run: the reason why it cannot run, or None. may_fail: its commands may end with another exit code than 0.
    """

    page: Path
    line: int
    language: str
    text: str
    title: str | None
    given: tuple[str, ...]
    not_run: str | None
    may_fail: bool

    @property
    def where(self) -> str:
        """For messages: the page and the line."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The page's blocks, from top to bottom. Raises ValueError for a fence that is not closed."""
    return list(_blocks(page, page.read_text().splitlines()))


def prose_of(page: Path) -> str:
    """The page without its fenced blocks; the line numbers stay."""
    lines = page.read_text().splitlines()
    for block in blocks_of(page):
        count = block.text.count("\n") + 2
        lines[block.line - 2 : block.line - 2 + count] = [""] * count
    return "\n".join(lines)


def _blocks(page: Path, lines: list[str]) -> Iterator[Block]:
    number, before = 0, ""
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            before = f"{before}\n{lines[number]}"
            number += 1
            continue
        start = number + 1
        end = next((n for n in range(start, len(lines)) if lines[n].strip() == fence["fence"]), None)
        if end is None:
            raise ValueError(f"{page}:{start}: the fence is not closed")
        indent = len(fence["indent"])
        said = dict(_SAID.findall(_last_comments(before)))
        title = _TITLE.search(fence["rest"])
        yield Block(
            page=page,
            line=start + 1,
            language=fence["language"],
            text="".join(f"{line[indent:]}\n" for line in lines[start:end]),
            title=title[1] if title else None,
            given=tuple(name.strip() for name in said.get("given", "").split(",") if name.strip()),
            not_run=said.get("not run"),
            may_fail="fails" in said,
        )
        number, before = end + 1, ""


def _last_comments(text: str) -> str:
    """The comments that end `text`, with nothing but space after them."""
    found = re.search(r"(?:<!--(?:(?!-->).)*-->\s*)+$", text, re.DOTALL)
    return found[0] if found else ""
