"""Guards in the sidecar: each verdict on its own, in bounded time, and a guard that fails denies."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from images.sidecar.admission import Admission
from images.sidecar.config import ModuleConfig, ServerRules, ToolShape
from images.sidecar.endpoint import Endpoint
from images.sidecar.guarding import Guarding, GuardingFailed, Module, load
from images.sidecar.seams import Call, EndpointSpec, ServerSpec, Verdict
from tests.support.waiting import PATIENCE
from tests.unit.sidecar.sidecar_process import TOKEN, Agent, FakeServer, text, tool


@dataclass(frozen=True, kw_only=True)
class Said:
    """A verdict as the interpreter gives it."""

    kind: Any = "allow"
    value: Any = None
    rule: str | None = None
    reason: str | None = None
    labels: frozenset[str] = frozenset()


Judge = Callable[[str, str, str, str, Any, frozenset[str]], Awaitable[Said]]


@dataclass
class FakeModule:
    """A module whose guards are a Python function."""

    decide: Judge
    active: bool = True
    narrows: bool = False
    run_wide: bool = False
    looks: bool = True
    asked: list[tuple[str, str, str, Any]] = field(default_factory=list)

    async def judge(
        self,
        direction: Literal["request", "result"],
        method: str,
        server: str,
        name: str,
        value: Any,
        labels: frozenset[str],
    ) -> Said:
        self.asked.append((direction, method, name, value))
        return await self.decide(direction, method, server, name, value, labels)

    def watches(self, method: str, server: str, name: str, labels: frozenset[str]) -> bool:
        return self.looks

    def telling(self, labels: frozenset[str]) -> frozenset[str]:
        return labels

    def withdrawn(self, method: str, server: str, name: str, telling: frozenset[str]) -> Said | None:
        return None


def deciding(said: Said | None = None, **by_name: Said) -> Judge:
    async def decide(direction: str, method: str, server: str, name: str, value: Any, labels: frozenset[str]) -> Said:
        return by_name.get(name, said or Said()) if direction == "request" else Said()

    return decide


def call(name: str = "echo", method: str = "tools/call", **arguments: Any) -> Call:
    params = {"name": name, "arguments": arguments, "_meta": {"progressToken": 1}}
    return Call(id=1, session="s", server="one", method=method, name=name, params=params)


def loaded(module: FakeModule | None) -> asyncio.Future[Module] | None:
    if module is None:
        return None
    future: asyncio.Future[Module] = asyncio.get_running_loop().create_future()
    future.set_result(module)
    return future


def guarding(
    module: FakeModule | None, events: list[dict[str, Any]] | None = None, seconds: float = 1.0, **shapes: ToolShape
) -> Guarding:
    told = events if events is not None else []
    admission = Admission({"one": ServerRules(shapes=shapes)}, told.append)
    return Guarding(loaded(module), admission, told.append, seconds=seconds)


async def test_without_guards_nothing_is_asked() -> None:
    module = FakeModule(deciding(Said(kind="deny")), active=False)
    assert not guarding(None).active
    assert not guarding(module).active
    assert guarding(FakeModule(deciding())).active
    assert module.asked == []


async def test_guards_see_the_arguments_and_the_result() -> None:
    module = FakeModule(deciding())
    judge = guarding(module)
    assert (await judge.request(call(a=1))).kind == "allow"
    assert (await judge.request(call("file:///x", "resources/read"))).kind == "allow"
    assert (await judge.result(call(), b'{"content":[]}')).kind == "allow"
    assert module.asked == [
        ("request", "tools/call", "echo", {"a": 1}),
        ("request", "resources/read", "file:///x", call("file:///x").params),
        ("result", "tools/call", "echo", {"content": []}),
    ]


async def test_a_call_waits_for_a_module_that_is_being_loaded() -> None:
    loading: asyncio.Future[Module] = asyncio.get_running_loop().create_future()
    judge = Guarding(loading, Admission({}, print), print, seconds=0.05)
    assert judge.active
    asked = asyncio.ensure_future(judge.request(call()))
    await asyncio.sleep(0.1)
    assert not asked.done()
    loading.set_result(FakeModule(deciding(Said(kind="deny", rule="late"))))
    assert (await asked).rule == "late"


async def test_cannot_pass_a_module_that_could_not_be_loaded() -> None:
    loading: asyncio.Future[Module] = asyncio.get_running_loop().create_future()
    loading.set_exception(GuardingFailed("broken"))
    judge = Guarding(loading, Admission({}, print), lambda event: None)
    assert judge.active
    assert (await judge.request(call())).kind == "deny"
    assert (await judge.result(call(), b"{}")).kind == "deny"


async def test_a_denial_is_told_with_its_rule() -> None:
    said = Said(kind="deny", rule="guard @x (index.mld:12)", reason="no pushing")
    verdict = await guarding(FakeModule(deciding(said))).request(call())
    assert (verdict.kind, verdict.rule, verdict.reason) == ("deny", "guard @x (index.mld:12)", "no pushing")


async def test_a_retry_is_a_denial_with_advice() -> None:
    verdict = await guarding(FakeModule(deciding(Said(kind="retry", reason="use a shorter text")))).request(call())
    assert verdict.kind == "deny"
    assert verdict.reason == "use a shorter text (change the call accordingly and try again)"


async def test_a_transformed_request_keeps_what_is_the_protocols() -> None:
    verdict = await guarding(FakeModule(deciding(Said(kind="transform", value={"a": 2})))).request(call(a=1))
    assert verdict.value == {"name": "echo", "arguments": {"a": 2}, "_meta": {"progressToken": 1}}


async def test_guards_see_what_is_bound() -> None:
    module = FakeModule(deciding())
    verdict = await guarding(module, echo=ToolShape(bind={"b": 2})).request(call(a=1))
    assert module.asked[0][3] == {"a": 1, "b": 2}
    assert verdict.value["arguments"] == {"a": 1, "b": 2}


async def raises(*_: Any) -> Said:
    raise RuntimeError("secret detail of the guard")


async def never(*_: Any) -> Said:
    await asyncio.Event().wait()
    raise AssertionError


async def recursion(*_: Any) -> Said:
    def deeper() -> None:
        deeper()

    deeper()
    raise AssertionError


async def nonsense(*_: Any) -> Said:
    return Said(kind="perhaps")


async def nothing(*_: Any) -> Any:
    return None


@pytest.mark.parametrize("decide", [raises, never, recursion, nonsense, nothing])
@pytest.mark.parametrize("direction", ["request", "result"])
async def test_cannot_pass_a_guard_that_fails(decide: Judge, direction: str) -> None:
    judge = guarding(FakeModule(decide), seconds=0.05)
    verdict = await (judge.request(call()) if direction == "request" else judge.result(call(), b"{}"))
    assert (verdict.kind, verdict.rule) == ("deny", "guard failure")
    assert "secret detail" not in verdict.reason


@pytest.mark.parametrize("raw", [b"", b"{", b'{"a":\xff}', b"NaN"])
async def test_cannot_pass_a_result_that_guards_cannot_read(raw: bytes) -> None:
    assert (await guarding(FakeModule(deciding())).result(call(), raw)).kind == "deny"


async def test_a_result_that_no_guard_looks_at_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs nothing, whatever its size; what it is worth is what the reading of another one costs."""
    read: list[bytes] = []

    def loads(raw: bytes) -> Any:
        read.append(raw)
        return json.loads(raw)

    monkeypatch.setattr("images.sidecar.guarding.orjson.loads", loads)
    unseen = await guarding(FakeModule(deciding(), looks=False)).result(call(), b'{"content":[]}')
    assert (unseen.kind, read) == ("allow", [])
    seen = await guarding(FakeModule(deciding())).result(call(), b'{"content":[]}')
    assert (seen.kind, len(read)) == ("allow", 1)


