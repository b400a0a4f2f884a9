"""What to say about a token that cannot stand where it is: what could have, and whose habit it was.

A habit is a function of the tokens and the place; the first that recognises its case gives the message. They know
JavaScript, shell and prose, because that is what people (and models) write when they do not know mlld.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .errors import Diagnostic
from .hints import nearest
from .lexer_words import LINK_WORDS, STATEMENT_WORDS, Token
from .parser_rules import missing_value
from .source import Source, Span

_VALUE = frozenset({"AT", "STRING", "NUMBER", "LBRACE"})
_VALUE_STARTS = frozenset({"AT", "STRING", "NUMBER", "T_OPEN", "LBRACE", "LBRACK", "TRUE", "FALSE", "NULL", "L_OPEN"})
_MARKS = {
    "ASSIGN": "=",
    "ARROW": "=>",
    "COMMA": ",",
    "COLON": ":",
    "RBRACK": "]",
    "RBRACE": "}",
    "RPAR": ")",
    "LBRACE": "{",
    "PIPE": "|",
    "LBRACK": "[",
    "PARAMS": "(",
}
_WORDS = {
    "AT": "@name",
    "BLOCK": "[ … ]",
    "CASES": "[ … ]",
    "LABEL": "a label",
    "WORD": "a name",
    "KEY": "key:",
    "MODULE": "@author/module",
    "TIMING": "before, after or always",
    "STRING": '"text"',
    "END": "the end of the line",
}
_KEYWORDS = {token: word for word, token in (STATEMENT_WORDS | LINK_WORDS).items()}
_STATEMENT_HABITS = {
    "const": "var @name = …",
    "function": "exe @name(a, b) = …",
    "def": "exe @name(a, b) = …",
    "return": "=> value",
    "print": "show …",
    "echo": "show … to print, or run cmd { echo … } for the command",
    "set": "var @name = …",
    "elif": "else if",
    "switch": "when @value [ … ]",
    "match": "when @value [ … ]",
    "throw": 'bail "why"',
    "raise": 'bail "why"',
    "break": "done",
    "await": "the call alone: calls wait",
    "try": "when [ … ] with a fallback case",
}
PROSE_HINT = "in a strict file (.mld) text needs show, or >> before a comment; prose belongs in a .mld.md file"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A token among its neighbours, and what could have stood there."""

    source: Source
    tokens: list[Token]
    index: int
    expected: frozenset[str]

    @property
    def token(self) -> Token:
        return self.at(self.index)

    def at(self, index: int) -> Token:
        end = len(self.source.text)
        return self.tokens[index] if 0 <= index < len(self.tokens) else ("END", None, end, end)

    def kind(self, offset: int = 0) -> str:
        return self.at(self.index + offset)[0]

    @property
    def first(self) -> str:
        return self.tokens[0][0] if self.tokens else "END"

    @property
    def word(self) -> str:
        return str(self.token[1])


Habit = Callable[[Place], tuple[str, str, str | None] | None]
"""Code, message and hint, or None."""


def explain(source: Source, tokens: list[Token], index: int, expected: frozenset[str]) -> Diagnostic:
    """The fault of a token that cannot stand where it is."""
    place = Place(source=source, tokens=tokens, index=index, expected=expected)
    if unfinished := _unfinished(place):
        return missing_value(unfinished)
    kind, _, start, end = place.token
    if kind == "END" and index:
        start = end = tokens[index - 1][3]
    span = source.span(start, max(end, start))
    for habit in _HABITS:
        if found := habit(place):
            code, message, hint = found
            return Diagnostic(
                code=code, message=message, span=span, hint=hint, expected=() if hint else wanted(expected)
            )
    return Diagnostic(code="syntax", message=f"unexpected {described(place)}", span=span, expected=wanted(expected))


