"""A value read from JSON with its path, so that every complaint names the place: `config.run must be a string`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class ConfigError(ValueError):
    """The configuration is wrong, and where."""


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"


class Reader:
    """One place in a JSON document. A key that is absent reads as null."""

    __slots__ = ("path", "value")

    def __init__(self, value: Any, path: str) -> None:
        self.value = value
        self.path = path

    def error(self, message: str) -> ConfigError:
        return ConfigError(f"{self.path} {message}")

    def _want(self, what: str, ok: bool) -> None:
        if not ok:
            raise self.error(f"must be {what}, got {_kind(self.value)}")

    @property
    def given(self) -> bool:
        return self.value is not None

    def keys(self, *names: str) -> None:
        """This is an object with no other keys: a misspelt restriction must not be lost in silence."""
        self._want("an object", isinstance(self.value, dict))
        for key in self.value:
            if key not in names:
                import difflib  # most configurations are right

                near = difflib.get_close_matches(key, names, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it may be one of {', '.join(names)}"
                raise ConfigError(f"{self.path}.{key} is unknown; {hint}")

    def get(self, key: str) -> Reader:
        self._want("an object", isinstance(self.value, dict))
        return Reader(self.value.get(key), f"{self.path}.{key}")

    def at(self, index: int) -> Reader:
        return Reader(self.value[index], f"{self.path}[{index}]")

    def items(self) -> Iterator[Reader]:
        self._want("a list", isinstance(self.value, list))
        return (self.at(index) for index in range(len(self.value)))

    def optional_items(self) -> Iterator[Reader]:
        return self.items() if self.given else iter(())

    def members(self) -> Iterator[tuple[str, Reader]]:
        self._want("an object", isinstance(self.value, dict))
        return ((key, Reader(item, f"{self.path}.{key}")) for key, item in self.value.items())

    def optional_members(self) -> Iterator[tuple[str, Reader]]:
        return self.members() if self.given else iter(())

    def string(self, *, at_least: int = 1) -> str:
        self._want("a string", isinstance(self.value, str))
        if len(self.value) < at_least:
            raise self.error(f"must have at least {at_least} characters")
        return str(self.value)

    def name(self) -> str:
        text = self.string()
        if not _NAME.fullmatch(text):
            raise self.error(f"must be letters, digits, `-`, `_` and `.`, at most 64, got {text!r}")
        return text

    def path_like(self) -> str:
        text = self.string()
        if not text.startswith("/") or "\0" in text or ".." in text.split("/"):
            raise self.error(f"must be an absolute path, got {text!r}")
        return text

    def one_of(self, *choices: str, default: str) -> str:
        if not self.given:
            return default
        if self.value not in choices:
            raise self.error(f"must be one of {', '.join(choices)}, got {self.value!r}")
        return str(self.value)

    def integer(self, *, at_least: int = 0, at_most: int = 2**53, default: int | None = None) -> int:
        if not self.given and default is not None:
            return default
        self._want("a whole number", isinstance(self.value, int) and not isinstance(self.value, bool))
        if not at_least <= self.value <= at_most:
            raise self.error(f"must be from {at_least} to {at_most}, got {self.value}")
        return int(self.value)

    def seconds(self, default: float) -> float:
        """A time that is written in milliseconds."""
        return self.integer(at_least=1) / 1000 if self.given else default

    def boolean(self, *, default: bool) -> bool:
        if not self.given:
            return default
        self._want("true or false", isinstance(self.value, bool))
        return bool(self.value)

    def strings(self) -> tuple[str, ...]:
        return tuple(item.string() for item in self.items())

    def string_map(self) -> Mapping[str, str]:
        return MappingProxyType({key: item.string(at_least=0) for key, item in self.optional_members()})
