"""Commands (`cmd {…}`), bodies of code (`sh {…}`), and file loads (`<…>`): the code mode and its neighbours."""

from __future__ import annotations

import re

from .hints_directive import unclosed
from .lexer_code import balanced_end
from .lexer_text import AT, TextLexer
from .lexer_words import NAME, SPACE, words

_PLAIN = re.compile(r"[^@\\<>&|;{}\"'`]+")
_IN_DOUBLE = re.compile(r"[^@\\<\"]+")
_OPERATORS = {
    "&&": ("Shell operator AND (&&)", "runs a second command"),
    "||": ("Shell operator OR (||)", "runs a second command"),
    ";": ("Shell operator semicolon (;)", "runs a second command"),
    ">>": (">> Comments and shell append operator (>>)", "appends to a file"),
    ">": ("Shell redirection (>)", "writes a file"),
    "<": ("Shell redirection (<)", "reads a file"),
    "&": ("Background execution (&)", "goes on without the script"),
}
_OPERATOR = re.compile(r"&&|\|\||>>|[;<>&]")
_URL = re.compile(r"https?://[^\s>]+")
_PATH = re.compile(r"[^@>#{\n\\ \t\"]+|[ \t]+(?!#|as\b|\{|!#|>)|#(?=\S)|\\")
# A heading may hold `;` ("tl;dr"): it ends one only before `!#`.
_SECTION = re.compile(r"[^,>\n@\"]+?(?=\s*(?:[,>\n@]|;\s*#|;?\s*!#|\?\s*[,;>]|[ \t]as\b|$))")
_SHAPE = re.compile(r"[ \t]+as[ \t]+(?:[\"'`]|::)")
_EXCLUDES = re.compile(r"[ \t]*(?:;[ \t]*!?|!)#")
_CHOICE = re.compile(r"\{[^{}\s,>]*(?:,[^{}\s,>]*)+\}")  # `*.{ts,js}`; selectors stand behind a name: `api.ts{a,b}`
_PATH_GOES_ON = re.compile(r"[\w./*-]")
_LIST = re.compile(r"#*\?\?")
# The pipes behind a load belong to it when an operator follows them: `<a.txt> | @trim == "yes"`.
_LOAD_MEMBERS = r"(?:\.\w+|\[[^\]\n]*\])*"
_LOAD_PIPES = rf"(?:[ \t]*\|[ \t]*@{NAME}[\w.]*(?:\((?:[^()\"'`\n]|\"[^\"\n]*\"|'[^'\n]*'|`[^`\n]*`)*\))?)+"
_LOAD_STAGES = re.compile(_LOAD_MEMBERS + _LOAD_PIPES)
_JOINS = re.compile(
    r"[ \t]*(?:\?\?|[=!~]=|!~=|&&|\|\|(?=[ \t]*(?:[\"'`\d]|true\b|false\b|null\b))|[<>]=?(?=[ \t]*[\d@])|\?[ \t])"
)
_JOINING = words("ANDAND OROR NULLISH EQ CMP NOT")
_WITHOUT = re.compile(r"\s*(?:;\s*!?|!)#\s*")


