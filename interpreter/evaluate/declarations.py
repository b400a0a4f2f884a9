"""What a file declares: `var`, `exe`, `export`, `needs`, `profiles`, `policy`, `auth`, shadow environments."""

from __future__ import annotations

import uuid
from typing import Any, cast

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError
from interpreter.labels import NONE, Labels, ToolUse
from interpreter.names import FIXED
from interpreter.operations import MAX_CALLS, Request, RetryWanted, perform, spent
from interpreter.policy import Policy
from interpreter.policy_parse import parse_auth, parse_policy
from interpreter.policy_reader import Locator, Reader
from interpreter.policy_subjects import Operation
from interpreter.profiles import choose, parse_profiles
from interpreter.source import Span
from interpreter.values import NULL, Undefined, Value

from .blocks import action_value, declared_labels, stanced
from .core import Env, evaluate, handles
from .expressions import defined, entry_name
from .functions import Function
from .lookup import callee_of
from .scope import reserved_name
from .templates import root, with_gaps

# ── Names ───────────────────────────────────────────────────────────────────────────────────────────


def define(name: str, value: Value, node: n.Node, env: Env) -> None:
    """A constant name: of the file, or of the call or round in which it is defined (`when … => var @x = …`).
    Errors: it is defined or imported already.
    """
    module = env.module
    if name in FIXED:
        raise reserved_name(name, node.span)
    if name in module.imported:
        raise EvaluationError(
            f"Variable '{name}' is already imported and cannot be redefined locally", span=node.span,
            code="variable-redefinition", hint=f"give the import another name: `import {{ {name} as @other }} from …`",
        )  # fmt: skip
    if name in module.defined:
        first = module.defined[name]
        raise EvaluationError(
            f"Variable '{name}' is already defined and cannot be redefined; it was defined at {first}", span=node.span,
            code="variable-redefinition", hint="names are constant in mlld: choose another one, or `let` in a block",
        )  # fmt: skip
    if (scope := env.scope.nearest_apart()) is not None:
        scope.define(name, value)
        return
    module.defined[name] = node.span
    module.scope.define(name, value)


@handles(n.Var)
async def var(node: n.Var, env: Env) -> Value:
    if node.tools or node.mcp:
        from .collections import tools_variable

        value = await tools_variable(node, env)
    else:
        value = await assigned(node, env)
    if value.meta and "index" in value.meta:
        value = Value(
            value.data,
            value.own,
            labels=value.labels,
            meta={k: v for k, v in value.meta.items() if k not in ("index", "key")},
        )
    env.module.written[node.name] = node.value
    define(node.name, value, node, env)
    return value


async def assigned(node: n.Var, env: Env) -> Value:
    """What a variable gets, through the guards and hooks that watch `op:var`; a guard that says `retry` has a call made again."""
    labels = declared_labels(node.labels, node) if node.labels else NONE
    authority = env.authority
    watched = not env.module.is_environment and (authority.guards or authority.hooks)
    repeatable = isinstance(node.value, n.Call | n.Pipeline | n.With | n.Run)
    place = node.span.before(node.value.span)  # a value that is written here may be the secret itself
    hints: tuple[str, ...] = ()
    written = node.value
    if isinstance(written, n.Template) and len(written.parts) == 1 and isinstance(written.parts[0], n.FileLoad):
        written = written.parts[0]  # `var @x = "<a.md>"` is that file, and fails as `<a.md>` does
    while True:
        attempt = len(hints) + 1
        around = env if attempt == 1 else env.ambient(**{"try": attempt, "hint": Value(hints[-1])})
        value = await action_value(written, around)
        if isinstance(value.data, Undefined) and isinstance(written, n.Binary | n.Ternary):
            value = value.with_meta(
                text="undefined"
            )  # `@a && @b` of names that nobody defined says so where it is shown
        elif value.data is None and isinstance(written, n.Field | n.Index) and isinstance(root(written), n.FileLoad):
            value = value.with_meta(text="")  # `var @x = <a.json>.missing` leaves a gap in text
        value = stanced(defined(value), labels, env)
        if is_command(node.value) and value.meta is not None and "stdout" in value.meta:
            value = value.with_meta(text=value.meta["stdout"])  # in text, it stays what the command said
        value = with_gaps(value, node.value, env)
        if not watched:
            return value
        operation = Operation(kind="var", name=node.name, inputs=(value.labels,), parameters=(node.name,))
        request = Request(
            operation=operation, inputs=(value,), span=place, retryable=repeatable, attempt=attempt, hints=hints,
            streaming=streams(node.value),
        )  # fmt: skip
        try:
            return await perform(request, env, first)
        except RetryWanted as wanted:
            if attempt >= MAX_CALLS:
                raise spent(wanted, node.span) from None
            hints = (*hints, wanted.hint)


