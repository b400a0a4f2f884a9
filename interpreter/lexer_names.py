"""Words and names in directive mode: what a word is, by where it stands."""

from __future__ import annotations

import re

from .hints import nearest
from .hints_habits import of_mark
from .lexer_base import LexFault
from .lexer_command import CommandLexer
from .lexer_words import (
    ACTION_WORDS,
    CLOSING,
    IMPORT_KINDS,
    IMPORT_ORIGINS,
    KEY,
    LABEL,
    LANGUAGES,
    LINK_WORDS,
    MODULE,
    NAME,
    OPENING,
    SPECIFICATION,
    STATEMENT_WORDS,
    VALUE_ENDS,
)

STARTS = frozenset({"START", "END", "BLOCK"})
TOUCHABLE = frozenset(
    {"AT", "DOT", "RBRACK", "RPAR", "L_CLOSE", "L_OPTIONAL", "PLACEHOLDER", "STRING", "T_CLOSE", "OPTIONAL"}
)
_AFTER_CODE_WORD = re.compile(r"[ \t]*(?=[({]|:[^:\s])")
_DIRECTORY = re.compile(r"[^\s{@]+")
_HEADERS = frozenset({"VAR", "LET", "EXE", "GUARD", "HOOK", "IMPORT", "EXPORT", "SIGN", "VERIFY", "NEEDS", "PROFILES"})
_SHADOW = re.compile(r"[ \t]+(js|javascript|node|nodejs|py|python|sh|bash)[ \t]*(?==)")
_CASES_NEXT = re.compile(r"[ \t]*:?[ \t]*\[")
_TARGET = re.compile(rf"(stdout|stderr)\b|env(?::({NAME}))?\b")
_OBJECT_NEXT = re.compile(r"[ \t]*\{")
_BARE_PATH = re.compile(r"[\w./:@-]+")
_URL = re.compile(r"https?://[^\s]+")
_ONLY_PATH = re.compile(r"""[ \t]*(?:"[^"\n]*"|'[^'\n]*'|`[^`\n]*`)(?![ \t]*to\b)""")
_BEFORE_STAGE = frozenset({"PIPE", "OROR", "BATCH", "LBRACK", "COMMA"})
# What old scripts say of a function behind its name: `exe @deploy.risk.high() = …`. It means nothing.
_ABOUT = re.compile(r"\.(?:risk(?:\.(?:high|med|low))?|about|meta)(?=[ \t]*[(=])")
_SURROUNDING = frozenset({"FOR", "IF", "WHEN", "LOOP", "BOX", "EXE", "VAR", "LET"})
_MODIFIERS = frozenset({"first", "all", "any"})
_TIMINGS = frozenset({"before", "after", "always"})

# A key in double quotes is a template, except in what only declares, which is read as it is written.
_FILLED = re.compile(rf"(?<![\\@])@{NAME}")
_DECLARING = frozenset({"NEEDS", "PROFILES", "POLICY", "AUTH", "GUARD"})


