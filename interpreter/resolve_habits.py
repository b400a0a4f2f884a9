"""What a script may write and will regret: names that the run refuses, cases that are never reached, conditions that are
the same each time. All of it is a warning; `resolve` asks for it in its walk.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import nodes as n
from .errors import Diagnostic
from .names import FIXED

VARIANTS = frozenset({"llm", "loose", "strict", "fromlist"})
"""Forms of `@parse`, which `@json` was the name of."""


def warning(code: str, node: n.Node, message: str, hint: str, first: n.Node | None = None) -> Diagnostic:
    places = (("first declared here", first.span),) if first is not None else ()
    return Diagnostic(code=code, message=message, span=node.span, hint=hint, severity="warning", related=places)


def habits(node: n.Node) -> Iterator[Diagnostic]:
    """What can be said of a node and what is below it, without knowing the names around it."""
    match node:
        case n.Var() | n.Let() | n.Exe():
            yield from _reserved(node.name, node)
        case n.For():
            yield from _reserved(node.variable, node)
            yield from _same_each_time(node)
        case n.ImportName(alias=str(alias)):
            yield from _reserved(alias, node)
        case n.Field(target=n.Variable(name="mx"), name=name) if name in FIXED - {"mx", "input"}:
            yield warning("unknown-field", node, f"@mx has no field {name}", f"write @{name}")
        case n.Field(target=n.Variable(name="json" | "JSON"), name=name) if name in VARIANTS:
            yield warning("deprecated", node, f"@json.{name} is deprecated", f"write @parse.{name}")
        case n.When():
            yield from _unreachable(node)
        case n.Guard(privileged=True, body=n.When(cases=cases)):
            for case in cases:
                if (
                    isinstance(case, n.Case)
                    and isinstance(case.condition, n.Anything)
                    and isinstance(case.body, n.Allow)
                ):
                    message = "this guard allows all that it is asked about, over every policy"
                    yield warning(
                        "privileged-wildcard-allow", case, message, "name what it allows, or remove privileged"
                    )


def template_habits(made: n.Template) -> Iterator[Diagnostic]:
    """`@for @x in @xs` in a template file, where a script would write it."""
    text = made.span.source.text
    for part in made.parts:
        if not isinstance(part, n.Variable) or part.name not in ("for", "end", "if", "when"):
            continue
        if text.rfind("\n", 0, part.span.start) + 1 == part.span.start:
            loop = part.name in ("for", "end")
            hint = (
                "write /for @x in @xs and /end, each on a line of its own" if loop else "choose in the calling script"
            )
            yield warning("template-statement", part, f'"@{part.name}" is not valid in templates', hint)


def _reserved(name: str, node: n.Node) -> Iterator[Diagnostic]:
    if name in FIXED:
        message = f"@{name} is a name of the language, and the run will refuse to give it again"
        yield warning("reserved-name", node, message, f"choose another one, such as @my_{name}")


def _same_each_time(node: n.For) -> Iterator[Diagnostic]:
    """`for @x in @xs when @ready => …`, where nothing of the condition changes from one element to the next."""
    if node.condition is None:
        return
    seen = list(_below(node.condition))
    own = {node.variable, f"{node.variable}_key", node.key, "mx"}
    if any(isinstance(each, n.Call) or (isinstance(each, n.Variable) and each.name in own) for each in seen):
        return
    message = f"the condition does not ask about @{node.variable}, so it is the same for every element"
    yield warning("static-condition", node.condition, message, "ask it once: if @condition [ for … ]")


def _below(node: n.Node) -> Iterator[n.Node]:
    yield node
    for child in node.children():
        yield from _below(child)


def _unreachable(node: n.When) -> Iterator[Diagnostic]:
    """Cases behind one that always fits, or that fits the same."""
    always: n.Case | None = None
    asked: dict[str, n.Case] = {}
    for case in node.cases:
        if not isinstance(case, n.Case):
            asked.clear()  # a value may be another one from here on
            continue
        text = " ".join(case.condition.span.text.split())
        if always is not None:
            yield warning(
                "unreachable-case", case, "this case is never asked: * before it always fits", "put * last", always
            )
        elif text in asked and not any(isinstance(each, n.Call) for each in _below(case.condition)):
            message = "this case is never reached: the same condition stands before it"
            yield warning("unreachable-case", case, message, "remove one of them", asked[text])
        asked.setdefault(text, case)
        if isinstance(case.condition, n.Anything):
            always = always or case
