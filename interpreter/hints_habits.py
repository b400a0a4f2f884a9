"""What other languages, the shell and prose write where mlld writes something else: words and marks, with the mlld for them.

Tables and small functions, no knowledge of the grammar: `hints_syntax` says at which place of a statement each is
asked. People (and models) who do not know mlld write what they know, so a fault that names their habit teaches more
than a list of tokens.
"""

from __future__ import annotations

import re

from .lexer_words import words

PROSE_HINT = "in a strict file (.mld) text needs show, or >> before a comment; prose belongs in a .mld.md file"
NOT_ALLOWED = "text content not allowed in strict mode"

_EXE, _VAR, _IMPORT, _BAIL = "exe @name(a, b) = …", "var @name = …", 'import { @name } from "file.mld"', 'bail "why"'
_OBJECT = "var @name = { key: value }"
STATEMENTS = {
    "const": _VAR,
    "function": _EXE,
    "def": _EXE,
    "func": _EXE,
    "fn": _EXE,
    "return": "=> value",
    "yield": "=> value",
    "print": "show …",
    "println": "show …",
    "printf": "show …",
    "puts": "show …",
    "console": "show … to print, or log … for stderr",
    "echo": "show … to print, or run cmd { echo … } for the command",
    "set": _VAR,
    "local": _VAR,
    "elif": "else if",
    "elsif": "else if",
    "switch": "when @value [ … ]",
    "match": "when @value [ … ]",
    "throw": _BAIL,
    "raise": _BAIL,
    "panic": _BAIL,
    "exit": _BAIL,
    "assert": 'if !@condition [ bail "why" ]',
    "break": "done",
    "await": "the call alone: calls wait",
    "async": "the call alone, or for parallel(4) @x in @xs => …",
    "try": "when [ … ] with a fallback case",
    "catch": "when [ … ] with a fallback case",
    "unless": "if !@condition [ … ]",
    "require": _IMPORT,
    "class": _OBJECT,
    "struct": _OBJECT,
    "interface": _OBJECT,
    "enum": _OBJECT,
}
"""First words of statements elsewhere."""
ALSO_PROSE = {
    "from": _IMPORT,
    "include": _IMPORT,
    "use": _IMPORT,
    "source": _IMPORT,
    "load": "<file.md>, as a value",
    "type": _OBJECT,
    "my": _VAR,
    "case": "when @value [ case => action ]: a case has no word before it",
    "default": "* => action, as the last case of a when",
    "else": "else behind the ] of its if",
    "until": "loop until @condition [ … ]",
    "do": "loop [ … ]",
    "error": _BAIL,
}
"""First words, too, but of English sentences as well: they are a habit only in a line that looks like code."""
SHELL = words("ls cd cat cp mv rm mkdir chmod touch grep curl wget git npm npx pip sudo")
_CODE_LIKE = re.compile(r"[@\"'`(){}=;\[\]$]")

CONNECTIVES = {
    "and": "&&",
    "or": "||",
    "is": "==",
    "equals": "==",
    "eq": "==",
    "ne": "!=",
    "gt": ">",
    "lt": "<",
}
"""Words between two values."""
BEFORE_VALUE = {
    "not": ("not is written !", "write !{next}"),
    "typeof": ("typeof is a function", "write {next} | @typeof"),
    "await": ("calls wait by themselves", "write {next} alone"),
    "async": ("calls wait by themselves", "write {next} alone"),
    "lambda": ("mlld has no anonymous functions", "name it: exe @name(x) = …"),
    "yield": ("a value is returned with =>", "write => {next}"),
    "return": ("a value is returned with =>", "write => {next}"),
}
"""Words before a value, with what is said of them."""
VALUES = {
    "undefined": "null",
    "None": "null",
    "nil": "null",
    "NULL": "null",
    "Null": "null",
    "True": "true",
    "TRUE": "true",
    "False": "false",
    "FALSE": "false",
    "break": "done",
    "pass": "null",
    "return": "=> value",
    "permit": "allow",
    "accept": "allow",
    "reject": "deny",
    "refuse": "deny",
    "forever": "endless",
    "infinity": "endless",
}
"""Words that stand where a value should."""
FALLBACKS = frozenset({"default", "else", "otherwise", "_", "any"})

