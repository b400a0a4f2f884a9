"""The lock: what each MCP server and its tools said of themselves when somebody looked.

A model obeys descriptions and schemas like instructions, and a server may say something else tomorrow. `mlld sandbox tools
--lock` writes down what they say today, in a file of the project that is committed like any other; from then on a run
does not start with a tool that says something else, or with one that was not there. Without a lock a tool must only stay
what it was at the first look of the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from runner.errors import CheckFailure

FILE = Path(".mlld") / "mcp-lock.json"
VERSION = 1

Pins = Mapping[str, Mapping[str, Mapping[str, object]]]
"""server → tool → what is pinned of it; under the empty name, which no tool has, the server's own `instructions`"""


def read(project: Path, environment: str) -> Pins:
    """The pins of an environment; empty if nobody locked it. Errors: `CheckFailure`."""
    return _environments(project / FILE).get(environment, {})


def write(project: Path, environment: str, pins: Pins) -> Path:
    """Locks what a profile of an environment shows; what others show stays locked. The file's path."""
    path = project / FILE
    held = _environments(path)
    former = held.get(environment, {})
    servers = {name: {**former.get(name, {}), **pins.get(name, {})} for name in {*former, *pins}}
    locked = {**held, environment: servers}
    path.parent.mkdir(exist_ok=True)
    text = json.dumps({"version": VERSION, "environments": locked}, indent=2, sort_keys=True, ensure_ascii=False)
    new = path.with_suffix(".new")
    new.write_text(text + "\n")
    new.replace(path)
    return path


def _environments(path: Path) -> dict[str, Pins]:
    try:
        held = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CheckFailure(f"{path} is not JSON: {error}", remedy="take it from version control again") from None
    environments = held.get("environments") if isinstance(held, dict) and held.get("version") == VERSION else None
    if not isinstance(environments, dict) or not all(map(_is_pins, environments.values())):
        raise CheckFailure(
            f"{path} is no lock that this release can read",
            remedy="take it from version control again, or lock anew: mlld sandbox tools --env REF --lock",
        )
    return environments


def _is_pins(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(tools, dict) and all(isinstance(item, dict) for item in tools.values()) for tools in value.values()
    )
