"""All faults of a file in one go, and the tree and tokens as JSON for editors."""

from __future__ import annotations

from . import nodes as n
from .errors import Diagnostic, SyntaxFault
from .parser import parse, parse_template
from .parser import tokens as lexed_tokens
from .resolve import resolve
from .resolve_habits import template_habits
from .source import Mode, Source


def check_source(source: Source, mode: Mode | None = None) -> list[Diagnostic]:
    """Every fault that can be told without running anything."""
    if source.name.endswith((".att", ".mtt")):
        try:
            return list(template_habits(parse_template(source)))
        except SyntaxFault as fault:
            return list(fault.diagnostics)
    document, faults = parse(source, mode)
    # Names are judged only in a file that parses: a missing statement would make many of them unknown.
    return faults or resolve(document)


def ast_json(node: object) -> object:
    """A node as plain data: its type, its place, its fields."""
    if isinstance(node, n.Node):
        out: dict[str, object] = {"type": type(node).__name__, "start": node.span.start, "end": node.span.end}
        for name, _ in node._plan:
            if name not in ("span", "source"):
                out[name] = ast_json(getattr(node, name))
        return out
    if isinstance(node, tuple):
        return [ast_json(item) for item in node]
    return node


def tokens_json(source: Source, mode: Mode | None = None) -> list[dict[str, object]]:
    """Every token with its place, in order."""
    out: list[dict[str, object]] = []
    for kind, value, start, end in lexed_tokens(source, mode):
        line, column = source.position(start)
        out.append({"type": kind, "value": value, "start": start, "end": end, "line": line, "column": column})
    return out
