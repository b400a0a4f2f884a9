"""The words and marks of the language: what the lexer recognises, and where.

A word is a keyword only in the place where it means something: `show` begins a statement, `with` follows a value, `cmd` begins one.
Everywhere else (object keys, parameters, labels, imported names) the same letters are just a name.
"""

from __future__ import annotations

import re

Token = tuple[str, object, int, int]
"""Type, value, start, end."""


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


NAME = r"[A-Za-z_][A-Za-z0-9_]*(?:-[A-Za-z0-9_]+)*"

# `[?price > 10]`: a field of the elements, and how it compares.
FILTER = re.compile(rf"\?\s*({NAME}(?:\.{NAME})*)\s*(==|!=|<=|>=|=|<|>|~)?")

# A statement may begin with one of these. In a document each is written with a leading slash.
STATEMENT_WORDS = {
    word: word.upper()
    for word in words(
        """
    var exe show log run stream output append file files import export needs profiles policy auth guard hook
    let when if for foreach loop while box bail checkpoint sign verify done continue skip retry allow deny
    """
    )
} | {"env": "BOX"}

# A value may begin with one of these.
VALUE_WORDS = {
    "true": "TRUE",
    "false": "FALSE",
    "null": "NULL",
    "none": "NONE",
    "denied": "DENIED",
    "endless": "ENDLESS",
    "new": "NEW",
    "when": "WHEN",
    "if": "IF",
    "for": "FOR",
    "foreach": "FOREACH",
    "loop": "LOOP",
    "while": "WHILE",
    "box": "BOX",
    "env": "BOX",
    "run": "RUN",
    "stream": "STREAM",
    "template": "TEMPLATE",
    "union": "UNION",
    "parallel": "PARALLEL",
    "until": "UNTIL",
    "git": "GIT",
    "mcp": "MCP",
    "to": "TO",
}
# After `=>`, `|`, and where else an action may stand for a value.
ACTION_WORDS = VALUE_WORDS | {
    word: word.upper()
    for word in words(
        """
    show log output append done continue skip retry bail allow deny let var file files
    """
    )
}

# These follow a value.
LINK_WORDS = {
    "with": "WITH",
    "using": "USING",
    "as": "AS",
    "in": "IN",
    "to": "TO",
    "from": "FROM",
    "until": "UNTIL",
    "when": "WHERE",
    "else": "ELSE",
    "by": "BY",
    "parallel": "PARALLEL",
}

LANGUAGES = {
    "sh": "sh",
    "bash": "sh",
    "js": "js",
    "javascript": "js",
    "node": "node",
    "nodejs": "node",
    "py": "py",
    "python": "py",
}
IMPORT_KINDS = frozenset(["module", "static", "live", "local", "cached", "templates", "tools", "policy"])
IMPORT_ORIGINS = frozenset(["node", "python", "py", "mcp"])

# Values end with one of these; what follows is an operator, a link or the end.
VALUE_ENDS = words(
    """
    AT DOT NUMBER DURATION STRING REGEX T_CLOSE C_CLOSE CODE L_CLOSE L_OPTIONAL RBRACK RPAR RBRACE COND TRUE FALSE NULL
    NONE DENIED ENDLESS WORD LABEL SPEC ANY MODULE STREAMNAME PLACEHOLDER
    """
)
# A value cannot end here: the next line goes on.
OPEN_ENDS = words(
    """
    ASSIGN AUGMENT PIPE BATCH COMMA OROR ANDAND NULLISH EQ CMP ADD STAR SLASH NOT MINUS TERN COLON AS FROM
    IN TO ELSE USING BY KEY KEYOPT KEYED SPREAD
    """
)

# What opens and closes a level, as tokens.
OPENING = frozenset(
    ["BLOCK", "CASES", "LBRACK", "INDEX", "LBRACE", "LPAR", "CALL", "PARAMS", "ARGS", "T_OPEN", "C_OPEN", "L_OPEN"]
)
CLOSING = frozenset(["RBRACK", "RBRACE", "RPAR", "T_CLOSE", "C_CLOSE", "L_CLOSE"])

OPERATORS = {
    "=>": "ARROW",
    "+=": "AUGMENT",
    "==": "EQ",
    "!=": "EQ",
    "~=": "EQ",
    "!~=": "EQ",
    "<=": "CMP",
    ">=": "CMP",
    "<": "CMP",
    ">": "CMP",
    "&&": "ANDAND",
    "||": "OROR",
    "??": "NULLISH",
    "=": "ASSIGN",
    "|": "PIPE",
    "!": "NOT",
    "+": "ADD",
    "-": "MINUS",
    "*": "STAR",
    "/": "SLASH",
    "%": "SLASH",
    "?": "TERN",
    ":": "COLON",
    ",": "COMMA",
    "...": "SPREAD",
}

SPACE = re.compile(r"(?:[ \t\r\u00a0\u200b\u200c\u200d]+|\\\n)*")
COMMENT = re.compile(r"(?:>>|<<)[^\n]*")
# One step of the lexer in directive mode; the name of the group says what was seen.
STEP = re.compile(
    rf"""
      (?P<at>@(?:{NAME}))
    | (?P<dot>\.(?:{NAME}|\d+))
    | (?P<number>\d+(?:\.\d+)?(?:(?P<unit>ms|[smhdw])(?![A-Za-z0-9_]))?)
    | (?P<newline>\n)
    | (?P<quote>:::|::|["'`])
    | (?P<operator>=>|\.\.\.|\+=|!~=|[=!~<>]=|&&|\|\||\?\?|[=|!+\-*/%?:,<>])
    | (?P<open>[\[({{])
    | (?P<close>[\])}}])
    | (?P<word>{NAME})
    | (?P<semicolon>;)
    """,
    re.VERBOSE,
)
LABEL = re.compile(r"[A-Za-z_][\w-]*(?:[:.][\w*/-]+)*!?")
LABEL_CHANGE = re.compile(
    r"[ \t]*((?:clear!|trusted!|!(?=[A-Za-z])[\w:-]+|[A-Za-z_][\w-]*(?::[\w-]+)*)"
    r"(?:[ \t]*,[ \t]*(?:clear!|trusted!|![\w:-]+|[A-Za-z_][\w-]*(?::[\w-]+)*))*)[ \t]+(?=[@\"'`])"
)
MODULE = re.compile(r"@[A-Za-z_][\w-]*(?:/[\w.\-]+)+(?:@[\w.^~<>=!*+-]+)?")
SPECIFICATION = re.compile(r"[^\s,\[\]{}:\"'()]+")
KEY = re.compile(rf"({NAME}|\d+|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')[ \t]*(\?)?[ \t]*:(?!:)")
