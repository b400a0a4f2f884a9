"""P1, P7: a remote server that wants to know who asks, from the agent's seat through the containers of a run: its tokens, its
authority, and nothing of either in a seat, in a configuration or in what is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import docker
import pytest

from interpreter.declarations import AuthDecl, Authorization, EnvironmentSpec, HostRule, McpConfig, Network
from runner import trust
from runner.backends.base import Execution
from runner.handover import Handover
from runner.images import ImageStore
from runner.plan import AGENT, SIDECAR
from tests.support.fenced import Fenced, fenced
from tests.support.internet import AUTHORITY, TOOLS, Internet
from tests.support.plans import server
from tests.support.runs import TOKEN, environment

pytestmark = pytest.mark.engine

ASK = """
import json, sys, urllib.request as u
def ask(method, params, session=None):
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    head = {"Content-Type": "application/json", "Accept": "application/json", "Authorization": "Bearer " + sys.argv[1],
            **({"Mcp-Session-Id": session} if session else {})}
    r = u.urlopen(u.Request("http://127.0.0.1:7000/mcp", body, head), timeout=30)
    return r.headers["Mcp-Session-Id"], r.read().decode()
session, _ = ask("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}})
print(ask("tools/list", {}, session)[1])
print(ask("tools/call", {"name": "far", "arguments": {}}, session)[1])
"""


def declared() -> EnvironmentSpec:
    said = Authorization(grant="client_credentials", issuer=f"https://{AUTHORITY}", client_id="me", client_secret="key")
    allow = tuple(HostRule(host=name, ports=(443,)) for name in (TOOLS, AUTHORITY))
    far = server(
        "far", source="url", target=f"https://{TOOLS}/mcp", authorization=said, auth=said.auth, args=(),
        network=Network(allow=allow),
    )  # fmt: skip
    auth = {"key": AuthDecl(name="key", variable="KEY", source="env:KEY")}
    return environment(grants=("network",), mcp=McpConfig(servers=(far,)), auth=auth)


async def asked(run: Fenced, net: Internet) -> str:
    """What the agent gets from the endpoint."""
    net.connect(run.plan.container_name(SIDECAR))
    done = await run.seats.execute(AGENT, Execution(argv=("python3", "-c", ASK, TOKEN), timeout_seconds=60))
    assert done.exit_code == 0, done.stderr.decode()
    return done.stdout.decode()


async def test_tokens_are_got_and_used_in_containers(
    client: docker.DockerClient, store: ImageStore, net: Internet, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text(net.authority)
    bundle, text = trust.read(tmp_path / "ca.pem")
    handover = Handover(token=TOKEN, secrets={"key": "the-secret"}, ca_bundle=text)
    options = {"resolver": net.resolver, "ca_bundle": bundle}
    async with fenced(client, store, declared(), tmp_path / "cache", handover, **options) as run:
        assert "it is there" in await asked(run, net)
        (told,) = [event for event in run.heard.events("auth") if event["decision"] == "allow"]
        assert told["issuer"] == f"https://{AUTHORITY}"
        seats = [client.api.inspect_container(run.plan.container_name(c.member)) for c in run.plan.containers]
        said = json.dumps(seats) + "".join(line.decode() for _, _, line in run.heard.lines)
        assert not re.search("the-secret|the-token|BEGIN CERTIFICATE", said)
        sidecar = client.api.inspect_container(run.plan.container_name(SIDECAR))
        assert {mount["Destination"] for mount in sidecar["Mounts"]} == {"/.mlld/links/agent"}, "no file of the host"
    asked_for = [event["path"] for event in net.asked("web") if event["host"] == AUTHORITY]
    assert "/token" in asked_for


async def test_cannot_be_spoken_to_by_an_authority_that_nobody_named(
    client: docker.DockerClient, store: ImageStore, net: Internet, tmp_path: Path
) -> None:
    """The control of the above: without the bundle its certificate is anybody's, and no secret is sent there."""
    before = len(net.asked("web"))
    handover = Handover(token=TOKEN, secrets={"key": "the-secret"})
    async with fenced(client, store, declared(), tmp_path / "cache", handover, resolver=net.resolver) as run:
        answer = await asked(run, net)
        assert "it is there" not in answer
        assert "certificate verify failed" in answer.lower()
    assert len(net.asked("web")) == before
