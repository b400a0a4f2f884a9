"""The LALR table: made by lark from grammar.lark, kept as plain data beside the compiled code or in the user's cache
directory.

lark is needed only to make the table (half a second); a start with a warm cache never imports it. The cache holds
JSON, not pickles, and is read only from a file that belongs to the user, to root or to the owner of the code, and
that nobody else can write: a foreign table could make a script mean something else.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

GRAMMAR = Path(__file__).with_name("grammar.lark")
BESIDE_CODE = Path(__file__).with_name("__pycache__")
"""Where Python keeps what it makes of our code: who can write there can change the code as well."""
FORMAT = 1
STARTS = ("start", "template_body")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One production. `pops` symbols go, `origin` comes.

    `plan`: for each child of the node, the index of the symbol, or -1 for an optional part that is absent; `spliced`
    are the indexes whose value is a list that belongs to this one; `single`: the value of the only child is passed on
    without making anything.
    """

    name: str
    origin: str
    pops: int
    plan: tuple[int, ...]
    spliced: frozenset[int]
    single: bool
    inline: bool

    def children(self, popped: list[Any]) -> list[Any]:
        """The children of the node from the values of its symbols."""
        if not self.spliced:
            return [popped[i] if i >= 0 else None for i in self.plan]
        # A growing list is extended in place: copying it for each element would make long lists quadratic.
        grows = self.inline and self.plan[0] in self.spliced
        out: list[Any] = popped[0] if grows else []
        for i in self.plan[1:] if grows else self.plan:
            if i in self.spliced:
                out += popped[i]
            else:
                out.append(popped[i] if i >= 0 else None)
        return out


@dataclass(frozen=True, kw_only=True)
class Table:
    """`actions[state][token]`: a state to shift to (≥ 0), or the rule to reduce by, as -1 - its index. `starts` and
    `ends` by start rule.
    """

    actions: list[dict[str, int]]
    rules: list[Rule]
    starts: dict[str, int]
    ends: dict[str, int]


@cache
def table() -> Table:
    text = GRAMMAR.read_text(encoding="utf-8")
    name = file_name(text)
    places = [place for place in (BESIDE_CODE, cache_directory()) if place is not None]
    for place in places:
        if (raw := _read(place / name)) is not None:
            return _thaw(raw)
    raw = build(text)
    if sys.dont_write_bytecode:
        places.remove(BESIDE_CODE)
    any(_write(place / name, raw) for place in places)
    return _thaw(raw)


def file_name(text: str) -> str:
    """The name says what it was made from, so that an old table is never read."""
    digest = hashlib.sha256(f"{FORMAT}\n{text}".encode()).hexdigest()
    return f"grammar-{digest[:16]}.json"


def build(text: str) -> dict[str, Any]:
    """The table as JSON-able data."""
    from lark import Lark
    from lark.lexer import Lexer as LarkLexer
    from lark.parsers.lalr_analysis import Shift

    class NoLexer(LarkLexer):
        """lark wants one; ours runs before."""

        def __init__(self, conf: object) -> None:
            pass

        def lex(self, *args: Any) -> Any:
            raise NotImplementedError

    terminals = sorted(_terminals(text))
    declared = "".join(f"%declare {name}\n" for name in terminals)
    lark = Lark(text + declared, parser="lalr", lexer=NoLexer, start=list(STARTS), strict=True, maybe_placeholders=True)
    made = lark.parser.parser._parse_table
    rules: list[list[Any]] = []
    numbers: dict[Any, int] = {}
    for rule in lark.rules:
        numbers[rule] = len(rules)
        rules.append(_rule(rule))
    actions = []
    for state in range(len(made.states)):
        row = {}
        for symbol, (action, target) in made.states[state].items():
            row[
                symbol.lstrip("_") if symbol.isupper() or (symbol.startswith("_") and symbol[1:].isupper()) else symbol
            ] = target if action is Shift else -1 - numbers[target]
        actions.append(row)
    return {"actions": actions, "rules": rules, "starts": made.start_states, "ends": made.end_states}


def _terminals(text: str) -> set[str]:
    """Every name in capitals that the grammar uses."""
    import re

    bare = re.sub(r"//[^\n]*", "", text)
    return set(re.findall(r"(?<![A-Za-z_])_?[A-Z][A-Z_]+\b", bare))


def _rule(rule: Any) -> list[Any]:
    """How lark's tree builder would filter and place the children, as an explicit plan."""
    options, symbols = rule.options, rule.expansion
    empty = list(options.empty_indices)
    gaps = [len(run) for run in "".join(str(int(i)) for i in empty).split("0")] if empty else [0] * (len(symbols) + 1)
    plan, spliced = [], []
    plan += [-1] * gaps[0]
    for index, symbol in enumerate(symbols):
        if symbol.is_term:
            if not symbol.name.startswith("_"):
                plan.append(index)
        else:
            if symbol.name.startswith("_"):
                spliced.append(index)
            plan.append(index)
        plan += [-1] * gaps[index + 1]
    origin = rule.origin.name
    single = bool(options.expand1) and rule.alias is None and len(plan) == 1 and not spliced
    return [rule.alias or origin, origin, len(symbols), plan, spliced, single, origin.startswith("_")]


def _thaw(raw: dict[str, Any]) -> Table:
    rules = [
        Rule(name=n, origin=o, pops=p, plan=tuple(plan), spliced=frozenset(spliced), single=single, inline=inline)
        for n, o, p, plan, spliced, single, inline in raw["rules"]
    ]
    return Table(actions=raw["actions"], rules=rules, starts=raw["starts"], ends=raw["ends"])


# ── The cache ────────────────────────────────────────────────────────────────────────────────────


def cache_directory() -> Path | None:
    """The user's own cache directory, made with 0700; None if there is none that is safe."""
    home = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("HOME") and os.path.join(os.environ["HOME"], ".cache"))
    if not home:
        return None
    directory = Path(home) / "mlld"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError:
        return None
    mine = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return directory if mine else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            if found.st_uid not in (os.getuid(), 0, GRAMMAR.stat().st_uid) or found.st_mode & (
                stat.S_IWGRP | stat.S_IWOTH
            ):
                return None
            loaded: dict[str, Any] = json.load(file)
            return loaded
    except (OSError, ValueError):
        return None


def _write(path: Path, raw: dict[str, Any]) -> bool:
    """Whole or not at all: two starts at once must not read half a table. A cache that cannot be written only costs
    time.
    """
    name = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(raw, file, separators=(",", ":"))
        name.chmod(0o644)
        os.replace(name, path)
    except OSError:
        return False
    return True


def main() -> None:
    """`python -m interpreter.parser_table`: makes the table beside the code, for an image in which nothing can be
    written later.
    """
    text = GRAMMAR.read_text(encoding="utf-8")
    BESIDE_CODE.mkdir(exist_ok=True)
    if not _write(BESIDE_CODE / file_name(text), build(text)):
        raise SystemExit(f"the table cannot be written to {BESIDE_CODE}")


if __name__ == "__main__":
    main()