class NameLexer(CommandLexer):
    """`header` is the statement word whose labels, names and filters are being read at bracket depth `header_depth`, or empty."""

    header = ""
    header_depth = 0
    git = False

    def end(self, at: int) -> None:
        """A separator between statements."""
        raise NotImplementedError

    def is_whole(self) -> bool:
        """Can the statement end here? Not behind `(x)` alone, which was meant as a function without a name."""
        if self.prev not in VALUE_ENDS or self.prev in ("ANY", "NONE", "DENIED") or self.heading():
            return False
        depth = 0
        for token in reversed(self.out if self.prev == "RPAR" else []):
            kind = token[0] if token else ""
            depth += (kind in CLOSING) - (kind in OPENING)
            if depth == 0:
                return kind != "LPAR"
        return True

    def heading(self) -> str:
        """The word before, on this level, that still waits for its `=>` or block; CASE at the start of a case; or
        empty.
        """
        depth = 0
        cases = "CASE" if self.frames and self.frames[-1].cases else ""
        for token in reversed(self.out):
            kind = token[0] if token else ""
            if kind in CLOSING:
                depth += 1
            elif kind in OPENING:
                if depth == 0:
                    return cases
                depth -= 1
                if depth == 0 and kind in ("BLOCK", "CASES"):
                    return ""
            elif depth == 0:
                if kind == "END":
                    return cases
                if kind in ("ARROW", "BATCH", "TERN"):
                    return ""
                if kind in ("FOR", "WHEN", "WHERE", "IF", "LOOP"):
                    return kind
        return ""

    def surroundings(self, *, inside: bool) -> str:
        """The word that began the statement around here (`inside`: around the innermost bracket), of those that have blocks or
        values; or empty.
        """
        depth = 0
        for token in reversed(self.out[: self.frames[-1].token] if inside and self.frames else self.out):
            kind = token[0] if token else ""
            depth = max(depth + (kind in CLOSING) - (kind in OPENING), 0)
            if depth == 0 and kind in _SURROUNDING:
                return kind
        return ""

    def strange(self, at: int) -> LexFault:
        """The fault of a character that means nothing here."""
        message, hint = of_mark(self.text, at)
        return self.fault("unexpected-character", at, at + 1, message, hint=hint, resume=self.line_end(at))

    def at(self, at: int, found: re.Match[str]) -> int:
        text, name = self.text, found.group()[1:]
        if self.header in ("NEEDS", "PROFILES") and (spec := SPECIFICATION.match(text, at)):
            self.emit("SPEC", spec.group(), at, spec.end())
            return spec.end()
        if (
            self.prev == "TO"
            or (self.header == "IMPORT" and self.prev in ("IMPORT", "FROM", "KIND", "LABEL", "ORIGIN"))
        ) and (module := MODULE.match(text, at)):
            self.emit("MODULE", module.group()[1:], at, module.end())
            return module.end()
        self.separate(at)
        self.emit("AT", name, at, found.end())
        return found.end()

    def dot(self, at: int, found: re.Match[str]) -> int:
        if self.prev not in VALUE_ENDS and self.prev not in TOUCHABLE:
            raise self.strange(at)
        if self.prev == "NUMBER" and found.group()[1].isdigit():
            raise self.fault("number", at, found.end(), "a number has one point", hint="put a version in quotes")
        if self.header == "EXE" and self.prev == "AT" and len(self.frames) == self.header_depth:
            about = _ABOUT.match(self.text, at)
            if about and self.heading() == "":
                return about.end()
        self.emit("DOT", found.group()[1:], at, found.end())
        return found.end()

    def word(self, at: int, found: re.Match[str]) -> int:
        word, end, prev = found.group(), found.end(), self.prev
        kind = self.frames[-1].kind if self.frames else "base"
        if kind == "brace" and prev in ("LBRACE", "COMMA"):
            if key := KEY.match(self.text, at):
                return self.key(at, key)
            if self.header not in ("NEEDS", "PROFILES"):
                self.emit("WORD", word, at, end)
                return end
        if kind == "params" and prev in ("PARAMS", "COMMA", "COLON"):
            self.emit("WORD", word, at, end)
            return end
        if self.header and (len(self.frames) == self.header_depth or self.header in ("NEEDS", "PROFILES")):
            return self._header_word(at, word)
        ambiguous = kind == "list" and self.frames[-1].ambiguous
        if prev in STARTS or (ambiguous and prev == "LBRACK"):
            if token := STATEMENT_WORDS.get(word):
                return self._begin(token, word, at, end)
        elif prev in VALUE_ENDS:
            if word in _MODIFIERS and _CASES_NEXT.match(self.text, end) and self.heading() == "WHEN":
                if word == "first":
                    return end
                raise self._removed_modifier(word, at, end)
            if (self.git or kind == "brace") and (key := KEY.match(self.text, at)):
                return self.key(at, key)
            if token := LINK_WORDS.get(word):
                self.emit(token, word, at, end)
                return end
            self.separate(at)
            if self.prev == "END" and (token := STATEMENT_WORDS.get(word)):
                return self._begin(token, word, at, end)
            if self.prev != "END":
                self.emit("WORD", word, at, end)
                return end
        return self._value_word(at, word, end)

    def _begin(self, token: str, word: str, at: int, end: int) -> int:
        """The first word of a statement."""
        self.emit(token, word, at, end)
        if token in _HEADERS:
            self.header, self.header_depth = token, len(self.frames)
        return end

    def key(self, at: int, key: re.Match[str]) -> int:
        name = key.group(1)
        if name[0] == '"' and not key.group(2) and _FILLED.search(name) and self.directive(at) not in _DECLARING:
            self.emit("KEYOPEN", None, at, at)
            self.emit("KEYED", ":", self.quoted(at, '"'), key.end())
            return key.end()
        if name[0] in "\"'":
            name = re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m.group(1), m.group(1)), name[1:-1])
        self.emit("KEYOPT" if key.group(2) else "KEY", name, at, key.end())
        return key.end()

    def _header_word(self, at: int, word: str) -> int:
        """A word between the statement word and `=`: labels, timings, kinds."""
        text, header = self.text, self.header
        end = at + len(word)
        if header in ("NEEDS", "PROFILES"):
            spec = SPECIFICATION.match(text, at)
            end = spec.end() if spec else end
            value = text[at:end]
            self.emit({"true": "TRUE", "false": "FALSE", "null": "NULL"}.get(value, "SPEC"), value, at, end)
            return end
        if header == "IMPORT":
            if word == "with":
                self.header = ""
                self.emit("WITH", word, at, end)
                return end
            if word in ("from", "as"):
                self.emit(word.upper(), word, at, end)
                return end
            if self.prev == "FROM" and (url := _URL.match(text, at)):
                self.emit("STRING", ("'", url.group()), at, url.end())
                return url.end()
            if word in IMPORT_KINDS and self.prev == "IMPORT":
                self.emit("KIND", word, at, end)
                return end
            if word in IMPORT_ORIGINS and self.prev in ("FROM", "IMPORT"):
                self.emit("ORIGIN", word, at, end)
                return end
        elif header in ("GUARD", "HOOK"):
            if word in _TIMINGS or word in ("privileged", "for"):
                self.emit({"for": "FOR", "privileged": "PRIVILEGED"}.get(word, "TIMING"), word, at, end)
                return end
        elif header in ("SIGN", "VERIFY"):
            self.emit({"by": "BY", "with": "WITH"}.get(word, "WORD"), word, at, end)
            return end
        elif header == "EXPORT":
            self.emit("WORD", word, at, end)
            return end
        elif header == "EXE" and self.prev == "EXE" and (shadow := _SHADOW.match(text, at - 1)):
            self.emit("SHADOW", LANGUAGES[shadow.group(1)], at, shadow.end())
            return shadow.end()
        label = LABEL.match(text, at)
        end = label.end() if label else end
        if (
            self.prev == "LABEL"
            and header in ("VAR", "LET", "EXE")
            and (last := self.out[-1])
            and last[1] != "tools"
            and "," not in text[last[3] : at]
        ):
            self.faults.append(
                self.fault(
                    "label-comma", at, end, "labels are separated by commas", hint=f"write {last[1]}, {text[at:end]}"
                ).diagnostic
            )
        self.emit("LABEL", text[at:end], at, end)
        return end

    def _value_word(self, at: int, word: str, end: int) -> int:
        """A word where a value (or an action in its place) may begin."""
        if (word in LANGUAGES or word == "cmd") and _AFTER_CODE_WORD.match(self.text, end):
            return self._code_word(at, word, end)
        if word == "prose" and self.text.startswith(":@", end):
            return self._prose_word(at, end)
        if self.prev == "TO":
            return self.target(at)
        if word == "with" and _OBJECT_NEXT.match(self.text, end):
            self.emit("WITH", word, at, end)
            return end
        if self.prev == "USING" and (label := LABEL.match(self.text, at)):
            self.emit("LABEL", label.group(), at, label.end())
            return label.end()
        if self.prev == "WHEN" and word == "first" and _CASES_NEXT.match(self.text, end):
            return end  # old scripts say so; every `when` takes the first case that fits
        if self.prev == "WHEN" and word in ("all", "any"):
            raise self._removed_modifier(word, at, end)
        token = ACTION_WORDS.get(word)
        if self.prev == "RUN" and token is None:
            raise self._bare_command(at)
        if token in ("LET", "VAR"):
            return self._begin(token, word, at, end)
        self.git = self.git or token == "GIT"
        sends = token in ("APPEND", "OUTPUT") and self.prev in _BEFORE_STAGE and _ONLY_PATH.match(self.text, end)
        self.emit(token or "WORD", word, at, end)
        if sends:
            self.emit(
                "TO", "to", end, end
            )  # `| append "file"` leaves out `to`, because there is nothing else to append
        return end

    def _removed_modifier(self, word: str, at: int, end: int) -> LexFault:
        instead = "&&" if word == "all" else "||"
        message = f"the '{word}' modifier has been removed from mlld. Use the {instead} operator instead."
        hint = f"write when @a {instead} @b => …"
        return self.fault("when-modifier", at, end, message, hint=hint, resume=self.line_end(at))

    def _bare_command(self, at: int) -> LexFault:
        """`run ls -la`, `run cmd ls`, `run shell { ls }`."""
        end = self.line_end(at)
        line = self.text[at:end].strip()
        word, _, rest = line.partition(" ")
        if rest.startswith("{"):
            near = nearest(word, [*LANGUAGES, "cmd"]) or "sh"
            return self.fault(
                "unknown-language",
                at,
                at + len(word),
                f"{word} is no language",
                hint=f"write {near} {{ … }}",
                resume=end,
            )
        command = rest.strip("()[]\"'` ") if word in LANGUAGES or word == "cmd" else line
        message = "Commands in run must be wrapped in braces or quotes"
        return self.fault(
            "bare-command", at, at + len(line), message, hint=f"write run cmd {{ {command} }}", resume=end
        )

    def target(self, at: int) -> int:
        """Where output goes, written without quotes: a stream, the environment, or a path."""
        if target := _TARGET.match(self.text, at):
            self.emit("STREAMNAME", target.group(), at, target.end())
            return target.end()
        path = _BARE_PATH.match(self.text, at)
        assert path
        self.emit("STRING", ("'", path.group()), at, path.end())
        return path.end()

    def _code_word(self, at: int, word: str, end: int) -> int:
        """`cmd {…}`, `sh (@a) {…}`, `js:@dir {…}`: from the language to after the body."""
        language = LANGUAGES.get(word, "cmd")
        start = len(self.out)
        self.emit("CMD" if language == "cmd" else "LANG", language, at, end)
        at = self._spaces(end)
        while self.text[at : at + 1] in ("(", ":"):
            at = self.bracket(at, "call", "ARGS") if self.text[at] == "(" else self._directory(at)
            at = self._spaces(at)
        head = at
        while at < self.size and self.text[at] in " \t\r\n":
            at += 1
        if self.text[at : at + 1] != "{":
            del self.out[start:]
            raise self.fault(
                "syntax",
                head,
                min(head + 1, self.size),
                f"{word} needs a body",
                expected=("{",),
                hint=f"write {word} {{ … }}",
                resume=self.line_end(at),
            )
        return self.command(at) if language == "cmd" else self.code(at, language)

    def _directory(self, at: int) -> int:
        self.emit("DIR", ":", at, at + 1)
        at += 1
        while True:
            if self.text[at : at + 1] == "@":
                at = self.interpolation(at, "path")
            elif found := _DIRECTORY.match(self.text, at):
                self.emit("TEXT", found.group().strip("\"'"), at, found.end())
                at = found.end()
            else:
                return at

    def _prose_word(self, at: int, end: int) -> int:
        self.emit("PROSE", None, at, end)
        at = self._spaces(self.interpolation(end + 1, "path"))
        if self.text[at : at + 1] == "{":
            return self.command(at, shell=False)
        if self.text.startswith(("template ", "template\t"), at):
            self.emit("TEMPLATE", None, at, at + len("template"))
            at = self._spaces(at + len("template"))
        return at

    def separate(self, at: int) -> None:
        """Two values side by side in a block are two statements (`[ 1 => @a  2 => @b ]`)."""
        if self.prev in VALUE_ENDS and self.frames and not self.in_header():
            frame = self.frames[-1]
            if frame.kind == "block" or (frame.ambiguous and not frame.comma):
                self.end(at)

    def heads(self, word: str) -> bool:
        """Does the statement or action that is being read, on this level, begin with this token and lack its `to`?"""
        depth = 0
        for token in reversed(self.out):
            kind = token[0] if token else ""
            depth += (kind in CLOSING) - (kind in OPENING)
            if depth < 0 or (depth == 0 and kind in ("END", "ARROW", "TO")):
                return False
            if depth == 0 and kind == word:
                return True
        return False

    def in_header(self) -> bool:
        return bool(self.header) and len(self.frames) == self.header_depth
