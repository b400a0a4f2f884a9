"""A stdio MCP server in one small program, for seats that tests make: `python3 -c PROGRAM`."""

PROGRAM = r"""
import json, os, socket, sys
TOOLS = [{"name": n, "description": n, "inputSchema": {"type": "object"}} for n in ("echo", "look", "shout")]
def answer(method, params):
    if method == "initialize":
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                "serverInfo": {"name": "t", "version": "1"}, "instructions": "Look before you shout."}
    if method == "tools/list":
        return {"tools": TOOLS}
    if method == "tools/call":
        a = params.get("arguments") or {}
        if params["name"] == "look":
            try:
                text = json.dumps(eval(a["code"], {"os": os, "socket": socket, "sys": sys, "json": json}), default=str)
            except BaseException as e:
                text = f"{type(e).__name__}: {e}"
        else:
            text = json.dumps(a)
        return {"content": [{"type": "text", "text": text}]}
    return {}
for line in sys.stdin:
    m = json.loads(line)
    if "id" in m and "method" in m:
        print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": answer(m["method"], m.get("params") or {})}), flush=True)
"""
