"""Where a value was written: the line for a fault in what `@mcpConfig()` returned.

A function returns one of the values that its body writes down; which one, only the run knew. So every object in the
body that could be the value is held against the value, and the first that agrees with it, wherever both can be
compared, is taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from interpreter import nodes as n
from interpreter.policy_reader import Locator, Path
from interpreter.source import Span

_DEEP = 40  # variables that name each other in a ring


def locate_in(body: n.Node, value: object, written: Mapping[str, n.Node]) -> Locator:
    """Finds parts of `value`, which evaluating `body` gave. `written` are the expressions of the file's variables."""
    origin = next((each for each in _candidates(body) if _agrees(each, value, written, 0)), None)

    def locate(path: Path) -> Span | None:
        if origin is None:
            return None if path else body.span
        return _walk(origin, path, written, 0)

    return locate


def _candidates(node: n.Node) -> Iterator[n.Node]:
    """Objects, outermost first: what stands inside one of them is a part of it."""
    if isinstance(node, n.Object):
        yield node
        return
    for child in node.children():
        yield from _candidates(child)


def _followed(node: n.Node | None, written: Mapping[str, n.Node], depth: int) -> tuple[n.Node | None, int]:
    while isinstance(node, n.Variable) and depth < _DEEP and node.name in written:
        node, depth = written[node.name], depth + 1
    return node, depth


def _agrees(node: n.Node | None, value: object, written: Mapping[str, n.Node], depth: int) -> bool:
    node, depth = _followed(node, written, depth)
    if depth >= _DEEP:
        return True
    match node:
        case n.Literal():
            return node.value == value and isinstance(node.value, bool) == isinstance(value, bool)
        case n.Array() if not any(isinstance(item, n.Spread) for item in node.items):
            return (
                isinstance(value, list | tuple)
                and len(value) == len(node.items)
                and all(_agrees(item, part, written, depth + 1) for item, part in zip(node.items, value, strict=True))
            )
        case n.Object():
            return isinstance(value, Mapping) and all(
                _agrees(entry.value, value.get(entry.key), written, depth + 1)
                for entry in node.entries
                if isinstance(entry, n.Entry) and (entry.key in value or not entry.optional)
            )
    return True  # something that was worked out: it cannot be compared


def _walk(node: n.Node | None, path: Path, written: Mapping[str, n.Node], depth: int) -> Span | None:
    if not path:
        return node.span if node is not None else None
    node, depth = _followed(node, written, depth)
    head, rest = path[0], path[1:]
    if depth >= _DEEP:
        return None
    if isinstance(node, n.Object) and isinstance(head, str):
        found = node.get(head)
        return _walk(found, rest, written, depth + 1) if found is not None else _key_span(node, head)
    if isinstance(node, n.Array) and isinstance(head, int) and head < len(node.items):
        return _walk(node.items[head], rest, written, depth + 1)
    return None


def _key_span(node: n.Object, key: str) -> Span | None:
    return next((e.span for e in node.entries if isinstance(e, n.Entry) and e.key == key), None)
