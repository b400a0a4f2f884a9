"""The record hears of every request exactly once: whose it was, in which trace, what was decided, by which rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from images.sidecar import trace
from images.sidecar.jsonrpc import split_request
from images.sidecar.remote import traced_headers
from images.sidecar.seams import Call, Verdict
from images.sidecar.trace import RunTrace, Trace
from tests.unit.sidecar.endpoint_world import FakeServer, Gate, Message, world
from tests.unit.sidecar.test_endpoint_eras import Stateless

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
THEIRS = f"00-{TRACE}-{SPAN}-01"
RUN = Trace("a" * 32, "b" * 16, 1)
KEPT = RunTrace(RUN, known=True, spans=True)
ALWAYS = {
    "id", "session", "method", "decision", "rule", "labels", "bytesIn", "bytesOut", "start", "ms", "isError", "trace",
    "span", "parent",
}  # fmt: skip


def told(gate: Gate) -> list[Message]:
    return [event for event in gate.events if event["event"] in ("call", "request", "denied")]


@pytest.mark.parametrize(
    ("method", "params", "kind", "decision", "rule"),
    [
        ("ping", {}, "request", "allow", None),
        ("tools/list", {}, "request", "allow", None),
        ("tools/list", {"cursor": "x"}, "request", "deny", "protocol"),
        ("tools/call", {"name": "one", "arguments": {"x": 1}}, "call", "allow", None),
        ("tools/call", {"name": "hidden"}, "denied", "deny", "hidden"),
        ("tools/call", {"name": "never-was"}, "denied", "deny", "unknown"),
        ("tools/call", {}, "request", "deny", "protocol"),
        ("tools/call", [1], "request", "deny", "protocol"),
        ("tools/call", {"name": "one", "_meta": 5}, "request", "deny", "protocol"),
        ("resources/read", {"uri": "x:y"}, "call", "allow", None),
        ("prompts/get", {"name": "p", "arguments": {}}, "denied", "deny", "unknown"),
        ("resources/subscribe", {"uri": "x:y"}, "call", "allow", None),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}}, "denied", "deny", "unknown"),
        ("tasks/get", {"taskId": "none"}, "request", "deny", "protocol"),
        ("logging/setLevel", {"level": "loud"}, "request", "deny", "protocol"),
        ("sampling/createMessage", {}, "request", "deny", "protocol"),
        ("no/such/method", {}, "request", "deny", "protocol"),
    ],
)
async def test_cannot_ask_unseen(
    tmp_path: Path, method: str, params: Any, kind: str, decision: str, rule: str | None
) -> None:
    offered = {"tools": {}, "prompts": {}, "resources": {"subscribe": True}, "logging": {}, "completions": {}}
    server = FakeServer("a", ("one", "hidden"), capabilities=offered)
    async with world(tmp_path, server) as w:
        w.gate.hidden.add(("a", "hidden"))
        agent = w.agent()
        await agent.open()
        before = len(told(w.gate))
        reply = await agent.request(method, params)
        (event,) = told(w.gate)[before:]
        assert (event["event"], event["decision"], event["rule"]) == (kind, decision, rule)
        assert event.keys() >= ALWAYS
        assert event["method"] == method
        assert event["isError"] == ("error" in reply.message or reply.result.get("isError", False))
        assert event["bytesOut"] > 0
        assert event["ms"] >= 0


async def test_initialize_is_told_with_its_session(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a")) as w:
        opened = await w.agent().open()
        (event,) = told(w.gate)
        assert (event["method"], event["session"]) == ("initialize", opened.headers["mcp-session-id"])


@pytest.mark.parametrize(
    ("headers", "status", "event", "rule"),
    [
        ({"Authorization": "Bearer guessed"}, 401, "denied", "endpoint"),
        ({"Origin": "http://evil.example"}, 403, "denied", "endpoint"),
        ({"Host": "evil.example"}, 403, "denied", "endpoint"),
        ({"Content-Type": "text/plain"}, 415, "request", "protocol"),
        ({"Mcp-Session-Id": "made-up"}, 404, "request", "protocol"),
    ],
)
async def test_cannot_knock_unheard(
    tmp_path: Path, headers: dict[str, str], status: int, event: str, rule: str
) -> None:
    async with world(tmp_path, FakeServer("a")) as w:
        agent = w.agent()
        await agent.open()
        before = len(told(w.gate))
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
        assert (await agent.http("POST", body, headers)).status == status
        (heard,) = told(w.gate)[before:]
        assert (heard["event"], heard["decision"], heard["rule"]) == (event, "deny", rule)
        assert "guessed" not in json.dumps(heard)


async def test_what_is_no_message_is_told_too(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a")) as w:
        agent = w.agent()
        await agent.open()
        before = len(told(w.gate))
        assert (await agent.http("POST", b"{")).status == 400
        (heard,) = told(w.gate)[before:]
        assert (heard["event"], heard["decision"], heard["error"]) == ("request", "deny", -32700)


async def test_the_stateless_era_is_told_too(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a", ("one",))) as w:
        agent = Stateless(w.port)
        for method, params in (("server/discover", {}), ("tools/call", {"name": "one"}), ("no/such", {})):
            await agent.ask(method, params)
        assert [(e["event"], e["method"]) for e in told(w.gate)] == [
            ("request", "server/discover"),
            ("call", "tools/call"),
            ("request", "no/such"),
        ]


async def test_a_guards_denial_has_its_rule_and_its_place_in_the_trace(tmp_path: Path) -> None:
    async def judge(call: Call) -> Verdict:
        return Verdict(kind="deny", rule="guard @x (index.mld:12)", reason="no", labels=frozenset({"pii"}))

    server = FakeServer("a", ("one",))
    async with world(tmp_path, server) as w:
        agent = w.agent()
        await agent.open()
        w.gate.active, w.gate.judge_request = True, judge
        await agent.call("one", {"n": 1}, meta={"traceparent": THEIRS})
        (event,) = w.gate.of("call")
        assert (event["decision"], event["rule"], event["name"]) == ("deny", "guard @x (index.mld:12)", "one")
        assert event["labels"] == ["src:mcp", "mcp:a:one", "pii"]
        assert (event["trace"], event["parent"]) == (TRACE, SPAN)
        assert not server.calls("tools/call")


async def test_the_record_alone_says_why_a_name_does_not_exist(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a", ("one", "hidden"))) as w:
        w.gate.hidden.add(("a", "hidden"))
        agent = w.agent()
        await agent.open()
        await agent.tools()
        answers = [(await agent.call(name)).body.replace(name.encode(), b"X") for name in ("hidden", "absent")]
        assert answers[0].partition(b"result")[2] == answers[1].partition(b"result")[2]
        hidden, absent = w.gate.of("denied")
        assert (hidden["server"], hidden["reason"]) == ("a", "a test hides it")
        assert (absent["server"], absent["reason"]) == ("", "no server offers a tool of that name")


async def test_a_name_that_is_revoked_is_told_as_hidden(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a", ("one",))) as w:
        agent = w.agent()
        await agent.open()
        await agent.tools()
        w.gate.hidden.add(("a", "one"))
        assert (await agent.call("one")).result["isError"]
        (event,) = w.gate.of("denied")
        assert (event["rule"], event["server"], event["reason"]) == ("hidden", "a", "a test hides it")


# ---------------------------------------------------------------------------------------------------------------- traces


async def test_the_agents_trace_goes_on_with_our_span_as_parent(tmp_path: Path) -> None:
    server = FakeServer("a", ("one",))
    async with world(tmp_path, server, trace=KEPT) as w:
        agent = w.agent()
        await agent.open()
        await agent.call("one", meta={"traceparent": THEIRS, "tracestate": "rojo=1", "baggage": "k=v", "mine": 1})
        (event,) = w.gate.of("call")
        assert (event["trace"], event["parent"]) == (TRACE, SPAN)
        assert event["span"] not in (SPAN, "0" * 16)
        assert server.calls("tools/call")[0]["params"]["_meta"] == {
            "traceparent": f"00-{TRACE}-{event['span']}-01",
            "tracestate": "rojo=1",
            "baggage": "k=v",
            "mine": 1,
        }


async def test_a_header_speaks_for_messages_that_name_no_trace(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a", ("one",))) as w:
        agent = w.agent()
        await agent.open()
        agent.headers["traceparent"] = THEIRS
        await agent.call("one")
        await agent.call("one", meta={"traceparent": f"00-{'c' * 32}-{'d' * 16}-00"})
        first, second = w.gate.of("call")
        assert (first["trace"], first["parent"]) == (TRACE, SPAN)
        assert (second["trace"], second["parent"]) == ("c" * 32, "d" * 16)


async def test_without_a_trace_the_run_is_the_parent(tmp_path: Path) -> None:
    server = FakeServer("a", ("one",))
    async with world(tmp_path, server, trace=KEPT) as w:
        agent = w.agent()
        await agent.open()
        await agent.call("one")
        (event,) = w.gate.of("call")
        assert (event["trace"], event["parent"]) == (RUN.trace_id, RUN.span_id)
        meta = server.calls("tools/call")[0]["params"]["_meta"]
        assert meta == {"traceparent": f"00-{RUN.trace_id}-{event['span']}-01"}


async def test_a_run_that_nobody_traces_adds_nothing_to_a_call(tmp_path: Path) -> None:
    server = FakeServer("a", ("one",))
    async with world(tmp_path, server) as w:
        agent = w.agent()
        await agent.open()
        await agent.call("one")
        assert "_meta" not in server.calls("tools/call")[0]["params"]
        assert len({event["trace"] for event in told(w.gate)}) == 1  # the record has one all the same


@pytest.mark.parametrize("run", [None, RunTrace(RUN, known=True)])
async def test_where_no_spans_are_made_the_agents_own_is_the_parent(tmp_path: Path, run: RunTrace | None) -> None:
    server = FakeServer("a", ("one",))
    async with world(tmp_path, server, trace=run) as w:
        agent = w.agent()
        await agent.open()
        await agent.call("one", meta={"traceparent": THEIRS, "tracestate": "rojo=1"})
        await agent.call("one")
        named, unnamed = (call["params"].get("_meta") for call in server.calls("tools/call"))
        assert named == {"traceparent": THEIRS, "tracestate": "rojo=1"}
        assert unnamed == (None if run is None else {"traceparent": f"00-{RUN.trace_id}-{RUN.span_id}-01"})


async def test_cannot_hide_from_a_trace_that_is_kept(tmp_path: Path) -> None:
    server = FakeServer("a", ("one",))
    async with world(tmp_path, server, trace=KEPT) as w:
        agent = w.agent()
        await agent.open()
        await agent.call("one", meta={"traceparent": f"00-{TRACE}-{SPAN}-00"})
        assert server.calls("tools/call")[0]["params"]["_meta"]["traceparent"].endswith("-01")


@pytest.mark.parametrize(
    "bad",
    [
        "", "x", 5, None, {"a": 1}, THEIRS.upper(), THEIRS + "-more", THEIRS[:-1], "ff" + THEIRS[2:], f"{THEIRS}\n",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", THEIRS.replace("4bf9", "٤bf9"), THEIRS * 1000,
    ],
)  # fmt: skip
async def test_cannot_forge_a_trace(tmp_path: Path, bad: Any) -> None:
    server = FakeServer("a", ("one",))
    async with world(tmp_path, server, trace=KEPT) as w:
        agent = w.agent()
        await agent.open()
        await agent.call("one", meta={"traceparent": bad, "tracestate": "a=1"})
        (event,) = w.gate.of("call")
        assert event["trace"] == RUN.trace_id
        meta = server.calls("tools/call")[0]["params"]["_meta"]
        assert meta == {"traceparent": f"00-{RUN.trace_id}-{event['span']}-01"}


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert trace.parse(f"cc-{TRACE}-{SPAN}-03-what-comes") == Trace(TRACE, SPAN, 1)


@pytest.mark.parametrize("state", ["a=1\r\nX: y", "a" * 513, "é=1"])
def test_cannot_smuggle_in_a_tracestate(state: str) -> None:
    assert trace.parse(THEIRS, state) == Trace(TRACE, SPAN, 1)
    assert trace.parse(THEIRS, "a=1") == Trace(TRACE, SPAN, 1, "a=1")


def test_a_remote_server_gets_the_headers_too() -> None:
    params = {"name": "one", "_meta": {"traceparent": THEIRS, "tracestate": "a=1"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = traced_headers(split_request(json.dumps(message).encode()))
    assert headers == {"traceparent": THEIRS, "tracestate": "a=1"}
    params["_meta"] = {"other": THEIRS}
    assert traced_headers(split_request(json.dumps(message).encode())) == {}
