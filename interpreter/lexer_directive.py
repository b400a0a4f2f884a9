"""The directive mode: statements and values, token by token, with a frame for each open bracket."""

from __future__ import annotations

import re

from .hints_directive import never_closed, unclosed
from .hints_habits import of_slash
from .lexer_base import Frame
from .lexer_names import STARTS, TOUCHABLE, NameLexer
from .lexer_words import (
    ACTION_WORDS,
    COMMENT,
    FILTER,
    KEY,
    LABEL_CHANGE,
    LANGUAGES,
    NAME,
    OPEN_ENDS,
    OPERATORS,
    SPACE,
    STATEMENT_WORDS,
    STEP,
    VALUE_ENDS,
)

_AFTER_QUESTION = re.compile(r"[ \t]*(?:[,)\]}|\n]|$|with\b|using\b|>>|[=!]=|&&|=>)")
_OBJECT = re.compile(rf"\{{\s*(?:\}}|\.\.\.|{KEY.pattern})")
_GAP = re.compile(r"(?:[ \t\r\n\u00a0\u200b\u200c\u200d]|(?:>>|<<)[^\n]*)*")
# A line that begins so belongs to the one before.
_GOES_ON = re.compile(
    rf"\|\|?[ \t]*(?=[@{{\w])|&&|\?\?|\?(?=[ \t])|[=!~]=|!~=|\.{NAME}|:(?=[ \t])"
    r"|=>[ \t]*\||else\b|with[ \t]*\{|using\b"
)
GOES_ON_IN_DOCUMENT = re.compile(
    rf"\|\|?[ \t]*@|&&[ \t]|\?\?[ \t]|\.{NAME}\(|=>[ \t]*\||else\b[ \t]*(?:\[|if\b)|with[ \t]*\{{"
)
# A `[` that begins so is a block, whatever follows.
_BLOCK_START = re.compile(
    r"(?:let|var|show|log|output|append|file|files|bail|done|continue|skip|retry|loop|while|checkpoint|sign|verify)\b(?![ \t]*[,:])"
    rf"|if\b[ \t]|=>|@{NAME}[ \t]*\+?=(?![=>])"
)
# No such line stands inside a bracket: the bracket before it was never closed.
_DECLARES = re.compile(
    r"/?(?:exe|import|export|policy|guard|needs|profiles|hook|auth)\b(?=[ \t]+[@{\w\"<])"
    r".*?(?:=|\{|from|before|after|for)"
    rf"|/?var[ \t]+(?:{NAME}[ \t,]+)*@{NAME}[ \t]*="
)
_STATEMENT = re.compile(rf"/?(?:{'|'.join(STATEMENT_WORDS)})(?![\w-])(?![ \t]*[:,.])")
_SLASHED = re.compile(rf"/({'|'.join(STATEMENT_WORDS)})(?![\w/-])")
_SLASHED_IN_FUNCTIONS = frozenset({"if", "bail", "checkpoint"})
"""What may begin with a slash in the block of a function."""
_STATEMENT_ENDS = frozenset({"END", "BLOCK", "LBRACK"})
_REGEX = re.compile(r"/((?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\n\\\[ ])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\n\\\[])*)/([a-z]*)")
_CLOSERS = {"]": ("block", "list", "index"), "}": ("brace",), ")": ("paren", "call", "params")}
_OPENER_OF = {"block": "[", "list": "[", "index": "[", "brace": "{", "paren": "(", "call": "(", "params": "("}
_CLOSER_OF = {"[": "]", "{": "}", "(": ")"}
_MAY_GO_ON = re.compile(r"=>|\[|when\b")
_BOUND = re.compile(r"[ \t]|-?\d")
_EQUAL_CASE = re.compile(r"(?:[=!~]=|!~=)[^\n]*=>")
_ANY_CASE = re.compile(r"\*[ \t]*=>")
_COLON_BLOCK = re.compile(r":[ \t]*\[")
_CLOSE_TOKEN = {"]": "RBRACK", "}": "RBRACE", ")": "RPAR"}
_STATEMENT_STARTS = frozenset(
    {"RUN", "WHEN", "IF", "FOR", "STREAM", "SHOW", "LET", "ARROW", "BOX", "CMD", "LANG", "FOREACH"}
)


