"""What is said of a withdrawal, and how much is remembered for it."""

from __future__ import annotations

from pathlib import Path

from images.sidecar.narrowing import MOST_LABELS
from tests.unit.sidecar.endpoint_world import FakeServer, world
from tests.unit.sidecar.test_endpoint_protocol import EVERYTHING, Library
from tests.unit.sidecar.test_narrowing import GITHUB, SERVERS, github, opened, ruled


async def test_the_rule_is_named_with_its_line(tmp_path: Path) -> None:
    source = (
        """
policy @fence = {
  labels: { "src:mcp": { deny: ["op:mcp:github:create_issue"] } }
}
"""
        + SERVERS
    )
    async with world(tmp_path, FakeServer("github", GITHUB)) as w:
        ruled(w, {}, source)
        agent = await opened(w)
        await agent.tools()
        await agent.call("get_issue")
        told = (await agent.call("create_issue")).text
        rule = "policy @fence: labels.src:mcp.deny (index.mld:3:24)"
        assert f"Denied by {rule}: Label 'src:mcp' cannot flow to 'op:mcp:github:create_issue'" in told
        assert w.gate.of("narrowed")[0]["withdrawn"] == [{"kind": "tool", "name": "create_issue", "rule": rule}]
        assert w.gate.of("call")[-1]["rule"] == rule


async def test_cannot_grow_for_ever_by_reading_what_has_another_name_each_time(tmp_path: Path) -> None:
    policy = {"labels": {"mcp:lib:lib://book/secret": {"deny": ["op:mcp:github:create_issue"]}}}
    async with github(tmp_path, policy, Library("lib", (), EVERYTHING)) as w:
        agent = await opened(w)
        await agent.tools()
        (session,) = w.endpoint.reception.sessions.all()
        for at in range(0, MOST_LABELS + 200, 100):
            session.sight.saw(frozenset(f"mcp:lib:lib://book/{n}" for n in range(at, at + 100)))
        for number in range(20):
            await agent.request("resources/read", {"uri": f"lib://book/late-{number}"})
        assert len(session.sight.labels) < MOST_LABELS + 200
        assert "mcp:lib" in session.sight.labels
        assert "create_issue" in await agent.tools()
        await agent.request("resources/read", {"uri": "lib://book/secret"})
        assert "create_issue" not in await agent.tools(), "what a rule is about is never lost"
