"""docs/errors.md knows every error class, every error code and every exit code that the code knows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from doc_blocks import ROOT

import krea_async
from krea_async import KreaError
from krea_async.cli.exits import Exit, exit_of_error
from krea_async.control.breaker import TEMPLATE_FAULTS
from krea_async.gateway import refusals

PAGE: Final = (ROOT / "docs" / "errors.md").read_text()
IN_TABLES: Final = set(re.findall(r"^\| `([a-z_]+)` \|", PAGE, re.MULTILINE))
PACKAGE: Final = ROOT / "krea_async"

DOCUMENTED_BY_THE_VENDOR: Final = {
    *("invalid_request", "unauthorized", "insufficient_quota", "model_access_denied", "rate_limit_exceeded"),
    *("internal_error", "invalid_task_id", "idempotency_conflict", "paid_outcome_unknown", "resource_not_found"),
    *("generation_timeout", "resource_exhausted", "service_error", "service_unavailable", "quota_exceeded"),
    *("unknown_error", "content_policy_violation", "invalid_parameters", "generation_failed_no_content"),
    *("image_processing_error", "image_dimension_mismatch", "request_cancelled"),
}
"""docs/api-facts.md has their sources."""


def subclasses(cls: type[KreaError]) -> Iterator[type[KreaError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from subclasses(child)


def constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The module's names for texts."""
    for node in tree.body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        value = getattr(node, "value", None)
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield target.id, value.value


def codes_in(tree: ast.Module, names: dict[str, str]) -> Iterator[str]:
    """Every text that is given as `code=…`, or that `code` and `….code` are compared with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "code":
            yield from texts(node.value, names)
        elif isinstance(node, ast.Compare) and is_code(node.left):
            for other in node.comparators:
                yield from texts(other, names)


def is_code(node: ast.expr) -> bool:
    return getattr(node, "id", None) == "code" or getattr(node, "attr", None) == "code"


def texts(node: ast.expr, names: dict[str, str]) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value
        elif isinstance(part, ast.Name) and part.id in names:
            yield names[part.id]


def codes_of_the_package() -> dict[str, Path]:
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    texts_by_name = [pair for tree in trees.values() for pair in constants(tree)]
    names = {name: value for name, value in texts_by_name if re.fullmatch("[a-z_]+", value)}
    found: dict[str, Path] = {}
    for path, tree in trees.items():
        for code in codes_in(tree, names):
            if re.fullmatch(r"[a-z]+(_[a-z]+)+|unauthorized", code):
                found.setdefault(code, path)
    return found


def test_every_code_that_the_code_knows_is_on_the_page() -> None:
    found = codes_of_the_package()
    assert len(found) > 15, "the search found too little to believe it"
    missing = {code: str(path.relative_to(ROOT)) for code, path in found.items() if code not in IN_TABLES}
    assert missing == {}


def test_the_codes_of_the_vendor_are_on_the_page() -> None:
    retryable = refusals._WORTH_ANOTHER_TRY
    assert DOCUMENTED_BY_THE_VENDOR | set(TEMPLATE_FAULTS) | retryable <= IN_TABLES


@pytest.mark.parametrize("code", sorted(refusals._WORTH_ANOTHER_TRY))
def test_what_is_worth_another_try_is_said_to_be(code: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{code}` |"))
    assert "| yes |" in row


def test_the_page_invents_no_code() -> None:
    assert set() == IN_TABLES - set(codes_of_the_package()) - DOCUMENTED_BY_THE_VENDOR - set(TEMPLATE_FAULTS)


def test_every_error_class_is_on_the_page() -> None:
    public = [cls.__name__ for cls in subclasses(KreaError) if hasattr(krea_async, cls.__name__)]
    assert len(public) > 15
    assert [name for name in public if f"\n| `{name}` |" not in PAGE] == []


def test_every_exit_code_is_on_the_page() -> None:
    table = PAGE[PAGE.index("## Exit codes") :]
    assert [code.name for code in Exit if f"\n| {code.value} |" not in table] == []
    assert "| 130, 143 |" in table


@pytest.mark.parametrize("cls", list(subclasses(KreaError)), ids=lambda cls: cls.__name__)
def test_the_exit_code_of_each_class_is_the_one_on_the_page(cls: type[KreaError]) -> None:
    row = next((line for line in PAGE.splitlines() if line.startswith(f"| `{cls.__name__}` |")), None)
    if row is None:
        assert not hasattr(krea_async, cls.__name__), "a public class without a row"
        return
    assert row.rstrip(" |").rpartition("|")[2].strip().startswith(str(exit_of_error(cls("words")).value))
