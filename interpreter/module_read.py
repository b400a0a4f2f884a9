"""Reading a module: its text becomes declarations, and nothing else happens (P13).

Reading has the module's own files and nothing more: no command, no network, no writing, and bounds on steps and time.
What was read is remembered, since a module that travels into a sidecar must take all of it along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interpreter import nodes as n
from interpreter import values_text
from interpreter.declarations import McpConfig, Profile, ProfileChoice
from interpreter.environment_locate import locate_in
from interpreter.environment_mcp import parse_mcp_config
from interpreter.errors import ImportFault
from interpreter.evaluate import RunOptions
from interpreter.evaluate.calls import call_function
from interpreter.evaluate.core import Env
from interpreter.evaluate.declared import declaring
from interpreter.evaluate.functions import Function
from interpreter.evaluate.modules import Module
from interpreter.evaluate.run import make_env, run_body
from interpreter.parser import parse_or_raise
from interpreter.policy import NO_POLICY, Policy
from interpreter.ports import Ports
from interpreter.profiles import choose
from interpreter.source import Source
from interpreter.values import Value


@dataclass(kw_only=True, eq=False)
class ReadModule:
    """A module that was read; `env` is where its functions were declared."""

    module: Module
    env: Env
    root: Path
    entry: Path

    def choose(
        self, asked: str | None = None, *, config: Sequence[Profile] = (), strict: bool = False
    ) -> ProfileChoice | None:
        """Chooses the profile against everything that binds the module; it is in force from then on.

        Errors: `ProfileFault`.
        """
        choice = choose(config, self.env.authority.policy, asked=asked, module=self.module.profiles, strict=strict)
        self.module.chosen = choice
        return choice

    def function(self, name: str) -> Function | None:
        """A function of the module by the name under which it is exported, or by its own if nothing is exported."""
        exports = self.module.exports
        own = name if exports is None or self.module.export_everything else exports.get(name)
        value = self.module.scope.names.get(own) if own is not None else None
        return value.data if value is not None and isinstance(value.data, Function) else None


async def read_module(
    entry: Path,
    *,
    root: Path,
    project: Path,
    ports: Ports,
    policy: Policy = NO_POLICY,
    effects: bool = False,
    script: bool = False,
    options: RunOptions | None = None,
) -> ReadModule:
    """Evaluates the declarations of a module. `policy` is the caller's, which binds beside the module's own.

    `effects` gives the module its powers while it is read: for modules that the user serves, never for environments.
    `script` reads a script, which may act at its top, for its declarations alone.
    Errors: `MlldError` with the place; `OSError` when the entry cannot be read.
    """
    if ports.files is None:
        raise ImportFault("a module cannot be read without the power to read files")
    text = _decoded(ports.files.read(entry), entry)
    source = Source(name=shown(entry, project), text=text)
    document = parse_or_raise(source, None)
    env = make_env(source, entry, document, ports, options or RunOptions(root=project))
    module = env.module
    module.root = root
    module.is_environment = not (effects or script)
    env.run.declare_only = script
    env = env.copy(authority=env.authority.narrowed(policy))
    inside = env if effects else declaring(env, module)
    await run_body(document, inside, prose=False)
    return ReadModule(module=module, env=env, root=root, entry=entry)


def shown(path: Path, project: Path) -> str:
    """A path as people know it: below the project, else whole."""
    return str(path.relative_to(project)) if path.is_relative_to(project) else str(path)


def _decoded(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ImportFault(f"{path.name} is no UTF-8 text (byte {error.start})", hint="save it as UTF-8") from None


async def mcp_config_of(read: ReadModule) -> McpConfig:
    """What `@mcpConfig()` of the module says under the profile in force; nothing when there is none.

    Errors: `ConfigFault` with path and line, `MlldError` for an attempt to have an effect.
    """
    value = read.module.scope.names.get("mcpConfig")
    function = value.data if value is not None else None
    if not isinstance(function, Function):
        return McpConfig()
    inside = declaring(read.env, read.module)
    result = await call_function(function, [], inside, function.span)
    return parsed(result, function, read.module)


def parsed(result: Value, function: Function, module: Module) -> McpConfig:
    """The servers that a value of `@mcpConfig()` states."""
    data = values_text.to_plain(result)
    return parse_mcp_config(data, locate=locate_in(function.body, data, module.written))


def secrets_used(node: n.Node) -> tuple[str, ...]:
    """Names of `using auth:x` in a tree: which secrets the module's own commands want."""
    found: dict[str, None] = {}
    waiting: list[n.Node] = [node]
    while waiting:
        current = waiting.pop()
        if isinstance(current, n.Using) and current.auth is not None:
            found[current.auth] = None
        waiting.extend(current.children())
    return tuple(found)
