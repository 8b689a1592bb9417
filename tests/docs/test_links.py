"""Links and pictures of the documentation lead somewhere, and the README names the test of each promise."""

import re
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import pytest
from doc_blocks import PAGES, ROOT, prose_of

_LINK: Final = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_SVG: Final = "{http://www.w3.org/2000/svg}"
DIAGRAMS: Final = sorted((ROOT / "docs" / "images").glob("*.svg"))


def links_of(page: Path) -> list[tuple[str, str, bool]]:
    """The targets of the page's links, with their texts, and whether each is a picture."""
    return [(found["target"], found["text"], bool(found["picture"])) for found in _LINK.finditer(prose_of(page))]


def anchors_of(page: Path) -> set[str]:
    """What a link may name behind a #: the page's headings, as GitHub and the site make names of them."""
    headings = re.findall(r"^#+ (.+?)(?: \{.*\})?$", prose_of(page), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", text.lower()).strip()) for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target, _, _ in links_of(page):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if anchor in {"only-light", "only-dark"}:
            anchor = ""
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors_of(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_picture_is_described(page: Path) -> None:
    assert [target for target, text, picture in links_of(page) if picture and len(text) < 20] == []


def test_every_page_of_docs_is_reached_from_the_readme_or_the_menu() -> None:
    menu = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert pages == menu


def test_every_promise_names_a_test_that_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme[readme.index("| promise |") :].split("\n\n", 1)[0].splitlines()[2:]
    assert len(table) > 20
    for row in table:
        proofs = re.findall(r"\]\((tests/[^)]*)\)", row)
        assert proofs, row
        for proof in proofs:
            path = ROOT / proof
            files = [path] if path.is_file() else sorted(path.glob("test_*.py"))
            assert any("def test_" in file.read_text() for file in files), proof


def test_the_readme_has_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "\npip install '.[cli]' && krea-async demo\n" in readme
    assert "\npip install '.[test]' && pytest\n" in readme


@pytest.mark.parametrize("path", DIAGRAMS, ids=lambda path: path.name)
def test_every_diagram_has_a_title_and_a_description(path: Path) -> None:
    """It stands by itself, says in words what it shows, has colours for the dark, and loads nothing."""
    text = path.read_text()
    root = ElementTree.fromstring(text)
    for name in ("title", "desc"):
        found = root.find(f"{_SVG}{name}")
        assert found is not None
        assert found.text
        assert found.get("id", "") in root.get("aria-labelledby", "").split()
    assert "prefers-color-scheme: dark" in text
    assert re.findall(r"(?:href|url\()\W*http", text) == []


def test_the_site_loads_nothing_from_elsewhere() -> None:
    """Fonts, scripts and styles are its own."""
    settings = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in settings
    assert "http" not in settings
