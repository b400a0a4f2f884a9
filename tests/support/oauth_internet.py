"""A whole internet in a network namespace: `unshare -Urnm python -m tests.support.oauth_internet FOLDER`.

Public addresses lie on the namespace's own loopback, so that the real gate, resolver and TLS are used as they are and nothing can
get out. `mail.example.com` is an MCP server that wants tokens, `auth.example.com` gives them. The script then does what a
person and their browser would, with `mlld` as a program, and prints what it saw as one JSON object.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.support.certificates import certificate
from tests.unit.sidecar.gate_world import NameServer
from tests.unit.sidecar.oauth_world import OAuthWorld, Request, Response

ROOT = Path(__file__).parents[2]
MAIL, AUTH = "93.184.215.14", "93.184.215.15"
MODULE = """
profiles { full: { requires: { network, filesystem } } }
auth @bearer = { from: "env:THE_BEARER", as: "THE_BEARER" }
auth @secret = { from: "env:CLIENT_SECRET", as: "CLIENT_SECRET" }
exe @mcpConfig() = {
  servers: [
    { name: "notes", url: "https://mail.example.com/mcp", auth: "bearer" },
    { name: "tickets", url: "https://mail.example.com/mcp",
      auth: { grant: "client_credentials", issuer: "https://auth.example.com", clientId: "ci", clientSecret: "secret" } },
    { name: "mail", url: "https://mail.example.com/mcp", net: { allow: ["auth.example.com"] },
      auth: { grant: "authorization_code" } }
  ]
}
exe @spawn(prompt) = cmd { cat } with { stdin: @prompt }
export { @spawn, @mcpConfig }
"""


def up(name: str, address: str) -> None:
    """An address on the loopback of this namespace (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if address != "127.0.0.1":
            packed = struct.pack("16sHH4s8x", name.encode(), socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(sock, 0x8916, packed)  # SIOCSIFADDR
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", name.encode(), 0x41))  # SIOCSIFFLAGS: up, running


class Internet(OAuthWorld):
    """The two servers under their names."""

    def __init__(self) -> None:
        super().__init__()
        self.lifetime = 3600
        self.newest = ""
        """The one refresh token that is worth something: each use replaces it."""
        self.given: set[str] = {"the-bearer-value"}
        self.resource.base, self.authority.base = "https://mail.example.com", "https://auth.example.com"
        self.authority.answers["/authorize"] = self._authorize

    def mcp(self, request: Request) -> Response:
        self.valid = self.given
        return super().mcp(request)

    def _token(self, request: Request) -> Response:
        if request.form["grant_type"] == "refresh_token" and request.form["refresh_token"] != self.newest:
            return Response({"error": "invalid_grant"}, 400)
        answer = super()._token(request)
        self.given |= self.valid
        if request.form["grant_type"] != "client_credentials":
            self.newest = answer.value["refresh_token"]
        return answer

    def _authorize(self, request: Request) -> Response:
        query = dict(urllib.parse.parse_qsl(request.target.partition("?")[2]))
        back = urllib.parse.urlencode({"code": "the-code", "state": query["state"], "iss": self.authority.base})
        return Response({}, 302, {"Location": f"{query['redirect_uri']}?{back}"})


async def mlld(env: dict[str, str], cwd: Path, *arguments: str, browse: Any = None) -> dict[str, Any]:
    """One command line; `browse` is called with the URL that it asks a person to open."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "runner", "sandbox", *arguments, cwd=cwd, env=env,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    errors = ""
    while line := (await process.stderr.readline()).decode():
        errors += line
        if browse is not None and line.strip().startswith("https://"):
            await asyncio.to_thread(browse, line.strip())
    out = (await process.stdout.read()).decode()
    return {"code": await process.wait(), "out": out, "err": errors}


async def main(folder: Path) -> None:
    for name, address in (("lo", "127.0.0.1"), ("lo:1", MAIL), ("lo:2", AUTH)):
        up(name, address)
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", str(folder / "resolv.conf"), "/etc/resolv.conf"], check=True)
    (folder / "ca.pem").write_text(certificate(folder, "mail.example.com", "auth.example.com"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    names, world = NameServer(), Internet()
    names.zone = {"mail.example.com": [("A", MAIL)], "auth.example.com": [("A", AUTH)]}
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: names, local_addr=("127.0.0.1", 53))
    module = folder / "project" / ".mlld" / "env" / "r"
    module.mkdir(parents=True)
    (module / "module.yml").write_text("name: r\ntype: environment\nentry: index.mld\nversion: 0.1.0\n")
    (module / "index.mld").write_text(MODULE)
    env = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "XDG_DATA_HOME": str(folder / "data"), "PYTHONPATH": str(ROOT),
        "SSL_CERT_FILE": str(folder / "ca.pem"), "THE_BEARER": "the-bearer-value", "CLIENT_SECRET": "the-client-secret",
    }  # fmt: skip

    def browse(url: str) -> None:
        trusting = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        with urllib.request.urlopen(url, context=trusting, timeout=10) as page:
            page.read()

    async with AsyncExitStack() as stack:
        for site, address in ((world.resource, MAIL), (world.authority, AUTH)):
            await stack.enter_async_context(site.serving(address, 443, context))

        async def run(*arguments: str, **more: Any) -> dict[str, Any]:
            return await mlld(env, folder / "project", *arguments, "--env", "@local/r", "--provider", "local", **more)

        seen: dict[str, Any] = {"before": await run("tools")}
        seen["login"] = await run("login", "mail", "--no-browser", browse=browse)
        seen["calls"] = {name: await run("call", f"{name}__there") for name in ("notes", "tickets", "mail")}
        for turn in ("renewed", "once more"):
            [kept] = (folder / "data" / "mlld" / "logins").glob("*.json")
            login = json.loads(kept.read_text())
            kept.write_text(json.dumps({**login, "credential": {**login["credential"], "lapses": 0}}))
            seen[turn] = await run("call", "mail__there")
        for look in ("show", "logs"):
            seen[look] = await mlld(env, folder / "project", look, "last")
        seen["forms"] = world.token_requests()
        seen["asked"] = sorted({name for name, _ in names.asked})
        seen["logout"] = await run("logout", "mail")
        seen["after"] = await run("tools")
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
