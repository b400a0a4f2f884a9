"""From reductions to nodes: statements and control flow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from . import nodes as n
from . import parser_rules as rules
from .errors import Diagnostic
from .parser_build import Children, ValueBuilder
from .source import Span

FLOWS = (n.When, n.If, n.For, n.Foreach, n.Loop, n.Box, n.Run, n.Stream)
ACTIVE = (n.Call, n.Pipeline, n.With, n.Command, n.Code, n.New, n.Labelled)
"""Values that do something, so that they may stand as a statement."""
RESERVED_ORIGINS = frozenset({"payload", "state", "input", "stdin", "now", "time", "keychain", "debug"})


class ForHead(NamedTuple):
    key: str | None
    variable: str
    path: tuple[str, ...]
    iterable: Any
    parallel: Any


class Builder(ValueBuilder):
    """Makes every node of one source."""

    def statement_of(self, value: Any) -> Any:
        if isinstance(value, FLOWS):
            return value
        if not isinstance(value, ACTIVE):
            hint = "show it, or give it a name: var @name = …"
            if isinstance(value, n.Variable):
                hint = f"write show @{value.name} to print it, or @{value.name}() to call it"
            self.fault("no-effect", value.span, "a value alone does nothing", hint=hint, expected=("a statement",))
        return n.ExpressionStatement(value=value, span=value.span)

    def start(self, c: Children, span: Span) -> Any:
        return self.judged(c[0], rules.of_top(c[0]))

    def expression_statement(self, c: Children, span: Span) -> Any:
        return self.statement_of(c[0])

    # ── Declarations ─────────────────────────────────────────────────────────────────────────────

    def var(self, c: Children, span: Span) -> Any:
        *labels, name, optional, value = c
        words = tuple(label[1] for label in labels)
        mcp = isinstance(value, _Mcp)
        made = n.Var(
            name=name[1],
            labels=tuple(w for w in words if w != "tools"),
            tools="tools" in words,
            mcp=mcp,
            optional=optional is not None,
            value=value.value if mcp else value,
            span=span,
        )
        return self.judged(made, rules.of_value(made))

    def judged(self, made: Any, faults: Iterable[Diagnostic]) -> Any:
        self.faults += faults
        return made

    def mcp(self, c: Children, span: Span) -> Any:
        return _Mcp(c[0])

    def let(self, c: Children, span: Span) -> Any:
        *labels, name, _, operator, value = c
        if operator[1] == "+=":
            return n.Augment(name=name[1], operator="+=", value=value, span=span)
        made = n.Let(name=name[1], labels=tuple(label[1] for label in labels), value=value, span=span)
        return self.judged(made, rules.of_value(made))

    def augment(self, c: Children, span: Span) -> Any:
        return n.Augment(name=c[0][1], operator=c[1][1], value=c[2], span=span)

    def exe(self, c: Children, span: Span) -> Any:
        *labels, name, parameters, body = c
        body, options, using = _without_tail(body)
        own = {parameter.name for parameter in parameters or ()}
        self.passed = [token for token in self.passed if token[1] not in own]
        made = n.Exe(
            name=name[1],
            labels=tuple(label[1] for label in labels),
            parameters=parameters,
            body=body,
            options=options,
            using=using,
            span=span,
        )
        return self.judged(made, rules.of_exe(made))

    def parameters(self, c: Children, span: Span) -> Any:
        made = tuple(p for p in c if p is not None)
        return self.judged(made, rules.of_parameters(made))

    def parameter(self, c: Children, span: Span) -> Any:
        return n.Parameter(name=c[0][1], annotation=c[1], default=c[2], span=span)

    def annotation(self, c: Children, span: Span) -> str:
        return str(c[0][1])

    def shadow_environment(self, c: Children, span: Span) -> Any:
        return n.ShadowEnvironment(language=c[0][1], names=tuple(t[1] for t in c[1:] if t), span=span)

    def import_(self, c: Children, span: Span) -> Any:
        kind, *labels = c
        rest = [x for x in labels if not (isinstance(x, tuple) and x and x[0] == "LABEL")]
        words = tuple(x[1] for x in labels if isinstance(x, tuple) and x and x[0] == "LABEL")
        what = rest.pop(0) if isinstance(rest[0], n.Export) else n.Export()
        origin, alias, options = rest
        name, parameters = alias or (None, None)
        word, ttl = kind or (None, None)
        if what.everything and what.names:
            name = what.names[0].alias
        made = n.Import(
            kind=word,
            ttl=ttl,
            labels=words,
            what=() if what.everything else what.names,
            everything=what.everything and not what.names,
            alias=name,
            parameters=parameters,
            origin=origin,
            options=options,
            span=span,
        )
        return self.judged(made, rules.of_import(made))

    def import_named(self, c: Children, span: Span) -> Any:
        (kind, ttl), name, origin, options = c
        return n.Import(kind=kind, ttl=ttl, alias=name[1], origin=origin, options=options, span=span)

    def import_kind(self, c: Children, span: Span) -> tuple[str, Any]:
        ttl = c[1]
        if ttl is not None:
            ttl = self.literal([ttl], self.source.span(ttl[2], ttl[3]))
        return c[0][1], ttl

    def import_what(self, c: Children, span: Span) -> Any:
        return n.Export(names=tuple(x for x in c if x is not None), span=span)

    def import_everything(self, c: Children, span: Span) -> Any:
        names = (n.ImportName(name="*", alias=c[1][1], span=span),) if c[1] else ()
        return n.Export(names=names, everything=True, span=span)

    def alias(self, token: Any, name: str = "") -> str:
        """The name that an import gives; it is written as all names are."""
        if token[0] != "AT":
            place = self.source.span(token[2], token[3])
            self.fault(
                "missing-at",
                place,
                f"Import aliases must include '@'. Use 'as @{token[1]}'",
                hint=f"write {name}as @{token[1]}",
            )
        return str(token[1])

    def import_name(self, c: Children, span: Span) -> Any:
        return n.ImportName(name=c[0][1], alias=c[1] and self.alias(c[1], f"{c[0][1]} "), span=span)

    def import_alias(self, c: Children, span: Span) -> tuple[str, Any]:
        return self.alias(c[0]), None if c[1] is None else tuple(p.name for p in c[1])

    def origin(self, c: Children, span: Span) -> Any:
        word, place = c if len(c) == 2 else (None, c[0])
        form: Any = {"node": "node", "python": "python", "py": "python", "mcp": "mcp"}.get(word[1]) if word else None
        if isinstance(place, tuple):
            return self._named_origin(form, place, span)
        if isinstance(place, n.FileLoad):
            return n.ImportOrigin(form=form or "load", parts=place.path, span=span)
        parts = place.parts if isinstance(place, n.Template) else (n.Text(text=str(place.value), span=place.span),)
        return n.ImportOrigin(form=form or "path", parts=parts, span=span)

    def _named_origin(self, form: Any, token: Any, span: Span) -> Any:
        kind, text = token[0], str(token[1])
        if form == "mcp":
            return n.ImportOrigin(form="mcp", parts=(n.Variable(name=text, span=span),), span=span)
        if form:
            return n.ImportOrigin(form=form, name=text, span=span)
        if kind == "AT":
            return n.ImportOrigin(form="reserved", name=text, span=span)
        name, _, version = text.partition("@")
        first = name.split("/")[0]
        if first in ("base", "root"):
            rest = n.Text(text=name[len(first) :], span=span)
            return n.ImportOrigin(form="path", parts=(n.Variable(name=first, span=span), rest), span=span)
        return n.ImportOrigin(form="module", name=name, version=version or None, span=span)

    def export(self, c: Children, span: Span) -> Any:
        what: n.Export = c[0]
        return n.Export(names=() if what.everything else what.names, everything=what.everything, span=span)

    def guard(self, c: Children, span: Span) -> Any:
        privileged, (name, timing, looks_at), body = c
        body, options, _ = _without_tail(body)
        made = n.Guard(
            name=name,
            timing=timing or "before",
            filter=looks_at,
            privileged=privileged is not None,
            body=body,
            options=options,
            span=span,
        )
        return self.judged(made, rules.of_guard(made))

    def guard_head(self, c: Children, span: Span) -> tuple[Any, Any, Any]:
        name = next((t[1] for t in c if isinstance(t, tuple) and t[0] == "AT"), None)
        timing = next((t[1] for t in c if isinstance(t, tuple) and t[0] == "TIMING"), None)
        return name, timing, c[-1]

    def hook(self, c: Children, span: Span) -> Any:
        name, timing, looks_at, body = c
        return n.Hook(name=name and name[1], timing=timing[1], filter=looks_at, body=body, span=span)

    def filter(self, c: Children, span: Span) -> Any:
        first = c[0]
        if first[0] == "LABEL":
            text = str(first[1])
            if text.startswith("op:"):
                return n.Filter(kind="operation", name=text.removeprefix("op:"), span=span)
            return n.Filter(kind="label", name=text, span=span)
        *dots, pattern = c[1:]
        return n.Filter(kind="function", name=".".join(str(t[1]) for t in (first, *dots)), pattern=pattern, span=span)

    # ── Effects ──────────────────────────────────────────────────────────────────────────────────

    def show(self, c: Children, span: Span) -> Any:
        made = n.Show(value=c[0], span=span)
        return self.judged(made, rules.of_show(made))

    def output_whole(self, c: Children, span: Span) -> Any:
        """`output "path"`: what flows, or the document so far, to a file."""
        if not isinstance(c[0], n.Literal | n.Template):
            self.fault(
                "syntax",
                span,
                "invalid output syntax: it does not say where to",
                expected=("to",),
                hint='write output @value to "file"',
            )
        return n.Output(target=n.Target(path=c[0], span=c[0].span), span=span)

    def output_plain(self, c: Children, span: Span) -> Any:
        """`output @x "path"`, an old way to write `to`."""
        target = n.Target(path=c[1], format=c[2] and c[2][1], span=c[1].span)
        return n.Output(value=c[0], target=target, span=span)

    def target(self, c: Children, span: Span) -> Any:
        place, word = c
        form = word and word[1]
        name = str(place[1]).partition("/")[0] if isinstance(place, tuple) else getattr(place, "name", "")
        named = isinstance(place, n.Variable) or (isinstance(place, tuple) and place[0] in ("AT", "MODULE"))
        if named and name not in ("base", "root"):
            message = f"unquoted variable in output target: '@{name}' would be where files are kept, as @root is"
            text = span.text.partition(" ")[0]
            self.fault("unquoted-target", span, message, hint=f'write "{text}" for the path that is its value')
        if not isinstance(place, tuple):
            return n.Target(path=place, format=form, span=span)
        kind, text = place[0], place[1]
        if kind == "STREAMNAME" and text in ("stdout", "stderr"):
            return n.Target(stream=text, format=form, span=span)
        if kind == "STREAMNAME":
            return n.Target(variable=text.partition(":")[2], format=form, span=span)
        return n.Target(path=self._place(place, span), format=form, span=span)

    def _place(self, token: Any, span: Span) -> Any:
        """`@resolver/rest/of/path` as text that begins with a variable."""
        first, _, rest = str(token[1]).partition("/")
        return n.Template(
            quote='"', parts=(n.Variable(name=first, span=span), n.Text(text="/" + rest, span=span)), span=span
        )

    def file(self, c: Children, span: Span) -> Any:
        return n.File(path=self._place(c[0], span) if isinstance(c[0], tuple) else c[0], value=c[1], span=span)

    def files(self, c: Children, span: Span) -> Any:
        path = self._place(c[0], span) if isinstance(c[0], tuple) else c[0]
        if isinstance(c[1], n.GitSource):
            return n.Files(path=path, git=c[1], span=span)
        return n.Files(path=path, value=c[1], span=span)

    def git_source(self, c: Children, span: Span) -> Any:
        entries = [
            n.Entry(key=key[1], value=value, span=self.source.span(key[2], value.span.end))
            for key, value in zip(c[1::2], c[2::2], strict=True)
        ]
        return n.GitSource(url=c[0], options=tuple(entries), span=span)

    def checkpoint(self, c: Children, span: Span) -> Any:
        name = c[0]
        if isinstance(name, n.With):
            return n.Checkpoint(name=name.value, options=name.options, span=span)
        return n.Checkpoint(name=name, span=span)

    def sign(self, c: Children, span: Span) -> Any:
        name, *rest = c
        by: Any = next((x.value for x in rest if isinstance(x, n.Literal)), None)
        method = next((x[1] for x in rest if isinstance(x, tuple)), None)
        return n.Sign(name=name[1], by=by, method=method, span=span)

    def allow(self, c: Children, span: Span) -> Any:
        value = c[0]
        if isinstance(value, n.With):
            return n.Allow(value=value.value, options=value.options, span=span)
        return n.Allow(value=value, span=span)

    def allow_with(self, c: Children, span: Span) -> Any:
        return n.Allow(options=c[0], span=span)

    def labelled(self, c: Children, span: Span) -> Any:
        return n.Labelled(labels=c[0][1], value=c[1], span=span)

    # ── Flow ─────────────────────────────────────────────────────────────────────────────────────

    def block(self, c: Children, span: Span) -> Any:
        made = n.Block(body=tuple(c), span=span)
        if len(c) > 1 and all(isinstance(s, n.ExpressionStatement) and not isinstance(s.value, ACTIVE) for s in c):
            # `[1 2 3]` was meant as a list: one fault, not one for each element.
            self.faults = [
                f for f in self.faults if not (f.code == "no-effect" and f.span and f.span.start >= span.start)
            ]
            self.fault("missing-comma", c[1].span, "a comma is missing between the elements", hint="write [1, 2, 3]")
        return self.judged(made, rules.of_block(made))

    def when(self, c: Children, span: Span) -> Any:
        made = n.When(subject=c[0], cases=tuple(c[1:]), span=span)
        return self.judged(made, rules.of_when(made))

    def when_one(self, c: Children, span: Span) -> Any:
        made = n.When(cases=(n.Case(condition=c[0], body=c[1], span=span),), span=span)
        return self.judged(made, rules.of_when(made))

    def when_block(self, c: Children, span: Span) -> Any:
        self.fault(
            "when-without-arrow",
            span,
            "when with statements in its block is ambiguous",
            hint="write => before the block: when @condition => [ … ]",
        )
        return self.when_one(c, span)

    def case(self, c: Children, span: Span) -> Any:
        return n.Case(condition=c[0], body=c[1], span=span)

    def if_(self, c: Children, span: Span) -> Any:
        return n.If(condition=c[0], then=c[1], otherwise=c[2], span=span)

    def if_one(self, c: Children, span: Span) -> Any:
        self.fault(
            "if-with-arrow",
            span,
            "invalid if syntax: 'if' uses brackets for blocks.",
            hint="write if @condition [ … ], or when @condition => … for a value",
        )
        return n.If(condition=c[0], then=c[1], span=span)

    def for_(self, c: Children, span: Span) -> Any:
        head: ForHead = c[0]
        made = n.For(**head._asdict(), condition=c[1], body=c[2], span=span)
        return self.judged(made, rules.of_for(made))

    for_block = for_

    def for_when(self, c: Children, span: Span) -> Any:
        """`for @x in @xs when [ … ]`: the cases are the body, and what none of them is for is left out."""
        head: ForHead = c[0]
        cases: tuple[Any, ...] = tuple(c[1:])
        if not any(isinstance(case, n.Case) and isinstance(case.condition, n.NoMatch) for case in cases):
            cases += (n.Case(condition=n.NoMatch(span=span), body=n.Skip(span=span), span=span),)
        return n.For(**head._asdict(), body=n.When(cases=cases, span=span), span=span)

    def comparison(self, c: Children, span: Span) -> Any:
        """`>= 0.7` as a case of `when @x [ … ]`: the left side is the subject."""
        return n.Binary(operator=c[0][1], left=n.Placeholder(span=span), right=c[1], span=span)

    def for_filter(self, c: Children, span: Span) -> Any:
        return c[0]

    def for_head(self, c: Children, span: Span) -> ForHead:
        parallel, variable, *dots, iterable = c
        return ForHead(None, variable[1], tuple(str(dot[1]) for dot in dots), iterable, parallel)

    def for_entry_head(self, c: Children, span: Span) -> ForHead:
        """`for @key, @value in @object`."""
        parallel, key, variable, *dots, iterable = c
        return ForHead(key[1], variable[1], tuple(str(dot[1]) for dot in dots), iterable, parallel)

    def parallel(self, c: Children, span: Span) -> Any:
        values: list[Any] = [self._legacy_limit(x) if isinstance(x, tuple) else x for x in c]
        limit, rate = [*values, None, None][:2]
        return n.Parallel(limit=limit, rate=rate, span=span)

    def _legacy_limit(self, token: Any) -> Any:
        span = self.source.span(token[2], token[3])
        return self.literal([token], span) if token[0] == "NUMBER" else n.Variable(name=token[1], span=span)

    def foreach(self, c: Children, span: Span) -> Any:
        made: Any = c[0]
        if isinstance(made, n.Call):
            return n.Foreach(function=made.function, arguments=made.arguments, span=span)
        if isinstance(made, n.FileLoad):
            if len(c) > 1 and c[1] is not None:
                made = self.shaped(c, span)
            return n.Foreach(function=None, arguments=(made,), span=span)
        self.fault(
            "syntax", made.span, "foreach calls a function for each element", expected=("foreach @function(@list)",)
        )
        return n.Foreach(function=made, span=span)

    def loop(self, c: Children, span: Span) -> Any:
        limits, until, body = c
        limit, rate = limits or (None, None)
        made = n.Loop(limit=limit, rate=rate, until=until, body=body, span=span)
        return self.judged(made, rules.of_loop(made))

    def box(self, c: Children, span: Span) -> Any:
        return n.Box(config=c[0], options=c[1], body=c[2], span=span)

    def batch(self, c: Children, span: Span) -> Any:
        """`… => | @f` belongs to the innermost loop at the end of what stands before it."""
        made, *stages, options = c
        placed = _into_loop(made, tuple(stages), options, span)
        if placed is None:
            self.fault("syntax", made.span, "=> | needs a for or foreach before it", hint="use | for a pipeline")
            return made
        return placed


class _Mcp:
    """The value of `var tools @t = mcp @spec`."""

    __slots__ = ("value",)

    def __init__(self, value: n.Node) -> None:
        self.value = value


def _without_tail(value: Any) -> tuple[Any, Any, Any]:
    """A value, and the options and credential that were written behind it."""
    return (value.value, value.options, value.using) if isinstance(value, n.With) else (value, None, None)


def _into_loop(made: Any, stages: tuple[Any, ...], options: Any, span: Span) -> Any:
    """The same tree with the stages given to its last loop, or None."""
    wider = made.span.to(span)
    if isinstance(made, n.For):
        inner = _into_loop(made.body, stages, options, span)
        if inner is not None:
            return replace(made, body=inner, span=wider)
        return replace(made, batch=stages, options=options, span=wider)
    if isinstance(made, n.Foreach):
        return replace(made, batch=stages, options=options, span=wider)
    for name in ("value", "body"):
        below = getattr(made, name, None)
        if isinstance(below, n.Node) and (inner := _into_loop(below, stages, options, span)) is not None:
            return replace(made, **{name: inner}, span=wider)
    return None
