"""An MCP server on stdio that misbehaves in every way it knows, one tool for each: for `python -m tests.bench.soak`."""

import json
import os
import sys


def send(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def result(number: int, text: str = "x") -> bytes:
    body = {"jsonrpc": "2.0", "id": number, "result": {"content": [{"type": "text", "text": text}]}}
    return json.dumps(body).encode() + b"\n"


def misbehave(name: str, number: int) -> None:
    if name == "twice":
        send(result(number) * 2)
    elif name == "wrong_id":
        send(result(number + 1_000_000) + result(number))
    elif name == "malformed":
        send(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[\xff' % number + b"\n")
    elif name == "deep":
        send(b'{"jsonrpc":"2.0","id":%d,"result":{"a":' % number + b"[" * 50_000 + b"]" * 50_000 + b"}}\n")
    elif name == "huge":
        send(result(number, "y" * (12 << 20)))
    elif name == "flood":
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "z" * 2000}}
        send((json.dumps(note).encode() + b"\n") * 200 + result(number))
    elif name == "ask":
        send(b'{"jsonrpc":"2.0","id":"q","method":"sampling/createMessage","params":{}}\n' + result(number))
    elif name == "changes":
        send(b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n' * 50 + result(number))
    elif name == "crash":
        os._exit(3)


NAMES = ["twice", "wrong_id", "malformed", "deep", "huge", "flood", "ask", "changes", "crash", "silent"]
for line in sys.stdin.buffer:
    message = json.loads(line)
    match message.get("method"):
        case "initialize":
            about = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {}}
            send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": about}).encode() + b"\n")
        case "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in NAMES]
            send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"tools": tools}}).encode() + b"\n")
        case "tools/call":
            misbehave(message["params"]["name"], message["id"])
