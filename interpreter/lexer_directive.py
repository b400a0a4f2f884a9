"""The directive mode: statements and values, token by token, with a frame for each open bracket."""

from __future__ import annotations

import re

from .lexer_base import Frame
from .lexer_command import CommandLexer
from .lexer_words import (
    ACTION_WORDS,
    COMMENT,
    IMPORT_KINDS,
    IMPORT_ORIGINS,
    KEY,
    LABEL,
    LABEL_CHANGE,
    LANGUAGES,
    LINK_WORDS,
    MODULE,
    NAME,
    OPEN_ENDS,
    OPERATORS,
    SPACE,
    SPECIFICATION,
    STATEMENT_WORDS,
    STEP,
    VALUE_ENDS,
)

_AFTER_CODE_WORD = re.compile(r"[ \t]*(?=[({]|:[^:\s])")
_DIRECTORY = re.compile(r"[^\s{@]+")
_AFTER_QUESTION = re.compile(r"[ \t]*(?:[,)\]}|\n]|$|with\b|using\b|>>|[=!]=|&&|=>)")
_OBJECT = re.compile(rf"\{{\s*(?:\}}|\.\.\.|{KEY.pattern})")
_GAP = re.compile(r"(?:[ \t\r\n\u00a0\u200b\u200c\u200d]|(?:>>|<<)[^\n]*)*")
# A line that begins so belongs to the one before.
_GOES_ON = re.compile(
    rf"\|\|?[ \t]*(?=[@{{\w])|&&|\?\?|\?(?=[ \t])|[=!~]=|!~=|\.{NAME}|=>[ \t]*\|(?!\|)|=>[ \t]*\|\||else\b|with[ \t]*\{{|using\b|:(?=[ \t])"
)
_GOES_ON_IN_DOCUMENT = re.compile(
    rf"\|\|?[ \t]*@|&&[ \t]|\?\?[ \t]|\.{NAME}\(|=>[ \t]*\||else\b[ \t]*(?:\[|if\b)|with[ \t]*\{{"
)
# A `[` that begins so is a block, whatever follows.
_BLOCK_START = re.compile(
    rf"(?:(?:let|var|show|log|output|append|file|files|bail|done|continue|skip|loop|while)\b(?![ \t]*[,:\]])|if\b[ \t]|=>|@{NAME}[ \t]*\+?=(?![=>]))"
)
_ASSIGNED = re.compile(r"[ \t]*(?:\+=|=(?![=>~]))")
# No such line stands inside a bracket: the bracket before it was never closed.
_DECLARES = re.compile(
    rf"/?(?:exe|import|export|policy|guard|needs|profiles|hook|auth)\b(?=[ \t]+[@{{\w\"<]).*?(?:=|\{{|from|before|after|for)|/?var[ \t]+(?:{NAME}[ \t,]+)*@{NAME}[ \t]*="
)
_STARTS = frozenset({"START", "END", "BLOCK"})
_TOUCHABLE = frozenset(
    {"AT", "DOT", "RBRACK", "RPAR", "L_CLOSE", "L_OPTIONAL", "PLACEHOLDER", "STRING", "T_CLOSE", "OPTIONAL"}
)
_HEADERS = frozenset({"VAR", "LET", "EXE", "GUARD", "HOOK", "IMPORT", "EXPORT", "SIGN", "VERIFY", "NEEDS", "PROFILES"})
_SHADOW = re.compile(r"[ \t]+(js|javascript|node|nodejs|py|python|sh|bash)[ \t]*(?==)")
_TARGET = re.compile(rf"(stdout|stderr)\b|env(?::({NAME}))?\b")
_REGEX = re.compile(r"/((?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\n\\\[ ])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\n\\\[])*)/([a-z]*)")
_CLOSERS = {"]": ("block", "list", "index"), "}": ("brace",), ")": ("paren", "call", "params")}
_OPENER_OF = {"block": "[", "list": "[", "index": "[", "brace": "{", "paren": "(", "call": "(", "params": "("}
_CLOSER_OF = {"[": "]", "{": "}", "(": ")"}
_CLOSE_TOKEN = {"]": "RBRACK", "}": "RBRACE", ")": "RPAR"}
_STATEMENT_STARTS = frozenset(
    {"RUN", "WHEN", "IF", "FOR", "STREAM", "SHOW", "LET", "ARROW", "BOX", "CMD", "LANG", "FOREACH"}
)
_TIMINGS = frozenset({"before", "after", "always"})


