"""The provider `local`: commands instead of containers, and the refusal of all that only a fence could enforce."""

from __future__ import annotations

from collections.abc import Iterator

from interpreter.declarations import EnvironmentSpec, Files, Limits, Network, PathRule, Place, ServerSpec
from runner.errors import Unsupported
from runner.plan import Process

NOTHING_ISOLATED = "provider local: nothing is isolated"


def process(server: ServerSpec, module: str | None) -> Process | None:
    """The command that starts a server on this machine; `module` is the directory of the module that it serves."""
    match server.source:
        case "command":
            argv = (server.target, *server.args)
        case "npm":
            argv = ("npx", "-y", server.target, *server.args)
        case "python":
            argv = ("uvx", server.target, *server.args)
        case "module":
            argv = ("mlld", "mcp", module or server.target, *server.args)
        case "image" | "url":
            return None
    return Process(argv=argv, env=dict(server.env))


def refuse_what_cannot_be_enforced(spec: EnvironmentSpec) -> None:
    """A key that the provider cannot enforce is refused, never ignored. Errors: `Unsupported`."""
    asked: list[tuple[str, bool, Place | None]] = [
        ("image", spec.image is not None, spec.place),
        *_unenforced("", spec.files, spec.network, spec.limits, spec.place),
    ]
    for server in spec.mcp.servers:
        key = f"mcpConfig.servers[{server.name}]."
        asked.append((f"{key}image", server.source == "image", server.place))
        # A remote server is reached by the sidecar, and its gate holds without a fence.
        network = Network() if server.source == "url" else server.network
        asked += _unenforced(key, server.files, network, server.limits, server.place)
    for key, said, place in asked:
        if said:
            raise Unsupported(
                f"{key}: the provider 'local' cannot enforce it, because it isolates nothing",
                remedy="leave it out, or use the provider 'docker'",
                place=place,
            )


def _unenforced(
    key: str, files: Files, network: Network, limits: Limits, place: Place | None
) -> Iterator[tuple[str, bool, Place | None]]:
    yield f"{key}fs.read", bool(files.read), _first(files.read) or place
    yield f"{key}fs.write", bool(files.write), _first(files.write) or place
    yield f"{key}net", network != Network(), place
    yield f"{key}limits.mem", limits.memory_bytes is not None, place
    yield f"{key}limits.cpu", limits.cpus is not None, place
    yield f"{key}limits.pids", limits.pids is not None, place


def _first(rules: tuple[PathRule, ...]) -> Place | None:
    return rules[0].place if rules else None
