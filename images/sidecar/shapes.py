"""Tools of a collection: parameters that are bound, exposed or optional, in the schema and in the call.

The schema is what an agent is told; the call is where it is enforced. A bound parameter is filled in here, so a caller
that sends one is refused, also when the value would be the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from images.sidecar.config import ToolShape


class Schemas(NamedTuple):
    """The JSON Schemas of one tool's arguments."""

    shown: bytes
    """As the agent was told."""
    own: bytes
    """As its server has it: what a call must fit with everything that is bound in it."""


def reshaped(tool: Mapping[str, Any], shape: ToolShape) -> dict[str, Any]:
    """The tool as the agent sees it. ValueError if it could not be called in that shape."""
    name = tool.get("name")
    schema = tool.get("inputSchema")
    if not isinstance(schema, dict) or not isinstance(schema.get("properties", {}), dict):
        raise ValueError(f"{name}: its schema is no object with properties, so no parameter of it can be bound")
    properties: dict[str, Any] = schema.get("properties", {})
    required = [key for key in schema.get("required", ()) if isinstance(key, str)]
    for word, wanted in (("bind", shape.bind), ("expose", shape.expose or ()), ("optional", shape.optional)):
        if unknown := [key for key in wanted if key not in properties]:
            raise ValueError(
                f"{name}: `{word}` names {', '.join(unknown)}, and it has {', '.join(properties) or 'none'}"
            )
    open_to_caller = {key: value for key, value in properties.items() if is_open(key, shape)}
    needed = [key for key in required if key not in shape.bind and key not in shape.optional]
    if closed := [key for key in needed if key not in open_to_caller]:
        raise ValueError(f"{name}: it requires {', '.join(closed)}, which is neither bound nor exposed")
    kept = {
        key: value for key, value in schema.items() if key not in ("properties", "required", "additionalProperties")
    }
    new_schema = kept | {"properties": open_to_caller, "required": needed, "additionalProperties": False}
    description = {} if shape.description is None else {"description": shape.description}
    return {**tool, **description, "inputSchema": new_schema}


def is_open(parameter: str, shape: ToolShape) -> bool:
    """Whether a caller may send the parameter."""
    if parameter in shape.bind:
        return False
    return shape.expose is None or parameter in shape.expose or parameter in shape.optional


def filled(arguments: Mapping[str, Any], shape: ToolShape) -> dict[str, Any]:
    """The arguments of a call with what is bound. ValueError, in words for the agent, if it sent what it may not."""
    if refused := [key for key in arguments if not is_open(key, shape)]:
        raise ValueError(f"{', '.join(sorted(refused))} cannot be set by the caller: leave it out and call again")
    return {**arguments, **shape.bind}
