"""What a fault should say: the nearest name, and the habits of other languages."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import Diagnostic
from .lexer_words import STATEMENT_WORDS, Token
from .source import Source


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant: at most a third of its letters differ (moved, missing, wrong), or only its case."""
    best, least = None, max(1, len(name) // 3) + 1
    for candidate in known:
        if abs(len(candidate) - len(name)) < least:
            distance = _distance(name, candidate, least)
            if distance < least:
                best, least = candidate, distance
    return best


def did_you_mean(name: str, known: Iterable[str], mark: str = "") -> str | None:
    found = nearest(name, known)
    return f"did you mean {mark}{found}?" if found else None


def _distance(a: str, b: str, limit: int) -> int:
    """Edits between two words, swapped neighbours counting one; capital letters count nothing. `limit` if there are as many."""
    a, b = a.lower().replace("-", "_"), b.lower().replace("-", "_")
    two_back: list[int] = []
    back = list(range(len(b) + 1))
    for i, left in enumerate(a):
        row = [i + 1]
        for j, right in enumerate(b):
            row.append(min(back[j + 1] + 1, row[j] + 1, back[j] + (left != right)))
            if i and j and left == b[j - 1] and a[i - 1] == right:
                row[-1] = min(row[-1], two_back[j - 1] + 1)
        if min(row) >= limit:
            return limit
        two_back, back = back, row
    return back[-1]


# ── Unexpected tokens ────────────────────────────────────────────────────────────────────────────

VALUE = frozenset({"AT", "STRING", "NUMBER", "LBRACE"})
SHOWN = {
    "ASSIGN": "=", "ARROW": "=>", "COMMA": ",", "COLON": ":", "RBRACK": "]", "RBRACE": "}", "RPAR": ")", "LBRACK": "[", "BLOCK": "[ … ]",
    "LBRACE": "{", "PARAMS": "(", "IN": "in", "FROM": "from", "TO": "to", "AS": "as", "WITH": "with", "PIPE": "|", "END": "the end of the line",
    "TIMING": "before, after or always", "LABEL": "a label", "WORD": "a name", "KEY": "key:", "MODULE": "@author/module", "WHEN": "when",
    "ELSE": "else", "SPREAD": "...", "UNTIL": "until",
}  # fmt: skip


def explain(source: Source, tokens: list[Token], index: int, expected: list[str]) -> Diagnostic:
    """The fault of a token that cannot stand where it is."""
    token = tokens[index] if index < len(tokens) else ("END", None, len(source.text), len(source.text))
    span = source.span(token[2], max(token[3], token[2] + 1))
    for habit in HABITS:
        if (found := habit(source, tokens, index)) is not None:
            code, message, hint = found
            return Diagnostic(code=code, message=message, span=span, hint=hint)
    return Diagnostic(
        code="syntax", message=f"unexpected {described(source, token)}", span=span, expected=wanted(expected), hint=None
    )


def described(source: Source, token: Token) -> str:
    if token[0] == "END":
        return "end of the statement"
    text = source.text[token[2] : token[3]].split("\n")[0]
    return text if len(text) <= 40 else text[:39] + "…"


def wanted(expected: Iterable[str]) -> tuple[str, ...]:
    """The tokens that could have come, in words; all that begin a value are one."""
    names = [name for name in expected if name.isupper()]
    out = ["a value"] if set(names) >= VALUE else []
    if not out:
        out += [f"@{'name'}"] if "AT" in names else []
    out += [
        SHOWN[name]
        for name in SHOWN
        if name in names and not (out == ["a value"] and name in ("LBRACK", "LBRACE", "WORD", "BLOCK", "WHEN"))
    ]
    return tuple(out[:5])


def _javascript(source: Source, tokens: list[Token], index: int) -> tuple[str, str, str] | None:
    token = tokens[index] if index < len(tokens) else None
    if (
        token
        and index == 0
        and token[0] == "WORD"
        and token[1] in ("const", "function", "return", "def", "print", "echo", "set")
    ):
        instead = {
            "const": "var @name = …", "function": "exe @name(a, b) = …", "return": "=> value", "def": "exe @name(a, b) = …",
            "print": "show …", "echo": "show …", "set": "var @name = …",
        }[str(token[1])]  # fmt: skip
        return "habit", f"{token[1]} is not a statement of mlld", f"write {instead}"
    return None


def _prose(source: Source, tokens: list[Token], index: int) -> tuple[str, str, str] | None:
    token = tokens[index] if index < len(tokens) else None
    if index == 0 and token and token[0] not in STATEMENT_WORDS.values():
        word = str(token[1]) if token[0] == "WORD" else ""
        if word and (near := nearest(word, STATEMENT_WORDS)):
            return "unknown-statement", f"{word} is not a statement", f"did you mean {near}?"
        return (
            "prose",
            "text without a statement",
            "in a strict file (.mld) text needs show, or >> before a comment; prose belongs in a .mld.md file",
        )
    if index > 0 and token and token[0] == "WORD" and tokens[0][0] == "WORD":
        return (
            "prose",
            "text without a statement",
            "in a strict file (.mld) text needs show, or >> before a comment; prose belongs in a .mld.md file",
        )
    return None


def _missing_at(source: Source, tokens: list[Token], index: int) -> tuple[str, str, str] | None:
    token = tokens[index] if index < len(tokens) else None
    before = tokens[index - 1] if index else None
    if token and token[0] in ("ASSIGN", "LPAR") and before and before[0] in ("LABEL", "WORD", "LET", "VAR"):
        return "missing-at", f"{before[1]} has no @", f"write @{before[1]}"
    return None


def _equals(source: Source, tokens: list[Token], index: int) -> tuple[str, str, str] | None:
    token = tokens[index] if index < len(tokens) else None
    if token and token[0] == "ASSIGN" and tokens[0][0] in ("WHEN", "IF", "FOR", "SHOW"):
        return "assignment", "= assigns, it does not compare", "write == to compare"
    if token and token[0] == "EQ" and token[1] == "==" and tokens[0][0] in ("VAR", "LET", "EXE"):
        return "comparison", "== compares, it does not assign", "write = to assign"
    return None


HABITS = (_equals, _missing_at, _javascript, _prose)
