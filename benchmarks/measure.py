"""One client against one fresh sandbox: starts it, waits for its end, and holds its pictures against the ledger."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from statistics import mean, quantiles
from typing import Any, Final, TypeVar

from attrs import define, field, frozen

from benchmarks.client import prompt_of
from benchmarks.gateway import KEY, GatewayProcess, OpenSandbox
from benchmarks.watch import Facts

T = TypeVar("T")

TIMEOUT_S: Final = 600.0
_LOOK_EVERY_S: Final = 0.2


@frozen(kw_only=True)
class Load:
    """What a client is to do. concurrency 0: the client's own choice. settings: of the sandbox.

    kill_at: the share of the prompts whose acceptance brings a SIGKILL, after which the client is started again.
    """

    pictures: int
    concurrency: int
    settings: dict[str, Any] = field(factory=dict)
    kill_at: float | None = None
    timeout_s: float = TIMEOUT_S


@frozen(kw_only=True)
class Run:
    """What one client did. saved: prompts with a whole picture on disk. lost: prompts paid for without one.

    damaged: files with a picture's name that are no picture of the ledger. paid_twice: charges beyond a prompt's first.
    ended: False when it had to be stopped, or came to nothing.
    """

    load: Load
    cpu_s: float
    wall_s: float
    peak_mb: float
    added_mb: float
    facts: Facts
    saved: int
    lost: int
    damaged: int
    paid_twice: int
    ended: bool = True

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per picture saved."""
        return 1000 * self.cpu_s / max(1, self.saved)

    @property
    def api_requests(self) -> float:
        """API requests per picture saved."""
        return self.facts.api_requests / max(1, self.saved)

    @property
    def reads(self) -> float:
        """Reads per task: how often the gateway had to look it up."""
        return self.facts.reads / max(1, self.facts.accepted)

    @property
    def refused(self) -> float:
        """429s per accepted create."""
        return self.facts.refused / max(1, self.facts.accepted)

    @property
    def longest_wait_s(self) -> float:
        """The longest that a prompt waited from its first try to its acceptance."""
        return max(self.facts.waits_s, default=0.0)

    @property
    def lag_mean_s(self) -> float:
        """From a task's finish to the answer that told of it."""
        return mean(self.facts.lags_s or (0.0,))

    @property
    def lag_p95_s(self) -> float:
        """The lag that one task in twenty exceeds."""
        lags_s = self.facts.lags_s
        return quantiles(lags_s, n=20, method="inclusive")[-1] if len(lags_s) > 1 else sum(lags_s)


_directories = ExitStack()
"""Removed when all is measured: ext4 passes by every inode that was freed in the last minutes before it gives one out,
so that the next run would pay for the removal with up to half a millisecond per picture."""

atexit.register(_directories.close)


def measured(gateway: GatewayProcess, name: str, load: Load) -> Run:
    """One client's run, alone in its sandbox and in its directory."""
    directory = _directories.enter_context(tempfile.TemporaryDirectory())
    with gateway.sandbox(**load.settings) as sandbox:
        pictures = Path(directory, "pictures")
        pictures.mkdir()
        used = _rendered(name, load, sandbox, pictures)
        run = _checked(load, sandbox.facts(), used, pictures)
    print(
        f"{name}: {run.saved}/{load.pictures} saved in {run.wall_s:.1f} s, {run.cpu_ms:.2f} ms CPU, "
        f"{run.api_requests:.2f} requests, lag {run.lag_mean_s:.2f} s; gateway {run.facts.gateway_cpu_s:.1f} s CPU",
        file=sys.stderr,
    )
    return run


def side_by_side(gateway: GatewayProcess, loads: Mapping[str, Load]) -> dict[str, Run]:
    """Clients at the same time, each in its own sandbox, for figures that a shared processor hardly changes."""
    with ThreadPoolExecutor(len(loads)) as threads:
        runs = threads.map(lambda name: measured(gateway, name, loads[name]), loads)
        return dict(zip(loads, runs, strict=True))


@define
class _Used:
    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_mb: float = 0.0
    added_mb: float = 0.0
    ended: bool = True


def _rendered(name: str, load: Load, sandbox: OpenSandbox, directory: Path) -> _Used:
    started_s = time.monotonic()
    if load.kill_at is not None:
        _killed(name, load, sandbox, directory)
    with _started(name, load, sandbox, directory) as process:
        try:
            output, _ = process.communicate(timeout=load.timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            output = ""
    if not output:
        print(f"{name}: {_errors(directory).read_text()[-2000:]}", file=sys.stderr)
        return _Used(wall_s=time.monotonic() - started_s, ended=False)
    used = _Used(**json.loads(output))
    if load.kill_at is not None:
        used.wall_s = time.monotonic() - started_s
    return used


def _started(name: str, load: Load, sandbox: OpenSandbox, directory: Path) -> "subprocess.Popen[str]":
    arguments = (name, sandbox.url, KEY, str(load.pictures), str(directory), str(load.concurrency))
    environment = {**os.environ, "XDG_CACHE_HOME": str(directory.parent / "cache")}  # nobody learns from the run before
    command = [sys.executable, "-m", "benchmarks.client", *arguments]
    with _errors(directory).open("a") as errors:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)


def _errors(directory: Path) -> Path:
    """What the client had to say, for the case that it does not come to its end."""
    return directory.with_name("errors.txt")


def _killed(name: str, load: Load, sandbox: OpenSandbox, directory: Path) -> None:
    """Started, and ended by SIGKILL when so many prompts are paid for; or by itself, if it does not get that far."""
    assert load.kill_at is not None
    with _started(name, load, sandbox, directory) as process:
        while process.poll() is None and len(sandbox.facts().charges) < load.kill_at * load.pictures:
            time.sleep(_LOOK_EVERY_S)
        process.kill()


def _checked(load: Load, facts: Facts, used: _Used, directory: Path) -> Run:
    hashes = [sha256(path.read_bytes()).hexdigest() for path in directory.glob("*.png")]
    asked = {prompt_of(number) for number in range(load.pictures)}
    shown = {facts.pictures[name] for name in hashes if name in facts.pictures}
    return Run(
        load=load,
        cpu_s=used.cpu_s,
        wall_s=used.wall_s,
        peak_mb=used.peak_mb,
        added_mb=used.added_mb,
        facts=facts,
        saved=len(shown & asked),
        lost=len(facts.charges.keys() - shown),
        damaged=sum(name not in facts.pictures for name in hashes),
        paid_twice=sum(facts.charges.values()) - len(facts.charges),
        ended=used.ended,
    )


def there_and_back(names: Sequence[T], rounds: int) -> list[T]:
    """An order in which every other round is reversed, so that what drifts meets all alike."""
    return [name for number in range(rounds) for name in (names if number % 2 == 0 else names[::-1])]
