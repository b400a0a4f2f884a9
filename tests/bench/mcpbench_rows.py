"""Our rows for mcpbench, a program outside this repository which measures MCP proxies side by side. `peers` hands this
file to it as `$MCPBENCH_EXTRA`; it wants `targets() -> [Target]`, and has its own modules on the path.

    ours                     the endpoint over child processes, on a TCP port: the topology of the peers. It starts as a second
                             run on a host does, which knows what the servers offer: they start at their first use
    first start of ours      the same on a host that has never seen the servers; only its start is of interest
    ours, two sockets        a whole sidecar (record, admission, gate) between the bridges of agent and servers
    ours, with guards        the same with a module: a guard on calls, and two rules of a policy
    naive Go SDK proxy       `naive_go_proxy.go`, if it was built: see there
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

mcpbench: Any = importlib.import_module("targets")
client: Any = importlib.import_module("client")

ROOT = Path(os.environ["MLLD_BENCH_ROOT"])
BRIDGE = Path(os.environ["MLLD_BENCH_BRIDGE"])
TOKEN = "a-token-for-the-benchmark"
GUARDS = """
policy @bench = { defaults: { rules: ["no-secret-exfil", "no-untrusted-destructive"] } }
guard @calls before op:mcp = when [
  @mx.args.arguments.size > 100000000 => deny "nobody needs that much"
  * => allow
]
exe @mcpConfig() = { servers: [] }
"""

# An image holds its code compiled and no packages but the sidecar's own: nothing is searched or compiled at a start.
PYTHON = [sys.executable, "-S"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]),
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": os.environ["MLLD_BENCH_COMPILED"],
}


def plain(count: int, folder: str) -> list[str]:
    config = mcpbench.config(count, os.path.join(folder, f"cfg{count}.json"))
    return [*PYTHON, str(ROOT / "tests/bench/endpoint.py"), "--config", config, "--port", str(mcpbench.PORT)]


class Warm(mcpbench.Target):
    """An endpoint that finds what the servers offered in an earlier run, which is made before it is measured."""

    def argv(self, count: int, folder: str) -> list[str]:
        return [*plain(count, folder), "--offers", os.path.join(folder, f"offers{count}.json")]

    def before(self, count: int, folder: str) -> None:
        argv = self.argv(count, folder)
        if not os.path.exists(argv[-1]):
            earlier = subprocess.Popen(argv, env=self.env)
            try:
                deadline = time.monotonic() + 30
                while not self.told_all(count) and time.monotonic() < deadline:
                    time.sleep(0.05)
            finally:
                earlier.terminate()
                earlier.wait(10)

    def told_all(self, count: int) -> bool:
        try:
            asking = self.lister(count)
            asking.open()
            return len(asking.list_tools()) == self.expect(count)
        except (client.Bad, OSError):
            return False


class Whole(mcpbench.Target):
    """A sidecar and its bridges; the shell that starts them becomes the sidecar. A pipe with a name, open at both ends,
    is its standard input: the configuration, then a lease that does not lapse."""

    module: dict[str, Any] | None = None

    def argv(self, count: int, folder: str) -> list[str]:
        folder = tempfile.mkdtemp(dir=folder)
        names = [f"s{index}" for index in range(count)]
        links = {name: os.path.join(folder, name) for name in ("agent", *names)}
        for link in links.values():
            os.makedirs(link)
        config: dict[str, Any] = {
            "version": 1, "run": "bench", "token": TOKEN, "agent": {"link": links["agent"]},
            "servers": [{"name": name, "link": links[name], "tools": "*"} for name in names],
            "hosts": [f"127.0.0.1:{mcpbench.PORT}"], "lifecycle": {"maxConcurrent": 64}, "module": self.module,
        }  # fmt: skip
        Path(folder, "config").write_text(json.dumps(config) + "\n")
        bridge = shlex.quote(str(BRIDGE))
        lines = [f"mkfifo {folder}/lease", f"exec 3<>{folder}/lease", f"cat {folder}/config >&3"]
        for index, name in enumerate(names):
            server = mcpbench.backend(index)
            command = shlex.join([server["command"], *server["args"]])
            lines.append(f"{bridge} --serve {links[name]}/stdio.sock --max 8 -- {command} 3<&- &")
        lines.append(f"{bridge} --forward 127.0.0.1:{mcpbench.PORT}={links['agent']}/mcp.sock 3<&- &")
        lines.append(f"exec {shlex.join(PYTHON)} -m images.sidecar --unfenced <&3")
        return ["/bin/sh", "-ec", "\n".join(lines)]

    def lister(self, n: int, timeout: float = 60.0) -> Any:
        return client.HttpClient(self.url(), headers={"Authorization": f"Bearer {TOKEN}"}, timeout=timeout)

    def caller(self, n: int, era: str = "legacy") -> Any:
        return client.HttpClient(self.url(), era=era, headers={"Authorization": f"Bearer {TOKEN}"})


def targets() -> list[Any]:
    guarded = {"entry": "index.mld", "files": {"index.mld": GUARDS}, "name": "bench", "profile": None, "policy": {}}
    go = os.path.join(mcpbench.LAB, "bin", "naive-go")
    return [
        Warm("ours", None, env=ENVIRONMENT, modern=True),
        mcpbench.Target("first start of ours", plain, env=ENVIRONMENT, ns=(5,), sizes=()),
        Whole("ours, two sockets", None, (str(BRIDGE),), env=ENVIRONMENT, modern=True),
        Whole("ours, with guards", None, (str(BRIDGE),), env=ENVIRONMENT, modern=True, module=guarded),
        mcpbench.Target(
            "naive Go SDK proxy",
            lambda count, folder: [go, "-config", plain(count, folder)[-3], "-port", str(mcpbench.PORT)],
            (go,),
        ),
    ]
