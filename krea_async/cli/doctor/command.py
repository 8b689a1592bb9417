"""`krea-async doctor`: whatever would keep a run from going well, found before it costs anything."""

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anyio
import click
from attrs import asdict

from krea_async._version import __version__
from krea_async.cli.doctor import checks, probes
from krea_async.cli.doctor.checks import Finding
from krea_async.cli.exits import Exit, run_to_exit
from krea_async.cli.one_gateway import settings_of
from krea_async.cli.options.choices import DirectoryPath
from krea_async.cli.options.config import options_of
from krea_async.cli.options.session import base_url_option
from krea_async.cli.output import put, put_lines
from krea_async.errors import AuthenticationError
from krea_async.settings import BASE_URL_VARIABLE, DEFAULT_BASE_URL, KEY_VARIABLE, MAX_UNFINISHED, Settings
from krea_async.tasks import task_group

_NEEDED: Final = ("aiohttp", "anyio", "attrs", "aiofiles", "click", "rich", "pillow")
_EXTRAS: Final = {"uvloop": "speed", "pyarrow": "parquet", "opentelemetry-api": "otel"}
_MARKS: Final = {"ok": "ok", "warning": "warning", "problem": "PROBLEM"}

Findings = dict[str, Finding]


@click.command("doctor", short_help="Look for whatever would keep a run from going well.")
@click.option(
    "-o",
    "--out",
    type=DirectoryPath(path_type=Path),
    default=Path("renders"),
    show_default=True,
    help="Output directory.",
)
@click.option(
    "--concurrency", type=click.IntRange(1), default=MAX_UNFINISHED, show_default=True, help="As you mean to render."
)
@click.option("--downloads", type=click.IntRange(1), default=16, show_default=True, help="As you mean to render.")
@click.option("--json", "as_json", is_flag=True, help="Print all findings as JSON.")
@base_url_option
def doctor_command(out: Path, concurrency: int, downloads: int, as_json: bool, base_url: str | None) -> None:
    """Look at Python, the network, the key, the balance, the clock and the disk, and say what to do about each.

    Costs nothing, and leaves nothing behind. The key is not shown, nor any part of it.

    Exit codes: 0 no problem was found (there may be warnings); else that of the first problem: 4 the key, 5 no credits,
    6 the gateway cannot be reached or the clock is wrong, 9 disk or open files, 2 a setting that cannot be.
    """
    known = _known_variables(click.get_current_context())

    async def run() -> int:
        found = _here(concurrency, downloads, known)
        async with task_group() as group:
            group.start_soon(_into, found, _gateway, base_url)
            group.start_soon(_into, found, _disk, out)
        ordered = [found[what] for what in _ORDER if what in found]
        code = next((one.code for one in ordered if one.level == "problem"), Exit.ALL_SAVED)
        if as_json:
            put(json.dumps(_as_json(ordered, code), ensure_ascii=False))
        else:
            put_lines(_as_text(ordered))
        return code

    run_to_exit(run)


_ORDER: Final = (
    *("python", "packages", "event loop", "variables"),
    *("gateway", "proxy", "dns", "tls", "key", "credits", "clock"),
    *("disk", "writing", "open files", "cache"),
)


async def _into(found: Findings, look: Callable[..., Awaitable[list[Finding]]], *about: object) -> None:
    found.update({finding.what: finding for finding in await look(*about)})


def _here(concurrency: int, downloads: int, known: frozenset[str]) -> Findings:
    """What this process knows of itself."""
    versions = {"krea-async": __version__, **{name: _version(name) for name in (*_NEEDED, *_EXTRAS)}}
    findings = [
        checks.python(sys.version_info[:3], platform.platform(terse=True)),
        checks.packages(versions, _EXTRAS),
        checks.event_loop(has_uvloop=find_spec("uvloop") is not None, is_windows=sys.platform == "win32"),
        checks.variables(os.environ, known),
        checks.proxies(os.environ),
        checks.open_files(probes.open_files_limit(), concurrency, downloads),
        checks.cache(*probes.cache_state()),
    ]
    return {finding.what: finding for finding in findings}


