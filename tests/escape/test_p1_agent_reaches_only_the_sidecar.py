"""P1 and P2: from the agent's seat and from a server's, nothing is in reach but the sidecar.

Each attack runs in three seats of a run that *has* a network grant, so that the sidecar has a network, and, as its
positive control, in a plain container beside it, where it must reach its target: an attack that works nowhere proves
nothing. Targets are made by the test; no packet is meant for anybody else.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from interpreter.declarations import HostRule, Network
from runner.plan import AGENT, SIDECAR
from runner.sandbox import Sandbox
from tests.support import probes
from tests.support.runs import Runs, environment, python, server

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]
SEATS = (AGENT, "a", "b")
ABSTRACT = "mlld-test-abstract"


@dataclass(frozen=True)
class Targets:
    """What the attacks aim at: addresses with something that answers."""

    gateway: str  # of the network of the plain container: an address of the host
    neighbour: str  # another container there
    port: int


@dataclass(frozen=True)
class Plain:
    """An ordinary container: the control."""

    container: Any
    targets: Targets

    def run(self, code: str) -> str:
        code_out: tuple[int, bytes] = self.container.exec_run(["python3", "-c", code])
        return code_out[1].decode().strip()


class Answering:
    """Says `hello` to whoever connects or sends."""

    def __init__(self, address: str) -> None:
        self.tcp = socket.create_server((address, 0))
        self.port: int = self.tcp.getsockname()[1]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind((address, self.port))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind("\0" + ABSTRACT)
        self.abstract.listen()
        for serve in (self._stream, self._datagrams, self._names):
            threading.Thread(target=serve, daemon=True).start()

    def _stream(self, listener: socket.socket | None = None) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = (listener or self.tcp).accept()
                connection.sendall(b"hello")
                connection.close()

    def _names(self) -> None:
        self._stream(self.abstract)

    def _datagrams(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                _, sender = self.udp.recvfrom(64)
                self.udp.sendto(b"hello", sender)

    def close(self) -> None:
        for listener in (self.tcp, self.udp, self.abstract):
            listener.close()


@pytest.fixture(scope="module")
def plain(runs: Runs) -> Iterator[Plain]:
    """A container on an ordinary network, a neighbour, and a listener on the host."""
    image = runs.plan(environment()).container(AGENT).image
    client, labels = runs.client, {"dev.mlld.test": "control"}
    network = client.networks.create(f"mlld-test-{runs.folder.name}", labels=labels)
    gateway = client.api.inspect_network(network.id)["IPAM"]["Config"][0]["Gateway"]
    listener = Answering(gateway)
    serve = (
        "import socket\ns = socket.create_server(('0.0.0.0', 9000))\n"
        "while True:\n c, _ = s.accept()\n c.sendall(b'hello')\n c.close()"
    )
    made = []
    try:
        for name, code in (("neighbour", serve), ("plain", "import time; time.sleep(600)")):
            made.append(
                client.containers.run(
                    image, ["python3", "-c", code], entrypoint=[], name=f"mlld-test-{name}-{runs.folder.name}",
                    network=network.name, detach=True, labels=labels, init=True,
                    security_opt=["seccomp=unconfined"],
                )
            )  # fmt: skip
        made[0].reload()
        neighbour = made[0].attrs["NetworkSettings"]["Networks"][network.name]["IPAddress"]
        yield Plain(made[1], Targets(gateway=gateway, neighbour=neighbour, port=listener.port))
    finally:
        for container in made:
            container.remove(force=True)
        network.remove()
        listener.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fenced(runs: Runs) -> AsyncIterator[Sandbox]:
    """Agent and server `a` may reach one host each, `b` none."""
    net = Network(allow=(HostRule(host="api.example.com"),))
    spec = environment(server("a", network=net), server("b"), grants=("network", "sh", "filesystem"), network=net)
    async with runs.sandbox(spec) as sandbox:
        yield sandbox


ATTACKS = {
    "tcp to the host": lambda t: probes.tcp(t.gateway, t.port),
    "udp to the host": lambda t: probes.udp(t.gateway, t.port),
    "tcp to another container": lambda t: probes.tcp(t.neighbour, 9000),
    "tcp over a bound device": lambda t: probes.bound_to_device(t.gateway, t.port),
    "icmp to the host": lambda t: probes.icmp(t.gateway),
    "raw frames": lambda t: probes.packet_socket(),
    "vsock": lambda t: probes.vsock(),
}


@pytest.mark.parametrize("member", SEATS)
@pytest.mark.parametrize("attack", ATTACKS)
async def test_cannot_reach(fenced: Sandbox, plain: Plain, attack: str, member: str) -> None:
    code = ATTACKS[attack](plain.targets)
    assert plain.run(code).startswith("reached"), "the control: the attack works where there is no fence"
    assert (await python(fenced, code, member=member)).startswith("blocked")


# What cannot be tried outside of a fence without bothering others: addresses of nobody, names, the cloud's metadata.
NOWHERE = {
    "metadata": probes.tcp("169.254.169.254", 80),
    "metadata over ipv6": probes.tcp("fd00:ec2::254", 80),
    "the internet": probes.tcp("192.0.2.1", 443),
    "the internet over udp": probes.udp("192.0.2.1", 53),
    "the internet over ipv6": probes.tcp("2001:db8::1", 443),
    "a neighbour over ipv6": probes.udp("ff02::1%lo", 9),
    "dns through the C library": probes.name("name.test"),
    "dns of the engine": probes.dns_over_udp("127.0.0.11"),
    "dns by hand": probes.dns_over_udp("192.0.2.53"),
    "docker0": probes.tcp("172.17.0.1", 2375),
    "the engine's socket": probes.unix("/var/run/docker.sock"),
    "a broadcast": probes.program(
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\n"
        "return s.sendto(b'x', ('255.255.255.255', 9))"
    ),
    "a second network": probes.program("return [n for _, n in socket.if_nameindex() if n == 'eth0'][0]").replace(
        "OSError as e", "(OSError, IndexError) as e"
    ).replace("e.errno", "getattr(e, 'errno', None)"),
}  # fmt: skip


@pytest.mark.parametrize("member", SEATS)
@pytest.mark.parametrize("attack", NOWHERE)
async def test_cannot_reach_nowhere(fenced: Sandbox, attack: str, member: str) -> None:
    said = await python(fenced, NOWHERE[attack], member=member)
    assert said.startswith("blocked"), said
    # Refused here and now: nothing was sent that had to time out.
    assert "TIMEDOUT" not in said
    assert said != "blocked TimeoutError"


@pytest.mark.parametrize("member", SEATS)
async def test_cannot_reach_an_abstract_socket_of_the_host(fenced: Sandbox, plain: Plain, member: str) -> None:
    with socket.socket(socket.AF_UNIX) as control:
        control.connect("\0" + ABSTRACT)
        assert control.recv(64) == b"hello"
    assert await python(fenced, probes.abstract(ABSTRACT), member=member) == "blocked ECONNREFUSED"


@pytest.mark.parametrize("member", SEATS)
async def test_cannot_reach_other_seats_by_name_or_address(runs: Runs, fenced: Sandbox, member: str) -> None:
    address = runs.inspect(fenced, SIDECAR)["NetworkSettings"]["Networks"][fenced.plan.network_name]["IPAddress"]
    assert re.fullmatch(r"[0-9.]+", address)
    for code in (probes.tcp(address, 7000), probes.name(SIDECAR), probes.name(fenced.plan.container_name(SIDECAR))):
        assert (await python(fenced, code, member=member)).startswith("blocked")


@pytest.mark.parametrize("member", SEATS)
async def test_cannot_reach_another_members_link(fenced: Sandbox, member: str) -> None:
    seen = await python(
        fenced, "import os; print(sorted(os.listdir('/.mlld')), sorted(os.listdir('/.mlld/link')))", member=member
    )
    own = {AGENT: "['egress.sock', 'mcp.sock']", "a": "['egress.sock', 'stdio.sock']", "b": "['stdio.sock']"}[member]
    assert seen == f"['bin', 'link'] {own}"
    for path in ("/.mlld/links/a/stdio.sock", "/.mlld/links/agent/mcp.sock"):
        assert await python(fenced, probes.unix(path), member=member) == "blocked ENOENT"


@pytest.mark.parametrize("member", SEATS)
async def test_cannot_replace_its_link(fenced: Sandbox, member: str) -> None:
    """A server that owned its directory could put a link to another one's socket there."""
    name = "mcp.sock" if member == AGENT else "stdio.sock"
    attacks = (
        f"os.unlink('/.mlld/link/{name}')", f"os.rename('/.mlld/link/{name}', '/.mlld/link/x')",
        "os.symlink('/tmp/x', '/.mlld/link/x')", "os.rename('/.mlld/link', '/.mlld/away')",
        "open('/.mlld/bin/bridge', 'wb')", f"os.chmod('/.mlld/link/{name}', 0)",
    )  # fmt: skip
    for attack in attacks:
        said = await python(fenced, probes.program(f"return {attack}"), member=member)
        assert said in ("blocked EROFS", "blocked EBUSY", "blocked EACCES", "blocked EPERM"), attack
    assert await python(fenced, probes.unix(f"/.mlld/link/{name}"), member=member) == "reached connected"


