"""The template mode: text with `@x`, `<file>` and `{{x}}` in it, between quotes, in commands and in template files."""

from __future__ import annotations

import re

from .hints_directive import unclosed
from .lexer_base import DEEPEST, BaseLexer, LexFault
from .lexer_words import NAME
from .source import Source

AT = re.compile(rf"@({NAME})")
_ACCESS = re.compile(rf"\.({NAME}|\d+)")
_INDEX = re.compile(
    rf"\[\s*(?:-?\d+|\*|\"[^\"\n]*\"|'[^'\n]*'|@?{NAME}(?:\.{NAME})*|"
    rf"\?\s*{NAME}(?:\.{NAME})*\s*(?:(?:[=!<>]?=|[<>~])\s*(?:\"[^\"\n]*\"|'[^'\n]*'|@?[\w.-]+))?|"
    rf"(?:-?\d+|@{NAME}(?:\.{NAME})*)?\s*:\s*(?:-?\d+|@{NAME}(?:\.{NAME})*)?)\s*\](?!\()"
)
_PIPE = re.compile(rf"\|(?=@{NAME})")
_TIGHT_DEFAULT = re.compile(r"""\?\?("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')""")
# `<a href="x.html">`; `<@12345>`, since no name begins with a digit.
_NO_FILE = re.compile(r"[a-zA-Z][\w-]*\s+[a-zA-Z][\w-]*\s*=\s*[\"']|@[&!]?\d+$")
_FOR = re.compile(r"/for(?=[ \t]+@)")
_END = re.compile(r"/end\b")
_BRACES = re.compile(rf"\{{\{{\s*({NAME})")
_SIMPLE_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}
_LITERAL_ESCAPES = frozenset("\\\"'.@[]{}`$")
_PLAIN_ESCAPES = _LITERAL_ESCAPES - {"."}
"""In single quotes: nothing is filled in there, and so no dot has to be told apart from a field."""

# Where text stops being plain, per kind of text.
# A block of mlld in a template file shows the language: nothing in it is filled in.
_MLLD_FENCE = re.compile(r"[ \t]*```[ \t]*mlld(?!-run)\b[^\n]*(?=\n)", re.IGNORECASE)
_FENCE_END = re.compile(r"\n[ \t]*```[ \t]*\r?(?=\n|\Z)")
_FENCE = r"(?m:^[ \t]*```)"
_STOPS = {
    '"': re.compile(r'["@<\\\n]|!@|>>'),
    "`": re.compile(r"[`@<\\/]|!@|>>"),
    "::": re.compile(r"::|[@<\\/]|>>"),
    "att": re.compile(r"[@<\\/]|>>|" + _FENCE),
    ":::": re.compile(r":::|\{\{|\\|@(?=@)"),
    "mtt": re.compile(r"\{\{|\\|@(?=@)|" + _FENCE),
    "cmd": re.compile(r"[@\\<>&|;{}\"'`]"),
    'cmd"': re.compile(r'[@\\<"]'),
    "path": re.compile(r"@"),
}


