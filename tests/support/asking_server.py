"""An MCP server over stdio that uses all of the client: it samples, elicits, tells progress and logs, and can be cancelled.

One file without imports of ours, since tests also put it into containers.
"""

import json
import sys


def send(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def read():
    line = sys.stdin.readline()
    if not line:
        sys.exit()
    return json.loads(line)


def ask(method, params):
    """The client's answer to a request; whatever else it says meanwhile is not for this server."""
    send(id=f"ask {method}", method=method, params=params)
    while (message := read()).get("id") != f"ask {method}":
        pass
    return message.get("result", message.get("error"))


def call(name, arguments, meta):
    global cancelled
    if name == "echo_text":
        return arguments["text"]
    if name == "ask_user":
        if "progressToken" in meta:
            params = {"progressToken": meta["progressToken"], "progress": 1, "total": 2, "message": "asking"}
            send(method="notifications/progress", params=params)
        text = {"type": "text", "text": "which?"}
        sampled = ask("sampling/createMessage", {"messages": [{"role": "user", "content": text}], "maxTokens": 10})
        schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
        form = ask("elicitation/create", {"message": "sure?", "requestedSchema": schema})
        return json.dumps({"sampled": sampled["content"]["text"], "sure": form["content"]["sure"]})
    if name == "wait":
        while read().get("method") != "notifications/cancelled":
            pass
        cancelled += 1
        return None
    return str(cancelled)


TOOLS = ["echo_text", "ask_user", "wait", "count_cancelled"]
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}}
cancelled = 0
while True:
    message = read()
    if "id" not in message or "method" not in message:
        continue
    method, params, result = message["method"], message.get("params") or {}, {}
    if method == "initialize":
        result = {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}, "logging": {}},
            "serverInfo": {"name": "asking", "version": "1"},
        }
    elif method == "tools/list":
        result = {"tools": [{"name": name, "description": name, "inputSchema": SCHEMA} for name in TOOLS]}
    elif method == "tools/call":
        text = call(params["name"], params.get("arguments") or {}, params.get("_meta") or {})
        if text is None:
            continue
        result = {"content": [{"type": "text", "text": text}]}
    send(id=message["id"], result=result)