class DirectiveLexer(NameLexer):
    """One statement at a time."""

    document = False

    def statement(self, at: int) -> int:
        """Lexes the statement that begins at `at` (after a slash, if any). Returns the offset where the next line
        begins.
        """
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
            "at": self.at,
            "word": self.word,
            "dot": self.dot,
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
            if self.prev == "TO" and text[at] in "./":
                at = self.target(at)  # `to ./out/file.md`: no value begins so, a path does
                continue
            if not found:
                raise self.strange(at)
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
        self.end(at)
        return at

    def end(self, at: int) -> None:
        """A separator between statements: never first, never twice."""
        if self.prev not in STARTS and self.prev != "LBRACK":
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
            f"{unclosed(self.directive(opened), mark)}: {mark} is opened here and never closed",
            expected=(closer,),
            hint=f"add {closer} where this part ends",
            resume=self.size if resume is None else resume,
        )

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
            if self.text[at - 1] == "\n" and _SLASHED.match(self.text, at + 1):
                raise self._unclosed_bracket(frame.offset, at + 1)  # a directive begins the next paragraph
            if frame.kind == "brace" and self.header in ("NEEDS", "PROFILES") and self.prev in VALUE_ENDS:
                gap = _GAP.match(self.text, at + 1)
                if gap and KEY.match(self.text, gap.end()):
                    self.emit("COMMA", ",", at, at)
            if frame.kind != "block" and not frame.ambiguous:
                return False
        if self.prev in ("ASSIGN", "AUGMENT") and self._value_is_missing(at):
            self.end(at)
            return not self.frames
        if (
            self.prev in OPEN_ENDS
            or self.prev in STARTS
            or self.prev == "LBRACK"
            or (self.prev == "ARROW" and self._arrow_goes_on(at))
        ):
            return False
        gap = _GAP.match(self.text, at + 1)
        after = gap.end() if gap else at + 1
        goes_on = GOES_ON_IN_DOCUMENT if self.document and not self.frames else _GOES_ON
        if goes_on.match(self.text, after) and not self._begins_case(after):
            return False
        if _MAY_GO_ON.match(self.text, after) and self._heading_goes_on(after):
            return False
        self.end(at)
        return not self.frames

    def _begins_case(self, after: int) -> bool:
        """`!= 5 => …` below a whole case is the next one, and not the rest of its value."""
        cases = bool(self.frames) and self.frames[-1].cases
        return cases and _EQUAL_CASE.match(self.text, after) is not None and self.heading() != "CASE"

    def _value_is_missing(self, at: int) -> bool:
        """`var @x =`, and then a statement that is indented no deeper: it is the next one, not the value of this."""
        gap = _GAP.match(self.text, at)
        after = gap.end() if gap else at
        if not _STATEMENT.match(self.text, after):
            return False
        first = len(self.out)
        while first and (token := self.out[first - 1]) is not None and token[0] not in _STATEMENT_ENDS:
            first -= 1
        token = self.out[first]
        return token is not None and self._column(after) <= self._column(token[2])

    def _column(self, at: int) -> int:
        return at - self.text.rfind("\n", 0, at)

    def _heading_goes_on(self, after: int) -> bool:
        """A heading (`for @x in @xs`, a condition) whose arrow, filter or block is on the next line."""
        heading, mark = self.heading(), self.text[after]
        if mark == "=":
            return bool(heading)
        return heading == "FOR" if mark == "w" else heading in ("FOR", "WHEN", "IF", "LOOP")

    def _arrow_goes_on(self, at: int) -> bool:
        """`=>` at the end of a line: the value comes on the next, unless the block ends or a statement follows a bare
        return.
        """
        gap = _GAP.match(self.text, at)
        after = gap.end() if gap else at
        return after < self.size and self.text[after] != "]"

    def _semicolon(self, at: int, _: re.Match[str]) -> int:
        if self.frames and (self.frames[-1].kind == "block" or self.frames[-1].ambiguous):
            self.end(at)
            return at + 1
        if self.frames and self.frames[-1].kind in ("brace", "list", "call", "params"):
            hint = "separate them with commas"
            self.emit("COMMA", ",", at, at + 1)
        else:
            hint = "remove it: a statement ends with its line"
        self.faults.append(self.fault("semicolon", at, at + 1, "; does not end anything here", hint=hint).diagnostic)
        return at + 1

    # ── Marks ────────────────────────────────────────────────────────────────────────────────────

    def _number(self, at: int, found: re.Match[str]) -> int:
        self.separate(at)
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
            return self.key(at, key)
        if not (
            self.prev in VALUE_ENDS and self.heads("OUTPUT")
        ):  # `output @x "file"` is one statement, also in a block
            self.separate(at)
        return self.quoted(at, quote)

    def _touches(self, at: int) -> bool:
        last = self.out[-1] if self.out else None
        return last is not None and last[3] == at and self.prev in TOUCHABLE

    def _operator(self, at: int, found: re.Match[str]) -> int:
        mark, end = found.group(), found.end()
        value = self.prev in VALUE_ENDS
        if mark in "<>" and self.prev == "ANDAND" and (mark == ">" or _BOUND.match(self.text, end)):
            value = True  # `>= 0.3 && < 0.7`
        if (
            mark == "<"
            and self.prev in STARTS
            and self.frames
            and self.frames[-1].cases
            and _BOUND.match(self.text, end)
        ):
            value = True  # a case `< 0`
        if mark == "<" and (not value or self.in_header()):
            return self.load(at, in_text=False)
        if mark == "," and self.in_header():
            return end
        if mark == "|" and at < self.load_stages_end:
            self.emit("L_PIPE", mark, at, end)
            return end
        if mark == "=>":
            return self._arrow(at, end)
        if mark == "?":
            return self._question(at, end)
        if mark == "/" and not value:
            return self._slash(at)
        if mark == "*" and (not value or _ANY_CASE.match(self.text, at)):
            self.separate(at)
            self.emit("ANY", mark, at, end)
            return end
        if mark == ":" and _COLON_BLOCK.match(self.text, at) and self.heading() == "WHEN":
            return end
        if mark == "," and self.frames:
            self.frames[-1].comma = True
            if self.frames[-1].cases:
                message = "unexpected ',' in when condition list. Separate conditions with whitespace or newlines (no commas)."
                raise self.fault("when-comma", at, end, message, hint="remove the comma", resume=self.line_end(at))
        if mark in ("=", "+=") and self.in_header():
            self.header = ""
        if mark == "!" and self.prev in VALUE_ENDS:
            self.separate(at)
        self.emit(OPERATORS[mark], mark, at, end)
        return end

    def _arrow(self, at: int, end: int) -> int:
        text = self.text
        after = self._spaces(end)
        if text.startswith("|", after):
            self.emit("BATCH", "=>", at, end)
            return after if text.startswith("||", after) else after + 1
        frame = self.frames[-1] if self.frames else None
        if (
            frame
            and (frame.kind == "block" or frame.ambiguous)
            and not (frame.cases or frame.comma)
            and self.is_whole()
        ):
            self.end(
                at
            )  # `[ let @y = @x + 1 => @y ]`: the arrow belongs to no heading, and so it is the next statement
        if self.prev not in STARTS and self.frames and self.frames[-1].cases and self.heading() == "CASE":
            self.frames[-1].arrows = True
        self.emit("ARROW", "=>", at, end)
        change = LABEL_CHANGE.match(text, end)
        if change and (first := change.group(1).split(",")[0].strip()) not in ACTION_WORDS and first not in LANGUAGES:
            labels = tuple(label.strip() for label in change.group(1).split(","))
            self.emit("LABELS", labels, change.start(1), change.end(1))
            return change.end()
        return end

    def _question(self, at: int, end: int) -> int:
        text = self.text
        if self.prev == "INDEX" and (found := FILTER.match(text, at)):
            self.emit("FILTER", (tuple(found.group(1).split(".")), found.group(2)), at, found.end())
            return found.end()
        if self._touches(at):
            after = text[end : end + 1]
            if after in ".[" and after:
                self.emit("OPTIONAL", "?", at, end)
                return end
            if after == "`":
                self.emit("COND_THEN", "?", at, end)
                return end
            if _AFTER_QUESTION.match(text, end) or (self.in_header() and self.header in ("VAR", "LET")):
                self.emit("COND", "?", at, end)
                return end
        self.emit("TERN", "?", at, end)
        return end

    def _slash(self, at: int) -> int:
        """Where a value may begin: a regular expression. The slash of a directive begins a line of a document and nothing else."""
        slashed = _SLASHED.match(self.text, at)
        inside = self.prev in STARTS or self.prev in ("CASES", "LBRACK")
        if slashed and inside and self.frames:
            opened = self.frames[-1].offset
            if self.frames[-1].comma or (self.text[at - 1] == "\n" and never_closed(self.text, opened, at)):
                raise self._unclosed_bracket(opened, at)  # what has commas is an array, and no block
        if slashed and (inside or self.prev in ("ARROW", "ASSIGN")):
            around = self.surroundings(inside=inside)
            if inside and around == "EXE" and slashed.group(1) in _SLASHED_IN_FUNCTIONS:
                return at + 1
            message, hint = of_slash(slashed.group(1), around, inside=inside)
            raise self.fault("slash", at, slashed.end(), message, hint=hint, resume=self.line_end(at))
        found = _REGEX.match(self.text, at)
        if not found:
            raise self.strange(at)
        self.emit("REGEX", (found.group(1), found.group(2)), at, found.end())
        return found.end()

    # ── Brackets ─────────────────────────────────────────────────────────────────────────────────

    def _open(self, at: int, found: re.Match[str]) -> int:
        mark, touches = found.group(), self._touches(at)
        if mark == "[":
            self._open_square(at, touches)
        elif mark == "(":
            if (
                self.prev == "AT"
                and self.in_header()
                and (self.header == "EXE" or (touches and self.header == "IMPORT"))
            ):
                self.push("params", "PARAMS", at)
            elif touches:
                self.push("call", "CALL", at)
            else:
                self.push("paren", "LPAR", at)
        elif self.prev in ("RUN", "STREAM") or (
            self.prev == "PIPE" and self._runs() and not _OBJECT.match(self.text, at)
        ):
            return self.command(at)
        else:
            self.push("brace", "LBRACE", at)
        return at + 1

    def _runs(self) -> bool:
        """Is this a `run`, where `| { … }` is a command?"""
        for token in reversed(self.out):
            if token is not None and token[0] in ("RUN", "END"):
                return token[0] == "RUN"
        return False

    def _open_square(self, at: int, touches: bool) -> None:
        gap = _GAP.match(self.text, at + 1)
        after = gap.end() if gap else at + 1
        if touches:
            self.push("index", "INDEX", at)
        elif self.prev in VALUE_ENDS or self.prev in ("WHEN", "WHERE", "ELSE", "BOX", "LOOP", "HEAD"):
            # `for … when [` has cases; behind a condition, `for … when @x > 2 [`, stands the block of the loop.
            cases = self.heading() == "WHEN" or self.prev == "WHERE"
            self.push("block", "BLOCK", at)
            self.frames[-1].cases = cases
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
            self.end(at)
            if frame.cases and (frame.arrows or frame.token + 2 == len(self.out) or frame.token + 1 == len(self.out)):
                self.reopen(frame, "CASES")
        elif frame.ambiguous:
            self._settle(frame, at)
        self.frames.pop()
        if len(self.frames) < self.header_depth or frame.kind == "params":
            self.header = ""
        self.emit(_CLOSE_TOKEN[mark], None, at, at + 1)
        before = self.out[frame.token - 1] if frame.token else None
        if frame.kind == "paren" and before and before[0] in ("PARALLEL", "LOOP", "WHILE", "KIND"):
            self.prev = "HEAD"
        return at + 1

    def reopen(self, frame: Frame, kind: str) -> None:
        """Corrects the opener, now that the content has shown what it is."""
        self.out[frame.token] = (kind, None, frame.offset, frame.offset + 1)

    def _settle(self, frame: Frame, at: int) -> None:
        """At the closing bracket: was it a list or a block?"""
        trailing = bool(frame.ends) and frame.ends[-1] == len(self.out) - 1
        separated = len(frame.ends) > (1 if trailing else 0)
        first = self.out[frame.token + 1] if frame.token + 1 < len(self.out) else None
        starts_statement = first is not None and first[0] in _STATEMENT_STARTS
        # `exe @f() = [ @g() ]` is a body with one call, not a list of one.
        head, last = self.out[0], self.out[-2 if trailing else -1]
        body = len(self.frames) == 1 and head is not None and head[0] == "EXE"
        calls = body and last is not None and last[0] == "RPAR"
        if not frame.comma and (separated or starts_statement or calls):
            self.reopen(frame, "BLOCK")
            self.end(at)
        else:
            for index in frame.ends:
                self.out[index] = None
