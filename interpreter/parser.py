"""From tokens to the tree: the LALR automaton, statement by statement, and what the rest of the house calls.

The automaton is the textbook one over the table of `parser_table`. It is written out here, and not lark's own, for
three reasons: a fault in one statement must not end the file, positions must be exact, and a warm start must not
import lark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import nodes as n
from .errors import Diagnostic, SyntaxFault
from .hints_habits import of_value
from .hints_syntax import explain
from .lexer import MOST_FAULTS, lex, lex_template
from .lexer_words import Token
from .parser_build_statements import Builder
from .parser_table import Table, table
from .source import Mode, Source, Span, mode_of

DEEPEST_TREE = 150
"""What an evaluator can walk without running out of stack."""
_WHOLE_LINE = frozenset({"habit", "missing-at", "missing-quotes", "bare-command", "unknown-language", "prose"})
_FOLLOWS = frozenset({"semicolon", "no-effect", "missing-comma"})
SHALLOW = 100
"""A statement with fewer tokens cannot be that deep."""


def parse(source: Source, mode: Mode | None = None) -> tuple[n.Document, list[Diagnostic]]:
    """The tree and all faults; statements with a fault are missing from the tree."""
    mode = mode or mode_of(source.name)
    lexed = lex(source, mode)
    faults = list(lexed.faults)
    automaton = Automaton(source)
    body: list[Any] = []
    prose_before = 0
    for tokens in lexed.items:
        if len(automaton.builder.faults) >= MOST_FAULTS:
            break
        if tokens[0][0] == "TEXT":
            body.append(n.Text(text=str(tokens[0][1]), span=source.span(tokens[0][2], tokens[0][3])))
        elif tokens[0][0] == "WORD" and prose_before and tokens[0][2] <= prose_before:
            prose_before = tokens[-1][3] + 1  # the fault of the paragraph was told at its first line
        elif (made := automaton.run(tokens, "start")) is not None:
            body.append(made)
        elif automaton.builder.faults and automaton.builder.faults[-1].code == "prose":
            prose_before = tokens[-1][3] + 1
    faults = told_once([*faults, *automaton.builder.faults])
    frontmatter = None
    if lexed.frontmatter:
        _, text, start, end = lexed.frontmatter
        frontmatter = n.Frontmatter(text=str(text), span=source.span(start, end))
    span = source.span(0, len(source.text))
    document = n.Document(
        source=source, mode=mode, frontmatter=frontmatter, body=tuple(body), fences=lexed.fences, span=span
    )
    return document, faults


def parse_or_raise(source: Source, mode: Mode | None = None) -> n.Document:
    """The tree, or a SyntaxFault with every fault of the file."""
    document, faults = parse(source, mode)
    if faults:
        raise SyntaxFault(faults)
    return document


def parse_template(source: Source, quote: str | None = None) -> n.Template:
    """The body of a template file: `.att` interpolates `@x`, `.mtt` interpolates `{{x}}`."""
    quote = quote or ("mtt" if source.name.endswith(".mtt") else "att")
    tokens, faults = lex_template(source, quote)
    automaton = Automaton(source)
    parts = automaton.run(tokens, "template_body") if not faults else ()
    faults = [*faults, *automaton.builder.faults]
    if faults:
        raise SyntaxFault(faults)
    return n.Template(quote=quote, parts=tuple(parts), span=source.span(0, len(source.text)))  # type: ignore[arg-type]


def tokens(source: Source, mode: Mode | None = None) -> list[Token]:
    """Every token of the file, in order, for editors."""
    lexed = lex(source, mode or mode_of(source.name))
    front = [lexed.frontmatter] if lexed.frontmatter else []
    return front + [token for item in lexed.items for token in item]


class Automaton:
    """Shifts and reduces. One for each source; `run` parses one statement."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.builder = Builder(source)
        self.table = table()
        self.makers = makers(self.table, self.builder)

    def run(self, tokens: list[Token], start: str) -> Any:
        """The value of the start rule, or None after a fault (which the builder then holds)."""
        actions, rules, makers, source = self.table.actions, self.table.rules, self.makers, self.source
        end_state = self.table.ends[start]
        states = [self.table.starts[start]]
        values: list[Any] = []
        begins: list[int] = []
        last = tokens[0][2] if tokens else 0
        before = len(self.builder.faults)
        size = len(source.text)
        if start == "start" and tokens[0][0] == "WORD":
            self.builder.faults.append(explain(source, tokens, 0, frozenset()))
            return None
        for index, token in enumerate([*tokens, ("$END", None, size, size)]):
            kind = token[0]
            while True:
                action = actions[states[-1]].get(kind)
                if action is None:
                    self.builder.faults.append(explain(source, tokens, index, self.expected(tokens[:index], start)))
                    return None
                if action >= 0:
                    states.append(action)
                    values.append(token)
                    begins.append(token[2])
                    if token[3] > last:
                        last = token[3]
                    break
                number = -1 - action
                rule = rules[number]
                pops = rule.pops
                if pops:
                    children = values[-pops:]
                    begin = begins[-pops]
                    del states[-pops:], values[-pops:], begins[-pops:]
                else:
                    children, begin = [], token[2]
                if not rule.single:
                    children = rule.children(children)
                    made = children if rule.inline else makers[number](children, Span(source, begin, max(last, begin)))
                else:
                    made = children[rule.plan[0]]
                state = actions[states[-1]][rule.origin]
                states.append(state)
                values.append(made)
                begins.append(begin)
                if kind == "$END" and state == end_state:
                    return self._finished(made, tokens, before)
        return None

    def expected(self, tokens: list[Token], start: str) -> frozenset[str]:
        """The tokens that can follow these. The table alone says too much: a state forgets from where it was reached."""
        states = [self.table.starts[start]]
        for token in tokens:
            states = self._shifted(states, token[0]) or states
        return frozenset(
            kind for kind in self.table.actions[states[-1]] if kind.isupper() and self._shifted(states, kind)
        )

    def _shifted(self, states: list[int], kind: str) -> list[int] | None:
        """The stack after the reductions and the shift that a token causes, or None."""
        states = states.copy()
        while (action := self.table.actions[states[-1]].get(kind)) is not None:
            if action >= 0:
                return [*states, action]
            rule = self.table.rules[-1 - action]
            if rule.pops:
                del states[-rule.pops :]
            states.append(self.table.actions[states[-1]][rule.origin])
        return None

    def _finished(self, made: Any, tokens: list[Token], before: int) -> Any:
        """A last look at what the grammar cannot see: words without `@`, and depth."""
        builder = self.builder
        for token in (*builder.bare.values(), *builder.passed):
            builder.faults.append(bare_word(self.source, token))
        builder.bare.clear()
        builder.passed.clear()
        if len(tokens) > SHALLOW and isinstance(made, n.Node) and (deep := too_deep(made)):
            builder.fault(
                "too-deep",
                deep.span,
                f"nested more than {DEEPEST_TREE} levels deep",
                hint="give the inner part a name of its own",
            )
        return made if len(builder.faults) == before else None


