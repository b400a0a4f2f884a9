"""A place in a statement where something cannot stand: the tokens around it, and in words what could have stood there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .errors import Diagnostic
from .hints_directive import WORDS
from .hints_directive import missing_value as after_which_nothing
from .lexer_words import LINK_WORDS, STATEMENT_WORDS, Token
from .source import Source, Span

VALUE = frozenset({"AT", "STRING", "NUMBER", "LBRACE"})
VALUE_STARTS = frozenset({"AT", "STRING", "NUMBER", "T_OPEN", "LBRACE", "LBRACK", "TRUE", "FALSE", "NULL", "L_OPEN"})
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
_OPENERS = frozenset({"LBRACE", "LPAR", "CALL", "PARAMS", "ARGS", "LBRACK", "INDEX", "BLOCK", "CASES"})
_CLOSERS = frozenset({"RBRACE", "RPAR", "RBRACK"})
KEYWORDS = {token: word for words in (LINK_WORDS, STATEMENT_WORDS) for word, token in words.items()}


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

    def text(self, offset: int = 0) -> str:
        """A token as it is written."""
        _, _, start, end = self.at(self.index + offset)
        return self.source.text[start:end]

    def touches(self, offset: int = 0) -> bool:
        """Does the token stand right behind the one before it?"""
        return self.at(self.index + offset)[2] == self.at(self.index + offset - 1)[3]

    @property
    def line(self) -> str:
        """The line of the token."""
        return self.source.line(self.source.position(self.token[2])[0])

    def before(self) -> list[str]:
        """The kinds of the tokens before this one."""
        return [token[0] for token in self.tokens[: self.index]]

    @property
    def head(self) -> str:
        """The type of the word that began the innermost directive, or empty."""
        return next((kind for kind in reversed(self.before()) if kind in WORDS), "")

    def opener(self) -> str:
        """The kind of the innermost bracket that is open here, or empty."""
        depth = 0
        for kind in reversed(self.before()):
            if kind in _CLOSERS:
                depth += 1
            elif kind in _OPENERS:
                if not depth:
                    return kind
                depth -= 1
        return ""

    def span(self, offset: int = 0) -> Span:
        _, _, start, end = self.at(self.index + offset)
        return self.source.span(start, end)


class Said(NamedTuple):
    """What a habit says. `back`: how many tokens before the place the caret stands."""

    code: str
    message: str
    hint: str
    back: int = 0


def described(place: Place) -> str:
    if place.kind() == "END":
        return "end of the statement"
    text = place.source.text[place.token[2] : place.token[3]].split("\n")[0]
    return text if len(text) <= 40 else text[:39] + "…"


def wanted(expected: frozenset[str]) -> tuple[str, ...]:
    """What could have come, in words; the many tokens that begin a value are one thing."""
    value = expected >= VALUE
    out = ["a value"] if value else []
    hidden = VALUE_STARTS | {"BLOCK", "WORD", "ARROW"} if value else frozenset()
    out += [word for token, word in _WORDS.items() if token in expected and token not in hidden]
    out += [f"`{mark}`" for token, mark in _MARKS.items() if token in expected and token not in hidden]
    out += [KEYWORDS[token] for token in sorted(expected) if token in KEYWORDS and not value]
    return tuple(dict.fromkeys(out))[:6]


def missing_value(span: Span, directive: str = "") -> Diagnostic:
    """For a declaration that ends with its `=`, the place."""
    return Diagnostic(
        code="missing-value",
        message=after_which_nothing(directive, "="),
        span=span,
        expected=("a value",),
        hint="write the value before the next statement; null is one, too",
    )