class DirectiveLexer(CommandLexer):
    """One statement at a time. `header` is the statement word whose labels, names and filters are being read, or empty."""

    header = ""
    header_depth = 0
    document = False
    git = False

    def statement(self, at: int) -> int:
        """Lexes the statement that begins at `at` (after a slash, if any). Returns the offset where the next line begins."""
        self.frames.clear()
        self.prev = "START"
        self.header = ""
        self.git = False
        self.text_depth = 0
        return self._scan(at, 0, self.size)

    def bracket(self, at: int, kind: str, token: str) -> int:
        depth, header = len(self.frames), self.header
        self.header = ""
        self.push(kind, token, at)
        end = self._scan(at + 1, depth + 1, self.size)
        self.header = header
        return end

    def until(self, at: int, end: int) -> None:
        depth = len(self.frames)
        self.push("paren", "LPAR", at)
        self.out.pop()
        self.prev = "TF_OPEN"
        self._scan(at, depth, end)
        del self.frames[depth:]

    # ── The loop ─────────────────────────────────────────────────────────────────────────────────

    def _scan(self, at: int, depth: int, limit: int) -> int:
        """Steps until fewer than `depth` brackets are open, the statement ends, or `limit` is met."""
        text, frames = self.text, self.frames
        step, space = STEP.match, SPACE.match
        steps = {
            "at": self._at,
            "word": self._word,
            "dot": self._dot,
            "number": self._number,
            "quote": self._quote,
            "operator": self._operator,
            "open": self._open,
            "semicolon": self._semicolon,
        }
        while True:
            at = space(text, at).end()  # type: ignore[union-attr]
            if at >= limit:
                return at if limit < self.size else self._at_end(at)
            if text[at] in "<>" and COMMENT.match(text, at):
                at = self.line_end(at)
                continue
            found = step(text, at)
            if not found:
                raise self._strange(at)
            kind = found.lastgroup
            if kind == "newline":
                if self._newline(at):
                    return at + 1
                at += 1
            elif kind == "close":
                at = self._close(at, found.group())
                if len(frames) < depth:
                    return at
            else:
                at = steps[kind](at, found)  # type: ignore[index]

    def _at_end(self, at: int) -> int:
        if self.frames:
            raise self._unclosed_bracket(self.frames[-1].offset)
        self._end(at)
        return at

    def _end(self, at: int) -> None:
        """A separator between statements: never first, never twice."""
        if self.prev not in _STARTS and self.prev != "LBRACK":
            if self.frames and self.frames[-1].ambiguous:
                self.frames[-1].ends.append(len(self.out))
            self.emit("END", None, at, at)

    def _unclosed_bracket(self, opened: int, resume: int | None = None) -> Exception:
        mark = self.text[opened]
        closer = _CLOSER_OF[mark]
        return self.fault(
            "unclosed-bracket",
            opened,
            opened + 1,
            f"{mark} is opened here and never closed",
            expected=(closer,),
            hint=f"add {closer} where this part ends",
            resume=self.size if resume is None else resume,
        )

    def _strange(self, at: int) -> Exception:
        mark = self.text[at]
        shown = mark if mark.isprintable() else f"U+{ord(mark):04X}"
        return self.fault("unexpected-character", at, at + 1, f"unexpected {shown}", resume=self.line_end(at))

    # ── Lines and statements ─────────────────────────────────────────────────────────────────────

    def _newline(self, at: int) -> bool:
        """Decides what a line end means here; True if the statement ends with it."""
        if self.frames:
            frame = self.frames[-1]
            begins_column = self.text[at + 1 : at + 2] not in (" ", "\t", "\n", "")
            if (
                begins_column
                and (declared := _DECLARES.match(self.text, at + 1))
                and (frame.kind != "block" or "var" not in declared.group()[:4])
            ):
                raise self._unclosed_bracket(frame.offset, at + 1)
            if frame.kind != "block" and not frame.ambiguous:
                return False
        if (
            self.prev in OPEN_ENDS
            or self.prev in _STARTS
            or self.prev == "LBRACK"
            or (self.prev == "ARROW" and self._arrow_goes_on(at))
        ):
            return False
        gap = _GAP.match(self.text, at + 1)
        after = gap.end() if gap else at + 1
        goes_on = _GOES_ON_IN_DOCUMENT if self.document and not self.frames else _GOES_ON
        if goes_on.match(self.text, after) and not (self.prev == "END"):
            return False
        self._end(at)
        return not self.frames

    def _arrow_goes_on(self, at: int) -> bool:
        """`=>` at the end of a line: the value comes on the next, unless the block ends or a statement follows a bare return."""
        gap = _GAP.match(self.text, at)
        after = gap.end() if gap else at
        return after < self.size and self.text[after] != "]"

    def _semicolon(self, at: int, _: re.Match[str]) -> int:
        if self.frames and (self.frames[-1].kind == "block" or self.frames[-1].ambiguous):
            self._end(at)
        else:
            self.faults.append(
                self.fault(
                    "semicolon", at, at + 1, "; does not end a statement here", hint="end the statement with the line"
                ).diagnostic
            )
        return at + 1

    def _separate(self, at: int) -> None:
        """Two values side by side in a block are two statements (`[ 1 => @a  2 => @b ]`)."""
        if self.prev in VALUE_ENDS and self.frames and not self._in_header():
            frame = self.frames[-1]
            if frame.kind == "block" or (frame.ambiguous and not frame.comma):
                self._end(at)

    def _in_header(self) -> bool:
        return bool(self.header) and len(self.frames) == self.header_depth

    # ── Names and words ──────────────────────────────────────────────────────────────────────────

    def _at(self, at: int, found: re.Match[str]) -> int:
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
        self._separate(at)
        self.emit("AT", name, at, found.end())
        return found.end()

    def _dot(self, at: int, found: re.Match[str]) -> int:
        if self.prev not in VALUE_ENDS and self.prev not in _TOUCHABLE:
            raise self._strange(at)
        self.emit("DOT", found.group()[1:], at, found.end())
        return found.end()

    def _word(self, at: int, found: re.Match[str]) -> int:
        word, end, prev = found.group(), found.end(), self.prev
        kind = self.frames[-1].kind if self.frames else "base"
        if kind == "brace" and prev in ("LBRACE", "COMMA"):
            if key := KEY.match(self.text, at):
                return self._key(at, key)
            if self.header not in ("NEEDS", "PROFILES"):
                self.emit("WORD", word, at, end)
                return end
        if kind == "params" and prev in ("PARAMS", "COMMA", "COLON"):
            self.emit("WORD", word, at, end)
            return end
        if self.header and (len(self.frames) == self.header_depth or self.header in ("NEEDS", "PROFILES")):
            return self._header_word(at, word)
        ambiguous = kind == "list" and self.frames[-1].ambiguous
        if prev in _STARTS or (ambiguous and prev == "LBRACK"):
            if token := STATEMENT_WORDS.get(word):
                return self._begin(token, word, at, end)
        elif prev in VALUE_ENDS:
            if self.git and (key := KEY.match(self.text, at)):
                return self._key(at, key)
            if token := LINK_WORDS.get(word):
                self.emit(token, word, at, end)
                return end
            self._separate(at)
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

    def _key(self, at: int, key: re.Match[str]) -> int:
        name = key.group(1)
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
        self.emit("LABEL", text[at:end], at, end)
        return end

    def _value_word(self, at: int, word: str, end: int) -> int:
        """A word where a value (or an action in its place) may begin."""
        if (word in LANGUAGES or word == "cmd") and _AFTER_CODE_WORD.match(self.text, end):
            return self._code_word(at, word, end)
        if word == "prose" and self.text.startswith(":@", end):
            return self._prose_word(at, end)
        if self.prev == "TO" and (target := _TARGET.match(self.text, at)):
            self.emit("STREAMNAME", target.group(), at, target.end())
            return target.end()
        if self.prev == "USING" and (label := LABEL.match(self.text, at)):
            self.emit("LABEL", label.group(), at, label.end())
            return label.end()
        token = ACTION_WORDS.get(word)
        if token in ("LET", "VAR"):
            return self._begin(token, word, at, end)
        self.git = self.git or token == "GIT"
        self.emit(token or "WORD", word, at, end)
        return end

    def _code_word(self, at: int, word: str, end: int) -> int:
        """`cmd {…}`, `sh (@a) {…}`, `js:@dir {…}`: from the language to after the body."""
        language = LANGUAGES.get(word, "cmd")
        start = len(self.out)
        self.emit("CMD" if language == "cmd" else "LANG", language, at, end)
        at = self._spaces(end)
        while self.text[at : at + 1] in ("(", ":"):
            at = self.bracket(at, "call", "ARGS") if self.text[at] == "(" else self._directory(at)
            at = self._spaces(at)
        while at < self.size and self.text[at] in " \t\r\n":
            at += 1
        if self.text[at : at + 1] != "{":
            del self.out[start:]
            raise self.fault(
                "syntax",
                at,
                at + 1,
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
        return at

    # ── Marks ────────────────────────────────────────────────────────────────────────────────────

    def _number(self, at: int, found: re.Match[str]) -> int:
        self._separate(at)
        self.emit("DURATION" if found.group("unit") else "NUMBER", found.group(), at, found.end())
        return found.end()

    def _quote(self, at: int, found: re.Match[str]) -> int:
        quote = found.group()
        if (
            quote in "\"'"
            and self.prev in ("LBRACE", "COMMA")
            and self.frames
            and self.frames[-1].kind == "brace"
            and (key := KEY.match(self.text, at))
        ):
            return self._key(at, key)
        self._separate(at)
        return self.quoted(at, quote)

    def _touches(self, at: int) -> bool:
        last = self.out[-1] if self.out else None
        return last is not None and last[3] == at and self.prev in _TOUCHABLE

    def _operator(self, at: int, found: re.Match[str]) -> int:
        mark, end = found.group(), found.end()
        value = self.prev in VALUE_ENDS
        if mark == "<" and not value:
            return self.load(at, in_text=False)
        if mark == "," and self._in_header():
            return end
        if mark == "=>":
            return self._arrow(at, end)
        if mark == "?":
            return self._question(at, end)
        if mark == "/" and not value:
            return self._slash(at)
        if mark == "*" and not value:
            self.emit("ANY", mark, at, end)
            return end
        if mark == "," and self.frames:
            self.frames[-1].comma = True
        if mark in ("=", "+=") and self._in_header():
            self.header = ""
        if mark == "!" and self.prev in VALUE_ENDS:
            self._separate(at)
        self.emit(OPERATORS[mark], mark, at, end)
        return end

    def _arrow(self, at: int, end: int) -> int:
        text = self.text
        after = self._spaces(end)
        if text.startswith("|", after):
            self.emit("BATCH", "=>", at, end)
            return after if text.startswith("||", after) else after + 1
        self.emit("ARROW", "=>", at, end)
        change = LABEL_CHANGE.match(text, end)
        if change and (first := change.group(1).split(",")[0].strip()) not in ACTION_WORDS and first not in LANGUAGES:
            labels = tuple(label.strip() for label in change.group(1).split(","))
            self.emit("LABELS", labels, change.start(1), change.end(1))
            return change.end()
        return end

    def _question(self, at: int, end: int) -> int:
        text = self.text
        if self._touches(at):
            after = text[end : end + 1]
            if after in ".[" and after:
                self.emit("OPTIONAL", "?", at, end)
                return end
            if after == "`":
                self.emit("COND_THEN", "?", at, end)
                return end
            if _AFTER_QUESTION.match(text, end) or (self._in_header() and self.header in ("VAR", "LET")):
                self.emit("COND", "?", at, end)
                return end
        self.emit("TERN", "?", at, end)
        return end

    def _slash(self, at: int) -> int:
        """Where a value may begin: a regular expression, or the slash of a directive inside a block."""
        if self.prev in _STARTS:
            return at + 1
        found = _REGEX.match(self.text, at)
        if not found:
            raise self._strange(at)
        self.emit("REGEX", (found.group(1), found.group(2)), at, found.end())
        return found.end()

    # ── Brackets ─────────────────────────────────────────────────────────────────────────────────

    def _open(self, at: int, found: re.Match[str]) -> int:
        mark, touches = found.group(), self._touches(at)
        if mark == "[":
            self._open_square(at, touches)
        elif mark == "(":
            if touches and self.prev == "AT" and self._in_header() and self.header in ("EXE", "IMPORT"):
                self.push("params", "PARAMS", at)
            elif touches:
                self.push("call", "CALL", at)
            else:
                self.push("paren", "LPAR", at)
        elif self.prev in ("RUN", "STREAM") or (
            self.prev in ("PIPE", "BATCH", "OROR") and not _OBJECT.match(self.text, at)
        ):
            return self.command(at)
        else:
            self.push("brace", "LBRACE", at)
        return at + 1

    def _open_square(self, at: int, touches: bool) -> None:
        gap = _GAP.match(self.text, at + 1)
        after = gap.end() if gap else at + 1
        if touches:
            self.push("index", "INDEX", at)
        elif self.prev in VALUE_ENDS or self.prev in ("WHEN", "ELSE", "BOX", "LOOP"):
            self.push("block", "BLOCK", at)
        elif self.prev in ("ASSIGN", "ARROW", "START", "END", "BLOCK", "TERN", "COLON") and _BLOCK_START.match(
            self.text, after
        ):
            self.push("block", "BLOCK", at)
        else:
            self.push("list", "LBRACK", at, self.prev in ("ASSIGN", "ARROW"))

    def _close(self, at: int, mark: str) -> int:
        if not self.frames:
            raise self.fault(
                "unexpected-closer",
                at,
                at + 1,
                f"{mark} closes nothing",
                hint=f"remove {mark}, or add its opener before",
                resume=self.line_end(at),
            )
        frame = self.frames[-1]
        if frame.kind not in _CLOSERS[mark]:
            opener = _OPENER_OF[frame.kind]
            raise self.fault(
                "unclosed-bracket",
                at,
                at + 1,
                f"{mark} cannot close {opener}",
                expected=(_CLOSER_OF[opener],),
                hint=f"close {opener} with {_CLOSER_OF[opener]} first",
                related=((f"{opener} was opened here", frame.offset),),
                resume=self.line_end(at),
            )
        if frame.kind == "block":
            self._end(at)
        elif frame.ambiguous:
            self._settle(frame, at)
        self.frames.pop()
        if len(self.frames) < self.header_depth or frame.kind == "params":
            self.header = ""
        self.emit(_CLOSE_TOKEN[mark], None, at, at + 1)
        return at + 1

    def _settle(self, frame: Frame, at: int) -> None:
        """At the closing bracket: was it a list or a block?"""
        trailing = bool(frame.ends) and frame.ends[-1] == len(self.out) - 1
        separated = len(frame.ends) > (1 if trailing else 0)
        first = self.out[frame.token + 1] if frame.token + 1 < len(self.out) else None
        starts_statement = first is not None and first[0] in _STATEMENT_STARTS
        if not frame.comma and (separated or starts_statement):
            opener = self.out[frame.token]
            assert opener
            self.out[frame.token] = ("BLOCK", *opener[1:])
            self._end(at)
        else:
            for index in frame.ends:
                self.out[index] = None
