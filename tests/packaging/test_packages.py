"""pyproject.toml against the code: what is imported is declared, and the core leans on the core's dependencies alone.

Building and installing takes a minute: `nox -s package` does that.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from krea_async import __version__

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
CORE = {"aiohttp", "attrs", "anyio", "aiofiles"}
DISTRIBUTION = {  # where a module is not called as what installs it, or comes with what cannot do without it
    "attr": "attrs",
    "yarl": "aiohttp",
    "multidict": "aiohttp",
    "pydantic": "fastapi",
    "starlette": "fastapi",
    "PIL": "pillow",
    "nbformat": "nbclient",
    "opentelemetry": "opentelemetry-api",
    "IPython": "ipykernel",
}


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return found[0].lower()


def modules() -> dict[str, Path]:
    """Dotted name -> file, of all of krea_async."""
    files = (ROOT / "krea_async").rglob("*.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imported(node: ast.AST, *, when_called: bool) -> Iterator[str]:
    """The dotted names that `node` imports. when_called: also inside functions, and for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative imports are not followed here"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif when_called or not (isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_types(child)):
            yield from imported(child, when_called=when_called)


def third_party(names: Iterator[str]) -> set[str]:
    """The distributions that these names come from."""
    tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"krea_async"}
    return {DISTRIBUTION.get(top, top).lower().replace("_", "-") for top in tops}


def core() -> set[str]:
    """The modules of krea_async that its public names load; they are imported lazily, but told to type checkers."""
    known, seen = modules(), set[str]()
    waiting = list(imported(ast.parse(known["krea_async"].read_text()), when_called=True))
    waiting = [name for name in waiting if name.startswith("krea_async.")]
    while waiting:
        name = waiting.pop()
        while name not in known:  # a class or a function: its module
            name = name.rpartition(".")[0]
        if name not in seen:
            seen.add(name)
            inside = imported(ast.parse(known[name].read_text()), when_called=False)
            parents = [name.rpartition(".")[0]] if "." in name else []
            waiting += [*parents, *(found for found in inside if found.partition(".")[0] == "krea_async")]
    return seen


def test_the_core_has_four_dependencies() -> None:
    assert {name_of(requirement) for requirement in PROJECT["dependencies"]} == CORE


def test_every_import_is_of_the_core_or_of_an_extra() -> None:
    declared = CORE | {name_of(requirement) for extra in EXTRAS.values() for requirement in extra}
    found = {name: third_party(imported(ast.parse(p.read_text()), when_called=True)) for name, p in modules().items()}
    assert not {name: lacking for name, used in found.items() if (lacking := used - declared)}
    assert set.union(*found.values()) >= CORE, "a core dependency that nothing uses"


def test_the_tests_import_nothing_beyond_their_own_extra() -> None:
    """`pip install '.[test]' && pytest` is all that it takes."""
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "docs/examples").glob("*.py")]
    ours = {"benchmarks", *(path.stem.replace("_", "-") for path in files)}
    brought = CORE | {name_of(r) for extra in ("test", "cli", "otel", "parquet", "speed") for r in EXTRAS[extra]}
    found = {path.name: third_party(imported(ast.parse(path.read_text()), when_called=True)) for path in files}
    assert not {name: lacking for name, used in found.items() if (lacking := used - brought - ours)}


def test_importing_krea_async_leans_on_the_core_alone() -> None:
    """Also everything it imports, at the level of modules; functions may import what an extra brings."""
    loaded = core()
    assert {"krea_async", "krea_async.gateway.transport"} <= loaded, "the imports were not followed"
    used = {n: third_party(imported(ast.parse(modules()[n].read_text()), when_called=False)) for n in loaded}
    assert not {name: foreign for name, names in used.items() if (foreign := names - CORE)}


def test_the_core_is_whole_where_no_extra_is_installed() -> None:
    """The same, by Python itself: with every extra's module made missing, each public name is there."""
    extras = {name_of(r) for extra in EXTRAS.values() for r in extra if name_of(r) not in CORE | {"krea-async"}}
    blocked = sorted({*extras, "PIL", "opentelemetry", "IPython"})
    code = f"""import sys
sys.modules.update(dict.fromkeys({blocked!r}))
import krea_async
[getattr(krea_async, name) for name in krea_async.__all__]"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_extra_that_people_are_told_of_exists() -> None:
    told = {path: re.findall(r"krea-async\[([a-z, ]+)\]", path.read_text()) for path in modules().values()}
    told[ROOT / "README.md"] = re.findall(r"krea-async\[([a-z, ]+)\]", (ROOT / "README.md").read_text())
    extras = {path: {extra.strip() for names in found for extra in names.split(",")} for path, found in told.items()}
    assert "cli" in set.union(*extras.values()), "the messages were not found"
    assert not {path.name: unknown for path, named in extras.items() if (unknown := named - set(EXTRAS))}


def test_the_changelog_tells_of_this_version_and_dates_every_one() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    dated = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d{2}-\d{2})", line) for line in headings[1:]]
    assert headings[0] == "[Unreleased]"
    assert all(dated), headings
    releases = [(int(m[1]), int(m[2]), int(m[3])) for m in dated if m]
    assert ".".join(map(str, releases[0])) == __version__
    assert releases == sorted(set(releases), reverse=True)
    days = [m[4] for m in dated if m]
    assert days == sorted(days, reverse=True)