@pytest.mark.parametrize("arguments", [[], "x", 3, [{"repo": "there"}]])
async def test_cannot_pass_bound_parameters_in_another_form(arguments: Any) -> None:
    request = Call(
        id=1,
        session="s",
        server="one",
        method="tools/call",
        name="echo",
        params={"name": "echo", "arguments": arguments},
    )
    verdict = await guarding(None, echo=ToolShape(bind={"repo": "here"})).request(request)
    assert (verdict.kind, verdict.value) in (
        ("deny", None),
        ("transform", {"name": "echo", "arguments": {"repo": "here"}}),
    )
    assert verdict.kind == "deny" or not arguments


def test_a_module_that_cannot_be_loaded_stops_the_sidecar() -> None:
    broken = ModuleConfig(
        entry="index.mld", files={"index.mld": "guard @x before = when ["}, name="m", profile=None, policy={}
    )
    with pytest.raises(GuardingFailed, match="the guards of m cannot be loaded"):
        load(broken)


def test_the_interpreter_is_not_imported_without_a_module() -> None:
    code = "import sys, images.sidecar.__main__; print([m for m in sys.modules if m.split('.')[0] in ('interpreter', 'mcp')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout.strip() == "[]"


# --- A21: pipelined calls keep their verdicts


@asynccontextmanager
async def guarded(
    directory: Path, server: FakeServer, module: FakeModule
) -> AsyncIterator[tuple[Agent, list[dict[str, Any]]]]:
    """The real endpoint and the real guarding around a fake module."""

    class Record:
        behind = False

        def __init__(self) -> None:
            self.events: list[dict[str, Any]] = []

        def emit(self, event: dict[str, Any]) -> None:
            self.events.append(event)

        async def drain(self) -> None:
            pass

    record = Record()
    for name in ("agent", "one"):
        (directory / name).mkdir()
    spec = EndpointSpec(servers=(ServerSpec(name="one", link=str(directory / "one")),), token=TOKEN)
    admission = Admission({"one": ServerRules()}, record.emit)
    endpoint = Endpoint(spec, admission, Guarding(loaded(module), admission, record.emit), record)
    endpoint.listen_unix(str(directory / "agent" / "mcp.sock"))
    serving = asyncio.ensure_future(server.serve(directory / "one"))
    try:
        yield await Agent(str(directory / "agent" / "mcp.sock")).hello(), record.events
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await endpoint.close()


