"""What the modes of the lexer share: the text, the tokens so far, the open brackets, and how a fault is told."""

from __future__ import annotations

from .errors import Diagnostic
from .hints_directive import WORDS
from .lexer_words import Token
from .source import Source

# Deeper nesting than this is no program, and every walk over the tree must survive it.
DEEPEST = 60
# So many tokens back the word is looked for that began a directive with a fault.
FAR = 2000


class LexFault(Exception):
    """A fault that ends the statement in which it stands."""

    def __init__(self, diagnostic: Diagnostic, resume: int) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic
        self.resume = resume


class Frame:
    """An open bracket: its kind, where its token is, and what its content has shown so far."""

    __slots__ = ("ambiguous", "arrows", "cases", "comma", "ends", "kind", "offset", "token")

    def __init__(self, kind: str, token: int, offset: int, ambiguous: bool = False) -> None:
        self.kind = kind
        self.token = token
        self.offset = offset
        self.ambiguous = ambiguous
        self.cases = False
        self.arrows = False
        self.comma = False
        self.ends: list[int] = []


class BaseLexer:
    """The state. `prev` is the type of the last token; `frames` are the open brackets of the statement, innermost last."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.text = source.text
        self.size = len(source.text)
        self.out: list[Token | None] = []
        self.prev = "START"
        self.frames: list[Frame] = []
        self.faults: list[Diagnostic] = []
        self._line = (1, 0)

    def emit(self, kind: str, value: object, start: int, end: int) -> None:
        self.out.append((kind, value, start, end))
        self.prev = kind

    def push(self, kind: str, token: str, offset: int, ambiguous: bool = False) -> None:
        if len(self.frames) >= DEEPEST:
            raise self.fault(
                "too-deep",
                offset,
                offset + 1,
                f"nested more than {DEEPEST} levels deep",
                hint="give the inner part a name of its own: let @part = …",
            )
        self.frames.append(Frame(kind, len(self.out), offset, ambiguous))
        self.emit(token, None, offset, offset + 1)

    def fault(
        self,
        code: str,
        start: int,
        end: int,
        message: str,
        *,
        expected: tuple[str, ...] = (),
        hint: str | None = None,
        resume: int | None = None,
        related: tuple[tuple[str, int], ...] = (),
    ) -> LexFault:
        diagnostic = Diagnostic(
            code=code,
            message=message,
            span=self.source.span(start, end),
            expected=expected,
            hint=hint,
            related=tuple((label, self.source.span(at, at + 1)) for label, at in related),
        )
        return LexFault(diagnostic, end if resume is None else resume)

    def directive(self, at: int) -> str:
        """The type of the token that began the directive around an offset, or empty."""
        for token in reversed(self.out[-FAR:]):
            if token is not None and token[2] <= at and token[0] in WORDS:
                return token[0]
        return ""

    def line_end(self, at: int) -> int:
        """Where the line ends. Remembered: a line of a megabyte may hold a hundred thousand questions."""
        begin, end = self._line
        if not begin <= at <= end:
            found = self.text.find("\n", at)
            self._line = (at, self.size if found < 0 else found)
        return self._line[1]