def is_command(node: n.Node) -> bool:
    """`cmd { … }` or `run { … }`."""
    return isinstance(node.value if isinstance(node, n.Run) else node, n.Command)


async def first(inputs: tuple[Value, ...]) -> Value:
    return inputs[0]


def streams(node: n.Node | None) -> bool:
    """Does the value come piece by piece: `stream @f()`, `… with { stream: true }`?"""
    if isinstance(node, n.With) and node.options is not None:
        said = node.options.get("stream")
        return (isinstance(said, n.Literal) and said.value is True) or streams(node.value)
    return isinstance(node, n.Stream)


LANGUAGES: dict[str, Any] = {
    "js": "js", "javascript": "js", "node": "node", "nodejs": "node", "py": "py", "python": "py", "sh": "sh", "bash": "sh",
}  # fmt: skip


@handles(n.Exe)
async def exe(node: n.Exe, env: Env) -> Value:
    if node.name in env.module.ahead:
        env.module.ahead.discard(node.name)
        return NULL
    language = LANGUAGES.get(node.name)
    if language is not None and node.parameters is None and isinstance(node.body, n.Object):
        names = tuple(e.key if isinstance(e, n.Entry) else entry_name(e.value) for e in node.body.entries)
        return await shadow(n.ShadowEnvironment(language=language, names=names, span=node.span), env)
    description = None
    if node.options is not None:
        said = node.options.get("description")
        description = vt.text(await evaluate(said, env)) if said is not None else None
    body = node.body
    if isinstance(body, n.New) and body.options is None and not node.parameters:
        # `exe @site = new @URL(…)`: an object, which has no more to be called.
        define(node.name, await evaluate(body, env), node, env)
        return NULL
    if node.options is not None and any(
        isinstance(e, n.Entry) and e.key != "description" for e in node.options.entries
    ):
        body = n.With(value=cast(n.Expression, body), options=node.options, span=node.span)
    if isinstance(body, n.TemplateFile) and isinstance(body.path, n.Literal) and env.ports.files is not None:
        there(str(body.path.value), body, env)
    declared_labels(tuple(label for label in node.labels), node)
    function = Function(
        name=node.name, parameters=node.parameters or (), body=body, env=env.copy(mx={}, calls=None, box=None, depth=0),
        labels=node.labels, options=node.options, using=node.using, description=description,
        span=node.span, taint=provenance(node),
    )  # fmt: skip
    define(node.name, Value(function), node, env)
    return NULL


def provenance(node: n.Exe) -> Labels:
    """What every result of a function tells of it: its place in the lineage, and that a template or a mlld body made it.

    One object for all calls: results of a loop share it, and joining them allocates nothing.
    """
    body = node.body
    is_text = isinstance(body, n.Template | n.Variable) or (isinstance(body, n.Literal) and isinstance(body.value, str))
    made = "src:template" if is_text else "src:exe" if isinstance(body, MLLD_BODIES) else None
    use = ToolUse(name=node.name, arguments=tuple(p.name for p in node.parameters or ()), audit=str(uuid.uuid4()))
    return (Labels.of(automatic=(made,)) if made else NONE).used(use)