async def by_number(direction: str, method: str, server: str, name: str, value: Any, labels: frozenset[str]) -> Said:
    """Mixed verdicts, decided after mixed waits: the order of the answers is not the order of the questions."""
    if direction == "result":
        number = int(value["content"][0]["text"])
        await asyncio.sleep((number * 7 % 5) / 1000)
        return Said(kind="deny", rule="after", reason=f"after {number}") if number % 4 == 2 else Said()
    number = value["n"]
    await asyncio.sleep((number * 13 % 11) / 1000)
    match number % 4:
        case 1:
            return Said(kind="deny", rule="before", reason=f"before {number}")
        case 3:
            return Said(kind="transform", value={"n": number + 100_000})
        case _:
            return Said()


def expected(number: int) -> tuple[bool, str]:
    match number % 4:
        case 1:
            return True, f"Denied by before: before {number}"
        case 2:
            return True, f"Denied by after: after {number}"
        case 3:
            return False, str(number + 100_000)
        case _:
            return False, str(number)


async def test_cannot_swap_verdicts_of_a_thousand_pipelined_calls(tmp_path: Path) -> None:
    server = FakeServer([tool("echo", n={"type": "integer"})], lambda name, arguments: text(str(arguments["n"])))
    async with guarded(tmp_path, server, FakeModule(by_number)) as (agent, events):
        await agent.tools()
        answers: dict[int, dict[str, Any]] = {}

        async def pipeline(numbers: range) -> None:
            """Many requests on one connection before the first answer is read."""
            reader, writer = await asyncio.open_unix_connection(agent.path, limit=1 << 26)
            for number in numbers:
                message = {"jsonrpc": "2.0", "id": number, "method": "tools/call"}
                body = json.dumps(message | {"params": {"name": "echo", "arguments": {"n": number}}}).encode()
                writer.write(
                    b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:7000\r\nAuthorization: Bearer %b\r\n"
                    b"Content-Type: application/json\r\nAccept: application/json\r\nMcp-Session-Id: %b\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (TOKEN.encode(), agent.session.encode(), len(body), body)
                )
            for _ in numbers:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                answer = json.loads(await reader.readexactly(size))
                answers[answer["id"]] = answer["result"]
            writer.close()

        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(pipeline(range(start, start + 100)) for start in range(0, 1000, 100)))
        assert sorted(answers) == list(range(1000))
        for number, result in answers.items():
            assert (bool(result.get("isError")), result["content"][0]["text"]) == expected(number), number
        reached = sorted(arguments["n"] for _, arguments in server.calls)
        assert reached == sorted(n + 100_000 if n % 4 == 3 else n for n in range(1000) if n % 4 != 1)
        decisions = [event["decision"] for event in events if event["event"] == "call"]
        assert len(decisions) == 1000
        assert decisions.count("deny") == 500


