"""`mlld mcp`: the functions of a module as tools, each call evaluated in a world of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from interpreter import values_text
from interpreter.environment_mcp import match_tools
from interpreter.environment_modules import SUFFIXES, ModuleNotFound, find_module
from interpreter.errors import ImportFault, MlldError, listing
from interpreter.evaluate.calls import invoke
from interpreter.evaluate.core import Env
from interpreter.evaluate.functions import Function
from interpreter.mcp import Answer, Server, Tool
from interpreter.module_read import ReadModule, read_module
from interpreter.names import snake
from interpreter.policy_patterns import nearest
from interpreter.ports import Ports
from interpreter.source import NOWHERE
from interpreter.values import UNDEFINED, Value

TYPES = ("string", "number", "integer", "boolean", "array", "object")
_COLLECTION_KEYS = ("mlld", "mcp", "bind", "expose", "optional", "labels", "description", "controlArgs")


async def serve_module(
    ref: str,
    *,
    project: Path,
    ports: Ports,
    tools: Sequence[str] | None = None,
    collection: str | None = None,
    config: str | None = None,
    variables: Mapping[str, str] | None = None,
    home: Path | None = None,
    directory: Path | None = None,
    version: str = "0",
) -> Server:
    """A server of the exported functions of a module, of a file, or of every file of a directory without a manifest.

    `tools` names what to serve (None: everything), `collection` a `var tools` to serve instead of the exports,
    `config` a module that exports `@config`. Errors: `MlldError`."""
    assert ports.files is not None
    ports = replace(ports, env={**ports.env, **(variables or {})})
    if config is not None:
        said = await _config(config, project=project, ports=ports, home=home, directory=directory)
        tools = said.get("tools") if tools is None else tools
        ports = replace(ports, env={**_variables(said.get("env") or {}), **ports.env})
    served: dict[str, Tool] = {}
    origin: dict[str, str] = {}
    for name, root, entry in _entries(ref, project, ports, home, directory):
        read = await read_module(entry, root=root, project=project, ports=ports, effects=True)
        found = _collection(read, collection) if collection else _exports(read)
        for tool in found:
            if tool.name in served:
                raise MlldError(
                    f"two modules serve a tool '{tool.name}': {origin[tool.name]} and {name}",
                    code="duplicate-tool", hint="rename one of the functions, or export only one of them",
                )  # fmt: skip
            served[tool.name], origin[tool.name] = tool, name
    if not served:
        raise MlldError(
            f"'{ref}' has no function to serve", code="no-tools", hint="export { @name }, where `exe @name(…) = …`"
        )
    chosen = match_tools("*" if tools is None or list(tools) == ["*"] else tools, served, server=ref)
    return Server(name="mlld", version=version, tools=[served[name] for name in chosen])


def _entries(
    ref: str, project: Path, ports: Ports, home: Path | None, directory: Path | None
) -> list[tuple[str, Path, Path]]:
    """The files to serve: name, root, entry. A directory without module.yml is a folder of modules."""
    files = ports.files
    assert files is not None
    path = (directory or project) / ref
    if not ref.startswith("@") and files.is_dir(path) and not files.exists(path / "module.yml"):
        found = [each for suffix in SUFFIXES for each in files.glob(path, f"**/*{suffix}")]
        if not found:
            raise ModuleNotFound(f"there is no module in '{ref}'", hint="put .mld files there, or give the path of one")
        return [(str(each.relative_to(path)), path, each) for each in sorted(set(found))]
    module = find_module(ref, project=project, files=files, home=home, directory=directory, kind=None)
    return [(module.name, module.root, module.entry)]


async def _config(
    ref: str, *, project: Path, ports: Ports, home: Path | None, directory: Path | None
) -> dict[str, Any]:
    assert ports.files is not None
    module = find_module(ref, project=project, files=ports.files, home=home, directory=directory, kind=None)
    read = await read_module(module.entry, root=module.root, project=project, ports=ports)
    value = read.module.scope.names.get("config")
    said = values_text.to_plain(value) if value is not None else None
    if not isinstance(said, dict) or (unknown := [key for key in said if key not in ("tools", "env")]):
        what = f"has the unknown key '{unknown[0]}'" if isinstance(said, dict) else "is missing"
        raise ImportFault(
            f"@config of '{ref}' {what}", hint="var @config = { tools: [names], env: { MLLD_NAME: value } }"
        )
    return said


def _variables(said: Mapping[str, Any]) -> dict[str, str]:
    for name in said:
        if not name.startswith("MLLD_"):
            raise MlldError(f"env of @config holds '{name}': names start with MLLD_", code="config")
    return {name: str(value) for name, value in said.items()}


def _exports(read: ReadModule) -> list[Tool]:
    """Every exported function; all functions of a module that exports nothing."""
    module = read.module
    names = (
        list(module.exports or ())
        if module.exports is not None and not module.export_everything
        else list(module.defined)
    )
    found = [(name, read.function(name)) for name in names]
    return [tool_of(name, function, read.env) for name, function in found if function is not None]


def _collection(read: ReadModule, name: str) -> list[Tool]:
    """The entries of a `var tools @name`."""
    bare = name.removeprefix("@")
    value = read.module.scope.names.get(bare)
    if value is None or not isinstance(value.data, dict):
        close = nearest(bare, read.module.scope.names)
        raise MlldError(
            f"there is no tool collection @{bare}", code="no-tools",
            hint=f"did you mean @{close}?" if close else "var tools @name = { tool: { mlld: @function } }",
        )  # fmt: skip
    return [_entry(key, value.item(entry), read.env) for key, entry in value.data.items()]


def _entry(name: str, entry: Value, env: Env) -> Tool:
    said = entry.data
    function = said.get("mlld") if isinstance(said, dict) else said
    function = function.data if isinstance(function, Value) else function
    if not isinstance(function, Function):
        raise MlldError(f"tool '{name}' has no function: mlld: @function", code="config")
    if not isinstance(said, dict):
        return tool_of(name, function, env)
    plain = {key: values_text.to_plain(part) for key, part in said.items() if key != "mlld"}
    bound = plain.get("bind") or {}
    for key in (*bound, *plain.get("expose", ())):
        if key not in function.names:
            raise MlldError(
                f"tool '{name}': @{function.name} has no parameter '{key}': it has {listing(function.names)}",
                code="config",
            )
    return tool_of(
        name, function, env, bound=bound, expose=plain.get("expose"), optional=plain.get("optional") or (),
        labels=tuple(plain.get("labels") or ()), description=plain.get("description"),
    )  # fmt: skip


def tool_of(
    name: str,
    function: Function,
    env: Env,
    *,
    bound: Mapping[str, Any] | None = None,
    expose: Sequence[str] | None = None,
    optional: Sequence[str] = (),
    labels: tuple[str, ...] = (),
    description: str | None = None,
) -> Tool:
    """A function as a tool. Bound parameters vanish from the schema, and a caller that sends them is refused."""
    fixed = dict(bound or {})
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in function.parameters:
        if parameter.name in fixed or (expose is not None and parameter.name not in expose):
            continue
        kind = (parameter.annotation or "string").lower()
        properties[parameter.name] = {"type": kind if kind in TYPES else "string"}
        if parameter.default is None and parameter.name not in optional:
            required.append(parameter.name)
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    async def call(arguments: Mapping[str, Any]) -> Answer:
        given = {**arguments, **fixed}
        values = [Value(given[p.name]) if p.name in given else Value(UNDEFINED) for p in function.parameters]
        # Each call counts its own steps and keeps its own records, so that two at once cannot disturb each other.
        alone = env.copy(run=replace(env.run, steps=0, tool_calls=[]), calls=None, mx={})
        result = await invoke(Value(function), values, alone, NOWHERE)
        text = values_text.display(result) if result.data is not None else ""
        shown = values_text.to_plain(result)
        structured = shown if isinstance(shown, dict) else None
        return Answer(
            text=alone.run.mask(text), structured=_masked(structured, alone) if structured is not None else None
        )

    merged = tuple(dict.fromkeys((*function.labels, *labels)))
    return Tool(
        name=snake(name) or name, description=description if description is not None else function.description or "",
        schema=schema, call=call, labels=merged,
    )  # fmt: skip


def _masked(value: Any, env: Env) -> Any:
    """Structured content without the secrets that commands were given."""
    if not env.run.secrets:
        return value
    if isinstance(value, str):
        return env.run.mask(value)
    if isinstance(value, list):
        return [_masked(item, env) for item in value]
    if isinstance(value, dict):
        return {env.run.mask(key): _masked(item, env) for key, item in value.items()}
    return value
