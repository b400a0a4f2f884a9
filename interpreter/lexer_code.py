"""Where a body of foreign code ends: the closing brace that belongs to its opener, past strings and comments of that language."""

from __future__ import annotations

import re

_DOUBLE = r'"(?:[^"\\]|\\.)*"'
_LINE_DOUBLE = r'"(?:[^"\\\n]|\\.)*"'
_LINE_SINGLE = r"'(?:[^'\\\n]|\\.)*'"
_REGEX = r"(?<=[(,=:\[!&|?{};\n ])/(?![*/ ])(?:[^/\\\n\[]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/"
_HEREDOC = r"<<-?[ \t]*(?P<q>['\"]?)(?P<end>[A-Za-z_]\w*)(?P=q)[^\n]*\n(?:.*?\n)?[ \t]*(?P=end)(?=\n)"
# What may hold a brace that does not count, per language. A quote that never closes is taken as a plain character.
_SKIP = {
    "js": rf"//[^\n]*|/\*.*?(?:\*/|\Z)|{_LINE_DOUBLE}|{_LINE_SINGLE}|{_REGEX}",
    "py": rf'"""(?:[^\\]|\\.)*?(?:"""|\Z)|\'\'\'(?:[^\\]|\\.)*?(?:\'\'\'|\Z)|\#[^\n]*|{_LINE_DOUBLE}|{_LINE_SINGLE}',
    "sh": rf"(?:(?<=\s)|(?<=;))\#[^\n]*|{_HEREDOC}|{_DOUBLE}|'[^']*'|\\.",
}
_PATTERNS = {name: re.compile(rf"[{{}}`]|{skip}", re.DOTALL) for name, skip in _SKIP.items()}
_PATTERNS["node"] = _PATTERNS["js"]
_BRACE = re.compile(r"[{}]")
_DIRECTIVE = re.compile(r"^/?(?:exe|var|import|export|guard|policy|show|run|when|for|if)[ \t]", re.MULTILINE)
_IN_TICKS = re.compile(r"\\.|`|\$\{", re.DOTALL)


def balanced_end(text: str, start: int, language: str) -> int:
    """The offset of the brace that closes the body which begins at `start`, or -1.

    The strings and comments of the language are respected. Where that finds no end, or runs into the next directive (a lone
    apostrophe in a here-document pairs with one far below), braces alone are counted.
    """
    end = _respectful_end(text, start, language)
    plain = _plain_end(text, start)
    if end < 0 or (0 <= plain < end and _DIRECTIVE.search(text, plain, end)):
        return plain
    return end


def _respectful_end(text: str, start: int, language: str) -> int:
    pattern = _PATTERNS[language]
    ticks = language in ("js", "node")
    opened: list[str] = []  # `{`, a template literal, or the `${` inside one
    at = start
    while True:
        found = (_IN_TICKS if opened and opened[-1] == "`" else pattern).search(text, at)
        if not found:
            return -1
        at, mark = found.end(), found.group()
        if mark in ("{", "${"):
            opened.append(mark)
        elif mark == "}":
            if not opened:
                return found.start()
            opened.pop()
        elif mark == "`" and ticks:
            if opened and opened[-1] == "`":
                opened.pop()
            else:
                opened.append("`")


def _plain_end(text: str, start: int) -> int:
    depth = 0
    for found in _BRACE.finditer(text, start):
        if found.group() == "{":
            depth += 1
        elif depth == 0:
            return found.start()
        else:
            depth -= 1
    return -1