MLLD_BODIES = (n.Block, n.When, n.For, n.Foreach, n.Loop)


@handles(n.ShadowEnvironment)
async def shadow(node: n.ShadowEnvironment, env: Env) -> Value:
    held = env.module.shadows.setdefault(node.language, {})
    for name in node.names:
        found = env.scope.find(name)
        if found is None or not isinstance(found.data, Function):
            raise EvaluationError(
                f"{name} is not a defined exec function",
                span=node.span,
                hint=f"`exe @{name}(…) = {node.language} {{ … }}` first",
            )
        held[name] = found
    return NULL


@handles(n.Export)
async def export(node: n.Export, env: Env) -> Value:
    module = env.module
    module.exports = module.exports or {}
    for item in node.names:
        module.exports[item.alias or item.name] = item.name
        module.export_spans[item.alias or item.name] = item.span
    if node.everything:
        module.export_everything = True
    return NULL


# ── Configuration values ────────────────────────────────────────────────────────────────────────────


def locator(node: n.Node | None, env: Env) -> Locator:
    """Finds the source of a part of a value that was written as a literal, through variables of the file."""

    def locate(path: tuple[str | int, ...]) -> Span | None:
        return _walk(node, path, env, 0)

    return locate


def _walk(node: n.Node | None, path: tuple[str | int, ...], env: Env, depth: int) -> Span | None:
    if node is None or depth > 20:
        return None
    if isinstance(node, n.Variable):
        written = env.module.written.get(node.name)
        return _walk(written, path, env, depth + 1) if written is not None and path else node.span
    if not path:
        return node.span
    head, rest = path[0], path[1:]
    if isinstance(node, n.Object) and isinstance(head, str):
        inner = node.get(head)
        if inner is not None:
            return _walk(inner, rest, env, depth + 1)
        for entry in node.entries:
            if isinstance(entry, n.Spread) and (found := _walk(entry.value, path, env, depth + 1)):
                return found
        return None
    if isinstance(node, n.Array) and isinstance(head, int) and head < len(node.items):
        return _walk(node.items[head], rest, env, depth + 1)
    if isinstance(node, n.With | n.Return):
        return _walk(node.value, path, env, depth + 1)
    return None


def policy_of(value: Value, name: str, node: n.Node, env: Env | None = None) -> Policy:
    """The policy that a value is, or that its data states."""
    if isinstance(value.data, PolicyValue):
        return value.data.policy
    locate = locator(node, env) if env is not None else (lambda path: node.span if not path else None)
    return parse_policy(vt.to_plain(value), name=name, locate=locate)


class PolicyValue:
    """A declared policy as a value: `union(@a, @b)`, `with { policy: @p }`, `export { @p }`."""

    kind = "policy"
    __slots__ = ("plain", "policy")

    def __init__(self, policy: Policy, plain: Any) -> None:
        self.policy, self.plain = policy, plain

    def describe(self) -> Any:
        return self.plain

    def get_field(self, name: str, env: Env, own: Any) -> Value | None:
        return Value(self.plain[name]) if isinstance(self.plain, dict) and name in self.plain else None


async def policy_named(node: n.Node, env: Env) -> Value:
    """A part of a union. Errors: nobody declared it, or it is no policy."""
    value = await callee_of(node, env, "Policy reference '@{}' is not defined")
    if isinstance(node, n.Variable) and not isinstance(value.data, PolicyValue | dict):
        message = f"Policy reference '@{node.name}' is not a policy configuration"
        raise EvaluationError(message, span=node.span, code="config", hint=f"policy @{node.name} = {{ … }}")
    return value


