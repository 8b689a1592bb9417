"""`krea-async doctor`: what it finds with a gateway, without one, and on a disk that is wrong; it always ends soon."""

# ruff: noqa: ASYNC240 - looking into a directory takes no time

import json
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.tls import TLSListener
from test_commands import PROGRAM, Result, environment, run, run_all
from test_disk import BOUND_BY_PERMISSIONS

from krea_async.cli.doctor import probes
from krea_async.cli.exits import Exit
from krea_async.sandbox import Sandbox

pytestmark = pytest.mark.anyio

LOOKED_AT = [
    *("python", "packages", "event loop", "variables", "gateway", "proxy", "dns", "tls", "key", "credits", "clock"),
    *("disk", "writing", "open files", "cache"),
]
IMPATIENT = """
from krea_async.cli.doctor import probes
probes.ANSWER_WITHIN_S = probes.CONNECTION_WITHIN_S = 0.5
"""
ANY_DISK = """
from krea_async.cli.doctor import checks
checks.SLOW_SYNC_S = 30.0
"""
"""Where a disk begins to be slow, is asked in test_doctor_checks; this one has other tests beside."""


def findings_of(result: Result) -> dict[str, dict[str, Any]]:
    assert "Traceback" not in result.err, result.err
    told = json.loads(result.out)
    assert told["exit_code"] == result.code
    assert told["ok"] is (result.code == 0)
    return {one["what"]: one for one in told["findings"]}


def without_proxies() -> dict[str, str]:
    return {name: "" for name in os.environ if name.lower().endswith("_proxy")}


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


async def examined(sandbox: Sandbox | None, directory: Path, *args: object, **env: str) -> dict[str, dict[str, Any]]:
    return findings_of(await run("doctor", "--json", *args, env=environment(sandbox, **env), cwd=directory))


