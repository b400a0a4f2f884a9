"""P1, P2: from the seat of the agent and of each server, the network is what was granted to that seat, and nothing else.

Everything is real: planner, engine, containers, bridge, gate. The internet is a network on the engine that leads
nowhere, with one host on it (`tests/support/internet.py`). `granted.example` is the agent's, `server-only.example` the
server's, and `*.wild.example` the agent's too, so that its names may lead wherever an attacker's DNS says.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import docker
import pytest
import pytest_asyncio

from interpreter.declarations import EnvironmentSpec, HostRule, McpConfig, Needs, Network, Place, Profile, ProfileChoice
from runner.images import ImageStore
from runner.plan import SIDECAR
from tests.support.fenced import Fenced, fenced
from tests.support.internet import Internet
from tests.support.plans import server

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

PROXY = {"http": "http://127.0.0.1:7001"}  # what the runner puts into the environment of the agent's commands
HERE = Place(file="index.mld", line=5, column=3)


def hosts(*names: str) -> tuple[HostRule, ...]:
    return tuple(HostRule(host=name, place=HERE) for name in names)


def declared(**changes: Any) -> EnvironmentSpec:
    """An agent and a server with a grant each, and a server without any."""
    choice = ProfileChoice(
        profile=Profile(name="full", requires=Needs(network=True), place=HERE), reason="first permitted"
    )
    return EnvironmentSpec(
        name="@local/egress",
        profile=choice,
        grants={"network": HERE},
        network=Network(allow=hosts("granted.example", "*.wild.example"), deny=hosts("denied.wild.example")),
        mcp=McpConfig(servers=(server("github", network=Network(allow=hosts("server-only.example"))), server("mute"))),
        **changes,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(
    client: docker.DockerClient, store: ImageStore, net: Internet, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fenced]:
    cache = tmp_path_factory.mktemp("cache")
    async with fenced(client, store, declared(), cache, resolver=net.resolver) as made:
        net.connect(made.plan.container_name(SIDECAR))
        yield made


async def denied(run: Fenced, net: Internet, member: str, rule: str, *attempt: Any) -> str:
    """One attempt that must be refused by this rule, in the answer and in the record, and reach nobody."""
    web, before = len(net.asked("web")), len(run.heard.events("egress"))
    (outcome,) = await run.attack(member, list(attempt))
    assert f"X-Mlld-Denied: {rule}\r\n" in outcome, outcome
    (event,) = run.heard.events("egress")[before:]
    assert (event["member"], event["decision"], event["rule"]) == (member, "deny", rule)
    assert len(net.asked("web")) == web
    return outcome


async def test_the_granted_host_is_reached(run: Fenced, net: Internet) -> None:
    plain, secure, wild = await run.attack(
        "agent",
        ["get", "http://granted.example/"],
        ["https", "granted.example:443", "granted.example", net.authority],
        ["library", "http://www.wild.example/", PROXY],
    )
    assert plain.endswith("hello")
    assert secure.endswith("hello")
    assert wild == "hello"


async def test_the_proxy_is_in_the_environment_of_a_server(run: Fenced) -> None:
    """`library` without an argument uses the environment, as curl, pip, npm and git do."""
    (outcome,) = await run.attack("github", ["library", "http://server-only.example/"])
    assert outcome == "hello"


@pytest.mark.parametrize("member", ["agent", "github", "mute"])
async def test_cannot_reach_anything_without_the_gate(
    run: Fenced, net: Internet, client: docker.DockerClient, member: str
) -> None:
    gateway = client.networks.get(run.plan.network_name).attrs["IPAM"]["Config"][0]["Gateway"]
    for address in (net.address, gateway, "169.254.169.254", "10.0.0.1", "2606:2800:21f:cb07::1", "fe80::1"):
        outcomes = await run.attack(member, ["tcp", address, 80], ["udp", address, 53])
        assert set(outcomes) <= {"ENETUNREACH", "EADDRNOTAVAIL", "EINVAL", "EHOSTUNREACH"}, (address, outcomes)
    names, bound, library = await run.attack(
        member,
        ["resolve", "granted.example"],
        ["bound", net.address, 53],
        ["library", "http://granted.example/", {}],
    )
    assert names == "gaierror"
    assert bound in ("nothing but lo", "EPERM")
    assert library in ("URLError", "ENETUNREACH")


@pytest.mark.parametrize("member", ["agent", "github"])
@pytest.mark.parametrize(
    ("family", "type", "protocol"),
    [
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
        (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
        (socket.AF_PACKET, socket.SOCK_RAW, 3),
        (socket.AF_VSOCK, socket.SOCK_STREAM, 0),
        (29, socket.SOCK_RAW, 1),  # AF_CAN
        (38, 5, 0),  # AF_ALG
    ],
)
async def test_cannot_open_other_sockets(run: Fenced, member: str, family: int, type: int, protocol: int) -> None:
    (outcome,) = await run.attack(member, ["kind", family, type, protocol])
    assert outcome in ("EPERM", "EACCES", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ENOSYS"), outcome


@pytest.mark.parametrize(
    ("member", "rule", "url"),
    [
        ("agent", "default-deny", "http://not-granted.example/"),
        ("agent", "default-deny", "http://server-only.example/"),  # the server's grant is not the agent's
        ("agent", "default-deny", "http://wild.example/"),
        ("agent", "default-deny", "http://granted.example.evil.example/"),
        ("agent", "default-deny", "http://169.254.169.254/latest/meta-data/"),
        ("agent", "deny denied.wild.example (index.mld:5:3)", "http://denied.wild.example/"),
        ("agent", "deny denied.wild.example (index.mld:5:3)", "http://DENIED.wild.example./"),
        ("agent", "port", "http://granted.example:8080/"),
        ("agent", "address: loopback", "http://loopback.wild.example/"),
        ("agent", "address: private", "http://private.wild.example/"),
        ("agent", "address: private", "http://gateway.wild.example/"),
        ("agent", "address: metadata", "http://metadata.wild.example/"),
        ("agent", "address: IPv4-mapped", "http://mapped.wild.example/"),
        ("agent", "address: private", "http://mixed.wild.example/"),
        ("github", "default-deny", "http://granted.example/"),  # nor the agent's the server's
        ("github", "default-deny", "http://www.wild.example/"),
    ],
)
async def test_cannot_get_what_was_not_granted(run: Fenced, net: Internet, member: str, rule: str, url: str) -> None:
    await denied(run, net, member, rule, "get", url)


@pytest.mark.parametrize("target", ["NET:443", "NET:80", "127.0.0.1:7000", "[::1]:443", "169.254.169.254:80"])
async def test_cannot_connect_to_an_address(run: Fenced, net: Internet, target: str) -> None:
    await denied(run, net, "agent", "default-deny", "tunnel", target.replace("NET", net.address), "x")


async def test_cannot_speak_plain_http_in_a_tunnel(run: Fenced, net: Internet) -> None:
    get = "GET / HTTP/1.1\r\nHost: not-granted.example\r\n\r\n"
    await denied(run, net, "agent", "not-tls", "tunnel", "granted.example:443", get)
    await denied(run, net, "agent", "not-tls", "tunnel", "granted.example:80", get)


async def test_cannot_ask_in_tls_for_another_host(run: Fenced, net: Internet) -> None:
    web = len(net.asked("web"))
    other, same = await run.attack(
        "agent",
        ["https", "granted.example:443", "not-granted.example", net.authority],
        ["https", "granted.example:443", "granted.example", net.authority],
    )
    assert other == "SSLError TLSV1_UNRECOGNIZED_NAME"
    assert same.endswith("hello")
    assert len(net.asked("web")) == web + 1
    assert ("deny", "sni") in [(event["decision"], event["rule"]) for event in run.heard.events("egress")]


async def test_cannot_name_another_host_in_the_header(run: Fenced, net: Internet) -> None:
    await denied(run, net, "agent", "malformed", "get", "http://granted.example/", "not-granted.example")


async def test_cannot_smuggle_a_second_request(run: Fenced, net: Internet) -> None:
    first = "POST http://granted.example/first HTTP/1.1\r\nHost: granted.example\r\n"
    second = "GET http://not-granted.example/second HTTP/1.1\r\nHost: not-granted.example\r\n\r\n"
    both = f"{first}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{second}"
    await denied(run, net, "agent", "malformed", "raw", both)
    (outcome,) = await run.attack("agent", ["raw", f"{first}Content-Length: 5\r\n\r\nhello{second}"])
    assert outcome.count("HTTP/1.1 ") == 1
    assert [event["path"] for event in net.asked("web")][-1] == "/first"
    assert "second" not in str(net.asked("more"))


async def test_cannot_follow_a_redirect_to_a_host_that_was_not_granted(run: Fenced) -> None:
    first, followed = await run.attack(
        "agent", ["get", "http://granted.example/redirect"], ["library", "http://granted.example/redirect", PROXY]
    )
    assert "Location: http://not-granted.example/" in first
    assert followed.startswith("HTTP 403 default-deny Denied by the sandbox")


async def test_cannot_rebind_a_name(run: Fenced, net: Internet) -> None:
    first, second = await run.attack(
        "agent", ["get", "http://rebind.wild.example/"], ["get", "http://rebind.wild.example/"]
    )
    assert first.endswith("hello")
    assert "X-Mlld-Denied: address: loopback" in second


async def test_cannot_ask_a_name_server_through_the_gate(run: Fenced, net: Internet) -> None:
    asked = len(net.asked("dns"))
    outcomes = await run.attack(
        "agent",
        ["tunnel", "secret-text.not-granted.example:443", ""],
        ["get", "http://secret-text.not-granted.example/"],
        ["get", "http://granted.example.:53/"],
    )
    assert all("X-Mlld-Denied: " in outcome for outcome in outcomes)
    assert net.asked("dns")[asked:] == [], "a refused name was resolved: it carries data to whoever answers for it"


@pytest.mark.parametrize("member", ["agent", "github", "mute"])
async def test_cannot_use_the_link_of_another_member(run: Fenced, member: str) -> None:
    own = {
        "agent": ["egress.sock", "mcp.sock"],
        "github": ["egress.sock", "stdio.sock"],
        "mute": ["stdio.sock"],
    }[member]
    listed, links, abstract, *replaced = await run.attack(
        member,
        ["files", "/.mlld/link"],
        ["files", "/.mlld/links"],
        ["abstract"],
        *[["replace", f"/.mlld/link/{name}"] for name in own],
    )
    assert listed == str(own).replace("'", '"')
    assert links == "ENOENT"
    assert abstract == "[]"
    assert replaced == ["EROFS"] * len(own)


async def test_cannot_use_a_gate_that_was_not_granted(run: Fenced) -> None:
    outcomes = await run.attack("mute", ["get", "http://granted.example/"], ["unix", "/.mlld/link/egress.sock"])
    assert outcomes == ["ECONNREFUSED", "ENOENT"]


async def test_cannot_reach_the_network_of_a_profile_that_grants_none(
    client: docker.DockerClient, store: ImageStore, tmp_path: Path
) -> None:
    """The same declaration with the network denied: no sidecar network, no gate, and the sidecar says so itself."""
    async with fenced(client, store, declared(), tmp_path) as granted:
        assert granted.plan.networked
    choice = ProfileChoice(profile=Profile(name="readonly", place=HERE), reason="first permitted")
    bare = declared()
    spec = EnvironmentSpec(name=bare.name, profile=choice, network=bare.network, mcp=bare.mcp)
    async with fenced(client, store, spec, tmp_path) as closed:
        assert not closed.plan.networked
        container = client.containers.get(closed.plan.container_name(SIDECAR))
        assert container.attrs["HostConfig"]["NetworkMode"] == "none"
        (canary,) = closed.heard.events("canary")
        assert (canary["name"], canary["ok"]) == ("sidecar-network", True)
        outcomes = await closed.attack("agent", ["get", "http://granted.example/"], ["files", "/.mlld/link"])
        assert outcomes == ["ECONNREFUSED", '["mcp.sock"]']
