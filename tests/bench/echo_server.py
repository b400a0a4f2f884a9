"""An MCP server on stdio that costs next to nothing: `python -S -E tests/bench/echo_server.py NAME [TOOLS]`.

Every tool gives a text of `size` characters, with the quotes, line ends and accents that real results have.
"""

import json
import os
import sys

NAME, COUNT = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20
LINE = '{"path": "src/module/handler.py", "line": 128, "match": "def handle(self, request):"}\n\tnaïve façade — done\n'
PARAMETERS = {"query": "what to look for", "path": "where to look", "size": "length of the text that comes back"}
SCHEMA = {"type": "object", "properties": {k: {"type": "string", "description": v} for k, v in PARAMETERS.items()}}
TOOLS = [
    {
        "name": f"{NAME}_search_{i}",
        "description": "Looks for something in the files of a project. " * 3,
        "inputSchema": SCHEMA,
    }
    for i in range(COUNT)
]
TEXTS: dict[int, bytes] = {}


def result(size: int) -> bytes:
    """The result of a call; made once for each size."""
    if size not in TEXTS:
        text = (LINE * (size // len(LINE) + 1))[:size]
        TEXTS[size] = json.dumps({"content": [{"type": "text", "text": text}]}, ensure_ascii=False).encode()
    return TEXTS[size]


def answer(message: dict) -> bytes | None:
    match message.get("method"):
        case "initialize":
            info = {"name": NAME, "version": "1"}
            about = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
            return json.dumps(about).encode()
        case "tools/list":
            return json.dumps({"tools": TOOLS}).encode()
        case "tools/call":
            return result(int(message["params"]["arguments"]["size"]))
    return None


for line in sys.stdin.buffer:
    request = json.loads(line)
    reply = answer(request)
    if "id" in request:
        body = b'"result":%s' % reply if reply is not None else b'"error":{"code":-32601,"message":"no such method"}'
        data = b'{"jsonrpc":"2.0","id":%d,%s}\n' % (request["id"], body)
        while data:
            data = data[os.write(1, data) :]
