"""From characters to tokens, with four modes: document, directive, template, code.

The method. mlld is written for people, and most of its marks mean several things: `[` opens a list, a block or an
index; `<` is a file or "less than"; `|` pipes, `||` is "or" or runs in parallel; a word is a keyword here and a name
there; a line end separates or does not. A grammar that had to sort this out would need unbounded lookahead. So the
lexer does it, once, from left to right, with three facts: the token before (does it end a value?), the bracket around
(a frame on a stack), and one look at what follows. What it cannot know at an opening bracket (list or block?) it
learns until the closing one, and then corrects the opener. Afterwards the grammar is plain LALR(1).

Everything here is linear in the length of the text. A fault ends its statement, not the file: lexing goes on at the
next line that begins a directive, so that a file with three faults gets three errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .errors import Diagnostic
from .hints_habits import NOT_ALLOWED, PROSE_HINT, is_markdown
from .hints_syntax import explain
from .lexer_base import LexFault
from .lexer_directive import DirectiveLexer
from .lexer_words import NAME, STATEMENT_WORDS, Token
from .source import Mode, Source, Span

# A file with more faults than this is not a script, and each costs a search for the next directive.
MOST_FAULTS = 50

_WORDS = "|".join(sorted(STATEMENT_WORDS, key=len, reverse=True))
_DIRECTIVE = re.compile(rf"[ \t]*/(?=(?:{_WORDS})(?![\w-])|=>|@{NAME}[\w.\-\[\]\"']*\()")
_RESUME = re.compile(rf"^/?(?:{_WORDS})(?![\w-])(?!\s*[:,])", re.MULTILINE)
_FRONTMATTER = re.compile(r"\s*---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
# `resume: auto` alone above everything is front matter without its dashes.
_RESUME_HEADER = re.compile(
    r'(?:[ \t]*(?:>>[^\n]*)?\n)*(resume:[ \t]*"?(?:auto|manual|never)"?)[ \t]*(?:(?:>>|<<)[^\n]*)?(?:\n|\Z)'
)
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})([^\n]*)")
_PIPED_LINE = re.compile(rf"@{NAME}[\w.]*[ \t]+\|[ \t]+[@/\w]")
_SLASHED_STAGE = re.compile(r"^(@[^|\n]*)\| /", re.MULTILINE)
_BLANK = re.compile(r"[ \t\r]*(?:(?:>>|<<)[^\n]*)?(?:\n|\Z)")
_HEADING_LINE = re.compile(r"[ \t]*#[^\n]*(?:\n|\Z)")
_COMMENT_LINE = re.compile(r"[ \t]*(?:>>|<<)[^\n]*(?:\n|\Z)")


@dataclass(frozen=True, kw_only=True)
class Lexed:
    """A file as items: the tokens of a statement (the last is END), or a single TEXT token of prose."""

    items: list[list[Token]]
    faults: list[Diagnostic]
    frontmatter: Token | None = None
    fences: tuple[tuple[int, int], ...] = ()  # where the contents of `mlld-run` fences begin and end


class Lexer(DirectiveLexer):
    """A whole file. In a `mlld-run` fence of a document (`fenced`) headings are comments, as people write them there."""

    fenced = False

    def __init__(self, source: Source, mode: Mode) -> None:
        super().__init__(source)
        self.document = mode == "document"
        self.items: list[list[Token]] = []
        self.never_closed: set[str] = set()
        self.fences: list[tuple[int, int]] = []

    def lex(self) -> Lexed:
        at, frontmatter = 0, None
        if found := _FRONTMATTER.match(self.text):
            frontmatter = ("FRONTMATTER", found.group(1), found.start(1), found.end(1))
            at = found.end()
        elif found := _RESUME_HEADER.match(self.text):
            frontmatter = ("FRONTMATTER", f"{found.group(1)}\n", found.start(1), found.end(1))
            at = found.end()
        if self.document:
            self._document(at)
            if self._only_piped_lines():
                # Each line is lexed where it stands: a slash before the effect makes room.
                text = _SLASHED_STAGE.sub(r"\1|  ", self.text)
                return Lexer(Source(name=self.source.name, text=text), "strict").lex()
        else:
            self._strict(at, self.size)
        return Lexed(items=self.items, faults=self.faults, frontmatter=frontmatter, fences=tuple(self.fences))

    # ── Strict ───────────────────────────────────────────────────────────────────────────────────

    def _strict(self, at: int, end: int) -> int:
        text = self.text
        while at < end and len(self.faults) < MOST_FAULTS:
            if (blank := _BLANK.match(text, at)) and blank.end() > at:
                at = blank.end()
                continue
            if self.fenced and (heading := _HEADING_LINE.match(text, at)):
                at = heading.end()
                continue
            start = at
            while text[start] in " \t\r":
                start += 1
            start += text[start] == "/" and text[start + 1 : start + 2] not in ("/", "*", " ")
            at = self._statement(start)
        return at

    def _statement(self, at: int) -> int:
        """One statement, or its fault; returns where the next line begins."""
        self.out = []
        try:
            if not self.document and is_markdown(self.text, at):
                raise self.fault("prose", at, self.line_end(at), NOT_ALLOWED, hint=PROSE_HINT)
            end = self.statement(at)
        except LexFault as fault:
            first = next((token for token in self.out if token is not None), None)
            is_prose = first is None or first[0] == "WORD"
            self.faults.append(self._prose_fault(at, fault.diagnostic) if is_prose else fault.diagnostic)
            found = _RESUME.search(
                self.text, max(fault.resume if fault.resume < self.size else self.line_end(at), at + 1)
            )
            return found.start() if found else self.size
        tokens = [token for token in self.out if token is not None]
        if tokens:
            self.items.append(tokens)
        return end

    def _prose_fault(self, at: int, found: Diagnostic) -> Diagnostic:
        """A line that does not even begin as a statement, whatever its first strange character is."""
        first = next((token for token in self.out if token is not None), None)
        if first is not None:
            return explain(self.source, [first], 0, frozenset())
        if self.text[at] in ")]}$%@." or self.text.startswith("//", at):
            return found
        span = self.source.span(at, self.line_end(at))
        return Diagnostic(code="prose", message=NOT_ALLOWED, span=span, hint=PROSE_HINT)

    # ── Documents ────────────────────────────────────────────────────────────────────────────────

    def _document(self, at: int) -> None:
        text, begin, pieces = self.text, at, list[str]()
        while at < self.size and len(self.faults) < MOST_FAULTS:
            if found := _DIRECTIVE.match(text, at):
                if pieces:
                    pieces.append(text[at : found.end() - 1])  # below a line of text, it stands where it was written
                self._prose(pieces, begin, at)
                at = begin = self._statement(found.end())
            elif (found := _FENCE.match(text, at)) and (end := self._fence_end(found)):
                if found.group(2).strip() == "mlld-run" and len(found.group(1)) == 3:
                    self._prose(pieces, begin, at)
                    self._run_fence(self.line_end(at) + 1, end)
                    begin = end
                else:
                    pieces.append(text[at:end])
                at = end
            elif found := _COMMENT_LINE.match(text, at):
                at = found.end()
            else:
                end = min(self.line_end(at) + 1, self.size)
                pieces.append(text[at:end])
                at = end
        self._prose(pieces, begin, at)

    def _only_piped_lines(self) -> bool:
        """A document without a line of prose is a script: its lines `@x | show` are statements."""
        texts = [str(item[0][1]) for item in self.items if item[0][0] == "TEXT"]
        lines = [line for text in texts for line in text.splitlines() if line.strip()]
        return bool(lines) and not self.faults and all(_PIPED_LINE.match(line) for line in lines)

    def _prose(self, pieces: list[str], begin: int, end: int) -> None:
        if pieces:
            self.items.append([("TEXT", "".join(pieces), begin, end)])
            pieces.clear()

    def _fence_end(self, opened: re.Match[str]) -> int:
        """After the line that closes a fence, or 0: an unclosed one is a line of text."""
        mark = opened.group(1)
        if mark in self.never_closed:
            return 0
        close = re.compile(rf"^[ \t]*{re.escape(mark)}[ \t]*(?:\n|\Z)", re.MULTILINE)
        found = close.search(self.text, min(self.line_end(opened.start()) + 1, self.size))
        if not found:
            self.never_closed.add(mark)
            return 0
        return found.end()

    def _run_fence(self, begin: int, end: int) -> None:
        """```` ```mlld-run ````: its content is strict. It is lexed alone, so that nothing in it can reach beyond its end."""
        close = self.text.rfind("```", begin, end)
        self.fences.append((begin, close))
        inner = Lexer(Source(name=self.source.name, text=self.text[begin:close]), "strict")
        inner.fenced = True
        inner._strict(0, inner.size)
        for item in inner.items:
            self.items.append([(kind, value, start + begin, stop + begin) for kind, value, start, stop in item])
        for fault in inner.faults:
            related = tuple((label, self._moved(span, begin)) for label, span in fault.related)
            self.faults.append(replace(fault, span=fault.span and self._moved(fault.span, begin), related=related))

    def _moved(self, span: Span, by: int) -> Span:
        return self.source.span(span.start + by, span.end + by)


def lex(source: Source, mode: Mode) -> Lexed:
    return Lexer(source, mode).lex()


def lex_template(source: Source, quote: str) -> tuple[list[Token], list[Diagnostic]]:
    """The tokens of a template file."""
    lexer = Lexer(source, "strict")
    try:
        lexer.parts(0, quote, 0)
    except LexFault as fault:
        return [], [fault.diagnostic]
    return [token for token in lexer.out if token is not None], lexer.faults
