"""What is checked, one session for each habit; `.ci/run` runs them all, and GitHub's workflow does the same.

`nox -s lint`, `nox -s tests-3.12`, `nox -s docs`; `nox -l` lists them. Arguments after `--` go to pytest.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any, Final

import nox

PYTHONS: Final = ("3.11", "3.12", "3.13")
EXTRAS: Final = "cli,otel,parquet,speed"  # what users install; `test`, `docs`, `bench` and `dev` are for us
HERE: Final = Path(__file__).parent
PACKAGING: Final = HERE / "tests" / "packaging"
NOT_SOURCES: Final = (".git", ".nox", ".venv", ".hypothesis", ".*_cache", "__pycache__", "build", "dist")

SWEEPS: Final = (  # a third of the time: one story with a fault at each step, and what measures time or memory
    "tests/cli/test_disk.py",
    "tests/cli/test_two_processes.py",
    "tests/examples/test_load.py",
    "tests/storage/test_history.py",
    "tests/test_benchmarks.py",
    "tests/test_chaos.py",
    "tests/test_crashes.py",
    "tests/test_disk_faults.py",
    "tests/test_limits.py",
    "tests/test_loop_lag.py",
    "tests/test_power_loss.py",
    "tests/test_spending.py",
    "tests/test_verify_beside.py",
)

nox.options.sessions = ["lint", "docs", "package", "audit", "tests"]


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint and types."""
    session.install(".[dev,test]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Every test."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS)
def quick(session: nox.Session) -> None:
    """The tests without the sweeps and the browser: whether the code runs on this Python."""
    session.install(".[test]")
    session.run("pytest", "-m", "not browser", *(f"--ignore={path}" for path in SWEEPS), *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, strictly: a broken link is an error. The pages are in `build/site/` afterwards."""
    session.install(".[docs]")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def package(session: nox.Session) -> None:
    """Build the wheel and the sdist, move the sources away, then install each and use it."""
    session.install("build", "hatchling")
    work = Path(session.create_tmp()).absolute()
    shutil.rmtree(work)
    sources, dist = work / "sources", work / "dist"
    shutil.copytree(HERE, sources, ignore=shutil.ignore_patterns(*NOT_SOURCES))
    build = ("python", "-m", "build", "--no-isolation")
    session.run(*build, "--outdir", str(dist), str(sources), silent=True)
    session.run(*build, "--wheel", "--outdir", str(work / "direct"), str(sources), silent=True)
    session.run("python", str(PACKAGING / "archives.py"), str(sources), str(dist), str(work / "direct"))
    shutil.rmtree(sources)
    for archive in sorted(dist.iterdir()):
        smoke_test(session, archive, work)


def smoke_test(session: nox.Session, archive: Path, work: Path) -> None:
    """Install `archive` where nothing else is, first without extras, and use it from an empty directory."""
    session.log(f"smoke test of {archive.name}")
    elsewhere = work / f"{archive.suffix[1:]}-used"
    python = str(work / f"{archive.suffix[1:]}-venv" / "bin" / "python")
    elsewhere.mkdir()
    session.run("python", "-m", "venv", str(Path(python).parents[1]))
    with session.chdir(elsewhere):
        for what, extra in (("core", ""), ("cli", "[cli]")):
            session.run(python, "-m", "pip", "install", f"{archive}{extra}", external=True, silent=True)
            session.run(python, "-I", str(PACKAGING / "smoke.py"), what, external=True)


@nox.session
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of what users get with all extras. Skipped, never green, where nobody could be asked."""
    session.install("pip-audit")
    work = Path(session.create_tmp()).absolute()
    resolved, pins, answer = work / "resolved.json", work / "pins.txt", work / "answer.json"
    resolve = ("python", "-m", "pip", "install", "--dry-run", "--ignore-installed", "--report", str(resolved))
    session.run(*resolve, f".[{EXTRAS}]", silent=True)
    packages = [package["metadata"] for package in json.loads(resolved.read_text())["install"]]
    unknown = {canonical(package["name"]): package["version"] for package in packages}
    del unknown["krea-async"]
    count = len(unknown)
    for service in ("pypi", "osv"):
        pins.write_text("".join(f"{name}=={version}\n" for name, version in unknown.items()))
        answer.unlink(missing_ok=True)
        ask = ["pip-audit", "--requirement", str(pins), "--no-deps", "--disable-pip", "--progress-spinner=off"]
        ask += ["--vulnerability-service", service, "--format=json", "--output", str(answer)]
        session.run(*ask, success_codes=range(256), silent=True)  # 1 is a finding, and also no answer
        for package in json.loads(answer.read_text())["dependencies"] if answer.exists() else ():
            if package.get("vulns"):
                session.error(f"VULNERABLE: {described(package)}")
            if "skip_reason" not in package:
                del unknown[canonical(package["name"])]
        if not unknown:
            session.log(f"audit: no known vulnerability in {count} packages")
            return
    session.skip(f"NOT AUDITED: no advisory database knew or answered for {len(unknown)} of {count}: {sorted(unknown)}")


def canonical(name: str) -> str:
    """`Typing_Extensions` and `typing-extensions` are one package."""
    return re.sub(r"[-_.]+", "-", name).lower()


def described(package: dict[str, Any]) -> str:
    """`aiohttp 3.0.0: PYSEC-2021-76 (mended in 3.7.4)`, all of them."""
    found = (f"{v['id']} (mended in {', '.join(v['fix_versions']) or 'no version'})" for v in package["vulns"])
    return f"{package['name']} {package['version']}: {'; '.join(found)}"
