"""OpenSSL is loaded by a sidecar that speaks TLS and by no other."""

from __future__ import annotations

import http.server
import ssl
import subprocess
import sys
import threading
from pathlib import Path

from tests.support.certificates import certificate

ROOT = Path(__file__).parents[3]

LOADED = "import sys, images.sidecar.__main__\nprint(sorted({'_ssl', '_hashlib'} & set(sys.modules)))"
FETCH = """
import images.sidecar.__main__
import asyncio, socket, sys
assert "_ssl" not in sys.modules

from images.sidecar.httpclient import HttpClient

async def dial(server, host, port):
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    sock.setblocking(False)
    return sock

async def main():
    client = HttpClient("s", f"https://{sys.argv[2]}/mcp", {}, dial, 1 << 20)
    print((await client.request("GET", {})).status)

asyncio.run(main())
"""


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def run(code: str, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT), **env}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_sidecar_without_remote_servers_loads_none_of_it() -> None:
    assert run(LOADED).stdout == "[]\n"
    assert run(f"import asyncio, hashlib\n{LOADED}").stdout == "['_hashlib', '_ssl']\n"  # the positive control


def test_tls_is_spoken_and_checked_as_ever(tmp_path: Path) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(certificate(tmp_path, "mcp.example.com"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fetched = run(FETCH, server.server_port, "mcp.example.com", SSL_CERT_FILE=str(trusted))
        assert fetched.stdout == "204\n", fetched.stderr
        for host, trust in (("other.example.com", str(trusted)), ("mcp.example.com", "/nonexistent")):
            refused = run(FETCH, server.server_port, host, SSL_CERT_FILE=trust)
            assert refused.stdout == ""
            assert "CERTIFICATE_VERIFY_FAILED" in refused.stderr
        server.shutdown()
