"""What gives values: text, literals, references, operators. See
`nodes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeVar, dataclass_transform
from typing import Literal as OneOf

from .source import NOWHERE, Span

if TYPE_CHECKING:
    from .nodes import Action, Expression, Part

T = TypeVar("T")
_MISSING = object()


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def node(cls: type[T]) -> type[T]:
    """A frozen dataclass, all arguments by name.

    Its methods come from Node and are not generated per class: a hundred generated classes cost 45 ms at every start.
    """
    made = dataclass(init=False, repr=False, eq=False, kw_only=True, slots=True)(cls)
    parts = fields(made)  # type: ignore[arg-type]
    made._plan = tuple((f.name, _MISSING if f.default is MISSING else f.default) for f in parts)  # type: ignore[attr-defined]
    made._compared = tuple(f.name for f in parts if f.compare)  # type: ignore[attr-defined]
    return made


class Frozen:
    """What every node does: take its fields by name, refuse to change, compare without regard to place."""

    __slots__ = ()
    _plan: ClassVar[tuple[tuple[str, object], ...]] = ()
    _compared: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **given: object) -> None:
        put = object.__setattr__
        for name, default in self._plan:
            value = given.pop(name, default)
            if value is _MISSING:
                raise TypeError(f"{type(self).__name__} wants {name}")
            put(self, name, value)
        if given:
            raise TypeError(f"{type(self).__name__} has no {', '.join(given)}")

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to {name} of a {type(self).__name__}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and all(getattr(self, n) == getattr(other, n) for n in self._compared)

    def __hash__(self) -> int:
        return hash((type(self).__name__, *(getattr(self, n) for n in self._compared)))

    def __repr__(self) -> str:
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.repr]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"


@node
class Node(Frozen):
    """Anything that was written somewhere."""

    span: Span = field(default=NOWHERE, compare=False, repr=False)

    def children(self) -> Iterator[Node]:
        """The nodes directly below, in the order of the fields."""
        for name, _ in self._plan:
            value = getattr(self, name)
            if isinstance(value, Node):
                yield value
            elif isinstance(value, tuple):
                yield from (item for item in value if isinstance(item, Node))


# ── Values ────────────────────────────────────────────────────────────────────────────────────────


@node
class Text(Node):
    """Literal text: prose of a document, or a piece of a template, a command or a path. Escapes are already undone."""

    text: str


@node
class Literal(Node):
    """`1`, `1.5`, `true`, `null`, `'single quoted'`, and double-quoted text without interpolation."""

    value: str | int | float | bool | None


@node
class Duration(Node):
    """`500ms`, `10s`, `5m`, `1h`, `7d`: a number with its unit."""

    value: float
    unit: OneOf["ms", "s", "m", "h", "d", "w"]

    @property
    def seconds(self) -> float:
        return self.value * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[self.unit]


@node
class Regex(Node):
    """`/pattern/flags`."""

    pattern: str
    flags: str = ""


@node
class Template(Node):
    """Interpolated text. `parts` are Text, expressions (Variable, Field, Call, Pipeline, FileLoad …), Conditional,
    TemplateFor.

    `quote`: `"`, `` ` ``, `::` interpolate `@x`; `:::` interpolates `{{x}}` only; `att` and `mtt` are the bodies of
    template files.
    """

    quote: OneOf['"', "`", "::", ":::", "att", "mtt"]
    parts: tuple[Part, ...] = ()


@node
class TemplateFor(Node):
    """`/for @x in @xs` … `/end`, each at the start of a line inside a template."""

    key: str | None = None
    variable: str
    iterable: Expression
    parts: tuple[Part, ...] = ()


@node
class Conditional(Node):
    """Something that is left out when it is falsy.

    `@x?` (in text, array, arguments): `value` is the thing itself, `then` is None.  ``@x?`--flag @x` ``: `then` is
    shown if `value` is truthy.
    """

    value: Expression
    then: Template | Literal | None = None


@node
class Array(Node):
    """`[1, @x, ...@ys, @maybe?]`; an item is an expression (also `when [...]`), a Spread or a Conditional."""

    items: tuple[Expression | Spread | Conditional, ...] = ()


@node
class Object(Node):
    """`{ a: 1, "b": @x, "c"?: @maybe, ...@rest, @shown? }`; a Conditional entry is named after its variable."""

    entries: tuple[Entry | Spread | Conditional, ...] = ()

    def get(self, key: str) -> Expression | None:
        """The value written for a key (the last one wins, as when it runs)."""
        found = [e.value for e in self.entries if isinstance(e, Entry) and e.key == key]
        return found[-1] if found else None


@node
class Entry(Node):
    """`key: value`; `optional` is `key?: value`, left out when the value is falsy. A bare `{ sh }` in needs has value
    `true`. A key with holes, `"@kind-@n": 1`, has its text as a template in `name`; `key` is then as it is written.
    """

    key: str
    value: Expression
    optional: bool = False
    name: Template | None = None


@node
class Spread(Node):
    """`...@x` in an array, an object or an argument list."""

    value: Expression


# ── References ────────────────────────────────────────────────────────────────────────────────────


@node
class Variable(Node):
    """`@name`; reserved ones too (`@mx`, `@fm`, `@root`, `@now`, `@payload` …). `keychain.get(…)` begins with
    Variable("keychain").
    """

    name: str


@node
class Placeholder(Node):
    """`<>` in the text after `as`: the file at hand."""


@node
class Field(Node):
    """`target.name`; `optional` is `target.name?` that continues: a missing value gives null and not an error. `@x.0`
    has name `0`.
    """

    target: Expression
    name: str
    optional: bool = False


@node
class Index(Node):
    """`target[key]`: a number, a string or an expression."""

    target: Expression
    key: Expression


@node
class Slice(Node):
    """`target[start:stop]`, each end optional."""

    target: Expression
    start: Expression | None = None
    stop: Expression | None = None


@node
class Filtered(Node):
    """`target[?path operator value]`: the elements of which it is true. Without an operator (None) the field must be truthy;
    `~` asks whether its text holds the value's; a length of time as the value is compared with the age of a date.
    """

    target: Expression
    path: tuple[str, ...]
    operator: str | None = None
    value: Expression | None = None


@node
class Wildcard(Node):
    """`target[*]`: what follows is applied to each element."""

    target: Expression


@node
class Call(Node):
    """`function(arguments)`. A method is a Call whose function is a Field: `@x.trim()`."""

    function: Expression
    arguments: tuple[Expression | Spread | Conditional, ...] = ()


@node
class New(Node):
    """`new @Class(arguments)` for imported classes, and `new @cfg with { … }` for a narrowed environment (then
    `options` is set).
    """

    function: Expression
    arguments: tuple[Expression | Spread | Conditional, ...] = ()
    options: Object | None = None


# ── Operators ─────────────────────────────────────────────────────────────────────────────────────


@node
class Unary(Node):
    operator: OneOf["!", "-"]
    operand: Expression


BinaryOperator: TypeAlias = OneOf[
    "??", "||", "&&", "==", "!=", "~=", "!~=", "<", ">", "<=", ">=", "+", "-", "*", "/", "%"
]


@node
class Binary(Node):
    operator: BinaryOperator
    left: Expression
    right: Expression


@node
class Ternary(Node):
    condition: Expression
    then: Action
    otherwise: Action


@node
class Labelled(Node):
    """`=> pii, internal @x`, `=> trusted! @x`, `=> !secret @x`: the value with changed labels. Items as written:
    `pii`, `trusted!`, `!secret`, `clear!`.
    """

    labels: tuple[str, ...]
    value: Expression
