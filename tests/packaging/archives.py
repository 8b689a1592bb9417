"""What is in the wheel and in the sdist. `python archives.py SOURCES DIST DIRECT`, run by `nox -s package`.

SOURCES: the tree that all were built from. DIST: the sdist, and the wheel built from it. DIRECT: the wheel built from
SOURCES themselves.
"""

import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

BESIDE_THE_CODE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "pyproject.toml")
BUILDS = ("noxfile.py", "mkdocs.yml", ".ci/run", ".pre-commit-config.yaml", ".github/workflows/ci.yml")


def the(pattern: str, directory: Path) -> Path:
    (found,) = directory.glob(pattern)
    return found


def tree(root: Path, *below: str) -> set[str]:
    """The files below these directories of `root`, as paths from it, less what Python left there."""
    files = (path.relative_to(root) for part in below for path in (root / part).rglob("*") if path.is_file())
    return {path.as_posix() for path in files if path.suffix != ".pyc"}


def in_wheel(wheel: Path) -> dict[str, bytes]:
    """Path -> bytes. The dist-info is left out: it holds the names of the wheel itself."""
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist()), "no licence"
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


def in_sdist(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {PurePosixPath(*PurePosixPath(entry.name).parts[1:]).as_posix() for entry in archive if entry.isfile()}


def check(sources: Path, dist: Path, direct: Path) -> str:
    """AssertionError with what is too much or missing; else a line that says what was compared."""
    wheel, sdist = in_wheel(the("*.whl", dist)), in_sdist(the("*.tar.gz", dist))
    package = tree(sources, "krea_async")
    assert set(wheel) == package, f"wheel and sources differ in {sorted(set(wheel) ^ package)}"
    assert wheel == in_wheel(the("*.whl", direct)), "the sdist builds another wheel than the sources"
    for needed in ("krea_async/py.typed", "krea_async/gallery/assets/"):
        assert any(name.startswith(needed) for name in wheel), f"{needed} is not in the wheel"
    whole = tree(sources, "krea_async", "tests", "benchmarks", "docs") | {*BESIDE_THE_CODE, *BUILDS}
    assert whole <= sdist, f"not in the sdist: {sorted(whole - sdist)}"
    stray = {name for name in sdist if "__pycache__" in name or name.startswith((".git/", ".nox/", "build/"))}
    assert not stray, f"in the sdist by mistake: {sorted(stray)}"
    return f"{len(wheel)} files in the wheel, {len(sdist)} in the sdist"


if __name__ == "__main__":
    print(check(*map(Path, sys.argv[1:])))
