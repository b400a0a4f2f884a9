"""What the grammar lets through and the language does not: rules about one node and its children, judged while the node is made."""

from __future__ import annotations

import re
from collections.abc import Iterator

from . import nodes as n
from .errors import Diagnostic
from .hints_place import missing_value

_EXE_BEFORE = re.compile(r"\bexe\b[^\n]*=[ \t]*\Z")
NO_CASE_AFTER = "the 'none' keyword cannot appear after a wildcard (*) as it would never execute"


def fault(code: str, node: n.Node, message: str, hint: str | None = None) -> Diagnostic:
    return Diagnostic(code=code, message=message, span=node.span, hint=hint)


def of_block(made: n.Block) -> Iterator[Diagnostic]:
    """Nothing comes after `=>`, and what is declared is declared with `let`."""
    for index, statement in enumerate(made.body):
        if isinstance(statement, n.Var):
            of_exe = _EXE_BEFORE.search(made.span.source.text, 0, made.span.start)
            told = "use 'let' instead of 'var' inside exe blocks" if of_exe else "use 'let' inside blocks"
            yield fault(
                "var-in-block", statement, f"{told}: var is for the whole file", f"write let @{statement.name} = …"
            )
        if isinstance(statement, n.Return) and index < len(made.body) - 1:
            message = "return must be the last statement in a block"
            if any(isinstance(later, n.Return) for later in made.body[index + 1 :]):
                message = "multiple return statements in a block: only one is allowed, and it comes last"
            yield fault("unreachable", made.body[index + 1], message, "nothing behind => is reached: remove it")


def of_top(made: n.Node) -> Iterator[Diagnostic]:
    """What stands at the top of a file is constant."""
    if isinstance(made, n.Let):
        hint = f"use var at the top of a file: write var @{made.name} = …"
        yield fault("let-at-top", made, "'let' is for block-scoped variables -- temporary, mutable", hint)
    elif isinstance(made, n.Augment):
        hint = f"write var @next = …, or change @{made.name} in a block"
        yield fault("augment-at-top", made, f"@{made.name} cannot be changed at the top of a file", hint)


def of_arguments(arguments: tuple[n.Node, ...]) -> Iterator[Diagnostic]:
    for argument in arguments:
        if isinstance(argument, n.Pipeline) and not isinstance(argument.source, n.FileLoad):
            message = "pipe expressions are not supported inside function arguments"
            yield fault(
                "pipe-in-argument", argument, message, "name the result first: let @piped = … | …, then pass @piped"
            )


def of_when(made: n.When) -> Iterator[Diagnostic]:
    """`none` comes last and alone; nothing comes after `*`."""
    cases = [case for case in made.cases if isinstance(case, n.Case)]
    for case in cases:
        if isinstance(case.body, n.Augment) and case.body.operator == "=":
            told = f"variable assignment `@{case.body.name} = …` is not allowed in when actions"
            yield fault(
                "assignment", case.body, told, "give the value with => and name it outside: let @x = when [ … ]"
            )
    ended = False
    for case in cases:
        if isinstance(case.condition, n.NoMatch):
            if ended:
                yield fault("none-after-wildcard", case.condition, NO_CASE_AFTER, "put none before *")
        elif isinstance(case.condition, n.Anything):
            ended = True
    nones = [isinstance(case.condition, n.NoMatch) for case in cases]
    if True in nones and not ended and not all(nones[nones.index(True) :]):
        first = cases[nones.index(True)].condition
        yield fault(
            "none-not-last",
            first,
            "the 'none' keyword must be the last condition(s) in a when block",
            "move none to the end",
        )


def of_guard(made: n.Guard) -> Iterator[Diagnostic]:
    """Decisions say why, and privilege is given, not refused."""
    cases = [case for case in made.body.cases if isinstance(case, n.Case)] if isinstance(made.body, n.When) else []
    if isinstance(made.body, n.When) and not cases:
        yield fault(
            "guard-decision", made, "a guard without a case decides nothing", 'write * => deny "why", or * => allow'
        )
    for case in cases:
        if isinstance(case.body, n.Deny) and not _says(case.body.reason):
            message = "Guard deny actions require a quoted reason"
            yield fault("guard-decision", case.body, message, 'write deny "why": whoever was denied gets to read it')
        if isinstance(case.body, n.Retry) and not _says(case.body.hint):
            message = "Guard retry actions require a hint"
            yield fault("guard-decision", case.body, message, 'write retry "what to do better"')
    said = made.options.get("privileged") if made.options is not None else None
    if said is not None and not (isinstance(said, n.Literal) and said.value is True):
        message = "Guard privilege clause only supports true"
        yield fault("guard-privilege", said, message, "without privilege, leave the clause out")


def _says(text: n.Node | None) -> bool:
    """Can this be a text?"""
    if isinstance(text, n.Literal):
        return isinstance(text.value, str)
    return text is not None and not isinstance(text, n.Object | n.Array)


