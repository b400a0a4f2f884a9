"""What runs (commands, code, loads, pipelines) and what steers (when, for, loop, box …). See `nodes`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Literal as OneOf

from .nodes_values import Call, Conditional, Literal, Node, Object, Spread, Template, node

if TYPE_CHECKING:
    from .nodes import Action, Augment, Expression, Let, Part, Stage, Statement


# ── What runs ─────────────────────────────────────────────────────────────────────────────────────


@node
class Command(Node):
    """`cmd {…}`, `cmd:@dir {…}`, bare `{…}` after `run`. `parts` as in a Template; a Conditional may occur. No shell
    is meant. `arguments` are those of `cmd (@a) {…}`, which may say `$a`.
    """

    parts: tuple[Part, ...] = ()
    arguments: tuple[Expression, ...] = ()
    directory: Expression | None = None


@node
class Code(Node):
    """`sh|bash|js|node|py {…}`; the body is verbatim. `arguments` are those of `sh (@a, @b) {…}`, given under their
    own names.
    """

    language: OneOf["sh", "js", "node", "py"]
    text: str
    arguments: tuple[Expression, ...] = ()
    directory: Expression | None = None


@node
class Prose(Node):
    """`prose:@config {…}` (interpolated parts), `prose:@config "file"`, `prose:@config template "file"` (`path`)."""

    config: Expression
    parts: tuple[Part, ...] = ()
    path: Template | Literal | TemplateFile | None = None


@node
class TemplateFile(Node):
    """`template "x.att"` as the body of an exe."""

    path: Template | Literal


@node
class FileLoad(Node):
    """`<path>`: a file, a glob or a URL, loaded.

    `<guide.md # "One"?, two; !# three>` has sections and `without`; `<api.ts { createUser, *fn }>` has selectors;
    `<x>?` is optional;
    `<*.md> as "…<>.mx.filename…"` has `shape`; `place` is where that of a section stands: "behind" the `>`, or before
    it as a "heading" (in quotes) or as the "text" of each section (as a template). `path` parts as in a Template.
    """

    path: tuple[Part, ...]
    sections: tuple[Section, ...] = ()
    without: tuple[Section, ...] = ()
    selectors: tuple[str, ...] = ()
    optional: bool = False
    shape: Template | Literal | None = None
    place: str = "behind"


@node
class Section(Node):
    """A heading after `#`; `*`-lists (`# ??`, `##??`) keep their spelling in `name`'s Text."""

    name: tuple[Part, ...]
    optional: bool = False


@node
class Pipeline(Node):
    """`source | @a | @b(1)`; also `with { pipeline: [...], parallel: n, delay: d }`, `run @x | {…}` and ``|| @a() ||
    @b() (2, 100ms)``.

    `source` is None where the value comes from outside: a batch pipeline (`=> | @f`) or a leading `||`.
    """

    source: Expression | None
    stages: tuple[Stage, ...]
    parallel: Expression | None = None
    delay: Expression | None = None


@node
class ParallelStage(Node):
    """`@a || @b || @c`, or a list inside `pipeline: [...]`: one input, many answers."""

    stages: tuple[Stage, ...]


@node
class WhileStage(Node):
    """`| while(limit, rate) @f`."""

    limit: Expression
    rate: Expression | None = None
    function: Expression


@node
class With(Node):
    """`value with { stdin: @x, … } using auth:gh`. `pipeline`, `parallel` and `delay` never occur in `options`: they
    make a Pipeline.
    """

    value: Expression
    options: Object | None = None
    using: Using | None = None


@node
class Using(Node):
    """`using auth:name` (`auth` set), or `using @value as NAME` (`value` and `name` set)."""

    auth: str | None = None
    value: Expression | None = None
    name: str | None = None


# ── Control flow: each may stand as a statement and as a value ────────────────────────────────────


@node
class Block(Node):
    """`[ … ]` of statements; `=> v` inside gives it a value."""

    body: tuple[Statement, ...] = ()


@node
class When(Node):
    """`when @c => x`, `when [ c => x … ]`, `when @v [ pattern => x … ]`. `subject` is the `@v` of the last form.

    `cases` hold Case, Let and Augment in order. `modifier` is an old word (`first`, `any`, `all`) that some scripts
    have.
    """

    subject: Expression | None = None
    modifier: str | None = None
    cases: tuple[Case | Let | Augment | Call, ...] = ()


@node
class Case(Node):
    """`condition => body`; conditions beyond expressions are Anything (`*`), NoMatch (`none`) and WasDenied
    (`denied`).
    """

    condition: Expression
    body: Action | None = None


@node
class Anything(Node):
    """`*` as a condition."""


@node
class NoMatch(Node):
    """`none` as a condition: nothing before it matched."""


@node
class WasDenied(Node):
    """`denied` as a condition: a guard refused (may stand under `!`)."""


@node
class If(Node):
    """`if c [...] else if d [...] else [...]`; `otherwise` is an If for `else if`."""

    condition: Expression
    then: Action
    otherwise: Action | None = None


@node
class For(Node):
    """`for @k, @v in @xs when c => body => | @batch`, with `parallel(limit, rate)`.

    `path` are the fields of a dotted binding (`for @item.path in …`). `body` is a Block, an expression or an action.
    """

    key: str | None = None
    variable: str
    path: tuple[str, ...] = ()
    iterable: Expression
    parallel: Parallel | None = None
    condition: Expression | None = None
    body: Action
    batch: tuple[Stage, ...] = ()
    options: Object | None = None


@node
class Parallel(Node):
    """`parallel`, `parallel(n)`, `parallel(n, 1s)`."""

    limit: Expression | None = None
    rate: Expression | None = None


@node
class Foreach(Node):
    """`foreach @f(@xs, @ys) => | @batch with { separator: "…" }`; also `foreach <*.md> as "…"` (function None,
    `arguments` the load).
    """

    function: Expression | None
    arguments: tuple[Expression | Spread | Conditional, ...] = ()
    batch: tuple[Stage, ...] = ()
    options: Object | None = None


@node
class Loop(Node):
    """`loop(limit, rate) until c [...]`; `limit` None is endless."""

    limit: Expression | None = None
    rate: Expression | None = None
    until: Expression | None = None
    body: Block


@node
class While(Node):
    """`while(limit, rate) @f` as a directive."""

    limit: Expression
    rate: Expression | None = None
    function: Expression


@node
class Box(Node):
    """`env @cfg with {…} [...]` and `box`, the same thing. A body without brackets (`box @cfg run cmd {…}`) is a Block
    of one.
    """

    config: Expression | None = None
    options: Object | None = None
    body: Block