class TextLexer(BaseLexer):
    """Templates. A text without anything to fill in becomes one STRING; any other T_OPEN, parts, T_CLOSE."""

    text_depth = 0
    _trying = False

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._marks: dict[str, tuple[int, int, int]] = {}

    # ── Quoted texts ─────────────────────────────────────────────────────────────────────────────

    def quoted(self, at: int, quote: str) -> int:
        """A text in quotes that opens at `at`. Returns the offset after it."""
        if quote == "'":
            return self._single(at)
        self.text_depth += 1
        if self.text_depth > DEEPEST:
            raise self.fault("too-deep", at, at + 1, f"templates nested more than {DEEPEST} levels deep")
        first = len(self.out)
        shape = self.prev == "AS"
        self.emit("T_OPEN", quote, at, at + len(quote))
        end = self.parts(at + len(quote), quote, at, shape=shape)
        self.emit("T_CLOSE", quote, end, end + len(quote))
        self.text_depth -= 1
        if quote in ("::", ":::"):
            self._strip_newlines(first)
        content = [token for token in self.out[first + 1 : -1] if token is not None]
        if all(token[0] == "TEXT" for token in content):
            value = "".join(str(token[1]) for token in content)
            del self.out[first:]
            self.emit("STRING", (quote, value), at, end + len(quote))
        return end + len(quote)

    def _single(self, at: int) -> int:
        end = at + 1
        pieces: list[str] = []
        while True:
            stop = _SINGLE_STOP.search(self.text, end)
            if not stop:
                raise self._unclosed(at, "'")
            pieces.append(self.text[end : stop.start()])
            end = stop.end()
            mark = stop.group()
            if mark == "'":
                break
            pieces.append(mark[1] if mark == "@@" or mark[1] in _PLAIN_ESCAPES else mark)
        self.emit("STRING", ("'", "".join(pieces)), at, end)
        return end

    def _strip_newlines(self, first: int) -> None:
        """The line ends right after `::` and right before the closing `::` are layout."""
        for index, edge in ((len(self.out) - 2, "end"), (first + 1, "start")):
            token = self.out[index]
            if not (first < index < len(self.out) - 1) or token is None or token[0] != "TEXT":
                continue
            text = str(token[1])
            text = text.removesuffix("\n") if edge == "end" else text.removeprefix("\n")
            self.out[index] = ("TEXT", text, token[2], token[3]) if text else None

    def _unclosed(self, at: int, quote: str) -> Exception:
        line_end = self.line_end(at)
        one_line = 'end it with " on this line, or use `…` for text over several lines'
        hint = one_line if quote == '"' else f"add the closing {quote}"
        return self.fault(
            "unclosed-text",
            at,
            at + len(quote),
            f"{unclosed(self.directive(at), quote)}: {quote} is missing",
            expected=(f"closing {quote}",),
            hint=hint,
            resume=line_end,
        )

    def _unclosed_for(self, at: int, resume: int) -> Exception:
        message, hint = "this /for has no /end", "write /end on a line of its own where the repeated part ends"
        return self.fault("unclosed-for", at, at + 4, message, expected=("/end",), hint=hint, resume=resume)

    def parts(self, at: int, quote: str, opened: int, *, shape: bool = False) -> int:
        """The parts of a text from `at` to its end mark, whose offset is returned. `quote` says which marks count.
        `shape`: the text stands behind `as`.
        """
        text, stops = self.text, _STOPS[quote]
        first = begin = at
        buffer = ""
        loops: list[int] = []  # where the /for began that are open
        angle_ends: set[int] = set()
        fences = True
        while True:
            stop = stops.search(text, at)
            if not stop:
                if quote in ("att", "mtt"):
                    self._flush(buffer + text[at:], begin, self.size)
                    if loops:
                        raise self._unclosed_for(loops[-1], self.size)
                    return self.size
                raise self._unclosed(opened, quote)
            here, mark = stop.start(), stop.group()
            buffer += text[at:here]
            at = here
            if mark == quote:
                self._flush(buffer, begin, here)
                if loops:
                    raise self._unclosed_for(loops[-1], here + len(mark))
                return here
            if mark == "\n":
                raise self._unclosed(opened, quote)
            if mark.endswith("```"):
                opening = _MLLD_FENCE.match(text, here) if fences else None
                end = _FENCE_END.search(text, opening.end() + 1) if opening else None
                fences = fences and not (opening and end is None)  # where one has no end, none behind it has
                at = end.end() if end else stop.end()
                buffer += text[here:at]
            elif mark == "\\":
                plain, at = self._escape(here, quote)
                buffer += plain
            elif mark == "@" and text.startswith("@@", here):
                buffer += "@"
                at = here + 2
            elif mark == "@" and AT.match(text, here):
                self._flush(buffer, begin, here)
                at = begin = self.interpolation(here, quote)
                buffer = ""
            elif mark == "!@":
                if AT.match(text, here + 1):
                    self._flush(buffer, begin, here)
                    self.emit("NOT", "!", here, here + 1)
                    at = begin = self.interpolation(here + 1, quote)
                    buffer = ""
                else:
                    buffer += "!"
                    at = here + 1
            elif mark == "<" and quote == '"' and here > begin and not shape:
                # "See <notes.md>" speaks of a file: in quotes, files are loaded only where a part begins.
                buffer += "<"
                at = here + 1
            elif mark == "<" and (close := self._escaped_angle(here, quote)):
                angle_ends.add(close)
                buffer += "<"
                at = here + 2
            elif mark == "<" and text.startswith("<<>>", here):
                buffer += "<<>>"
                at = here + 4
            elif mark == ">>" and here in angle_ends:
                buffer += ">"
                at = here + 2
            elif mark == "<" and (kind := self._angle(here, quote)):
                size, prev = len(self.out), self.prev
                self._flush(buffer, begin, here)
                at = self.placeholder(here) if kind == "placeholder" else self._loaded(here)
                if at:
                    at = begin = self.access(at, quote)
                    buffer = ""
                else:
                    del self.out[size:]
                    self.prev = prev
                    buffer += "<"
                    at = here + 1
            elif mark == "{{" and (found := _BRACES.match(text, here)):
                self._flush(buffer, begin, here)
                at = begin = self._braces(found)
                buffer = ""
            elif mark == "/" and self._at_line_start(here, first) and (found := _FOR.match(text, here)):
                self._flush(buffer, begin, here)
                at = begin = self._for(found.end(), here)
                buffer = ""
                loops.append(here)
            elif mark == "/" and loops and self._at_line_start(here, first) and (found := _END.match(text, here)):
                self._flush(buffer.rstrip(" \t"), begin, here)
                self.emit("TF_END", None, here, found.end())
                loops.pop()
                at = begin = found.end()
                buffer = ""
            else:
                buffer += mark
                at = stop.end()

    def _loaded(self, at: int) -> int:
        """The offset after a load in text; 0 for what only looks like one, as in `if (a<b) { c.d } else { e>f }`. Only the
        outermost is tried: each level that is tried again would double the work.
        """
        if self._trying:
            return self.load(at, in_text=True)
        frames, depth = len(self.frames), self.text_depth
        self._trying = True
        try:
            return self.load(at, in_text=True)
        except LexFault:
            del self.frames[frames:]
            self.text_depth = depth
            return 0
        finally:
            self._trying = False

    def _flush(self, text: str, start: int, end: int) -> None:
        if text:
            self.emit("TEXT", text, start, end)

    def _escape(self, at: int, quote: str) -> tuple[str, int]:
        """What a backslash stands for, and the offset after it."""
        after = self.text[at + 1 : at + 2]
        if quote in ("::", "att"):
            return ("@", at + 2) if after == "@" else ("\\", at + 1)
        if after in _SIMPLE_ESCAPES and after:
            return _SIMPLE_ESCAPES[after], at + 2
        if after in _LITERAL_ESCAPES and after:
            return after, at + 2
        return "\\", at + 1

    def _at_line_start(self, at: int, first: int) -> bool:
        """Does only white space stand before, on its line of the text that begins at `first`?"""
        text = self.text
        while at > first and text[at - 1] in " \t":
            at -= 1
        return at == first or text[at - 1] == "\n"

    def _for(self, at: int, start: int) -> int:
        """`/for @k, @v in <value>` to the end of its line; the body follows, its leading white space is layout."""
        self.emit("TF_OPEN", None, start, at)
        end = self.line_end(at)
        self.until(at, end)
        self.emit("TF_BODY", None, end, end)
        while end < self.size and self.text[end] in " \t\r\n":
            end += 1
        return end

    def _braces(self, found: re.Match[str]) -> int:
        """`{{name.field}}`."""
        self.emit("AT", found.group(1), found.start(), found.end())
        end = self.text.find("}}", found.end())
        if end < 0 or "\n" in self.text[found.end() : end]:
            raise self.fault("unclosed-text", found.start(), found.start() + 2, "{{ without }}", expected=("}}",))
        at = self.access(found.end(), "braces")
        if self.text[at:end].strip():
            raise self.fault("syntax", at, end, "only a name with fields may stand between {{ and }}", expected=("}}",))
        return end + 2

    # ── What is filled in ────────────────────────────────────────────────────────────────────────

    def interpolation(self, at: int, quote: str) -> int:
        """`@name` with fields, indexes, calls, condensed pipes, `?` and `??"…"`, as far as they touch."""
        found = AT.match(self.text, at)
        if found is None:  # `cmd:@ { … }`: elsewhere such an @ is text
            raise self.fault("unexpected-character", at, at + 1, "a name follows the @", hint="write @name")
        self.emit("AT", found.group(1), at, found.end())
        return self.access(found.end(), quote)

    def access(self, at: int, quote: str) -> int:
        text = self.text
        command = quote.startswith("cmd") or quote == "path"
        while True:
            mark = text[at : at + 1]
            if mark == "." and (found := _ACCESS.match(text, at)):
                self.emit("DOT", found.group(1), at, found.end())
                at = found.end()
            elif mark == "[" and _INDEX.match(text, at):
                at = self.bracket(at, "index", "INDEX")
            elif mark == "(" and self.prev in ("AT", "DOT") and not command and quote != "braces":
                at = self.bracket(at, "call", "CALL")
            elif mark == "|" and not command and _PIPE.match(text, at):
                self.emit("PIPE", "|", at, at + 1)
                found = AT.match(text, at + 1)
                assert found
                self.emit("AT", found.group(1), at + 1, found.end())
                at = found.end()
            else:
                break
        if mark == "?" and (self.prev != "L_CLOSE" or text.startswith("??", at)):
            return self._conditional(at, quote)
        if mark == "\\" and quote != "path" and text[at + 1 : at + 2] not in self._after_backslash(quote):
            return at + 1  # `@name\.com`: the backslash only ends the name
        return at

    def _after_backslash(self, quote: str) -> tuple[str, ...]:
        return ("@",) if quote in ("::", "att") else ("\\", "@", "n", "t", "r", "0", '"')

    def _conditional(self, at: int, quote: str) -> int:
        text = self.text
        if text.startswith("??", at):
            found = _TIGHT_DEFAULT.match(text, at)
            if not found or quote == "path":
                return at
            self.emit("NULLISH_TIGHT", "??", at, at + 2)
            return self.quoted(at + 2, text[at + 2])
        if quote in ("path", "braces"):
            return at
        after = text[at + 1 : at + 2]
        snippet = after == "`" or (after == '"' and quote == '"')
        if snippet and (quote == "`" or quote == after):
            # Inside the same quotes it is a snippet only if another such quote comes before the line ends.
            snippet = self._ahead(after, at + 2) >= 0
        if not snippet:
            if quote.startswith("cmd"):
                return at  # `echo "Is it @name?"`, `ls @dir/?.md`: to a command, the mark is its own
            self.emit("COND", "?", at, at + 1)
            return at + 1
        self.emit("COND_THEN", "?", at, at + 1)
        return self.quoted(at + 1, after)

    def _escaped_angle(self, at: int, quote: str) -> int:
        """`<<file.md>>` is the text `<file.md>`: where its `>>` is, or 0."""
        if not self.text.startswith("<<", at):
            return 0
        close = self._ahead(">>", at + 2)
        ends_before = quote in ('"', "`") and self.text.find(quote, at, close) >= 0
        return 0 if close <= at + 2 or ends_before else close

    def _ahead(self, mark: str, at: int) -> int:
        """Where a mark comes next on this line, or -1; remembered, so that a line of `<` alone is not searched again and again."""
        begin, found, line_end = self._marks.get(mark, (1, -1, 0))
        if not begin <= at <= (found if found >= 0 else line_end):
            line_end = self.line_end(at)
            found = self.text.find(mark, at, line_end)
            self._marks[mark] = (at, found, line_end)
        return found

    def _angle(self, at: int, quote: str) -> str:
        """Is `<` in text a `load`, a `placeholder`, or just a character (empty)?"""
        close = self._ahead(">", at)
        if close < 0:
            return ""
        content = self.text[at + 1 : close].strip()
        if not content:
            return "placeholder"
        if content.startswith(("!", "<")) or content.endswith("\\") or _NO_FILE.match(content):
            return ""
        bare = re.sub(r"\\[@.*]|@@", "", content)
        if '"' in bare and not content.startswith('"') and (quote == '"' or "#" not in bare):
            return ""
        return "load" if re.search(r"[.*@]", bare) else ""

    def placeholder(self, at: int) -> int:
        end = self.text.index(">", at) + 1
        self.emit("PLACEHOLDER", None, at, end)
        return end

    # ── Given by the other modes ─────────────────────────────────────────────────────────────────

    def bracket(self, at: int, kind: str, token: str) -> int:
        """Lexes from an opening bracket to its closing one, in directive mode."""
        raise NotImplementedError

    def until(self, at: int, end: int) -> None:
        """Lexes a stretch in directive mode."""
        raise NotImplementedError

    def load(self, at: int, *, in_text: bool) -> int:
        """Lexes `<path>`."""
        raise NotImplementedError


_SINGLE_STOP = re.compile(r"'|\\.|@@", re.DOTALL)
