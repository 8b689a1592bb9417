"""What `doctor` makes of what it found: facts in, a `Finding` out. Nothing here asks the network, disk or clock."""

from collections.abc import Collection, Mapping
from typing import Final, Literal
from urllib.parse import urlsplit

from attrs import frozen

from krea_async.addresses import is_internal_host
from krea_async.cli.account import left
from krea_async.cli.exits import Exit, exit_of_error
from krea_async.errors import KreaError
from krea_async.models import Balance, ImageRequest
from krea_async.poller import MAX_READS_AT_ONCE
from krea_async.settings import BASE_URL_VARIABLE, DEFAULT_BASE_URL, KEY_VARIABLE
from krea_async.submission import MAX_POSTS_AT_ONCE
from krea_async.suggestions import did_you_mean

Level = Literal["ok", "warning", "problem"]

PICTURE_BYTES: Final = {"1K": 2_000_000, "2K": 8_000_000}
"""A generous guess of what a picture takes on the disk."""

LITTLE_DISK_BYTES: Final = 1_000_000_000
NO_DISK_BYTES: Final = 50_000_000
SLOW_SYNC_S: Final = 0.05
CLOCK_MAY_BE_OFF_S: Final = 60.0
CLOCK_IS_WRONG_S: Final = 900.0
CERTIFICATE_ENDS_SOON_S: Final = 14 * 86_400.0
OTHER_FILES: Final = 64
"""Open files that the interpreter, the journal and the terminal take."""


@frozen(kw_only=True)
class Finding:
    """One thing that was looked at. advice: what to do about it. code: how `doctor` ends because of a problem."""

    what: str
    level: Level
    words: str
    advice: str | None = None
    code: Exit = Exit.ALL_SAVED


def python(version: tuple[int, int, int], platform: str) -> Finding:
    """The interpreter. `pip` refuses too old ones, so this only tells."""
    return Finding(what="python", level="ok", words=f"{'.'.join(map(str, version))} on {platform}")


def packages(versions: Mapping[str, str | None], extras: Mapping[str, str]) -> Finding:
    """versions: by package, None: not installed. extras: those that are optional, and the extra that brings them."""
    told = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    missing = [f"{name} (pip install 'krea-async[{extras[name]}]')" for name in extras if versions.get(name) is None]
    words = f"{told}; not installed, and only needed for extras: {', '.join(missing)}" if missing else told
    return Finding(what="packages", level="ok", words=words)


def event_loop(*, has_uvloop: bool, is_windows: bool) -> Finding:
    """The loop that commands run in."""
    if has_uvloop:
        return Finding(what="event loop", level="ok", words="uvloop")
    hint = "" if is_windows else "; a little faster with: pip install 'krea-async[speed]'"
    return Finding(what="event loop", level="ok", words=f"asyncio's own{hint}")


def base_url(url: str) -> Finding:
    """The gateway's address, which was checked already."""
    host = urlsplit(url).hostname or ""
    if url.rstrip("/") == DEFAULT_BASE_URL:
        return Finding(what="gateway", level="ok", words=url)
    kind = "a sandbox, or a gateway in your own network" if is_internal_host(host) else f"not {DEFAULT_BASE_URL}"
    level: Level = "ok" if is_internal_host(host) else "warning"
    advice = None if level == "ok" else f"your key is sent there; unset {BASE_URL_VARIABLE} unless you mean it"
    return Finding(what="gateway", level=level, words=f"{url} ({kind})", advice=advice)


def dns(host: str, addresses: Collection[str], error: str | None, seconds: float) -> Finding:
    """Whether the host has an address."""
    if error is not None:
        advice = "is this machine online? check the name, /etc/resolv.conf and the VPN"
        return _unreached("dns", f"{host} has no address: {error}", advice)
    return Finding(what="dns", level="ok", words=f"{host} is {', '.join(addresses)} ({1e3 * seconds:.0f} ms)")


def tls(host: str, *, version: str | None, issuer: str, left_s: float, error: str | None) -> Finding:
    """Whether the host proves who it is. left_s: how long its certificate is still valid."""
    if error is not None:
        advice = (
            "a firewall may stop it, or a proxy that reads all traffic may answer instead: give its certificate to "
            "Python with SSL_CERT_FILE; if certificates are missing here, install ca-certificates"
        )
        return _unreached("tls", f"{host}: {error}", advice)
    words = f"{version}, certificate of {issuer}, valid for {left_s / 86_400:.0f} days"
    if left_s < CERTIFICATE_ENDS_SOON_S:
        return Finding(
            what="tls",
            level="warning",
            words=words,
            advice="the gateway has to renew it; is this machine's date right?",
        )
    return Finding(what="tls", level="ok", words=words)


def no_tls(url: str) -> Finding:
    """An http:// address, which only internal hosts may have."""
    return Finding(what="tls", level="ok", words=f"not used: {url} is on this machine or in its own network")


def key(value: str, error: KreaError | None, *, was_asked: bool) -> Finding:
    """Whether there is a key and the gateway takes it. The key is never told, nor any part of it."""
    if not value:
        advice = f"export {KEY_VARIABLE}=sk-evo-…; without one, try krea-async demo"
        return Finding(
            what="key", level="problem", words=f"{KEY_VARIABLE} is not set", advice=advice, code=Exit.KEY_REFUSED
        )
    words = f"set, {len(value)} characters"
    if not was_asked:
        return Finding(what="key", level="warning", words=f"{words}; not tried, as the gateway was not reached")
    if error is not None:
        code = exit_of_error(error)
        refused = code is Exit.KEY_REFUSED
        advice = (
            f"copy it again from your account, and export it as {KEY_VARIABLE}"
            if refused
            else "wait a moment and look again; it is not about the key"
        )
        return Finding(
            what="key",
            level="problem",
            words=f"{words}; {error}",
            advice=advice,
            code=code or Exit.KEY_REFUSED,
        )
    return Finding(what="key", level="ok", words=f"{words}; the gateway takes it")


