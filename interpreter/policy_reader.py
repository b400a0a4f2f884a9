"""Reading plain configuration values: every fault names its path (`policy.env.net.allow[1]`), its line and what was
meant.

Used for whatever a script hands over as data: policies, profiles, box configurations, the value of `@mcpConfig`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from interpreter.declarations import Place, place_of
from interpreter.errors import MlldError
from interpreter.policy_patterns import nearest
from interpreter.source import Span

Path = tuple[str | int, ...]
# Finds where the value at a path was written; the evaluator knows, since it built the value.
Locator = Callable[[Path], Span | Place | None]
T = TypeVar("T")


def nowhere(_: Path) -> None:
    """The locator of values which no source holds."""
    return


class ConfigFault(MlldError):
    """A configuration value of the wrong shape: nothing was started."""

    code = "config"
    exit_code = 3

    def __init__(self, message: str, *, path: str, span: Span | None, place: Place | None, hint: str | None) -> None:
        # A span is drawn with its caret; a place (all that is left of it in the sidecar) is named in the text.
        super().__init__(f"{place}: {message}" if place and not span else message, span=span, hint=hint)
        self.path = path
        self.place = place


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A value with the path that leads to it. Every accessor raises `ConfigFault` when the shape is wrong."""

    value: object
    name: str  # how the whole is called: "mcpConfig"
    path: Path = ()
    locate: Locator = nowhere

    def __str__(self) -> str:
        """`mcpConfig.servers[1].command`."""
        return self.name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)

    @property
    def where(self) -> Span | Place | None:
        """Where it was written, or the nearest thing around it whose place is known."""
        for length in range(len(self.path), -1, -1):
            if found := self.locate(self.path[:length]):
                return found
        return None

    @property
    def place(self) -> Place | None:
        return place_of(self.where)

    def fault(self, message: str, *, hint: str | None = None) -> ConfigFault:
        """`message` continues the path: "must be a string"."""
        where = self.where
        span = where if isinstance(where, Span) else None
        return ConfigFault(f"{self} {message}", path=str(self), span=span, place=self.place, hint=hint)

    def expected(self, what: str) -> ConfigFault:
        return self.fault(f"must be {what}, got {describe(self.value)}")

    def at(self, key: str | int) -> Reader:
        match self.value, key:
            case Mapping() as entries, _:
                value = entries.get(key)
            case ((list() | tuple() as elements), int()):
                value = elements[key]
            case _:
                value = None
        return replace(self, value=value, path=(*self.path, key))

    def get(self, key: str) -> Reader | None:
        """The entry under a key of a mapping; None when it is absent or null."""
        return self.at(key) if isinstance(self.value, Mapping) and self.value.get(key) is not None else None

    def mapping(self, known: Iterable[str] | None = None, *, what: str = "an object") -> Reader:
        """Itself, when it is an object with no other keys than the known ones."""
        if not isinstance(self.value, Mapping):
            raise self.expected(what)
        if known is not None:
            choices = tuple(known)
            for key in self.value:
                if key not in choices:
                    raise self.unknown(str(key), choices)
        return self

    def unknown(self, key: str, choices: Iterable[str]) -> ConfigFault:
        """The fault of a key that nobody knows, with the nearest one."""
        listed = sorted(choices)
        close = nearest(key, listed)
        hint = f"did you mean '{close}'?" if close else f"known keys: {', '.join(listed)}"
        here = replace(self, path=(*self.path, key)).where or self.where
        span = here if isinstance(here, Span) else None
        return ConfigFault(
            f"{self} has no key '{key}'", path=f"{self}.{key}", span=span, place=place_of(here), hint=hint
        )

    def items(self) -> Iterator[tuple[str, Reader]]:
        if not isinstance(self.value, Mapping):
            raise self.expected("an object")
        for key in self.value:
            yield str(key), self.at(key)

    def elements(self, what: str = "a list") -> Iterator[Reader]:
        if not isinstance(self.value, list | tuple):
            raise self.expected(what)
        for index in range(len(self.value)):
            yield self.at(index)

    def string(self, what: str = "a string") -> str:
        if not isinstance(self.value, str):
            raise self.expected(what)
        if not self.value.strip():
            raise self.fault(f"must be {what}, and is empty")
        return self.value

    def strings(self, what: str = "a list of strings") -> tuple[str, ...]:
        return tuple(element.string() for element in self.elements(what))

    def names(self, what: str = "a list of strings") -> tuple[str, ...]:
        """A list of strings, or a single one."""
        return (self.string(),) if isinstance(self.value, str) else self.strings(what)

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.expected("true or false")
        return self.value

    def number(self, what: str = "a number", *, least: float = 0) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.expected(what)
        if not self.value >= least:  # also catches NaN
            raise self.fault(f"must be {what} of at least {least:g}, got {self.value}")
        return self.value

    def integer(self, what: str = "a whole number", *, least: int = 0) -> int:
        number = self.number(what, least=least)
        if number != int(number):
            raise self.expected(what)
        return int(number)

    def one_of(self, choices: Mapping[str, T]) -> T:
        text = self.string()
        if text not in choices:
            close = nearest(text, choices)
            hint = f"did you mean '{close}'?" if close else f"choose from: {', '.join(choices)}"
            raise self.fault(f"cannot be '{text}'", hint=hint)
        return choices[text]


def describe(value: object) -> str:
    """What a value is, in the words of the language; never its content, which may be secret."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "an object"
    return f"a {type(value).__name__}"
