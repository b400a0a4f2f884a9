"""From reductions to nodes: values. One function for each rule of the grammar that needs one; statements are in
`parser_build_statements`.

A rule without a function here makes the node class of its name, with its children as fields in order.
"""

from __future__ import annotations

from typing import Any

from . import nodes as n
from . import parser_rules as rules
from .errors import Diagnostic
from .lexer_words import Token
from .source import Source, Span

Children = list[Any]
"""Of a rule: nodes, tokens (tuples), tuples of nodes, and None where an optional part is absent."""

PRECEDENCE = {
    "??": 1,
    "||": 2,
    "&&": 3,
    "==": 4,
    "!=": 4,
    "~=": 4,
    "!~=": 4,
    "<": 5,
    ">": 5,
    "<=": 5,
    ">=": 5,
    "+": 6,
    "-": 6,
    "*": 7,
    "/": 7,
    "%": 7,
}
ENDLESS = n.Literal(value="endless")
"""Stands for the word until `limits` sees it."""


class ValueBuilder:
    """Makes the nodes of one source. `bare` holds words that stand where a value should, until a place that allows
    them takes them out; `passed` holds those that are arguments, until a function takes out its own parameters.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.faults: list[Diagnostic] = []
        self.bare: dict[int, Token] = {}
        self.passed: list[Token] = []

    def fault(
        self, code: str, span: Span, message: str, *, hint: str | None = None, expected: tuple[str, ...] = ()
    ) -> None:
        self.faults.append(Diagnostic(code=code, message=message, span=span, hint=hint, expected=expected))

    def allow_bare(self, value: Any) -> Any:
        self.bare.pop(id(value), None)
        return value

    # ── Simple values ────────────────────────────────────────────────────────────────────────────

    def literal(self, c: Children, span: Span) -> Any:
        kind, text = c[0][0], c[0][1]
        if kind == "NUMBER":
            return n.Literal(value=float(text) if "." in text else int(text), span=span)
        if kind == "DURATION":
            unit = text[-2:] if text.endswith("ms") else text[-1]
            number = text[: -len(unit)]
            return n.Duration(value=float(number) if "." in number else int(number), unit=unit, span=span)
        if kind == "ENDLESS":
            return ENDLESS
        return n.Literal(value={"TRUE": True, "FALSE": False, "NULL": None}.get(kind, text), span=span)

    def bareword(self, c: Children, span: Span) -> Any:
        made = n.Literal(value=c[0][1], span=span)
        self.bare[id(made)] = c[0]
        return made

    def string(self, c: Children, span: Span) -> Any:
        return n.Literal(value=c[0][1][1], span=span)

    def regex(self, c: Children, span: Span) -> Any:
        return n.Regex(pattern=c[0][1][0], flags=c[0][1][1], span=span)

    def template(self, c: Children, span: Span) -> Any:
        return n.Template(quote=c[0][1], parts=tuple(c[1:-1]), span=span)

    def plain(self, c: Children, span: Span) -> Any:
        return n.Text(text=c[0][1], span=span)

    def template_for(self, c: Children, span: Span) -> Any:
        first, second, iterable, *parts = c
        key, variable = (first, second) if second else (None, first)
        return n.TemplateFor(key=key and key[1], variable=variable[1], iterable=iterable, parts=tuple(parts), span=span)

    def array(self, c: Children, span: Span) -> Any:
        return n.Array(items=_present(c), span=span)

    def object(self, c: Children, span: Span) -> Any:
        return n.Object(entries=tuple(self._entry(e) for e in c if e is not None), span=span)

    def _entry(self, made: Any) -> Any:
        if isinstance(made, n.Entry | n.Spread | n.Conditional):
            return made
        if isinstance(made, n.Literal) and isinstance(made.value, str):
            self.allow_bare(made)
            return n.Entry(key=made.value, value=n.Literal(value=True, span=made.span), span=made.span)
        if isinstance(made, n.Variable):
            return n.Entry(key=made.name, value=made, span=made.span)
        self.fault("syntax", made.span, "an object holds key: value pairs", expected=("key: value", "...@spread"))
        return n.Entry(key="", value=made, span=made.span)

    def entry(self, c: Children, span: Span) -> Any:
        return n.Entry(key=c[0][1], value=c[1], span=span)

    def entry_optional(self, c: Children, span: Span) -> Any:
        return n.Entry(key=c[0][1], value=c[1], optional=True, span=span)

    def entry_named(self, c: Children, span: Span) -> Any:
        made = c[0]
        if isinstance(made, n.Literal):
            return n.Entry(key=str(made.value), value=c[1], span=span)
        return n.Entry(key=made.span.text[1:-1], value=c[1], name=made, span=span)

    # ── References ───────────────────────────────────────────────────────────────────────────────

    def optional(self, c: Children, span: Span) -> Any:
        made = c[0]
        if isinstance(made, n.Field):
            return n.Field(target=made.target, name=made.name, optional=True, span=span)
        return made  # `@x?.y`: a variable that is null gives null for `y` all the same

    def index(self, c: Children, span: Span) -> Any:
        target, key = c
        if isinstance(key, tuple):
            return n.Slice(target=target, start=key[0], stop=key[1], span=span)
        if isinstance(key, n.Filtered):
            return n.Filtered(target=target, path=key.path, operator=key.operator, value=key.value, span=span)
        if isinstance(key, n.Anything):
            return n.Wildcard(target=target, span=span)
        return n.Index(target=target, key=self.allow_bare(key), span=span)

    def filtered(self, c: Children, span: Span) -> n.Filtered:
        """What stands in the brackets; `index` puts the array in its place."""
        path, operator = c[0][1]
        operator = "==" if operator == "=" else operator
        if (operator is None) != (len(c) == 1):
            self.fault(
                "syntax", span, "a filter compares a field with a value", expected=("[?field == value]", "[?field]")
            )
        nobody = n.Literal(value=None, span=span)
        return n.Filtered(target=nobody, path=path, operator=operator, value=c[1] if len(c) > 1 else None, span=span)

    def slice(self, c: Children, span: Span) -> tuple[Any, Any]:
        return c[0], c[1]

    def slice_from(self, c: Children, span: Span) -> tuple[Any, Any]:
        return c[0], None

    def slice_to(self, c: Children, span: Span) -> tuple[Any, Any]:
        return None, c[0]

    def slice_all(self, c: Children, span: Span) -> tuple[Any, Any]:
        return None, None

    def arguments(self, c: Children, span: Span) -> tuple[Any, ...]:
        made = tuple(self._passed(argument) for argument in _present(c))
        self.faults += rules.of_arguments(made)
        return made

    def _passed(self, argument: Any) -> Any:
        """A word as an argument: the parameter of that name, which the function around the call must have."""
        token = self.bare.pop(id(argument), None)
        if token is None:
            return argument
        self.passed.append(token)
        return n.Variable(name=str(token[1]), span=argument.span)

    def conditional(self, c: Children, span: Span) -> Any:
        return n.Conditional(value=c[0], then=c[2] if len(c) > 2 else None, span=span)

    def new(self, c: Children, span: Span) -> Any:
        made: Any = c[0]
        if isinstance(made, n.Call):
            return n.New(function=made.function, arguments=made.arguments, span=span)
        return n.New(function=made, span=span)

    def union(self, c: Children, span: Span) -> Any:
        return n.Call(function=n.Variable(name="union", span=span), arguments=c[0], span=span)

    # ── Operators ────────────────────────────────────────────────────────────────────────────────

    def unary(self, c: Children, span: Span) -> Any:
        operator, operand = c[0][1], c[1]
        if operator == "-" and isinstance(operand, n.Literal) and isinstance(operand.value, int | float):
            return n.Literal(value=-operand.value, span=span)
        return n.Unary(operator=operator, operand=operand, span=span)

    def binary(self, c: Children, span: Span) -> Any:
        """A flat list of operands and operators, by precedence; equal ones from the left."""
        operands: list[Any] = [c[0]]
        waiting: list[str] = []

        def combine() -> None:
            right, left = operands.pop(), operands.pop()
            made = n.Binary(operator=waiting.pop(), left=left, right=right, span=left.span.to(right.span))  # type: ignore[arg-type]
            self.faults += rules.of_binary(made)
            operands.append(made)

        for token, operand in zip(c[1::2], c[2::2], strict=True):
            while waiting and PRECEDENCE[waiting[-1]] >= PRECEDENCE[token[1]]:
                combine()
            waiting.append(token[1])
            operands.append(operand)
        while waiting:
            combine()
        return operands[0]

    def tight_default(self, c: Children, span: Span) -> Any:
        return n.Binary(operator="??", left=c[0], right=c[1], span=span)

    # ── Pipelines and options ────────────────────────────────────────────────────────────────────

    def stages(self, c: Children, span: Span) -> Any:
        made: tuple[Any, ...] = tuple(stage for stage in c if isinstance(stage, n.Node))
        together = len(made) > 1 or isinstance(c[0], tuple)
        return n.ParallelStage(stages=made, span=span) if together else made[0]

    def piped(self, c: Children, span: Span) -> Any:
        source, *stages = c
        if isinstance(source, n.Pipeline) and source.source is None:
            return n.Pipeline(
                source=None, stages=(*source.stages, *stages), parallel=source.parallel, delay=source.delay, span=span
            )
        return n.Pipeline(source=source, stages=tuple(stages), span=span)

    def leading(self, c: Children, span: Span) -> Any:
        _, group, caps = c
        if not isinstance(group, n.ParallelStage):
            group = n.ParallelStage(stages=(group,), span=group.span)
        limit, delay = caps or (None, None)
        return n.Pipeline(source=None, stages=(group,), parallel=limit, delay=delay, span=span)

    def caps(self, c: Children, span: Span) -> tuple[Any, Any]:
        return c[0], c[1]

    def limits(self, c: Children, span: Span) -> tuple[Any, Any]:
        return (None if c[0] is ENDLESS else c[0]), c[1]

    def while_(self, c: Children, span: Span) -> Any:
        return n.While(limit=c[0][0], rate=c[0][1], function=c[1], span=span)

    def while_stage(self, c: Children, span: Span) -> Any:
        made = c[0]
        return n.WhileStage(limit=made.limit, rate=made.rate, function=made.function, span=span)

    def options(self, c: Children, span: Span) -> Any:
        made: n.Object = c[0]
        for entry in made.entries:
            if isinstance(entry, n.Entry):
                self.allow_bare(entry.value)
        return made

    def with_(self, c: Children, span: Span) -> Any:
        value: Any = c[0]
        options = c[1]
        if isinstance(value, n.New) and value.options is None and not value.arguments:
            return n.New(function=value.function, options=options, span=span)
        using = None
        if isinstance(value, n.With) and value.options is None:
            value, using = value.value, value.using
        piped, rest = self._pipeline_options(value, options, span)
        if rest is None and using is None:
            return piped
        return n.With(value=piped, options=rest, using=using, span=span)

    def _pipeline_options(self, value: Any, options: n.Object, span: Span) -> tuple[Any, n.Object | None]:
        """`with { pipeline: […], parallel: n, delay: d }` is another spelling of `|`."""
        found = {
            e.key: e.value
            for e in options.entries
            if isinstance(e, n.Entry) and e.key in ("pipeline", "parallel", "delay")
        }
        if "pipeline" not in found:
            return value, options
        listed = found["pipeline"]
        if not isinstance(listed, n.Array):
            self.fault("syntax", listed.span, "pipeline holds a list of stages", expected=("[ @stage, … ]",))
            return value, options
        stages = tuple(self._listed_stage(item) for item in listed.items)
        made = value
        if stages:
            limit, delay = found.get("parallel"), found.get("delay")
            made = n.Pipeline(source=value, stages=stages, parallel=limit, delay=delay, span=span)
        rest = tuple(e for e in options.entries if not (isinstance(e, n.Entry) and e.key in found))
        return made, n.Object(entries=rest, span=options.span) if rest else None

    def _listed_stage(self, item: Any) -> Any:
        if isinstance(item, n.Array):
            return n.ParallelStage(stages=tuple(self._listed_stage(i) for i in item.items), span=item.span)
        return item

    def using(self, c: Children, span: Span) -> Any:
        label = str(c[0][1])
        if not label.startswith("auth:"):
            self.fault("syntax", span, f"using {label} names no credential", expected=("auth:name", "@value as NAME"))
        return n.Using(auth=label.removeprefix("auth:"), span=span)

    def with_using(self, c: Children, span: Span) -> Any:
        value, using = c
        if isinstance(value, n.With) and value.using is None:
            return n.With(value=value.value, options=value.options, using=using, span=span)
        return n.With(value=value, using=using, span=span)

    def using_value(self, c: Children, span: Span) -> Any:
        name = c[1][1]
        return n.Using(value=c[0], name=name[1] if isinstance(name, tuple) else name, span=span)

    # ── Code, commands, loads ────────────────────────────────────────────────────────────────────

    def code_head(self, c: Children, span: Span) -> Any:
        return c[0]

    def directory(self, c: Children, span: Span) -> _Directory:
        parts = [n.Text(text=p[1], span=span) if isinstance(p, tuple) else p for p in c]
        if len(parts) == 1 and isinstance(parts[0], n.Text):
            return _Directory(n.Literal(value=parts[0].text, span=span))
        return _Directory(parts[0] if len(parts) == 1 else n.Template(quote='"', parts=tuple(parts), span=span))

    def command(self, c: Children, span: Span) -> Any:
        directory = next((p.value for p in c if isinstance(p, _Directory)), None)
        arguments = next((p for p in c if isinstance(p, tuple)), ())
        parts: tuple[Any, ...] = tuple(p for p in c if isinstance(p, n.Node))
        return n.Command(parts=parts, arguments=arguments, directory=directory, span=span)

    def code(self, c: Children, span: Span) -> Any:
        arguments = next((p for p in c[1:-1] if isinstance(p, tuple)), ())
        directory = next((p.value for p in c[1:-1] if isinstance(p, _Directory)), None)
        return n.Code(language=c[0][1], text=c[-1][1], arguments=arguments, directory=directory, span=span)

    def prose(self, c: Children, span: Span) -> Any:
        return n.Prose(config=c[0], parts=tuple(c[1:]), span=span)

    def prose_file(self, c: Children, span: Span) -> Any:
        return n.Prose(config=c[0], path=c[1], span=span)

    def path(self, c: Children, span: Span) -> tuple[Any, ...]:
        return _present(c)

    def sections(self, c: Children, span: Span) -> tuple[str, Any]:
        return "sections", tuple(c)

    def without(self, c: Children, span: Span) -> tuple[str, Any]:
        return "without", tuple(c)

    def selectors(self, c: Children, span: Span) -> tuple[str, Any]:
        return "selectors", c[0][1]

    def shape(self, c: Children, span: Span) -> tuple[str, Any]:
        return "shape", c[0]

    def section(self, c: Children, span: Span) -> Any:
        return n.Section(name=tuple(c[:-1]), optional=c[-1] is not None, span=span)

    def load(self, c: Children, span: Span) -> Any:
        path, *tails, optional = c
        said = dict(tails)
        if "shape" in said and "sections" in said:
            said["place"] = "text" if said["shape"].span.text.startswith(("`", "::")) else "heading"
        return n.FileLoad(path=path, optional=optional is not None, span=span, **said)

    def shaped(self, c: Children, span: Span) -> Any:
        load: n.FileLoad = c[0]
        return n.FileLoad(
            path=load.path,
            sections=load.sections,
            without=load.without,
            selectors=load.selectors,
            optional=load.optional,
            shape=c[1],
            span=span,
        )


class _Directory:
    """The directory of a command, so that it is told apart from its parts."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _present(children: Children) -> tuple[Any, ...]:
    return tuple(c for c in children if c is not None)
