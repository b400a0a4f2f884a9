"""The tree of a script: one frozen class per thing that can be written (values in `nodes_values`, flow in `nodes_flow`).

Equality ignores where a node stands, so that `parse(print(tree)) == tree` can be said. Sequences are tuples, names are
without `@`.

How to read the types: an `Expression` gives a value (control flow and `run @f()` may stand there too). Where the language
lets an action stand for a value (`=> show @x`, `* => deny "no"`, a branch of a ternary) the field is an `Action`: an
expression, a block or a statement.
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal as OneOf
from typing import TypeAlias

# fmt: off
from .nodes_flow import (
    Anything,
    Block,
    Box,
    Case,
    Code,
    Command,
    FileLoad,
    For,
    Foreach,
    If,
    Loop,
    NoMatch,
    Parallel,
    ParallelStage,
    Pipeline,
    Prose,
    Section,
    TemplateFile,
    Using,
    WasDenied,
    When,
    While,
    WhileStage,
    With,
)
from .nodes_values import (
    Array,
    Binary,
    BinaryOperator,
    Call,
    Conditional,
    Duration,
    Entry,
    Field,
    Filtered,
    Index,
    Labelled,
    Literal,
    New,
    Node,
    Object,
    Placeholder,
    Regex,
    Slice,
    Spread,
    Template,
    TemplateFor,
    Ternary,
    Text,
    Unary,
    Variable,
    Wildcard,
    node,
)

# fmt: on
from .source import Mode, Source


@node
class Document(Node):
    """One file. In document mode `Text` stands between the statements; in strict mode there is none. `fences` are the offsets
    between which the contents of `mlld-run` fences stand.
    """

    source: Source = field(compare=False, repr=False)
    mode: Mode
    frontmatter: Frontmatter | None = None
    body: tuple[Statement | Text, ...] = ()
    fences: tuple[tuple[int, int], ...] = field(default=(), compare=False, repr=False)


@node
class Frontmatter(Node):
    """The YAML between `---` lines at the top, unread."""

    text: str


# ── Declarations ──────────────────────────────────────────────────────────────────────────────────


@node
class Var(Node):
    """`var pii, internal @x = value`; `tools` is `var tools @t = {…}`. `mcp` is `var tools @t = mcp @spec` (value =
    the spec).
    """

    name: str
    labels: tuple[str, ...] = ()
    tools: bool = False
    mcp: bool = False
    optional: bool = False
    """`var @x? = …`"""
    value: Action


@node
class Exe(Node):
    """`exe llm, net:w @f(a: string, b = 2) = body with {…} using auth:x`. `parameters` None: declared without
    parentheses.
    """

    name: str
    labels: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] | None = None
    body: Action
    options: Object | None = None
    using: Using | None = None


@node
class Parameter(Node):
    """`a`, `a: string`, `a = default`."""

    name: str
    annotation: str | None = None
    default: Expression | None = None


@node
class ShadowEnvironment(Node):
    """`exe js = { double, cap }`: functions that code of that language can call."""

    language: OneOf["sh", "js", "node", "py"]
    names: tuple[str, ...]


@node
class Let(Node):
    """`let @x = value` in a block; `labels` as in var."""

    name: str
    labels: tuple[str, ...] = ()
    value: Action


@node
class Augment(Node):
    """`@x += value`, `let @x += value`, and `@x = value` for a variable that `let` made (operator `=`)."""

    name: str
    operator: OneOf["+=", "="] = "+="
    value: Action


@node
class Import(Node):
    """Every import: `what` are the selected names; `alias` is a namespace (`as @ns`), never both.

    `kind`: the word before (`module static live local cached templates tools policy`). `everything` is `{ * }`.
    `parameters` are those
    of `import templates … as @t(a, b)`. For `policy` the name is in `alias`.
    """

    kind: OneOf["module", "static", "live", "local", "cached", "templates", "tools", "policy"] | None = None
    ttl: Duration | None = None
    labels: tuple[str, ...] = ()
    what: tuple[ImportName, ...] = ()
    everything: bool = False
    alias: str | None = None
    parameters: tuple[str, ...] | None = None
    origin: ImportOrigin
    options: Object | None = None


@node
class ImportName(Node):
    """`@a` or `a as @b`."""

    name: str
    alias: str | None = None


@node
class ImportOrigin(Node):
    """Where it comes from, and how that was written.

    `path`: a quoted text (parts) · `load`: `<path>` (parts) · `module`: `@author/name[@version]` (`name` and
    `version`) ·
    `reserved`: `@payload @state @input @stdin @now @keychain …` (`name`), and a bare `@prefix` · `node` / `python`:
    `node @lodash`
    (`name`) · `mcp`: `mcp "command"` (parts) or `mcp @spec` (one part, a Variable).
    """

    form: OneOf["path", "load", "module", "reserved", "node", "python", "mcp"]
    parts: tuple[Part, ...] = ()
    name: str | None = None
    version: str | None = None


@node
class Export(Node):
    """`export { @a, b as c }`; `everything` is `export { * }`."""

    names: tuple[ImportName, ...] = ()
    everything: bool = False


@node
class Needs(Node):
    """`needs { sh, cmd: [git], node: [lodash@^4] }`. Bare words are Entry(value=true); packages are Literal strings as
    written.
    """

    declared: Object


@node
class Profiles(Node):
    """`profiles { full: { requires: { sh }, description: "…" } }`, in order of declaration."""

    declared: Object


@node
class Policy(Node):
    """`policy @p = {…}`, `policy @p = union(@a, @b)` (a Call of Variable("union")), or any other expression."""

    name: str
    value: Expression


@node
class Auth(Node):
    """`auth @k = "NAME"` or an object."""

    name: str
    value: Expression


@node
class Guard(Node):
    """`guard privileged @name before FILTER = when [ … ] with {…}`. Decisions in `body` are Allow, Deny, Retry,
    EnvDecision, Labelled.
    """

    name: str | None = None
    timing: OneOf["before", "after", "always"] = "before"
    filter: Filter
    privileged: bool = False
    body: Action
    options: Object | None = None


@node
class Hook(Node):
    """`hook @name before|after FILTER = [ … ]` or `= when [ … ]`; the filter may have a pattern: `@f("prefix")`."""

    name: str | None = None
    timing: OneOf["before", "after"]
    filter: Filter
    body: Action


@node
class Filter(Node):
    """What a guard or hook looks at: `label` (`secret`, `net:w`, `src:mcp`), `operation` (`op:cmd:git`, without
    `op:`), `function` (`@f`).
    """

    kind: OneOf["label", "operation", "function"]
    name: str
    pattern: Literal | Template | None = None


# ── Effects ───────────────────────────────────────────────────────────────────────────────────────


@node
class Show(Node):
    """`show value with {…}`. As a stage of a pipeline `value` is None: what flows is shown."""

    value: Action | None = None


@node
class Log(Node):
    """`log value`: to stderr. As a stage `value` may be None."""

    value: Action | None = None


@node
class Run(Node):
    """`run cmd {…}`, `run @f(x)`, `run js {…}`, `run @x | {…}`: also as a value (`let @a = run cmd {…}`)."""

    value: Action


@node
class Stream(Node):
    """`stream @f(x)`, `run stream @f(x)`, `exe @f() = stream cmd {…}`."""

    value: Action


@node
class Output(Node):
    """`output value to target`. As a stage `value` may be None."""

    value: Expression | None = None
    target: Target


@node
class Append(Node):
    """`append value to target`."""

    value: Expression | None = None
    target: Target


@node
class Target(Node):
    """`"file"` (`path`) · `stdout`, `stderr` (`stream`) · `env` or `env:NAME` (`variable`) · `@resolver/path`, `@x`
    (`path` = expression).

    `format` is the word after `as`.
    """

    path: Expression | None = None
    stream: OneOf["stdout", "stderr"] | None = None
    variable: str | None = None
    format: str | None = None


@node
class File(Node):
    """`file "task.md" = value`, `file <@ws/task.md> = value` (`path` is then a FileLoad)."""

    path: Literal | Template | FileLoad | Variable
    value: Action


@node
class Files(Node):
    """`files <@ws/> = [ { "a.md": @a, desc: "…" } ]`, or `files … = git "url" branch:"main"` (`git` set)."""

    path: Literal | Template | FileLoad | Variable
    value: Expression | None = None
    git: GitSource | None = None


@node
class GitSource(Node):
    url: Expression
    options: tuple[Entry, ...] = ()


@node
class Checkpoint(Node):
    """`checkpoint "name" with { resume: auto, ttl: 1h, complete: … }`."""

    name: Expression
    options: Object | None = None


@node
class Sign(Node):
    """`sign @t by "who" with sha256`."""

    name: str
    by: str | None = None
    method: str | None = None


@node
class Verify(Node):
    """`verify @t`."""

    name: str


# ── Leaving, and deciding ─────────────────────────────────────────────────────────────────────────


@node
class Return(Node):
    """`=> value` in a block or at the top of a file; `=>` alone returns null."""

    value: Action | None = None


@node
class Done(Node):
    """`done value`: ends a loop or a while."""

    value: Expression | None = None


@node
class Continue(Node):
    """`continue value`: the next round, with this as its `@input`."""

    value: Expression | None = None


@node
class Skip(Node):
    """`skip`: leave this element out of the results."""


@node
class Bail(Node):
    """`bail "why"`: ends the script with an error."""

    message: Expression | None = None


@node
class Retry(Node):
    """`retry "hint"`: in a pipeline, ask the stage before again; in a guard, a decision."""

    hint: Expression | None = None


@node
class Allow(Node):
    """`allow`, `allow @value`, `allow with { addLabels: […], removeLabels: […], warning: "…" }`."""

    value: Expression | None = None
    options: Object | None = None


@node
class Deny(Node):
    """`deny "why"`."""

    reason: Expression | None = None


@node
class EnvDecision(Node):
    """`env { … }` as the decision of a guard: the operation runs in that environment."""

    config: Expression | None = None


@node
class ExpressionStatement(Node):
    """A call or a pipeline on a line of its own: `@f(x)`, `@x | append "f"`; also a bare `cmd {…}` in a block."""

    value: Expression


# fmt: off
Value: TypeAlias = (
    Literal | Duration | Regex | Template | Array | Object | Variable | Placeholder | Field | Index | Slice | Wildcard
    | Filtered | Call | New | Unary | Binary | Ternary | Labelled | Command | Code | Prose | TemplateFile | FileLoad | Pipeline
    | With
)
"""What only ever stands as a value."""
Flow: TypeAlias = When | If | For | Foreach | Loop | Box | Anything | NoMatch | WasDenied
"""Control flow where a value is wanted, and the words that stand as conditions."""
Statement: TypeAlias = (
    Var | Exe | ShadowEnvironment | Let | Augment | Import | Export | Needs | Profiles | Policy | Auth | Guard | Hook
    | Show | Log | Run | Stream | Output | Append | File | Files | Checkpoint | Sign | Verify
    | Return | Done | Continue | Skip | Bail | Retry | Allow | Deny | EnvDecision
    | ExpressionStatement | When | If | For | Foreach | Loop | While | Box
)
Expression: TypeAlias = Value | Flow | Run | Stream
Action: TypeAlias = Expression | Block | Statement
Part: TypeAlias = Text | Expression | Conditional | TemplateFor
"""A piece of a template, a command or a path."""
Stage: TypeAlias = Expression | ParallelStage | WhileStage | Show | Log | Output | Append | Retry
"""One step of a pipeline: a reference or call, inline code, an effect without a value, or a group."""

__all__ = [
    "Action", "Allow", "Anything", "Append", "Array", "Augment", "Auth", "Bail", "Binary", "BinaryOperator",
    "Block", "Box", "Call", "Case", "Checkpoint", "Code", "Command", "Conditional", "Continue", "Deny", "Document",
    "Done", "Duration", "Entry", "EnvDecision", "Exe", "Export", "Expression", "ExpressionStatement", "Field",
    "File", "FileLoad", "Files", "Filter", "Filtered", "Flow", "For", "Foreach", "Frontmatter", "GitSource", "Guard", "Hook",
    "If", "Import", "ImportName", "ImportOrigin", "Index", "Labelled", "Let", "Literal", "Log", "Loop", "Needs",
    "New", "NoMatch", "Node", "Object", "Output", "Parallel", "ParallelStage", "Parameter", "Part", "Pipeline",
    "Placeholder", "Policy", "Profiles", "Prose", "Regex", "Retry", "Return", "Run", "Section", "ShadowEnvironment",
    "Show", "Sign", "Skip", "Slice", "Spread", "Stage", "Statement", "Stream", "Target", "Template", "TemplateFile",
    "TemplateFor", "Ternary", "Text", "Unary", "Using", "Value", "Var", "Variable", "Verify", "WasDenied", "When",
    "While", "WhileStage", "Wildcard", "With", "node",
]
# fmt: on
