"""`files <@ws/> = git "URL" branch:"main" path:"docs/" depth:1 auth:"name"`: the text files of a repository.

The clone is a command like any other: it runs in the sandbox of its block, and policy, guards and the egress gate decide
about it. Only regular text files are taken over; what git keeps for itself, links and pictures stay behind.
"""

from __future__ import annotations

import base64
import difflib
import re
import shlex
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError
from interpreter.labels import joined
from interpreter.operations import Request, perform
from interpreter.policy_subjects import Operation
from interpreter.values import NULL, Value

from .commands import execute
from .core import Env, absent, evaluate
from .credentials import Secrets, auth_secret, no_secrets
from .workspaces import Workspace

OPTIONS = ("branch", "path", "depth", "auth")
_REVISION = re.compile(r"[A-Za-z0-9_][\w./+-]*")


async def clone(node: n.GitSource, env: Env) -> dict[str, Value]:
    """The text files of a repository by their path below `path`. Errors: it cannot be had, or has no such path."""
    if env.ports.commands is None:
        raise absent("`git`", node.span, env)
    url = await evaluate(node.url, env)
    said = await _options(node, env)
    address = vt.text(url).strip()
    branch, below = (vt.text(said[key]).strip() if key in said else "" for key in ("branch", "path"))
    depth = vt.text(said["depth"]) if "depth" in said else "1"
    # git has options and transports (`--upload-pack=…`, `ext::…`) that run programs: neither can be spelled here.
    if address.startswith("-") or "::" in address or not address:
        raise _wrong(f"'{address}' is no address of a repository", node, '"https://host/owner/name", or a path')
    if branch and not _REVISION.fullmatch(branch):
        raise _wrong(f"'{branch}' is no branch or tag", node, 'branch:"main"')
    if not depth.isdigit() or int(depth) < 1:
        raise _wrong(f"depth must be a whole number of at least 1, got {depth}", node, "depth:1")
    held = Workspace("git")
    words = [
        "git",
        "clone",
        "--quiet",
        "--no-tags",
        "--depth",
        depth,
        *(["--branch", branch] if branch else []),
        "--",
        address,
        ".",
    ]
    line = Value(shlex.join(words), joined((url.labels, *(value.labels for value in said.values()))))

    async def run(given: tuple[Value, ...]) -> Value:
        await execute(
            env, kind="cmd", text=line, inputs=(line,), names=("command",), directory=Value(held), stdin=None,
            secrets=_secrets(said, node, env), function=None, options=None, span=node.span,
            extra={"GIT_TERMINAL_PROMPT": "0"}, automatic="src:git",
        )  # fmt: skip
        return NULL

    host = urlsplit(address).hostname if "://" in address else None
    if host:
        await perform(Request(operation=Operation(kind="network", host=host), inputs=(line,), span=node.span), env, run)
    else:
        await run(())
    root = PurePosixPath(below.strip("/")) if below else PurePosixPath()
    found = {
        str(PurePosixPath(path).relative_to(root)): value
        for path, value in held.files.items()
        if not path.startswith(".git/") and PurePosixPath(path).is_relative_to(root)
    }
    if not found:
        raise _wrong(
            f"{address} has no text files below '{below}'" if below else f"{address} has no text files", node, None
        )
    return found


async def _options(node: n.GitSource, env: Env) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for entry in node.options:
        if entry.key not in OPTIONS:
            close = difflib.get_close_matches(entry.key, OPTIONS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(OPTIONS)}"
            raise _wrong(f"git has no option '{entry.key}'", entry, hint)
        found[entry.key] = await evaluate(entry.value, env)
    return found


def _secrets(said: dict[str, Value], node: n.GitSource, env: Env) -> Secrets:
    """The token of `auth:` as a header of git's requests: in its environment, never in a URL or an argument."""
    if "auth" not in said:
        return no_secrets()
    held = auth_secret(vt.text(said["auth"]), env, n.Using(auth=vt.text(said["auth"]), span=node.span))
    (token,) = held.values.values()
    basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    header = {"GIT_CONFIG_KEY_0": "http.extraHeader", "GIT_CONFIG_VALUE_0": f"Authorization: Basic {basic}"}
    env.run.secrets.add(basic)
    return Secrets(values={**held.values, "GIT_CONFIG_COUNT": "1", **header}, labels=held.labels)


def _wrong(message: str, node: n.Node, hint: str | None) -> EvaluationError:
    return EvaluationError(message, span=node.span, code="git", hint=hint)
