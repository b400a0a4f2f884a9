"""Configuration that is written out in full (`needs`, `profiles`, `policy`) is judged by its own readers, without
running anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import nodes as n
from .environment_config import parse_config
from .errors import Diagnostic, MlldError
from .policy_parse import parse_auth, parse_policy
from .policy_reader import Reader
from .profiles import parse_needs, parse_profiles
from .source import Span

Path = tuple[str | int, ...]


class NotWritten(Exception):
    """The value holds something that only a run can know."""


def config_faults(node: n.Needs | n.Profiles | n.Policy | n.Auth | n.Box) -> Iterator[Diagnostic]:
    """The fault of a declaration, if it can be told from what is written."""
    match node:
        case n.Policy() | n.Auth():
            written: n.Node = node.value
        case n.Box():
            written = node.options or n.Object(span=node.span)
        case _:
            written = node.declared
    places: dict[Path, Span] = {}
    try:
        value = plain(written, (), places)
        match node:
            case n.Needs():
                parse_needs(value, locate=places.get)
            case n.Profiles():
                parse_profiles(value, locate=places.get)
            case n.Policy():
                parse_policy(value, name=node.name, locate=places.get)
            case n.Auth():
                parse_auth(Reader(value=value, name=f"auth @{node.name}", locate=places.get), node.name)
            case n.Box():
                parse_config(value, locate=places.get, name="env with")
    except NotWritten:
        return
    except MlldError as fault:
        yield from (d if d.span else _placed(d, node) for d in fault.diagnostics)


def _placed(fault: Diagnostic, node: n.Node) -> Diagnostic:
    return Diagnostic(code=fault.code, message=fault.message, span=node.span, expected=fault.expected, hint=fault.hint)


def plain(node: Any, path: Path, places: dict[Path, Span]) -> Any:
    """A written value as data, with the place of each part. Errors: `NotWritten`."""
    places[path] = node.span
    match node:
        case n.Literal():
            return node.value
        case n.Duration():
            return f"{node.value}{node.unit}"
        case n.Anything():
            return "*"
        case n.Array():
            return [plain(item, (*path, index), places) for index, item in enumerate(node.items)]
        case n.Object():
            out: dict[str, Any] = {}
            for entry in node.entries:
                if not isinstance(entry, n.Entry) or entry.optional or entry.name is not None:
                    raise NotWritten
                out[entry.key] = plain(entry.value, (*path, entry.key), places)
                places[(*path, entry.key)] = entry.span
            return out
        case _:
            raise NotWritten
