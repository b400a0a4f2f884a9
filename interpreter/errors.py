"""Everything that can go wrong in a script, and how it is told.

    MlldError                     exit 1
    ├── SyntaxFault               exit 3   one or more diagnostics; nothing was started
    │   └── CheckFault            exit 3   it parses, but cannot mean anything (unknown name, wrong arity)
    ├── EvaluationError           exit 1   the script failed while it ran
    │   ├── UserBail              exit 1   the script said `bail`
    │   └── CommandFailed         exit 1   a command or code body ended badly
    ├── ImportFault               exit 1   a module cannot be found, read or trusted
    ├── Denied                    exit 4   a policy or guard said no
    └── LimitReached              exit 6   time, depth, size or count

A diagnostic is data: code, place, message, expectation, hint. It is rendered once for people and once for programs,
so both
always say the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from .source import Span, printable

Severity = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True)
class Diagnostic:
    """One fault: what happened, where, what was expected, what to do next."""

    code: str
    message: str
    span: Span | None = None
    expected: tuple[str, ...] = ()
    hint: str | None = None
    severity: Severity = "error"
    related: tuple[tuple[str, Span], ...] = field(default=())
    """Other places that explain it: where the bracket was opened, where the name was first declared."""

    def render(self) -> str:
        """The form for people: place and message, the line with a caret, expectation, hint."""
        where = f"{self.span}: " if self.span else ""
        lines = [f"{where}{self.severity}[{self.code}]: {printable_lines(self.message)}"]
        if self.span:
            lines.append(self.span.picture())
        for label, span in self.related:
            lines += [f"  {label}: {span}", span.picture()]
        if self.expected:
            lines.append(f"  expected: {listing(self.expected)}")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def json(self) -> dict[str, object]:
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "span": self.span.json() if self.span else None,
            "expected": list(self.expected),
            "hint": self.hint,
            "related": [{"message": label, "span": span.json()} for label, span in self.related],
        }


class MlldError(Exception):
    """The root: everything that a script, its author or its caller can cause. Anything else is a bug of ours."""

    code = "error"
    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        span: Span | None = None,
        hint: str | None = None,
        code: str | None = None,
        expected: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.span = span
        self.hint = hint
        self.expected = tuple(expected)
        if code is not None:
            self.code = code

    @property
    def plain(self) -> str:
        """What went wrong, in the words of whatever failed."""
        return self.message

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        return (
            Diagnostic(code=self.code, message=self.message, span=self.span, hint=self.hint, expected=self.expected),
        )

    def render(self) -> str:
        return "\n\n".join(d.render() for d in self.diagnostics)

    def json(self) -> dict[str, object]:
        return {"exit": self.exit_code, "errors": [d.json() for d in self.diagnostics]}


class SyntaxFault(MlldError):
    """A text that is not a script: all its faults at once."""

    code = "syntax"
    exit_code = 3

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self._all = tuple(diagnostics)
        first = self._all[0]
        super().__init__(first.message, span=first.span, hint=first.hint, code=first.code, expected=first.expected)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        return self._all


class CheckFault(SyntaxFault):
    """A script that parses and still cannot mean anything."""

    code = "check"


class EvaluationError(MlldError):
    """The script failed while it ran."""

    code = "evaluation"


class UserBail(EvaluationError):
    """The script itself said `bail`."""

    code = "bail"


class CommandFailed(EvaluationError):
    """A command or a code body ended with a status other than 0, or with an exception of its language."""

    code = "command-failed"

    def __init__(
        self,
        message: str,
        *,
        status: int = 1,
        stderr: str = "",
        plain: str | None = None,
        span: Span | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, span=span, hint=hint)
        self.status = status
        self.stderr = stderr
        self._plain = plain

    @property
    def plain(self) -> str:
        """What the code itself said, where that is known."""
        return self._plain if self._plain is not None else self.message


class ImportFault(MlldError):
    """A module cannot be found, read or trusted."""

    code = "import"


class Denied(MlldError):
    """A policy or a guard said no: the rule, and its reason in its own words."""

    code = "denied"
    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        rule: str | None = None,
        reason: str | None = None,
        span: Span | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, span=span, hint=hint)
        self.rule = rule
        self.reason = reason if reason is not None else message


class LimitReached(MlldError):
    """A bound on time, depth, size or count was met."""

    code = "limit"
    exit_code = 6


def listing(items: Iterable[str], limit: int = 8) -> str:
    """`a, b or c`; a long list is cut and says how much is missing."""
    names = list(items)
    if len(names) > limit:
        names = [*names[:limit], f"{len(names) - limit} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}" if names else "nothing"


def printable_lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))