def of_binary(made: n.Binary) -> Iterator[Diagnostic]:
    for side in (made.left, made.right):
        if isinstance(side, n.NoMatch):
            what = (
                "used in compound expressions with operators"
                if made.operator in ("&&", "||")
                else "used with operators"
            )
            yield fault(
                "none-in-expression", side, f"the 'none' keyword cannot be {what}", "let none stand alone before =>"
            )
    if made.operator == "+" and all(
        isinstance(s, n.Template) or (isinstance(s, n.Literal) and isinstance(s.value, str))
        for s in (made.left, made.right)
    ):
        message = "string concatenation with + is not supported. Use template strings instead."
        yield fault("string-plus", made, message, "write `@first and @second` in backticks")


def no_none(value: n.Node | None) -> Iterator[Diagnostic]:
    """`none` where no case is."""
    if isinstance(value, n.NoMatch):
        message = "the 'none' keyword can only be used as a condition within /when directives"
        yield fault("none-outside-when", value, message, "write null for no value")


def no_statement(made: n.Var | n.Let | n.Exe) -> Iterator[Diagnostic]:
    """`var @x = var @y = 1`: a declaration where the value should be."""
    value = made.body if isinstance(made, n.Exe) else made.value
    if isinstance(value, n.Var | n.Let):
        source = made.span.source
        end = made.span.start + len(source.text[made.span.start : value.span.start].rstrip())
        yield missing_value(source.span(end - 1, end), type(made).__name__.upper())


def of_value(made: n.Var | n.Let) -> Iterator[Diagnostic]:
    yield from no_none(made.value)
    yield from no_statement(made)
    if isinstance(made.value, n.TemplateFile):
        yield fault(
            "template-in-var",
            made.value,
            "'template' keyword can only be used in exe definitions: the file is a function, not a value",
            f"write exe @{made.name}() = template …",
        )


def of_show(made: n.Show) -> Iterator[Diagnostic]:
    """`show cmd { … }`: what a command prints is shown by running it."""
    value = made.value.value if isinstance(made.value, n.With) else made.value
    value = value.source if isinstance(value, n.Pipeline) else value
    if isinstance(value, n.Command | n.Code | n.Run):
        what = "code" if isinstance(value, n.Code) and value.language != "sh" else "commands"
        run = value.span.text if isinstance(value, n.Run) else f"run {value.span.text}"
        yield fault("show-command", made, f"show does not execute {what}", f"write {' '.join(run.split())[:60]}")


def of_exe(made: n.Exe) -> Iterator[Diagnostic]:
    yield from no_statement(made)
    if isinstance(made.body, n.Run) and isinstance(made.body.value, n.Code):
        told = "invalid 'run' keyword in exe definition: a function has the code itself as its body"
        yield fault("run-in-exe", made.body, told, f"write {made.body.value.span.text.split('{')[0].strip()} {{ … }}")
    if isinstance(made.body, n.Run) and isinstance(made.body.value, n.Variable):
        name = made.body.value.name
        yield fault(
            "run-variable",
            made.body,
            f"run @{name} is not a call. Invalid exe syntax.",
            f"write run @{name}(…), or run cmd {{ … }}",
        )


def of_parameters(made: tuple[n.Parameter, ...]) -> Iterator[Diagnostic]:
    seen: set[str] = set()
    for parameter in made:
        if parameter.name in seen:
            yield fault(
                "duplicate-parameter",
                parameter,
                f"@{parameter.name} is a parameter twice",
                "give one of them another name",
            )
        seen.add(parameter.name)


def of_import(made: n.Import) -> Iterator[Diagnostic]:
    seen: set[str] = set()
    for item in made.what:
        name = item.alias or item.name
        if name in seen:
            origin = made.origin.span.text.strip("\"'")
            message = f"Import collision - '{name}' already imported from {origin}. Alias one of the imports."
            yield fault("import-collision", item, message, f"write {item.name} as @other_{name}")
        seen.add(name)
    if made.everything:
        yield fault(
            "import-wildcard",
            made,
            "wildcard imports must have an alias. Use 'import { * as @name }' or the shorthand"
            " 'import \"path/to/file.mld\" as @name'",
            'import a namespace: import "…" as @name, or { * as @name }',
        )


def of_for(made: n.For) -> Iterator[Diagnostic]:
    """The element of a round cannot be given again in its block."""
    for statement in made.body.body if isinstance(made.body, n.Block) else ():
        if isinstance(statement, n.Let) and statement.name in (made.variable, made.key):
            message = f"Variable '{statement.name}' is already defined and cannot be redefined"
            yield fault(
                "variable-redefinition", statement, message, "it is the element of the loop; choose another name"
            )


def of_loop(made: n.Loop) -> Iterator[Diagnostic]:
    if isinstance(made.limit, n.Literal | n.Template) and not (
        isinstance(made.limit, n.Literal) and type(made.limit.value) in (int, float)
    ):
        yield fault("loop-limit", made.limit, "loop limit expects a number.", "write loop(10) or loop(endless)")
    for statement in made.body.body:
        if isinstance(statement, n.Return) and not isinstance(statement.value, n.Done | n.Continue):
            hint = "write done @value to end the loop, continue @value for the next round"
            yield fault(
                "return-in-loop",
                statement,
                "return statements are not allowed in loop blocks. Use done or continue.",
                hint,
            )
        if isinstance(statement, n.Retry):
            yield fault(
                "retry-in-loop", statement, "use 'continue' instead of 'retry' in loop bodies", "write continue @value"
            )