def _unfinished(place: Place) -> Span | None:
    """`var @x =` where the next line begins `exe @f`: that word was taken for the value."""
    assign, word = place.at(place.index - 2), place.at(place.index - 1)
    lines = place.source.text[assign[3] : word[2]]
    if assign[0] == "ASSIGN" and word[0] == "WORD" and word[1] in STATEMENT_WORDS and "\n" in lines:
        return place.source.span(place.tokens[0][2], assign[3])
    return None


def prose(source: Source, start: int, end: int) -> Diagnostic:
    return Diagnostic(
        code="prose", message="text content not allowed in strict mode", span=source.span(start, end), hint=PROSE_HINT
    )


def described(place: Place) -> str:
    if place.kind() == "END":
        return "end of the statement"
    text = place.source.text[place.token[2] : place.token[3]].split("\n")[0]
    return text if len(text) <= 40 else text[:39] + "…"


def wanted(expected: frozenset[str]) -> tuple[str, ...]:
    """What could have come, in words; the many tokens that begin a value are one thing."""
    value = expected >= _VALUE
    out = ["a value"] if value else []
    hidden = _VALUE_STARTS | {"BLOCK", "WORD"} if value else frozenset()
    out += [word for token, word in _WORDS.items() if token in expected and token not in hidden]
    out += [f"`{mark}`" for token, mark in _MARKS.items() if token in expected and token not in hidden]
    out += [_KEYWORDS[token] for token in sorted(expected) if token in _KEYWORDS and not value]
    return tuple(dict.fromkeys(out))[:6]


# ── Habits ───────────────────────────────────────────────────────────────────────────────────────


def _statement_word(place: Place) -> tuple[str, str, str | None] | None:
    """A statement that begins with a word which is none."""
    if place.first != "WORD":
        return None
    word = str(place.tokens[0][1])
    if instead := _STATEMENT_HABITS.get(word):
        return "habit", f"{word} is not a statement of mlld", f"write {instead}"
    if near := nearest(word, STATEMENT_WORDS):
        return "unknown-statement", f"{word} is not a statement", f"did you mean {near}?"
    return "prose", "text content not allowed in strict mode", PROSE_HINT


def _equals(place: Place) -> tuple[str, str, str | None] | None:
    if place.kind() == "ASSIGN" and place.first in ("WHEN", "IF", "FOR", "SHOW"):
        return "assignment", "= assigns, it does not compare", "write == to compare"
    if place.kind() == "EQ" and place.token[1] == "==" and place.first in ("VAR", "LET", "EXE", "POLICY", "AUTH"):
        return "comparison", "== compares, it does not assign", "write = to assign"
    if place.kind() == "ASSIGN" and place.kind(-1) == "ASSIGN":
        return "comparison", "=== is written ==", "write == to compare"
    return None


def _missing_at(place: Place) -> tuple[str, str, str | None] | None:
    before = place.at(place.index - 1)
    if place.kind() in ("ASSIGN", "LPAR") and before[0] in ("LABEL", "WORD") and "AT" in place.expected | {"AT"}:
        return "missing-at", f"{before[1]} has no @", f"write @{before[1]}"
    if place.kind(-1) == "PIPE" and place.kind() == "WORD":
        return "missing-at", "pipeline filters require the @ prefix", f"write | @{place.word}"
    if place.kind() in ("WORD", "LABEL") and "AT" in place.expected and not place.expected >= _VALUE:
        known = [_KEYWORDS[token] for token in place.expected if token in _KEYWORDS]
        if not nearest(place.word, known):
            return "missing-at", f"{place.word} has no @", f"write @{place.word}"
    return None


def _near_keyword(place: Place) -> tuple[str, str, str | None] | None:
    """`import { @a } form "x"`, `guard @g befor secret`."""
    if place.kind() not in ("WORD", "LABEL"):
        return None
    known = [_KEYWORDS[token] for token in place.expected if token in _KEYWORDS]
    known += ["before", "after", "always"] if "TIMING" in place.expected else []
    if place.word == "of" and "IN" in place.expected:
        return "habit", "for … of is written for … in", "write in"
    if near := nearest(place.word, known):
        return "unknown-word", f"unexpected {place.word}", f"did you mean {near}?"
    return None


