"""From the tree back to source: `parse(print(tree)) == tree`. Comments and layout are not in the tree, so they are
not here either.
"""

from __future__ import annotations

from typing import Any

from . import nodes as n
from .lexer_directive import GOES_ON_IN_DOCUMENT
from .printer_values import ValuePrinter


def print_source(node: n.Node) -> str:
    """The source of a document, a statement or a value."""
    return Printer().show(node)


class Printer(ValuePrinter):
    def Document(self, node: n.Document) -> str:
        front = f"---\n{node.frontmatter.text}---\n" if node.frontmatter else ""
        slash = "/" if node.mode == "document" else ""
        out = [front]
        for index, statement in enumerate(node.body):
            if isinstance(statement, n.Text):
                out.append(statement.text)
                continue
            after = node.body[index + 1] if index + 1 < len(node.body) else None
            text = f"{slash}{self.show(statement)}\n"
            # Prose such as `| a | table |` would be read as the rest of the statement: then a fence ends it.
            if isinstance(after, n.Text) and GOES_ON_IN_DOCUMENT.match(after.text.lstrip()):
                text = f"```mlld-run\n{text.removeprefix(slash)}```\n"
            out.append(text)
        return "".join(out)

    def Block(self, node: n.Block) -> str:
        return self.lines(node.body)

    def lines(self, statements: tuple[Any, ...]) -> str:
        self.depth += 1
        indent = "  " * self.depth
        body = "".join(f"\n{indent}{self.show(s)}" for s in statements)
        self.depth -= 1
        return f"[{body}\n{'  ' * self.depth}]"

    # ── Declarations ─────────────────────────────────────────────────────────────────────────────

    def labels(self, labels: tuple[str, ...]) -> str:
        return f"{', '.join(labels)} " if labels else ""

    def Var(self, node: n.Var) -> str:
        tools = "tools " if node.tools else ""
        mcp = "mcp " if node.mcp else ""
        name = f"@{node.name}{'?' if node.optional else ''}"
        return f"var {tools}{self.labels(node.labels)}{name} = {mcp}{self.show(node.value)}"

    def Let(self, node: n.Let) -> str:
        return f"let {self.labels(node.labels)}@{node.name} = {self.show(node.value)}"

    def Augment(self, node: n.Augment) -> str:
        return f"@{node.name} {node.operator} {self.show(node.value)}"

    def Exe(self, node: n.Exe) -> str:
        parameters = "" if node.parameters is None else f"({self.several(node.parameters)})"
        body = self.show(node.body) + self.tail(node.options, node.using)
        return f"exe {self.labels(node.labels)}@{node.name}{parameters} = {body}"

    def Parameter(self, node: n.Parameter) -> str:
        annotation = f": {node.annotation}" if node.annotation else ""
        default = f" = {self.closed(node.default)}" if node.default is not None else ""
        return f"{node.name}{annotation}{default}"

    def ShadowEnvironment(self, node: n.ShadowEnvironment) -> str:
        return f"exe {node.language} = {{ {', '.join(node.names)} }}"

    def Import(self, node: n.Import) -> str:
        words = ["import"]
        if node.kind:
            words.append(f"{node.kind}({self.show(node.ttl)})" if node.ttl else node.kind)
        words += [", ".join(node.labels)] if node.labels else []
        if node.kind == "policy" and not node.what:
            words.append(f"@{node.alias} from")
        elif node.what:
            words.append(f"{{ {self.several(node.what)} }} from")
        elif node.origin.form in ("mcp", "node", "python"):
            words.append("from")
        words.append(self.show(node.origin))
        if node.alias and not (node.kind == "policy" and not node.what):
            parameters = f"({', '.join(node.parameters)})" if node.parameters is not None else ""
            words.append(f"as @{node.alias}{parameters}")
        return " ".join(words) + self.tail(node.options, None)

    def ImportName(self, node: n.ImportName) -> str:
        return f"@{node.name} as @{node.alias}" if node.alias else f"@{node.name}"

    def ImportOrigin(self, node: n.ImportOrigin) -> str:
        word = f"{node.form} " if node.form in ("node", "python", "mcp") else ""
        if node.form == "load":
            return f"<{self.path(node.parts)}>"
        if node.form == "mcp" and len(node.parts) == 1 and isinstance(node.parts[0], n.Variable):
            return f"mcp {self.show(node.parts[0])}"
        if node.name is None:
            return f'{word}"{self.parts(node.parts, chr(34))}"'
        return f"{word}@{node.name}" + (f"@{node.version}" if node.version else "")

    def Export(self, node: n.Export) -> str:
        return "export { * }" if node.everything else f"export {{ {self.several(node.names)} }}"

    def Needs(self, node: n.Needs) -> str:
        return f"needs {self.requirements(node.declared)}"

    def Profiles(self, node: n.Profiles) -> str:
        return f"profiles {self.requirements(node.declared)}"

    def requirements(self, node: Any) -> str:
        """Packages stand without quotes here, where they can."""
        return self.show(node)

    def Policy(self, node: n.Policy) -> str:
        return f"policy @{node.name} = {self.closed(node.value)}"

    def Auth(self, node: n.Auth) -> str:
        return f"auth @{node.name} = {self.closed(node.value)}"

    def Guard(self, node: n.Guard) -> str:
        privileged = "privileged " if node.privileged else ""
        name = f"@{node.name} " if node.name else ""
        body = self.show(node.body) + self.tail(node.options, None)
        return f"guard {privileged}{name}{node.timing} {self.show(node.filter)} = {body}"

    def Hook(self, node: n.Hook) -> str:
        name = f"@{node.name} " if node.name else ""
        return f"hook {name}{node.timing} {self.show(node.filter)} = {self.show(node.body)}"

    def Filter(self, node: n.Filter) -> str:
        pattern = f"({self.show(node.pattern)})" if node.pattern is not None else ""
        return {"label": "", "operation": "op:", "function": "@"}[node.kind] + node.name + pattern

    # ── Effects ──────────────────────────────────────────────────────────────────────────────────

    def _word(self, word: str, value: Any) -> str:
        return word if value is None else f"{word} {self.show(value)}"

    def Show(self, node: n.Show) -> str:
        return self._word("show", node.value)

    def Log(self, node: n.Log) -> str:
        return self._word("log", node.value)

    def Run(self, node: n.Run) -> str:
        return self._word("run", node.value)

    def Stream(self, node: n.Stream) -> str:
        return f"stream {self.operand(node.value)}"

    def Output(self, node: n.Output) -> str:
        return f"{self._word('output', node.value)} to {self.show(node.target)}"

    def Append(self, node: n.Append) -> str:
        return f"{self._word('append', node.value)} to {self.show(node.target)}"

    def Target(self, node: n.Target) -> str:
        form = f" as {node.format}" if node.format else ""
        if node.path is not None:
            return self.show(node.path) + form
        if node.stream is not None:
            return node.stream + form
        return (f"env:{node.variable}" if node.variable else "env") + form

    def File(self, node: n.File) -> str:
        return f"file {self.show(node.path)} = {self.show(node.value)}"

    def Files(self, node: n.Files) -> str:
        return (
            f"files {self.show(node.path)} = {self.show(node.git) if node.git is not None else self.closed(node.value)}"
        )

    def GitSource(self, node: n.GitSource) -> str:
        return f"git {self.show(node.url)}" + "".join(f" {e.key}:{self.operand(e.value)}" for e in node.options)

    def Checkpoint(self, node: n.Checkpoint) -> str:
        return f"checkpoint {self.closed(node.name)}{self.tail(node.options, None)}"

    def Sign(self, node: n.Sign) -> str:
        by = f" by {self.show(n.Literal(value=node.by))}" if node.by else ""
        return f"sign @{node.name}{by}" + (f" with {node.method}" if node.method else "")

    def Verify(self, node: n.Verify) -> str:
        return f"verify @{node.name}"

    def ExpressionStatement(self, node: n.ExpressionStatement) -> str:
        return self.show(node.value)

    # ── Leaving, and deciding ────────────────────────────────────────────────────────────────────

    def Return(self, node: n.Return) -> str:
        return self._word("=>", node.value)

    def Done(self, node: n.Done) -> str:
        return self._word("done", node.value)

    def Continue(self, node: n.Continue) -> str:
        return self._word("continue", node.value)

    def Skip(self, node: n.Skip) -> str:
        return "skip"

    def Bail(self, node: n.Bail) -> str:
        return self._word("bail", node.message)

    def Retry(self, node: n.Retry) -> str:
        return self._word("retry", node.hint)

    def Allow(self, node: n.Allow) -> str:
        return self._word("allow", node.value) + self.tail(node.options, None)

    def Deny(self, node: n.Deny) -> str:
        return self._word("deny", node.reason)

    def EnvDecision(self, node: n.EnvDecision) -> str:
        return self._word("env", node.config)

    # ── Flow ─────────────────────────────────────────────────────────────────────────────────────

    def When(self, node: n.When) -> str:
        subject = f" {self.closed(node.subject)}" if node.subject is not None else ""
        return f"when{subject} {self.lines(node.cases)}"

    def Case(self, node: n.Case) -> str:
        return f"{self.closed(node.condition)} => {self.show(node.body)}"

    def Anything(self, node: n.Anything) -> str:
        return "*"

    def NoMatch(self, node: n.NoMatch) -> str:
        return "none"

    def WasDenied(self, node: n.WasDenied) -> str:
        return "denied"

    def If(self, node: n.If) -> str:
        arrow = "" if isinstance(node.then, n.Block) else "=> "
        otherwise = f" else {self.show(node.otherwise)}" if node.otherwise is not None else ""
        return f"if {self.closed(node.condition)} {arrow}{self.show(node.then)}{otherwise}"

    def For(self, node: n.For) -> str:
        parallel = f"{self.show(node.parallel)} " if node.parallel is not None else ""
        key = f"@{node.key}, " if node.key else ""
        path = "".join(f".{name}" for name in node.path)
        condition = f" when {self.closed(node.condition)}" if node.condition is not None else ""
        body = f"=> {self.show(node.body)}"
        if isinstance(node.body, n.Block):
            body = self.show(node.body)
        return f"for {parallel}{key}@{node.variable}{path} in {self.closed(node.iterable)}{condition} {body}{self.batch(node)}"

    def batch(self, node: Any) -> str:
        if not node.batch:
            return ""
        return f" => | {' | '.join(self.stage(s) for s in node.batch)}{self.tail(node.options, None)}"

    def Parallel(self, node: n.Parallel) -> str:
        if node.limit is None:
            return "parallel"
        return f"parallel({self.show(node.limit)}{', ' + self.show(node.rate) if node.rate is not None else ''})"

    def Foreach(self, node: n.Foreach) -> str:
        if node.function is None:
            return f"foreach {self.show(node.arguments[0])}{self.batch(node)}"
        return f"foreach {self.show(node.function)}({self.several(node.arguments)}){self.batch(node)}"

    def limits(self, limit: Any, rate: Any) -> str:
        if limit is None and rate is None:
            return ""
        return (
            f"({'endless' if limit is None else self.show(limit)}{', ' + self.show(rate) if rate is not None else ''})"
        )

    def Loop(self, node: n.Loop) -> str:
        until = f" until {self.closed(node.until)}" if node.until is not None else ""
        return f"loop{self.limits(node.limit, node.rate)}{until} {self.show(node.body)}"

    def While(self, node: n.While) -> str:
        return f"while{self.limits(node.limit, node.rate)} {self.show(node.function)}"

    def Box(self, node: n.Box) -> str:
        config = (
            f" {self.operand(node.config) if not isinstance(node.config, n.Binary) else self.show(node.config)}"
            if node.config
            else ""
        )
        return f"box{config}{self.tail(node.options, None)} {self.show(node.body)}"
