"""What a script that parses still gets wrong: names nobody made, filters that cannot fire, calls with too many
arguments, wrong configuration.

The method: one pass down the tree with a chain of scopes. A scope knows every name of its block from the start,
whatever its line: functions may call each other in any order, and a name used too early is told by the run, which
knows for certain. So everything here errs on the quiet side. What is certainly wrong is an error; what may be right
in a way that cannot be seen from one file (a name that a host gives, a label on a value of another module) is a
warning; and a file that imports without saying what (`import "./x.mld"`) gets no warnings about names.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import nodes as n
from .errors import Diagnostic
from .guards import UNGUARDED, filter_fault
from .hints import did_you_mean
from .lexer_words import words
from .resolve_config import config_faults
from .resolve_habits import habits

RESERVED = words(
    """
    mx root base now time fm frontmatter p pipeline input stdin debug output payload state keychain
    """
)
BUILT_IN = words(
    """
    parse json xml csv md upper lower trim pretty sort keep keepStructured typeof typeInfo not exists fileExists
    PARSE JSON XML CSV MD UPPER LOWER TRIM PRETTY SORT TYPEOF
    """
)
MOST_HINTS = 50
"""So many unknown names are compared with all known ones: a file with more of them is not misspelled, but of another kind."""
PREDEFINED = RESERVED | BUILT_IN | {"union", "_"}

LABELS = words(
    """
    secret sensitive pii untrusted trusted known influenced internal public llm destructive exfil privileged
    network network-write tool mcp keychain env user
    """
)
LABEL_PREFIXES = ("src:", "dir:", "mcp:", "op:", "known:", "exfil:", "destructive:", "net:", "fs:", "sys:", "tool:")
OPERATIONS = words(
    """
    cmd sh bash js javascript node py python prose run exe show log output append file files import mcp for
    foreach loop when let var template load stream checkpoint box env sign verify network net fs
    """
)


class Scope:
    """The names of a block, with what made them; `outer` is the block around."""

    __slots__ = ("names", "outer")

    def __init__(self, names: dict[str, n.Node], outer: Scope | None = None) -> None:
        self.names = names
        self.outer = outer

    def find(self, name: str) -> n.Node | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return None

    def all(self) -> Iterator[str]:
        scope: Scope | None = self
        while scope is not None:
            yield from scope.names
            scope = scope.outer


def resolve(document: n.Document) -> list[Diagnostic]:
    """Every fault and warning of a tree, in order of place."""
    resolver = Resolver(document)
    resolver.run()
    return sorted(resolver.found, key=lambda fault: fault.span.start if fault.span else 0)


class Resolver:
    def __init__(self, document: n.Document) -> None:
        self.document = document
        self.found: list[Diagnostic] = []
        self.labels: set[str] = set()
        self.hints: dict[str, str | None] = {}
        self.top: dict[str, n.Node] = {}
        self.open_world = False
        self.imports = False

    def warn(
        self, code: str, node: n.Node, message: str, hint: str | None = None, related: n.Node | None = None
    ) -> None:
        places = (("first declared here", related.span),) if related is not None else ()
        self.found.append(
            Diagnostic(code=code, message=message, span=node.span, hint=hint, severity="warning", related=places)
        )

    def run(self) -> None:
        top = self.top
        statements = [s for s in self.document.body if not isinstance(s, n.Text)]
        self._collect(statements, top)
        self._twice(statements)
        scope = Scope(top)
        for statement in statements:
            self.visit(statement, scope)

    # ── Names that the file makes ────────────────────────────────────────────────────────────────

    def _collect(self, statements: list[n.Statement], top: dict[str, n.Node]) -> None:
        """Names of the whole file, from wherever they are made, and the labels it uses."""
        level: list[n.Node] = list(statements)
        while level:
            below: list[n.Node] = []
            for node in level:
                match node:
                    case n.Var() | n.Exe():
                        top.setdefault(node.name, node)
                        self.labels.update(node.labels)
                    case n.Policy() | n.Auth():
                        top.setdefault(node.name, node)
                    case n.Let():
                        self.labels.update(node.labels)
                    case n.Labelled():
                        self.labels.update(label.strip("!") for label in node.labels)
                    case n.Import():
                        self._collect_import(node, top)
                    case n.File() | n.Files():
                        for part in getattr(node.path, "parts", getattr(node.path, "path", ())):
                            if isinstance(part, n.Variable):
                                top.setdefault(part.name, node)
                    case n.Entry(key="labels" | "addLabels" | "operations"):
                        self.labels.update(_strings(node.value))
                below.extend(node.children())
            level = below

    def _collect_import(self, node: n.Import, top: dict[str, n.Node]) -> None:
        self.imports = True
        self.labels.update(node.labels)
        for name in node.what:
            top.setdefault(name.alias or name.name, name)
        if node.alias:
            top.setdefault(node.alias, node)
        elif not node.what:
            self.open_world = True

    def _twice(self, statements: list[n.Statement]) -> None:
        seen: dict[str, n.Node] = {}
        for node in statements:
            if isinstance(node, n.Var | n.Exe):
                if node.name in seen:
                    message = f"@{node.name} is declared twice, and a name cannot be given again"
                    self.warn("redefined", node, message, "give one of them another name", seen[node.name])
                seen.setdefault(node.name, node)

    # ── Walking ──────────────────────────────────────────────────────────────────────────────────

    def visit(self, node: n.Node, scope: Scope) -> None:
        self.found += habits(node)
        match node:
            case n.Variable():
                self._variable(node, scope)
                return
            case n.Exe():
                self._let_of_parameter(node)
                names: dict[str, n.Node] = {p.name: p for p in node.parameters or ()}
                scope = Scope(names, scope)
            case n.Block() | n.When():
                made = node.body if isinstance(node, n.Block) else node.cases
                self._let_of_file(made)
                names = {s.name: s for s in made if isinstance(s, n.Let | n.Var)}
                names |= {s.name: s for s in made if isinstance(s, n.Augment) and s.operator == "="}
                scope = Scope(names, scope)
            case n.For() | n.TemplateFor():
                self.visit(node.iterable, scope)
                names = {node.variable: node, f"{node.variable}_key": node}
                if node.key:
                    names[node.key] = node
                inner = Scope(names, scope)
                for child in node.children():
                    if child is not node.iterable:
                        self.visit(child, inner)
                return
            case n.Import() if node.parameters is not None:
                scope = Scope(dict.fromkeys(node.parameters, node), scope)
            case n.Augment(operator="+="):
                self._known(node.name, node, scope)
            case n.ShadowEnvironment():
                for name in node.names:
                    self._known(name, node, scope)
            case n.Call(function=n.Variable(name=name)):
                self._arity(node, scope.find(name))
            case n.Guard() | n.Hook():
                self._filter(node.filter, scope, guards=isinstance(node, n.Guard))
            case n.Needs() | n.Profiles():
                self.found += config_faults(node)
                return
            case n.Policy() | n.Auth() | n.Box():
                self.found += config_faults(node)
            case n.Sign() | n.Verify():
                self._known(node.name, node, scope)
        for child in node.children():
            self.visit(child, scope)

    def _let_of_file(self, made: tuple[n.Node, ...]) -> None:
        """`let` cannot give another value to a name that the file declares."""
        for statement in made:
            if isinstance(statement, n.Let) and isinstance(declared := self.top.get(statement.name), n.Var | n.Exe):
                message = f"@{statement.name} is declared at the top of the file, and a name cannot be given again"
                self.warn("redefined", statement, message, "give one of them another name", declared)

    def _let_of_parameter(self, node: n.Exe) -> None:
        parameters = {p.name: p for p in node.parameters or ()}
        for statement in node.body.body if isinstance(node.body, n.Block) else ():
            if isinstance(statement, n.Let) and statement.name in parameters:
                message = f"@{statement.name} is a parameter of @{node.name}, and a name cannot be given again"
                self.warn("redefined", statement, message, "give the value another name", parameters[statement.name])

    def _variable(self, node: n.Variable, scope: Scope) -> None:
        text = node.span.source.text
        before, after = text[node.span.start - 1 : node.span.start], text[node.span.end : node.span.end + 2]
        # `me@example.com` is an address, `"@scope/package"` a package or a module, whatever the run makes of them.
        if not before.isalnum() and not (after[:1] == "/" and after[1:].isalnum()):
            self._known(node.name, node, scope)

    def _known(self, name: str, node: n.Node, scope: Scope) -> None:
        if self.open_world or name in PREDEFINED or scope.find(name) is not None:
            return
        if name not in self.hints and len(self.hints) < MOST_HINTS:
            self.hints[name] = did_you_mean(name, [*scope.all(), *PREDEFINED], "@")
        hint = self.hints.get(name) or f"declare it: var @{name} = …"
        self.warn("unknown-name", node, f"@{name} is not defined here", hint)

    def _arity(self, node: n.Call, function: n.Node | None) -> None:
        if not isinstance(function, n.Exe) or function.parameters is None:
            return
        wanted, given = len(function.parameters), len(node.arguments)
        if given > wanted and not any(isinstance(a, n.Spread) for a in node.arguments):
            names = ", ".join(p.name for p in function.parameters)
            plural = "" if wanted == 1 else "s"
            message = f"@{function.name} takes {wanted} argument{plural}, {given} are given"
            self.warn("arguments", node, message, f"its parameters are ({names})", function)

    def _filter(self, node: n.Filter, scope: Scope, *, guards: bool) -> None:
        """A filter that can match nothing protects nothing."""
        if node.kind == "function":
            self._known(node.name.split(".")[0], node, scope)
            return
        name = node.name
        if fault := filter_fault(node.kind, name):
            message, remedy = fault
            self.found.append(Diagnostic(code="filter-matches-nothing", message=message, span=node.span, hint=remedy))
            return
        known = self.labels | LABELS
        if guards and node.kind == "operation" and name in UNGUARDED and name not in known:
            message, remedy = f"no guard is asked about op:{name}", f"write op:{UNGUARDED[name]}"
            self.found.append(Diagnostic(code="filter-matches-nothing", message=message, span=node.span, hint=remedy))
            return
        if node.kind == "operation":
            first = name.split(":")[0].split(".")[0]
            if first in OPERATIONS or name in known or first in known or name.startswith(LABEL_PREFIXES):
                return
            hint = did_you_mean(first, OPERATIONS, "op:")
            message = f"op:{name} is no operation and no label of a function here"
        elif name in known or name.startswith(LABEL_PREFIXES):
            return
        else:
            hint = did_you_mean(name, known)
            message = f"nothing here has the label {name}"
        if hint or not self.imports:
            self.warn(
                "filter-matches-nothing",
                node,
                message,
                hint or "label a value or a function with it, or remove the guard",
            )


def _strings(node: n.Node) -> Iterator[str]:
    """Every text and key below a value."""
    if isinstance(node, n.Literal) and isinstance(node.value, str):
        yield node.value
    if isinstance(node, n.Entry) and node.name is None:
        yield node.key
    for child in node.children():
        yield from _strings(child)
