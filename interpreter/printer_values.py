"""From values back to source."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from . import nodes as n
from .parser_build import PRECEDENCE

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:-[A-Za-z0-9_]+)*\Z")
_LOOKS_LIKE_LOAD = re.compile(r"<([^<>\n]*[.*@][^<>\n]*)>")
_COMMAND_PIECES = re.compile(r"""'[^']*'|"(?:[^"]*")?|[^'"]+|'""")
_PLAIN_SECTION = re.compile(r"[A-Za-z0-9](?:[\w .-]*\w)?\Z(?<! as)")
# Text that would become part of the `@name` before it.
_TOUCHES = re.compile(r"[A-Za-z0-9_?\\]|-[A-Za-z0-9_]|\.[A-Za-z0-9_]|\[|\(|\|@")

# What binds looser than an operand, and so is put in parentheses where an operand is wanted.
LOOSE = (n.Binary, n.Ternary, n.Pipeline, n.With, n.Labelled, n.Run)


class ValuePrinter:
    """`depth` is how far blocks are indented; text inside templates and code is never moved. `in_shape`: behind `as`."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_shape = False

    def show(self, node: Any) -> str:
        method: Callable[[Any], str] = getattr(self, type(node).__name__)
        return method(node)

    def several(self, items: Iterable[Any], between: str = ", ") -> str:
        return between.join(self.show(item) for item in items)

    def operand(self, node: Any) -> str:
        text = self.show(node)
        return f"({text})" if isinstance(node, LOOSE) or _ends_open(node) else text

    def target(self, node: Any) -> str:
        """What stands before `.name`, `[…]` or `(…)`."""
        simple = (
            n.Variable,
            n.Field,
            n.Index,
            n.Slice,
            n.Wildcard,
            n.Filtered,
            n.Call,
            n.FileLoad,
            n.Placeholder,
            n.Object,
            n.Array,
        )
        return self.show(node) if isinstance(node, simple) else f"({self.show(node)})"

    def closed(self, node: Any) -> str:
        """A value with nothing open at its end."""
        text = self.show(node)
        return f"({text})" if _ends_open(node) else text

    # ── Simple values ────────────────────────────────────────────────────────────────────────────

    def Literal(self, node: n.Literal) -> str:
        match node.value:
            case None:
                return "null"
            case True:
                return "true"
            case False:
                return "false"
            case str(text):
                escaped = text.replace("\\", "\\\\").replace("'", "\\'")
                return f"'{escaped}'"
            case number:
                return _number(number)

    def Duration(self, node: n.Duration) -> str:
        return f"{_number(node.value)}{node.unit}"

    def Regex(self, node: n.Regex) -> str:
        return f"/{node.pattern}/{node.flags}"

    def Array(self, node: n.Array) -> str:
        return f"[{self.several(node.items)}]"

    def Object(self, node: n.Object) -> str:
        return f"{{ {self.several(node.entries)} }}" if node.entries else "{ }"

    def Entry(self, node: n.Entry) -> str:
        key = self.key(node.key) if node.name is None else self.show(node.name)
        return f"{key}{'?' if node.optional else ''}: {self.show(node.value)}"

    def key(self, name: str) -> str:
        if _NAME.match(name):
            return name
        escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        escaped = re.sub(r"@(?=[A-Za-z_])", r"\\@", escaped)
        return f'"{escaped}"'

    def Spread(self, node: n.Spread) -> str:
        return f"...{self.closed(node.value)}"

    def Conditional(self, node: n.Conditional) -> str:
        if node.then is None:
            return f"{self.show(node.value)}?"
        return f"{self.show(node.value)}?{self.quoted(node.then, node.then.quote if isinstance(node.then, n.Template) else '`')}"

    # ── References ───────────────────────────────────────────────────────────────────────────────

    def Variable(self, node: n.Variable) -> str:
        return f"@{node.name}"

    def Placeholder(self, node: n.Placeholder) -> str:
        return "<>"

    def Field(self, node: n.Field) -> str:
        return f"{self.target(node.target)}.{node.name}{'?' if node.optional else ''}"

    def Index(self, node: n.Index) -> str:
        return f"{self.target(node.target)}[{self.show(node.key)}]"

    def Slice(self, node: n.Slice) -> str:
        start = "" if node.start is None else self.show(node.start)
        stop = "" if node.stop is None else self.show(node.stop)
        return f"{self.target(node.target)}[{start}:{stop}]"

    def Filtered(self, node: n.Filtered) -> str:
        by = "" if node.value is None else f" {node.operator} {self.show(node.value)}"
        return f"{self.target(node.target)}[?{'.'.join(node.path)}{by}]"

    def Wildcard(self, node: n.Wildcard) -> str:
        return f"{self.target(node.target)}[*]"

    def Call(self, node: n.Call) -> str:
        if node.function == n.Variable(name="union"):
            return f"union({self.several(node.arguments)})"
        return f"{self.target(node.function)}({self.several(node.arguments)})"

    def New(self, node: n.New) -> str:
        if node.options is not None:
            return f"new {self.show(node.function)} with {self.show(node.options)}"
        return f"new {self.show(node.function)}({self.several(node.arguments)})"

    # ── Operators ────────────────────────────────────────────────────────────────────────────────

    def Unary(self, node: n.Unary) -> str:
        return f"{node.operator}{self.operand(node.operand)}"

    def Binary(self, node: n.Binary) -> str:
        if isinstance(node.left, n.Placeholder):
            return f"{node.operator} {self.operand(node.right)}"
        level = PRECEDENCE[node.operator]
        left, right = self.operand(node.left), self.operand(node.right)
        if isinstance(node.left, n.Binary) and (
            PRECEDENCE[node.left.operator] >= level or isinstance(node.left.left, n.Placeholder)
        ):
            left = self.show(node.left)
        if isinstance(node.right, n.Binary) and isinstance(node.right.left, n.Placeholder):
            right = self.show(node.right)
        return f"{left} {node.operator} {right}"

    def Ternary(self, node: n.Ternary) -> str:
        condition = (
            self.operand(node.condition) if not isinstance(node.condition, n.Binary) else self.show(node.condition)
        )
        return f"{condition} ? {self.branch(node.then)} : {self.branch(node.otherwise)}"

    def branch(self, node: Any) -> str:
        if isinstance(node, n.Block | n.Binary | n.Ternary | n.Bail):
            return self.show(node)
        return self.operand(node)

    def Labelled(self, node: n.Labelled) -> str:
        return f"{', '.join(node.labels)} {self.closed(node.value)}"

    # ── Texts ────────────────────────────────────────────────────────────────────────────────────

    def Template(self, node: n.Template) -> str:
        return self.quoted(node, node.quote)

    def quoted(self, node: Any, quote: str) -> str:
        if isinstance(node, n.Literal):
            return f"{quote}{self.plain(str(node.value), quote)}{quote}"
        body = self.parts(node.parts, quote)
        if quote in ("::", ":::"):
            body = f"\n{body}\n"
        return f"{quote}{body}{quote}"

    def parts(self, parts: tuple[Any, ...], quote: str) -> str:
        out: list[str] = []
        for index, part in enumerate(parts):
            if isinstance(part, n.Text):
                text = self.plain(part.text, quote)
                after = index > 0 and not isinstance(parts[index - 1], n.Text | n.TemplateFor)
                out.append(f"\\{text}" if after and self.touches(text, quote) else text)
            elif quote in (":::", "mtt"):
                out.append("{{" + self.show(part).removeprefix("@") + "}}")
            else:
                out.append(self.filled(part, quote))
        return "".join(out)

    def touches(self, text: str, quote: str) -> bool:
        """Would this text become part of the `@name` before it? Then a backslash goes between."""
        if quote in (":::", "mtt") or (text[:1] == "\\" and quote not in ("::", "att")):
            return False
        return _TOUCHES.match(text) is not None

    def plain(self, text: str, quote: str) -> str:
        """Text with whatever it needs so that it is read as text."""
        if quote in (":::", "mtt"):
            return text.replace("\\", "\\\\")
        if quote == "cmd":
            # What stands in single quotes is not interpolated, so nothing in it is escaped.
            return "".join(p if p.startswith("'") else p.replace("@", "\\@") for p in _COMMAND_PIECES.findall(text))
        if quote in ("::", "att"):
            text = text.replace("@", "@@")
        else:
            text = text.replace("\\", "\\\\").replace(quote, "\\" + quote).replace("@", "\\@")
            if quote == '"':
                text = text.replace("\n", "\\n")
                if not self.in_shape:  # in quotes, files are loaded only where a part begins
                    found = _LOOKS_LIKE_LOAD.match(text)
                    return f"<{found.group()}>{text[found.end() :]}" if found else text
        return _LOOKS_LIKE_LOAD.sub(r"<<\1>>", text)

    def filled(self, part: Any, quote: str) -> str:
        match part:
            case n.Binary(operator="??"):
                return f"{self.show(part.left)}??{self.show(part.right)}"
            case n.Conditional():
                return self.Conditional(part)
            case n.Pipeline():
                return self.show(part.source) + "".join(f"|{self.show(stage)}" for stage in part.stages)
            case n.TemplateFor():
                names = f"@{part.key}, @{part.variable}" if part.key else f"@{part.variable}"
                return f"/for {names} in {self.show(part.iterable)}\n{self.parts(part.parts, quote)}/end"
            case _:
                return self.show(part)

    # ── Pipelines, commands, loads ───────────────────────────────────────────────────────────────

    def Pipeline(self, node: n.Pipeline) -> str:
        caps = ""
        if node.parallel is not None:
            caps = f" ({self.show(node.parallel)}{', ' + self.show(node.delay) if node.delay is not None else ''})"
        if node.source is None:
            first, *rest = node.stages
            return f"|| {self.stage(first)}{caps}" + "".join(f" | {self.stage(s)}" for s in rest)
        source = (
            self.show(node.source)
            if isinstance(node.source, n.Binary | n.Ternary | n.With)
            else self.operand(node.source)
        )
        if node.parallel is None and node.delay is None:
            return f"{source} | {' | '.join(self.stage(s) for s in node.stages)}"
        extra = [
            f"{k}: {self.show(v)}" for k, v in (("parallel", node.parallel), ("delay", node.delay)) if v is not None
        ]
        stages = ", ".join(
            f"[{self.several(s.stages)}]" if isinstance(s, n.ParallelStage) else self.show(s) for s in node.stages
        )
        return f"{source} with {{ pipeline: [{stages}], {', '.join(extra)} }}"

    def stage(self, node: Any) -> str:
        if isinstance(node, n.ParallelStage):
            lead = "|| " if len(node.stages) == 1 else ""
            return lead + " || ".join(self.show(s) for s in node.stages)
        return self.show(node)

    def WhileStage(self, node: n.WhileStage) -> str:
        rate = f", {self.show(node.rate)}" if node.rate is not None else ""
        return f"while({self.show(node.limit)}{rate}) {self.show(node.function)}"

    def With(self, node: n.With) -> str:
        value = (
            self.show(node.value)
            if isinstance(node.value, n.Binary | n.Ternary | n.Pipeline | n.Block)
            else self.operand(node.value)
        )
        return value + self.tail(node.options, node.using)

    def tail(self, options: n.Object | None, using: n.Using | None) -> str:
        text = f" with {self.show(options)}" if options is not None else ""
        return text + (f" {self.show(using)}" if using is not None else "")

    def Using(self, node: n.Using) -> str:
        if node.auth is not None:
            return f"using auth:{node.auth}"
        return f"using {self.show(node.value)} as {node.name}"

    def Command(self, node: n.Command) -> str:
        arguments = f" ({self.several(node.arguments)})" if node.arguments else ""
        return f"cmd{arguments}{self.directory(node.directory)} {{{self.parts(node.parts, 'cmd')}}}"

    def Code(self, node: n.Code) -> str:
        arguments = f" ({self.several(node.arguments)})" if node.arguments else ""
        # A comment at the end of the body must not swallow the brace.
        end = "\n" if "\n" in node.text or "#" in node.text or "//" in node.text else ""
        return f"{node.language}{arguments}{self.directory(node.directory)} {{{node.text}{end}}}"

    def directory(self, node: Any) -> str:
        if node is None:
            return ""
        if isinstance(node, n.Literal):
            return f":{node.value}"
        return ":" + (self.path(node.parts) if isinstance(node, n.Template) else self.show(node))

    def Prose(self, node: n.Prose) -> str:
        if node.path is not None:
            return f"prose:{self.show(node.config)} {self.show(node.path)}"
        return f"prose:{self.show(node.config)} {{{self.parts(node.parts, 'cmd')}}}"

    def TemplateFile(self, node: n.TemplateFile) -> str:
        return f"template {self.show(node.path)}"

    def FileLoad(self, node: n.FileLoad) -> str:
        text = self.path(node.path)
        if node.sections:
            text += " # " + ", ".join(self.section(s) for s in node.sections)
        if node.without:
            text += "; !# " + ", ".join(self.section(s) for s in node.without)
        if node.selectors:
            text += " { " + ", ".join(node.selectors) + " }"
        self.in_shape = True
        made = node.shape
        if node.place == "text" and isinstance(made, n.Literal):
            made = n.Template(quote="`", parts=(n.Text(text=str(made.value)),))
        shape = f" as {self.show(made)}" if made is not None else ""
        self.in_shape = False
        mark = "?" if node.optional else ""
        return f"<{text}>{mark}{shape}" if node.place == "behind" else f"<{text}{shape}>{mark}"

    def path(self, parts: tuple[Any, ...]) -> str:
        shown = [
            p.text.replace("\\", "\\\\").replace("@", "\\@") if isinstance(p, n.Text) else self.show(p) for p in parts
        ]
        for index in range(1, len(parts)):
            after = isinstance(parts[index], n.Text) and not isinstance(parts[index - 1], n.Text)
            if after and self.touches(shown[index], "path"):
                shown[index] = "\\" + shown[index]
        plain = "".join(shown)
        return f'"{plain}"' if re.search(r"[\s#{>]", plain) and not plain.startswith("http") else plain

    def section(self, node: n.Section) -> str:
        name = "".join(p.text if isinstance(p, n.Text) else self.show(p) for p in node.name)
        listed = re.fullmatch(r"#*\?\?", name)
        return (name if listed or _PLAIN_SECTION.match(name) else f'"{name}"') + ("?" if node.optional else "")


def _ends_open(node: Any) -> bool:
    """`for … => x`, `when … => x`: what follows would become part of it."""
    if isinstance(node, n.For):
        return not isinstance(node.body, n.Block) or bool(node.batch)
    if isinstance(node, n.If):
        return not isinstance(node.then, n.Block)
    return isinstance(node, n.Run | n.Foreach) and (isinstance(node, n.Run) or bool(node.batch))


def _number(value: Any) -> str:
    text = repr(value)
    return text if "e" not in text else f"{value:f}"