def _braces(place: Place) -> tuple[str, str, str | None] | None:
    if (
        place.kind() == "LBRACE"
        and place.expected & {"BLOCK", "CASES"}
        and place.first in ("IF", "FOR", "WHEN", "LOOP", "BOX", "WHILE")
    ):
        return "habit", "a block is written in square brackets", "write [ … ]"
    if (
        place.first in ("EXE", "VAR", "LET", "SHOW")
        and place.kind() in ("STRING", "WORD", "AT", "T_OPEN")
        and place.kind(-2) == "LBRACE"
    ):
        return (
            "bare-braces",
            "use cmd { … } for commands or data { … } for objects.",
            "write cmd { … }, or key: value for an object",
        )
    if place.kind(-1) == "PIPE" and place.kind() == "LBRACE":
        return "bare-braces", "use cmd { … } for commands or data { … } for objects.", "write | cmd { … }"
    return None


def _arrow_function(place: Place) -> tuple[str, str, str | None] | None:
    if place.kind() == "ARROW" and place.expected & {"RPAR", "COMMA"} and place.kind(-1) in ("WORD", "RPAR"):
        return "habit", "mlld has no anonymous functions", "name it: exe @name(x) = …, or loop: for @x in @xs => …"
    if place.kind() == "ARROW" and place.first == "EXE" and "ASSIGN" not in _before(place):
        return "habit", "a function is defined with =", "write exe @name(a) = …"
    return None


def _before(place: Place) -> list[str]:
    """The kinds of the tokens before this one."""
    return [token[0] for token in place.tokens[: place.index]]


def _cases_or_statements(place: Place) -> tuple[str, str, str | None] | None:
    """`when @x [ let @y = 1  => @y ]`: the brackets hold cases, and were meant as a block."""
    before = _before(place)
    if place.kind() == "ARROW" and "CASES" in before:
        case = before[len(before) - before[::-1].index("CASES") :]
        if case[:1] in (["LET"], ["VAR"]):
            return (
                "syntax",
                "a statement where a case begins is ambiguous",
                "write when @condition => [ … ] for a block",
            )
    return None


def _ternary_pipe(place: Place) -> tuple[str, str, str | None] | None:
    if place.kind() == "PIPE" and "COLON" in place.expected and "TERN" in _before(place):
        return (
            "syntax",
            "pipe inside ternary branches is not supported yet.",
            "name the result first: var @piped = @value | @stage",
        )
    return None


def _block_in_list(place: Place) -> tuple[str, str, str | None] | None:
    """`@f([let @x = 1 => @x])`, `[@a, let @b = 1]`: a block where only a list can be."""
    if place.kind() in ("LET", "VAR") and "RBRACK" in place.expected:
        return (
            "block-in-list",
            f"{place.source.text[place.token[2] : place.token[3]]} cannot stand in a list, and a block is no argument",
            "give the block a name first, with var or let, and write that name",
        )
    return None


def _two_values(place: Place) -> tuple[str, str, str | None] | None:
    if place.first == "SHOW" and place.kind() in _VALUE_STARTS and "END" in place.expected:
        return "two-values", "show accepts only a single argument", "join them in a template: show `@a @b`"
    return None


def _comma(place: Place) -> tuple[str, str, str | None] | None:
    if place.kind() in ("KEY", "KEYOPT") and "COMMA" in place.expected:
        return "missing-comma", f"a comma is missing before {place.word}", "separate entries with commas"
    return None


_HABITS: tuple[Habit, ...] = (
    _statement_word,
    _equals,
    _braces,
    _arrow_function,
    _cases_or_statements,
    _ternary_pipe,
    _block_in_list,
    _two_values,
    _missing_at,
    _near_keyword,
    _comma,
)
