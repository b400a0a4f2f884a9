"""What is open, missing or wrong, by the directive it belongs to: "unclosed array in var directive".

A fault names the directive, so that what a person looks up, or another tool greps for, is in the first line.
"""

from __future__ import annotations

from .lexer_words import STATEMENT_WORDS

WORDS = {token: word for word, token in STATEMENT_WORDS.items()}
"""Types of the tokens that begin a directive, with the word as it is written."""

_MARKS = {
    "[": "array",
    "{": "object",
    "(": "parenthesis",
    '"': "string",
    "'": "string",
    "`": "backtick template",
    "::": "double-colon template",
    ":::": "triple-colon template",
    "<": "alligator bracket",
}
_OF = {
    ("EXE", "("): "parameters",
    ("IMPORT", "{"): "import list",
    ("IMPORT", '"'): "quoted path",
    ("IMPORT", "'"): "quoted path",
    ("OUTPUT", '"'): "quoted path",
    ("APPEND", '"'): "quoted path",
    ("RUN", '"'): "quoted command",
    ("VAR", "::"): "template",
    ("WHEN", "["): "brackets",
}
_BLOCKS = frozenset({"IF", "FOR", "LOOP", "BOX", "EXE", "GUARD", "HOOK"})


def unclosed(directive: str, mark: str) -> str:
    """What a mark opens in a directive (given by the type of its token, or empty) and nothing closes."""
    if mark == "[" and directive in _BLOCKS:
        what = "unterminated block"
    elif mark == "(" and directive != "EXE":
        what = "unclosed parenthesis in expression"
    else:
        what = f"unclosed {_OF.get((directive, mark), _MARKS[mark])}"
    word = WORDS.get(directive)
    if word is None or "expression" in what:
        return what
    return f"{what} in {word} directive"


def never_closed(text: str, opened: int, at: int) -> bool:
    """Does what stands behind `at` close no more brackets than it opens, of the kind that was opened at an offset?"""
    mark = text[opened]
    return text.count({"[": "]", "{": "}", "(": ")"}[mark], at) <= text.count(mark, at)


_MISSING = {
    "VAR": "missing value in var directive",
    "LET": "missing value in let directive",
    "EXE": "missing value in exe directive",
}


def block_wanted(spelled: str) -> str:
    """What `env` or `box` without a block lacks."""
    return "env requires a block syntax with [ ]" if spelled == "env" else "box requires a block"


def missing_value(directive: str, after: str) -> str:
    """For a directive that ends where its value should be, behind `after`."""
    if after in ("box", "env"):
        return f"{block_wanted(after)}: nothing follows"
    if after == WORDS.get(directive):
        return (
            f"invalid {after} syntax. Nothing follows"
            if after in ("when", "if")
            else f"missing content in {after} directive"
        )
    if after == "=" and directive in _MISSING:
        return f"{_MISSING[directive]}: there is no value after ="
    if directive in ("OUTPUT", "APPEND") and after == "to":
        return f"missing target in {WORDS[directive]} directive: there is no value after to"
    if directive == "IMPORT" and after == "from":
        return "missing path in import directive: there is no value after from"
    if after == "=>":
        return "missing action after '=>'"
    return f"there is no value after {after}"


_INVALID = frozenset({"VAR", "EXE", "IMPORT", "EXPORT", "FOR", "WHEN", "IF", "SHOW", "RUN", "OUTPUT", "LOG"})


def unexpected(directive: str, what: str) -> str:
    """For a token that cannot stand in a directive, of which no more is known."""
    return f"invalid {WORDS[directive]} syntax. Unexpected {what}" if directive in _INVALID else f"unexpected {what}"