async def test_cannot_use_anothers_way_out(fenced: Sandbox) -> None:
    """`b` was granted nothing, so there is no gate in its seat at all, whatever proxy it asks for."""
    for port in (7000, 7001):
        assert await python(fenced, probes.tcp("127.0.0.1", port), member="b") == "blocked ECONNREFUSED"
    # The control: who was granted a host finds the gate.
    for member in (AGENT, "a"):
        ask = probes.program("return socket.create_connection(('127.0.0.1', 7001), 3).getpeername()[1]")
        assert await python(fenced, ask, member=member) == "reached 7001"


async def test_cannot_reach_the_endpoint_from_a_server(fenced: Sandbox) -> None:
    for member in ("a", "b"):
        assert await python(fenced, probes.tcp("127.0.0.1", 7000), member=member) == "blocked ECONNREFUSED"


GATE = {
    "an address": "CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: 192.0.2.1:443\r\n\r\n",
    "loopback": "CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n",
    "metadata": "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
    "metadata as a number": "CONNECT 2852039166:80 HTTP/1.1\r\nHost: 2852039166\r\n\r\n",
    "an address in ipv6": "CONNECT [::ffff:169.254.169.254]:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a host that is not granted": "CONNECT other.example.com:443 HTTP/1.1\r\nHost: other.example.com\r\n\r\n",
    "a host below the granted one": "CONNECT x.api.example.com:443 HTTP/1.1\r\nHost: x.api.example.com\r\n\r\n",
    "a host that ends alike": "CONNECT evilapi.example.com:443 HTTP/1.1\r\nHost: evilapi.example.com\r\n\r\n",
    "another port": "CONNECT api.example.com:22 HTTP/1.1\r\nHost: api.example.com:22\r\n\r\n",
    "a plain request elsewhere": "GET http://other.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
    "the engine's own name": "CONNECT host.docker.internal:80 HTTP/1.1\r\nHost: host.docker.internal\r\n\r\n",
    "a smuggled request": (
        "GET http://other.example.com/ HTTP/1.1\r\nHost: other.example.com\r\nContent-Length: 0\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nCONNECT api.example.com:443 HTTP/1.1\r\n\r\n"
    ),
}


@pytest.mark.parametrize("member", [AGENT, "a"])
@pytest.mark.parametrize("request_", GATE)
async def test_cannot_talk_the_gate_into(fenced: Sandbox, request_: str, member: str) -> None:
    assert await python(fenced, probes.gate(GATE[request_]), member=member) == "blocked EACCES"


async def test_the_agent_reaches_what_it_should(fenced: Sandbox) -> None:
    """The control of all this: the link works, from the same seat."""
    assert fenced.tools is not None
    assert {t.name for t in fenced.tools.tools} >= {"a__echo", "b__echo"}
    assert (await fenced.tools.call("a__echo", {"x": 1})).text == '{"x": 1}'
