"""One list of Pythons, one list of checks: noxfile, `.ci/run`, the workflow, pre-commit and pyproject.toml agree."""

import ast
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
NOXFILE = ast.parse((ROOT / "noxfile.py").read_text())
GATE = (ROOT / ".ci/run").read_text()
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text()


def constant(name: str) -> Any:
    """A constant of the noxfile, read without nox."""
    (value,) = (n.value for n in NOXFILE.body if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == name)
    assert value
    return ast.literal_eval(value)


def sessions() -> set[str]:
    return {n.name for n in NOXFILE.body if isinstance(n, ast.FunctionDef) and n.decorator_list}


def test_one_list_of_pythons() -> None:
    told = "Programming Language :: Python :: "
    pythons = [line.removeprefix(told) for line in PYPROJECT["project"]["classifiers"] if line.startswith(told)]
    assert list(constant("PYTHONS")) == pythons
    assert PYPROJECT["project"]["requires-python"] == f">={pythons[0]}"
    assert f"for version in {' '.join(pythons)}; do" in GATE
    assert f"python: {pythons}".replace("'", '"') in WORKFLOW


def test_the_sweeps_are_tests_that_exist_and_are_named_to_contributors() -> None:
    for path in constant("SWEEPS"):
        assert (ROOT / path).is_file(), path
        assert Path(path).stem in CONTRIBUTING, path


def test_the_audit_asks_about_every_extra_that_is_for_users() -> None:
    for_us = {"test", "docs", "bench", "dev"}
    assert set(constant("EXTRAS").split(",")) == set(PYPROJECT["project"]["optional-dependencies"]) - for_us


def test_the_gate_runs_every_session_and_ends_with_every_test() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
    run = set(re.findall(r"-s \"?([a-z]+)", GATE))
    assert run == sessions() - {"tests"}, "`tests` is what its last line does, in its own virtual environment"
    assert GATE.rstrip().endswith("\npytest")


@pytest.mark.parametrize("command", ["ruff format", "ruff check", "mypy"])
def test_what_lint_runs_runs_before_each_commit(command: str) -> None:
    assert f"entry: {command}" in (ROOT / ".pre-commit-config.yaml").read_text()


def test_the_workflow_runs_the_gate_with_no_more_rights_than_reading() -> None:
    assert "run: .ci/run" in WORKFLOW
    rights = re.findall(r"^permissions:\n((?: +.*\n)+)", WORKFLOW, flags=re.MULTILINE)
    assert rights == ["  contents: read\n"]
    assert "secrets." not in WORKFLOW
    assert all(re.fullmatch(r"[\w/-]+@v\d+", used) for used in re.findall(r"uses: (.+)", WORKFLOW))


def test_contributors_are_told_of_sessions_that_exist() -> None:
    told = set(re.findall(r"nox -s ([a-z]+)", CONTRIBUTING))
    assert told == sessions()


@pytest.mark.parametrize("form", ["bug.yml", "feature.yml"])
def test_an_issue_never_asks_for_a_key(form: str) -> None:
    text = (ROOT / ".github/ISSUE_TEMPLATE" / form).read_text()
    assert "Never paste your API key" in text
    if form == "bug.yml":
        assert "krea-async doctor" in text