class CommandLexer(TextLexer):
    load_stages_end = 0
    """Where the pipes end that belong to the load before them, and not to all of the expression that it is in."""

    # ── Commands ─────────────────────────────────────────────────────────────────────────────────

    def command(self, at: int, *, shell: bool = True) -> int:
        """From the `{` of a command to after its `}`. Braces nest; quotes are kept; `'…'` is not interpolated.

        Without `shell` (prose) quotes and operators are plain text.
        """
        opened, text = at, self.text
        self.emit("C_OPEN", None, at, at + 1)
        first = len(self.out)
        at += 1
        while at < self.size and text[at] in " \t\r\n":
            at += 1
        begin, buffer, depth, double = at, "", 0, False
        while True:
            found = (_IN_DOUBLE if double else _PLAIN).match(text, at)
            if found:
                buffer += found.group()
                at = found.end()
            mark = text[at : at + 1]
            if not mark:
                raise self.fault(
                    "unclosed-command",
                    opened,
                    opened + 1,
                    "unclosed command brackets in run directive: } is missing"
                    if self.directive(opened) == "RUN"
                    else "this command is never closed: } is missing",
                    expected=("}",),
                )
            if mark == "}" and not double and depth == 0:
                break
            if mark in "{}" and not double:
                depth += 1 if mark == "{" else -1
                buffer += mark
                at = at + 1
            elif mark == '"' and shell:
                double = not double and self._closes(at, depth)
                buffer += mark
                at = at + 1
            elif mark == "'" and not double and shell:
                end = text.find("'", at + 1)
                end = at if end < 0 or not self._before_brace(at, end, depth) else end
                buffer += text[at : end + 1]
                at = end + 1
            elif mark == "\\":
                plain = "@" if text[at + 1 : at + 2] == "@" else text[at : at + 2]
                buffer += plain
                at = at + 2
            elif mark == "@" and text.startswith("@@", at):
                buffer += "@"
                at = at + 2
            elif mark == "@" and AT.match(text, at):
                self._flush(buffer, begin, at)
                at = begin = self.interpolation(at, 'cmd"' if double else "cmd")
                buffer = ""
            elif mark == "<" and double and self._angle(at, "cmd"):
                self._flush(buffer, begin, at)
                at = begin = self.access(self.load(at, in_text=True), "cmd")
                buffer = ""
            elif shell and not double and (found := _OPERATOR.match(text, at)):
                self._refuse(found)
                buffer += found.group()
                at = found.end()
            else:
                buffer += mark
                at = at + 1
        self._flush(buffer.rstrip() if len(self.out) >= first else buffer, begin, at)
        self.emit("C_CLOSE", None, at, at + 1)
        return at + 1

    def _closes(self, at: int, depth: int) -> bool:
        """Is there a second quote, so that the first one opens a string?"""
        end = self.text.find('"', at + 1)
        return end >= 0 and self._before_brace(at, end, depth)

    def _before_brace(self, at: int, end: int, depth: int) -> bool:
        """An apostrophe is a quote only if its partner comes before the command could have ended."""
        inside = self.text[at:end]
        if "\n" not in inside:
            return True
        return inside.count("}") - inside.count("{") <= depth

    def _refuse(self, found: re.Match[str]) -> None:
        """A shell operator in a command: no shell reads it. Told, and the rest is lexed all the same."""
        name, what = _OPERATORS[found.group()]
        message = f"{name} is not allowed in cmd {{ }}. Use shell blocks instead: it {what}, and cmd runs one command"
        if found.group() == ">>":
            message = (
                f"{name} are not allowed in cmd {{ }}. Keep comments outside command blocks; to append, use sh {{ }}"
            )
        if found.group() == "&":
            message = f"{name} is not allowed in mlld. All commands run synchronously."
        self.faults.append(
            self.fault(
                "shell-in-cmd",
                found.start(),
                found.end(),
                message,
                hint="use sh { … } for shell syntax, or quote the text",
            ).diagnostic
        )

    def code(self, at: int, language: str) -> int:
        """From the `{` of a body of code to after its `}`: one CODE token, verbatim."""
        end = balanced_end(self.text, at + 1, language)
        if end < 0:
            raise self.fault(
                "unclosed-code", at, at + 1, f"unclosed code block: this {language} body has no }}", expected=("}",)
            )
        self.emit("CODE", self.text[at + 1 : end].rstrip(), at, end + 1)
        return end + 1

    # ── Loads ────────────────────────────────────────────────────────────────────────────────────

    def load(self, at: int, *, in_text: bool) -> int:
        """`<path>`, `<path # section>`, `<path { selectors }>`, with variables in the path. Returns the offset after it."""
        text, opened, joined = self.text, at, self.prev in _JOINING
        self.emit("L_OPEN", None, at, at + 1)
        at = self._spaces(at + 1)
        url = _URL.match(text, at)
        if url and "@" not in url.group():
            self.emit("TEXT", url.group(), at, url.end())
            at = url.end()
        elif text[at : at + 1] == '"':
            end = text.find('"', at + 1, self.line_end(at))
            if end < 0:
                raise self._unclosed(at, '"')
            at = self._path_until(at + 1, end) + 1
        else:
            at = self._path(at)
        at = self._spaces(at)
        if text[at : at + 1] == "{":
            at = self._selectors(at)
        elif text[at : at + 1] == "#":
            self.emit("L_HASH", "#", at, at + 1)
            at = self._sections(self._spaces(at + 1))
            if text.startswith("!#", self._spaces(at)):
                message = 'invalid section selector: use "; !# section" to start exclude selectors'
                raise self.fault(
                    "section", at, self._spaces(at) + 2, message, hint="put a ; before !#", resume=self.line_end(at)
                )
            if found := _WITHOUT.match(text, at):
                self.emit("L_WITHOUT", "!#", at, found.end())
                at = self._sections(found.end())
        at = self._spaces(at)
        if text.startswith("as ", at):
            self.emit("AS", "as", at, at + 2)
            at = self._spaces(at + 3)
            for quote in (":::", "::", '"', "`", "'"):
                if text.startswith(quote, at):
                    at = self._spaces(self.quoted(at, quote))
                    break
        if text[at : at + 1] != ">":
            raise self.fault(
                "unclosed-load",
                opened,
                opened + 1,
                f"{unclosed(self.directive(opened), '<')}: > is missing",
                expected=(">",),
                resume=self.line_end(opened),
            )
        self.emit("L_CLOSE", None, at, at + 1)
        at += 1
        if not in_text and text[at : at + 1] == "?" and text[at + 1 : at + 2] != "?":  # in text, it ends a question
            self.emit("L_OPTIONAL", "?", at, at + 1)
            at += 1
        if not in_text and (stages := _LOAD_STAGES.match(text, at)) and (joined or _JOINS.match(text, stages.end())):
            self.load_stages_end = stages.end()
        return at

    def _spaces(self, at: int) -> int:
        found = SPACE.match(self.text, at)
        return found.end() if found else at

    def _path(self, at: int) -> int:
        """An unquoted path: up to `>`, ` # section`, ` { selectors }` or ` as `."""
        begin, buffer = at, ""
        while True:
            if self.text[at : at + 1] == "@" and AT.match(self.text, at):
                self._flush(buffer, begin, at)
                at = begin = self.interpolation(at, "path")
                buffer = ""
            elif found := _PATH.match(self.text, at):
                if found.group() == "\\":
                    buffer += self.text[at + 1 : at + 2]
                    at = at + 2
                else:
                    buffer += found.group()
                    at = found.end()
            elif self.text[at : at + 1] == "@":
                buffer += "@"
                at = at + 1
            elif (found := _CHOICE.match(self.text, at)) and (
                self.text[at - 1] in "</.*-_" or _PATH_GOES_ON.match(self.text, found.end())
            ):
                buffer += found.group()
                at = found.end()
            else:
                self._flush(buffer.rstrip(), begin, at)
                return at

    def _path_until(self, at: int, end: int) -> int:
        """A quoted path, with variables."""
        begin = at
        while at < end:
            found = AT.search(self.text, at, end)
            stop = found.start() if found else end
            self._flush(self.text[begin:stop], begin, stop)
            at = begin = self.interpolation(stop, "path") if found else end
        return end

    def _sections(self, at: int) -> int:
        """Headings, separated by commas."""
        while True:
            at = self._section(at)
            after = self._spaces(at)
            if self.text[after : after + 1] != ",":
                return at
            self.emit("COMMA", ",", after, after + 1)
            at = self._spaces(after + 1)

    def _section(self, at: int) -> int:
        text = self.text
        if found := _LIST.match(text, at):
            self.emit("TEXT", found.group(), at, found.end())
            at = found.end()
        elif text[at : at + 1] == '"':
            end = text.find('"', at + 1, self.line_end(at))
            if end < 0:
                raise self._unclosed(at, '"')
            at = self._path_until(at + 1, end) + 1
        else:
            while text[at : at + 1] != "?" and not (_EXCLUDES.match(text, at) or _SHAPE.match(text, at)):
                if AT.match(text, at):
                    at = self.interpolation(at, "path")
                elif found := _SECTION.match(text, at):
                    self.emit("TEXT", found.group(), at, found.end())
                    at = found.end()
                else:
                    break
        if text[at : at + 1] == "?":
            self.emit("L_OPTIONAL", "?", at, at + 1)
            at += 1
        return at

    def _selectors(self, at: int) -> int:
        end = self.text.find("}", at)
        if end < 0:
            raise self.fault(
                "unclosed-load",
                at,
                at + 1,
                "these selectors are never closed: } is missing",
                expected=("}",),
                resume=self.line_end(at),
            )
        names = tuple(name.strip() for name in self.text[at + 1 : end].split(",") if name.strip())
        if not names:
            message = "a selector names no symbol"
            raise self.fault(
                "selector", at, end + 1, message, hint="write { name }, { *fn } or { ?? }", resume=self.line_end(at)
            )
        self.emit("L_SELECT", names, at, end + 1)
        return end + 1