_PATH = "a path stands in quotes, or in < > to load it"
_SUFFIXES = "md|mld|txt|json|jsonl|ya?ml|csv|js|ts|py|sh|html|toml|xml|att"
# What is said of a mark that begins nothing here: the first pattern that matches the text at it.
_MARKS = tuple(
    (re.compile(pattern), message, hint)
    for pattern, message, hint in (
        (r"\$\{\s*([A-Za-z_]\w*)", "${…} is not how values are named", "write @{0}"),
        (r"[$%]([A-Za-z_]\w*)", "names begin with @", "write @{0}"),
        (r"@\{\s*@?([A-Za-z_]\w*)", "a name stands right behind its @, without braces", "write @{0}"),
        (r"@\s+([A-Za-z_]\w*)", "a name stands right behind its @", "write @{0}"),
        (r"@(\d\w*)", "variable names must start with a letter or underscore", "write @n{0}"),
        (r"@", "a name follows the @", "write @name"),
        (r"\.\.@(\w+)", 'unknown operator ".." in a spread expression.', "write ...@{0}"),
        (r"\.\.", "there are no ranges", "write the list: [1, 2, 3]"),
        (r"\.\d", "a number begins with a digit", "write 0 before the point"),
        (r"(\.\.?/[^\s,)\]}]+)", _PATH, 'write "{0}", or <{0}>'),
        (rf"\.(?:{_SUFFIXES})\b", _PATH, 'write "file.md", or <file.md>'),
        (r"\.", "unexpected .", "a name follows the dot: @x.name"),
        (r"#|//|(?<=/)/", "unexpected {mark}", ">> begins a comment"),
        (r"&", "unexpected &", "write && for and"),
        (r"\^|~", "there are no operations on bits", None),
    )
)
_MARKDOWN = re.compile(r"(?:[-*+]|\d+[.)])[ \t]+[\w*`\"]|\*\*|<!--|--|/\*|;|#|>[ \t]|\|.*\|[ \t]*$")
_FILE = re.compile(rf"[\w./-]*\.(?:{_SUFFIXES})\b")


def of_mark(text: str, at: int) -> tuple[str, str | None]:
    """Message and hint for a character that means nothing where it is."""
    for pattern, message, hint in _MARKS:
        if found := pattern.match(text, at):
            names = found.groups() or ("",)
            return message.replace("{mark}", found.group()[0]), hint and hint.format(*names)
    mark = text[at]
    return f"unexpected {mark if mark.isprintable() else f'U+{ord(mark):04X}'}", None


def of_slash(word: str, around: str, *, inside: bool) -> tuple[str, str]:
    """Message and hint for `/word` inside a block of a statement that began with `around`, or where an action or value stands."""
    if inside:
        block = f"{around.lower()} block" if around in ("FOR", "IF", "WHEN", "EXE", "LOOP", "BOX") else "block"
        message = f"unexpected '/{word}' inside {block}. Use '{word}' without the slash"
    else:
        place = {"WHEN": "when action", "FOR": "for loop action", "EXE": "exe assignment", "VAR": "var assignment"}
        message = (
            f"unexpected '/' in {place.get(around, 'action')} context."
            " The slash prefix is only for starting directive lines"
        )
    return f"{message}.", f"write {word} …"


def of_statement(word: str, line: str) -> str | None:
    """What mlld writes instead of a statement that begins with this word; `line` is all of its line."""
    if instead := STATEMENTS.get(word):
        return f"write {instead}"
    if word in ALSO_PROSE and _CODE_LIKE.search(line):
        return f"write {ALSO_PROSE[word]}"
    if word in SHELL:
        return f"write run cmd {{ {line.strip()} }}" if len(line) < 60 else "write run cmd { … }"
    return None


def is_markdown(text: str, at: int) -> bool:
    """Does the line begin as a list, a heading, a quotation, bold text, a table or a comment of another language?"""
    return bool(_MARKDOWN.match(text, at))


def of_value(word: str, after: str) -> tuple[str, str, tuple[str, ...], str]:
    """Code, message, expectation and hint for a bare word where a value should stand; `after` is the text behind it."""
    if word in FALLBACKS and after.lstrip().startswith("=>"):
        return "habit", f"{word} is written *", (), "write * => … as the last case"
    if instead := VALUES.get(word):
        return "habit", f"{word} is written {instead}", (), f"write {instead}"
    if found := _FILE.match(word + after.split("\n")[0]):
        file = found.group()
        return (
            "missing-quotes",
            f"{file} is no value",
            (f"<{file}>", f'"{file}"'),
            f'write <{file}> to load the file, or "{file}" for the text',
        )
    return (
        "missing-at",
        f"{word} is not a value",
        (f"@{word}", f'"{word}"'),
        f'write @{word} for the variable, or "{word}" for the text',
    )