def balance(found: Balance | None) -> Finding:
    """What is left to spend."""
    if found is None:
        return Finding(what="credits", level="warning", words="not known, as the gateway did not say")
    words = left(found.remaining)
    if found.remaining is not None and found.remaining < ImageRequest("-").credits:
        return Finding(what="credits", level="problem", words=words, advice="top the account up", code=Exit.NO_CREDITS)
    return Finding(what="credits", level="ok", words=words)


def clock(off_s: float | None) -> Finding:
    """off_s: how far this machine's clock is before the gateway's; the answer may have taken a second."""
    if off_s is None:
        return Finding(what="clock", level="ok", words="not compared, as the gateway did not answer")
    words = "as the gateway's, to the second" if abs(off_s) < 2 else f"{abs(off_s):.0f} s {_side(off_s)} the gateway's"
    if abs(off_s) < CLOCK_MAY_BE_OFF_S:
        return Finding(what="clock", level="ok", words=words)
    level: Level = "problem" if abs(off_s) >= CLOCK_IS_WRONG_S else "warning"
    return Finding(
        what="clock",
        level=level,
        words=words,
        advice="set it (timedatectl set-ntp true): links and certificates are judged by it",
        code=Exit.SERVICE_UNAVAILABLE if level == "problem" else Exit.ALL_SAVED,
    )


def proxies(environment: Mapping[str, str]) -> Finding:
    """Variables that other programs obey. Their values are not told: a proxy's address may hold a password."""
    names = sorted(name for name in environment if name.lower() in {"http_proxy", "https_proxy", "all_proxy"})
    if not names:
        return Finding(what="proxy", level="ok", words="none is set")
    return Finding(
        what="proxy",
        level="warning",
        words=f"{', '.join(names)} is set, and krea-async connects without a proxy",
        advice="if only the proxy may reach the internet, ask for an exception, or point --base-url at a relay",
    )


def variables(environment: Mapping[str, str], known: Collection[str]) -> Finding:
    """KREA_ASYNC_* that no option reads, which are typos as a rule."""
    unknown = sorted(name for name in environment if name.startswith("KREA_ASYNC_") and name not in known)
    if not unknown:
        return Finding(what="variables", level="ok", words="every KREA_ASYNC_ variable is one of an option")
    words = ", ".join(f"{name}{did_you_mean(name, known)}" for name in unknown)
    return Finding(what="variables", level="warning", words=f"no option reads {words}", advice="unset or rename it")


def disk(directory: str, free_bytes: int) -> Finding:
    """Room for pictures."""
    counts = " or ".join(f"{free_bytes // size:,} at {quality}" for quality, size in PICTURE_BYTES.items())
    words = f"{free_bytes / 1e9:.1f} GB free for {directory}, room for some {counts}"
    if free_bytes >= LITTLE_DISK_BYTES:
        return Finding(what="disk", level="ok", words=words)
    advice = "make room, or render into another directory with --out"
    if free_bytes >= NO_DISK_BYTES:
        return Finding(what="disk", level="warning", words=words, advice=advice)
    return Finding(what="disk", level="problem", words=words, advice=advice, code=Exit.DISK)


def writing(directory: str, error: str | None, sync_s: float) -> Finding:
    """Whether a file can be written, made durable and renamed, as every picture is."""
    if error is not None:
        return Finding(
            what="writing",
            level="problem",
            words=f"{directory}: {error}",
            advice="change its permissions or its mount, or render into another directory with --out",
            code=Exit.DISK,
        )
    words = f"{directory} takes, syncs ({1e3 * sync_s:.1f} ms) and renames files"
    if sync_s > SLOW_SYNC_S:
        advice = "render onto a local disk, or give --no-sync if a power cut may lose what was paid for"
        return Finding(what="writing", level="warning", words=f"{words}, slowly", advice=advice)
    return Finding(what="writing", level="ok", words=words)


def open_files(limit: int | None, concurrency: int, downloads: int) -> Finding:
    """limit: on the open files of a process; None: there is none."""
    need = min(MAX_POSTS_AT_ONCE, concurrency) + MAX_READS_AT_ONCE + 2 * downloads + OTHER_FILES
    use = f"concurrency {concurrency} and {downloads} downloads take up to {need}"
    if limit is None or limit >= need:
        words = "no limit" if limit is None else f"a limit of {limit}"
        return Finding(what="open files", level="ok", words=f"{words}; {use}")
    advice = f"ulimit -n {max(1024, need)}, or give a lower --concurrency or --downloads"
    return Finding(
        what="open files", level="problem", words=f"a limit of {limit}; {use}", advice=advice, code=Exit.DISK
    )


def cache(directory: str | None, error: str | None) -> Finding:
    """Where the gateway's limits are remembered; a session can do without."""
    if error is None:
        return Finding(what="cache", level="ok", words=f"{directory}: the gateway's limits are remembered there")
    advice = "set XDG_CACHE_HOME to a directory that may be written; until then each run finds the limits anew"
    return Finding(what="cache", level="warning", words=f"{directory or 'no directory'}: {error}", advice=advice)


def not_looked_at(what: str, why: str) -> Finding:
    """Something that another problem keeps from being looked at."""
    return Finding(what=what, level="warning", words=f"not looked at: {why}")


def _unreached(what: str, words: str, advice: str) -> Finding:
    return Finding(what=what, level="problem", words=words, advice=advice, code=Exit.SERVICE_UNAVAILABLE)


def _side(off_s: float) -> str:
    return "before" if off_s > 0 else "behind"
