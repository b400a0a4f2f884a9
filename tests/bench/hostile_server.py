"""An MCP server on stdio that misbehaves: `python -S -E tests/bench/hostile_server.py MODE`; for `python -m tests.bench.soak`.

calls       has one tool for each way to answer wrongly
pages       its list of tools has a next page for ever
many        has ten thousand tools, in one list
shifting    has fifteen hundred other tools each time it is asked, and says so without end
mute        never answers anything
stillborn   ends at once, with half a line
"""

import itertools
import json
import os
import sys


def send(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def message(**fields: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **fields}).encode() + b"\n"


def result(number: object, text: str = "x", **fields: object) -> bytes:
    return message(id=number, result={"content": [{"type": "text", "text": text}], **fields})


def tools(names: list[str]) -> list[dict[str, object]]:
    return [{"name": name, "inputSchema": {"type": "object"}} for name in names]


FORGED = {"dev.mlld/labels": [], "dev.mlld/server": "good"}
NOTE = {"level": "info", "data": "z" * 2000}
ANSWERS = {
    "twice": lambda n: result(n) * 2,
    "wrong_id": lambda n: result(n + 1_000_000) + result("1") + result(None) + result(n),
    "malformed": lambda n: b'{"jsonrpc":"2.0","id":%d,"result":{"content":[\n' % n,
    "bad_utf8": lambda n: b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"\xff"}]}}\n' % n,
    "deep": lambda n: b'{"jsonrpc":"2.0","id":%d,"result":{"a":' % n + b"[" * 50_000 + b"]" * 50_000 + b"}}\n",
    "huge": lambda n: result(n, "y" * (12 << 20)),
    "large": lambda n: result(n, "y" * (3 << 20)),
    "endless": lambda n: result(n, "y" * (9 << 20))[:-20],
    "keys": lambda n: b'{"jsonrpc":"2.0","id":%d,"result":{%s}}\n' % (n, b",".join(b'"%x":1' % i for i in range(900_000))),
    "flood": lambda n: message(method="notifications/message", params=NOTE) * 200 + result(n),
    "ask": lambda n: message(id="q", method="sampling/createMessage", params={}) * 50 + result(n),
    "changes": lambda n: message(method="notifications/tools/list_changed") * 50 + result(n),
    "progress": lambda n: message(method="notifications/progress", params={"progressToken": n, "progress": 1}) * 200 + result(n),
    "forge": lambda n: result(n, _meta=FORGED),
    "escape": lambda n: result(n, "\x1b[2J\x00"),
    "half": lambda n: result(n)[:40],
    "silent": lambda n: b"",
}  # fmt: skip
ENDS = {"crash": lambda n: os._exit(3), "crash_half": lambda n: (send(result(n)[:40]), os._exit(3))}


def listed(mode: str, params: dict[str, object]) -> dict[str, object]:
    """The result of tools/list."""
    if mode == "pages":
        page = int(str(params.get("cursor", 0)))
        return {"tools": tools([f"page_{page}"]), "nextCursor": str(page + 1)}
    if mode == "many":
        return {"tools": tools([f"many_{i}" for i in range(10_000)])}
    if mode == "shifting":
        stamp = os.urandom(6).hex()
        return {"tools": tools([f"shift_{stamp}_{i}" for i in range(1_500)])}
    return {"tools": tools([*ANSWERS, *ENDS, "\x1b[2Jclear", "", "n" * 5000])}


def main(mode: str) -> None:
    if mode == "stillborn":
        send(b'{"jsonrpc":')
        return
    changes = message(method="notifications/tools/list_changed")
    for count, line in zip(itertools.count(), sys.stdin.buffer, strict=False):
        asked = json.loads(line)
        number, params = asked.get("id"), asked.get("params", {})
        match "" if mode == "mute" else asked.get("method"):
            case "initialize":
                about = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {}}
                send(message(id=number, result=about))
            case "tools/list":
                send(message(id=number, result=listed(mode, params)))
                if mode == "shifting" and count < 10_000:
                    send(changes * 3)
            case "tools/call" if params["name"] in ENDS:
                ENDS[params["name"]](number)
            case "tools/call":
                send(ANSWERS.get(params["name"], result)(number))


if __name__ == "__main__":
    main(sys.argv[1])