async def _gateway(base_url: str | None) -> list[Finding]:
    """The way to the gateway, step by step: what comes after a problem is not looked at."""
    value = os.environ.get(KEY_VARIABLE, "").strip()
    url = (base_url or os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL).strip()
    settings: Settings | None = None
    key = checks.key(value, None, was_asked=False)
    try:
        settings = settings_of(url)
    except AuthenticationError as error:
        key = checks.key(value, error, was_asked=True)
        settings_of(url, api_key="none")  # whether the address may be one; nothing is sent
    findings = [checks.base_url(url)]
    reached = await _reached(url, findings)
    if settings is None or not reached:
        return [*findings, key, checks.balance(None), checks.clock(None)]
    answer = await probes.answer_of(settings)
    findings += [
        checks.key(value, answer.error, was_asked=True),
        checks.balance(answer.balance),
        checks.clock(answer.off_s),
    ]
    return findings


async def _reached(url: str, findings: list[Finding]) -> bool:
    """Whether the gateway's host has an address and proves who it is."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    began = anyio.current_time()
    try:
        addresses = await probes.addresses_of(host)
    except (OSError, UnicodeError) as error:
        findings += [
            checks.dns(host, (), probes.why(error), anyio.current_time() - began),
            checks.not_looked_at("tls", f"{host} has no address"),
        ]
        return False
    findings.append(checks.dns(host, addresses, None, anyio.current_time() - began))
    if parts.scheme == "http":
        findings.append(checks.no_tls(url))
        return True
    try:
        shown = await probes.certificate_of(host, addresses, parts.port or 443)
    except (OSError, ValueError) as error:
        findings.append(checks.tls(host, version=None, issuer="", left_s=0.0, error=probes.why(error)))
        return False
    findings.append(checks.tls(host, version=shown.version, issuer=shown.issuer, left_s=shown.left_s, error=None))
    return True


async def _disk(out: Path) -> list[Finding]:
    """The directory that pictures go to, or the one that it would be made in."""
    try:
        near = await probes.abandonable(lambda: probes.nearest_directory(out), probes.DISK_WITHIN_S)
    except OSError as error:
        return [checks.writing(str(out), probes.why(error), 0.0)]
    shown = str(out) if near == Path.cwd() / out else f"{out}, to be made in {near}"
    findings = []
    try:
        free = await probes.abandonable(lambda: probes.free_bytes(near), probes.DISK_WITHIN_S)
        findings.append(checks.disk(shown, free))
        sync_s = await probes.abandonable(lambda: probes.sync_seconds(near), probes.DISK_WITHIN_S)
        findings.append(checks.writing(str(near), None, sync_s))
    except OSError as error:
        findings.append(checks.writing(str(near), probes.why(error), 0.0))
    return findings


def _known_variables(ctx: click.Context) -> frozenset[str]:
    """The variables of every option of every command."""
    group = ctx.find_root().command
    names = {"KREA_ASYNC_CONFIG"}
    if isinstance(group, click.Group):
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            for option in options_of(command).values() if command is not None else ():
                names.update([option.envvar] if isinstance(option.envvar, str) else option.envvar or ())
    return frozenset(names)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _as_json(findings: list[Finding], code: Exit) -> dict[str, object]:
    listed = [{key: value for key, value in asdict(one).items() if key != "code"} for one in findings]
    return {"ok": code is Exit.ALL_SAVED, "exit_code": int(code), "findings": listed}


def _as_text(findings: list[Finding]) -> list[str]:
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.level]:<8} {finding.what}: {finding.words}")
        if finding.advice is not None:
            lines.append(f"{'':<8} -> {finding.advice}")
    counts = Counter(finding.level for finding in findings)
    told = [
        f"{counts[level]} {level}{'s' if counts[level] > 1 else ''}"
        for level in ("problem", "warning")
        if counts[level]
    ]
    return [*lines, ", ".join(told) or "all is well"]