@handles(n.Policy)
async def policy(node: n.Policy, env: Env) -> Value:
    """Declaring a policy puts it in force for this module, and chooses its profile again."""
    value = node.value
    if isinstance(value, n.Call) and isinstance(value.function, n.Variable) and value.function.name == "union":
        parts = [(argument, await policy_named(argument, env)) for argument in value.arguments]
        if not parts:
            message = "Policy union requires at least one reference"
            raise EvaluationError(message, span=value.span, code="config", hint=f"policy @{node.name} = union(@a, @b)")
        composed = Policy()
        plain: dict[str, Any] = {}
        for argument, part in parts:
            composed = composed | policy_of(part, node.name, argument, env).renamed(node.name)
            plain.update(vt.to_plain(part) or {})
    else:
        made = await evaluate(value, env)
        composed, plain = policy_of(made, node.name, value, env), vt.to_plain(made)
    env.module.declare_policy(composed)
    define(node.name, Value(PolicyValue(composed, plain)), node, env)
    choose_profile(env)
    return NULL


@handles(n.Auth)
async def auth(node: n.Auth, env: Env) -> Value:
    value = await evaluate(node.value, env)
    reader = Reader(value=vt.to_plain(value), name=f"auth @{node.name}", locate=locator(node.value, env))
    env.module.auth[node.name] = parse_auth(reader, node.name)
    return NULL


@handles(n.Needs)
async def needs(node: n.Needs, env: Env) -> Value:
    """Recorded: what is to be in the image. A script whose commands run right here needs it right here."""
    from interpreter.profiles import parse_needs

    value = await evaluate(node.declared, env)
    declared = parse_needs(vt.to_plain(value), locate=locator(node.declared, env))
    env.module.needs.append(declared)
    if env.ports.programs is not None and not env.module.is_environment and not opens_boxes(env):
        wanted = [*(["sh"] if declared.sh else []), *(command.name for command in declared.commands)]
        missing = [name for name in wanted if not env.ports.programs(name)]
        if missing:
            told = ", ".join(f"cmd:{name} (command not found in PATH)" for name in missing)
            raise EvaluationError(
                f"Module requires capabilities not available: {told}", span=node.span, code="needs",
                hint="install it, or run the script's commands in an `env` block, whose image gets what is needed",
            )  # fmt: skip
    return NULL


def opens_boxes(env: Env) -> bool:
    """Does the script that runs have env blocks? Then what it and its modules need is meant for those."""
    document = env.authority.modules[0].document
    waiting: list[n.Node] = [] if document is None else [document]
    while waiting:
        current = waiting.pop()
        if isinstance(current, n.Box):
            return True
        waiting.extend(current.children())
    return env.box is not None


@handles(n.Profiles)
async def profiles(node: n.Profiles, env: Env) -> Value:
    value = await evaluate(node.declared, env)
    env.module.profiles.extend(parse_profiles(vt.to_plain(value), locate=locator(node.declared, env)))
    choose_profile(env)
    return NULL


def choose_profile(env: Env) -> None:
    """The profile of a module, against everything that binds it: its own policy and its caller's."""
    module = env.module
    if module.profiles:
        module.chosen = choose(module.profiles, env.authority.policy, strict=bool(env.run.strict_profiles))


def there(written: str, node: n.TemplateFile, env: Env) -> None:
    """Errors: no such template file. Found out where the function is made, not where somebody first calls it."""
    from interpreter.operations import file_exists

    from .directories import of_known_form
    from .paths import resolve

    assert env.ports.files is not None
    path = resolve(written, env)
    of_known_form(path, node, env)
    if not file_exists(env.ports.files, path):
        raise EvaluationError(
            f"File not found: {written}", span=node.path.span, code="file-not-found",
            hint="the path starts at this file; @root/… starts at the project",
        )  # fmt: skip


@handles(n.TemplateFile)
async def template_file(node: n.TemplateFile, env: Env) -> Value:
    """The text of an `.att` or `.mtt` file, filled in where it is called."""
    from .directories import read_template
    from .paths import resolve

    path = resolve(vt.text(await evaluate(node.path, env)), env)
    inside = env.copy(module=env.module.elsewhere(path.parent))
    value = await evaluate(read_template(path, node, env), inside)
    return value.with_labels(Labels.of(automatic=("src:template",)))