async def test_all_is_well_beside_a_sandbox(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_commands.COMMAND", [sys.executable, "-c", ANY_DISK + PROGRAM])
    env = {name: value for name, value in environment(sandbox).items() if not name.lower().endswith("_proxy")}
    told, as_json = await run_all(
        partial(run, "doctor", env=env, cwd=tmp_path), partial(run, "doctor", "--json", env=env, cwd=tmp_path)
    )
    assert (told.code, told.err) == (0, ""), told
    assert told.out.endswith("all is well\n")
    assert "key: set, 14 characters; the gateway takes it\n" in told.out
    assert "1000.00 credits left: 2,222 pictures at 1K or 555 pictures at 2K\n" in told.out
    assert sandbox.key not in told.out
    found = findings_of(as_json)
    assert [*found] == LOOKED_AT
    assert {one["level"] for one in found.values()} == {"ok"}
    assert {*sandbox.ledger.requests} == {"credits"}
    assert not [*tmp_path.iterdir()]  # the probe's file is gone


async def test_each_problem_is_named_with_what_to_do_and_its_exit_code(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "renders").write_text("a file")
    starts = [
        partial(run, "doctor", "--json", env=environment(sandbox, EVOLINK_API_KEY="sk-wrong"), cwd=tmp_path),
        partial(run, "doctor", "--json", env=environment(EVOLINK_BASE_URL=sandbox.url), cwd=tmp_path),
        partial(run, "doctor", "--json", "-o", "x", env=environment(sandbox, EVOLINK_API_KEY="'sk-x'"), cwd=tmp_path),
        partial(run, "doctor", "--json", env=environment(sandbox), cwd=tmp_path),
        partial(run, "doctor", env=environment(EVOLINK_API_KEY="k", EVOLINK_BASE_URL="ftp://x"), cwd=tmp_path),
    ]
    wrong, none, quoted, a_file, bad_url = await run_all(*starts)
    assert [one.code for one in (wrong, none, quoted, a_file)] == [Exit.KEY_REFUSED] * 3 + [Exit.DISK]
    assert "sk-wrong" not in wrong.out
    assert "copy it again" in findings_of(wrong)["key"]["advice"]
    assert findings_of(none)["key"]["words"] == "EVOLINK_API_KEY is not set"
    assert "krea-async demo" in findings_of(none)["key"]["advice"]
    assert "copied with its quotes" in findings_of(quoted)["key"]["words"]
    assert findings_of(a_file)["writing"]["level"] == "problem"
    assert "--out" in findings_of(a_file)["writing"]["advice"]
    assert bad_url.code == Exit.USAGE
    assert bad_url.err.startswith("krea-async: base_url 'ftp://x' is not an http(s) URL")


async def test_no_credits_are_a_problem(tmp_path: Path) -> None:
    async with Sandbox(credits=0.4) as sandbox:
        found = await examined(sandbox, tmp_path)
    assert (found["credits"]["level"], found["credits"]["advice"]) == ("problem", "top the account up")
    assert found["key"]["level"] == "ok"


async def test_without_a_network_it_ends_soon_and_says_what_failed(tmp_path: Path) -> None:
    began = time.monotonic()
    env = environment(EVOLINK_API_KEY="sk-x", EVOLINK_BASE_URL="https://gateway.invalid")
    told, result = await run_all(
        partial(run, "doctor", env=env, cwd=tmp_path), partial(run, "doctor", "--json", env=env, cwd=tmp_path)
    )
    assert time.monotonic() - began < 15
    found = findings_of(result)
    assert result.code == told.code == Exit.SERVICE_UNAVAILABLE
    assert "gateway.invalid has no address" in found["dns"]["words"]
    assert "online" in found["dns"]["advice"]
    assert found["tls"]["words"] == "not looked at: gateway.invalid has no address"
    assert found["key"]["words"] == "set, 4 characters; not tried, as the gateway was not reached"
    assert found["writing"]["level"] == "ok"
    assert "PROBLEM  dns: gateway.invalid" in told.out


async def test_a_gateway_that_never_answers_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_commands.COMMAND", [sys.executable, "-c", IMPATIENT + PROGRAM])
    with silent_server() as port:
        plain, with_tls = await run_all(
            *(
                partial(
                    run,
                    *("doctor", "--json"),
                    env=environment(EVOLINK_API_KEY="sk-x", EVOLINK_BASE_URL=f"{scheme}://127.0.0.1:{port}"),
                    cwd=tmp_path,
                )
                for scheme in ("http", "https")
            )
        )
    assert plain.code == with_tls.code == Exit.SERVICE_UNAVAILABLE
    assert "did not answer within 0.5 s" in findings_of(plain)["key"]["words"]
    assert findings_of(with_tls)["tls"]["words"] == "127.0.0.1: no answer in time"
    assert findings_of(with_tls)["key"]["level"] == "warning"


async def test_what_speaks_no_tls_and_what_nobody_vouches_for_are_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    no_tls = sandbox.url.replace("http://", "https://")
    found = await examined(None, tmp_path, EVOLINK_API_KEY="sk-x", EVOLINK_BASE_URL=no_tls)
    assert found["tls"]["level"] == "problem"
    assert "SSL_CERT_FILE" in found["tls"]["advice"]
    assert found["credits"]["level"] == "warning"
    assert not sandbox.ledger.requests


async def test_a_certificate_is_read_where_it_is_trusted_and_named_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = tmp_path / "localhost.pem"
    pem.write_text(LOCALHOST)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        serving = TLSListener(listener, context, standard_compatible=False)
        tasks.start_soon(serving.serve, lambda stream: stream.aclose())
        with pytest.raises(ssl.SSLCertVerificationError) as refused:
            await probes.certificate_of("localhost", ["127.0.0.1"], port)
        assert probes.why(refused.value).startswith("its certificate is not valid: self-signed certificate")
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        shown = await probes.certificate_of("localhost", ["127.0.0.1"], port)
        assert shown.issuer == "krea-async's tests"
        assert shown.left_s > 86_400 * 365
        assert shown.version == "TLSv1.3"
        tasks.cancel_scope.cancel()


async def test_a_directory_that_may_not_be_written_is_a_problem(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "renders").mkdir(mode=0o555)
    monkeypatch.setattr("test_commands.COMMAND", [sys.executable, "-c", BOUND_BY_PERMISSIONS + PROGRAM])
    result = await run("doctor", "--json", env=environment(sandbox), cwd=tmp_path)
    assert result.code == Exit.DISK
    assert "Permission denied" in findings_of(result)["writing"]["words"]
    assert "permissions" in findings_of(result)["writing"]["advice"]


async def test_a_low_limit_of_open_files_is_a_problem(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
    monkeypatch.setattr("test_commands.COMMAND", [sys.executable, "-c", few + PROGRAM])
    many, enough = await run_all(
        partial(run, "doctor", "--json", env=environment(sandbox), cwd=tmp_path),
        partial(run, "doctor", "--json", "--concurrency=4", "--downloads=2", env=environment(sandbox), cwd=tmp_path),
    )
    assert (many.code, enough.code) == (Exit.DISK, 0)
    assert "ulimit -n 1024" in findings_of(many)["open files"]["advice"]
    assert "a limit of 100" in findings_of(enough)["open files"]["words"]


async def test_proxies_and_unknown_variables_are_warned_of_without_their_values(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    env = {"HTTPS_PROXY": "http://me:secret@proxy:1", "KREA_ASYNC_CONCURENCY": "hidden", "KREA_ASYNC_RATE": "3"}
    found = await examined(sandbox, tmp_path, **env)
    assert found["proxy"]["level"] == found["variables"]["level"] == "warning"
    assert "HTTPS_PROXY" in found["proxy"]["words"]
    assert "did you mean 'KREA_ASYNC_CONCURRENCY'?" in found["variables"]["words"]
    assert "KREA_ASYNC_RATE" not in found["variables"]["words"]
    assert "secret" not in json.dumps(found)
    assert "hidden" not in json.dumps(found)


async def test_work_that_hangs_is_left_behind() -> None:
    """As a resolver or a dead share hangs: neither the answer nor the end of the process waits for it."""
    go_on = threading.Event()
    with pytest.raises(TimeoutError):
        await probes.abandonable(go_on.wait, 0.05)
    go_on.set()
    assert await probes.abandonable(lambda: 7, 5.0) == 7
    with pytest.raises(OSError, match="gone"):
        await probes.abandonable(partial(_raise, OSError("gone")), 5.0)


def _raise(error: Exception) -> None:
    raise error


LOCALHOST = """\
-----BEGIN CERTIFICATE-----
MIIB0DCCAXWgAwIBAgIUQeIbe0mBDCEbDsDROQBomJcootEwCgYIKoZIzj0EAwIw
MTEbMBkGA1UECgwSa3JlYS1hc3luYydzIHRlc3RzMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjYxMTIxMjI0MzAzWhgPMjEyNjEwMjgyMjQzMDNaMDExGzAZBgNVBAoM
EmtyZWEtYXN5bmMncyB0ZXN0czESMBAGA1UEAwwJbG9jYWxob3N0MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAEBss2s6bKSggz1SHhhyCIYLGBSpwNJiuzo0i1SY3J
ixsQ/QqdAYAyANr6DGjUnI/zm+Pn1x/c5nrTxmMXeLleI6NpMGcwHQYDVR0OBBYE
FFBAI0SjHjmqkK/jShOweLDU4SgRMB8GA1UdIwQYMBaAFFBAI0SjHjmqkK/jShOw
eLDU4SgRMA8GA1UdEwEB/wQFMAMBAf8wFAYDVR0RBA0wC4IJbG9jYWxob3N0MAoG
CCqGSM49BAMCA0kAMEYCIQC25cEZMeuu33bETtgg9+8mzydiY4Gg3hFVgNMehQcn
MwIhAK8Snmxaa0NZ3RiAjeFrse5ixFwS8D+PPWOX2X0RfA4G
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg7BrHr+hNXzKMgctH
aLCrOS3Pte9giqMXG2B8SGG6KEmhRANCAAQGyzazpspKCDPVIeGHIIhgsYFKnA0m
K7OjSLVJjcmLGxD9Cp0BgDIA2voMaNScj/Ob4+fXH9zmetPGYxd4uV4j
-----END PRIVATE KEY-----
"""
"""A certificate for localhost and its key, made for this test; nobody trusts it, and it opens nothing."""