async def test_cannot_escape_a_verdict_by_using_an_id_twice(tmp_path: Path) -> None:
    server = FakeServer([tool("echo", n={"type": "integer"})], lambda name, arguments: text(str(arguments["n"])))
    async with guarded(tmp_path, server, FakeModule(by_number)) as (agent, _):
        await agent.tools()
        asked = [
            agent.ask("tools/call", {"name": "echo", "arguments": {"n": number}}, id=7)
            for number in (1, 4, 5, 8, 9, 12) * 5
        ]
        for answer in await asyncio.gather(*asked):
            if "result" in answer:
                told = answer["result"]["content"][0]["text"]
                assert told in {expected(number)[1] for number in (1, 4, 5, 8, 9, 12)}
        assert {arguments["n"] for _, arguments in server.calls} <= {4, 8, 12}


async def test_cannot_change_a_message_without_saying_so(tmp_path: Path) -> None:
    """A guard's input is its own copy: what it does to it and does not say goes nowhere, and into no other verdict."""

    async def decide(direction: str, method: str, server: str, name: str, value: Any, labels: frozenset[str]) -> Said:
        before = json.dumps(value)
        if direction == "request":
            value["n"] = 99
            value["extra"] = "smuggled"
        else:
            value["content"][0]["text"] = "changed"
        assert "smuggled" not in before
        assert "changed" not in before
        return Said()

    server = FakeServer([tool("echo", n={"type": "integer"})], lambda name, arguments: text(str(arguments["n"])))
    async with guarded(tmp_path, server, FakeModule(decide)) as (agent, _):
        await agent.tools()
        for _ in range(2):
            assert (await agent.call("echo", n=1))["result"]["content"][0]["text"] == "1"
        assert server.calls == [("echo", {"n": 1})] * 2


async def test_a_slow_guard_holds_up_nobody_else(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def decide(direction: str, method: str, server: str, name: str, value: Any, labels: frozenset[str]) -> Said:
        if direction == "request" and value.get("n") == 0:
            await release.wait()
        return Said()

    server = FakeServer([tool("echo", n={"type": "integer"})], lambda name, arguments: text(str(arguments["n"])))
    async with guarded(tmp_path, server, FakeModule(decide)) as (agent, _):
        await agent.tools()
        slow = asyncio.ensure_future(agent.call("echo", n=0))
        for number in range(1, 20):
            assert (await agent.call("echo", n=number))["result"]["content"][0]["text"] == str(number)
        assert not slow.done()
        release.set()
        assert (await slow)["result"]["content"][0]["text"] == "0"


def test_verdicts_are_values() -> None:
    with pytest.raises(AttributeError):
        Verdict(kind="allow").kind = "deny"