def makers(made: Table, builder: Builder) -> list[Callable[[list[Any], Span], Any]]:
    """For each rule the function that makes its node."""
    found: list[Callable[[list[Any], Span], Any]] = []
    for rule in made.rules:
        method = getattr(builder, rule.name, None)
        found.append(method or _by_name(rule.name))
    return found


def _by_name(rule: str) -> Callable[[list[Any], Span], Any]:
    """The maker of a rule that only has a node class: its children become the fields, in order."""
    name = "".join(part.capitalize() for part in rule.strip("_").split("_"))
    cls = getattr(n, name, None)
    if not (isinstance(cls, type) and issubclass(cls, n.Node)):
        return lambda children, span: tuple(children)
    names = [field for field, _ in cls._plan if field != "span"]

    def make(children: list[Any], span: Span) -> Any:
        values = [
            child[1] if type(child) is tuple and len(child) == 4 and type(child[0]) is str else child
            for child in children
        ]
        return cls(span=span, **dict(zip(names, values, strict=False)))

    return make


def too_deep(root: n.Node) -> n.Node | None:
    """The first node that is nested deeper than an evaluator can walk."""
    level = [root]
    for _ in range(DEEPEST_TREE):
        level = [child for node in level for child in node.children()]
        if not level:
            return None
    return level[0]


def told_once(faults: list[Diagnostic]) -> list[Diagnostic]:
    """In order of place. What follows from another fault of its line is left out: a semicolon or a value that does
    nothing, in a line that is not mlld at all.
    """
    faults.sort(key=lambda fault: fault.span.start if fault.span else 0)
    worse = {fault.span.line for fault in faults if fault.span and fault.code in _WHOLE_LINE}
    return [f for f in faults if not (f.span and f.code in _FOLLOWS and f.span.line in worse)]


def bare_word(source: Source, token: Token) -> Diagnostic:
    """The fault of a word that stands where a value should."""
    _, word, start, end = token
    code, message, expected, hint = of_value(str(word), source.text[end : end + 80])
    return Diagnostic(code=code, message=message, span=source.span(start, end), expected=expected, hint=hint)
