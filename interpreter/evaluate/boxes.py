"""`env @cfg with { … } [ … ]`: a block whose commands, code and tools are inside one sandbox.

On entry the configuration is narrowed to the block around and to policy, the profile is chosen, `@mcpConfig` is asked,
and the sandbox is opened; on every way out it is closed. Inside, the ports of the session take the place of the
script's own, so that nothing has to remember where it runs. The same happens around `@spawn` and `@shell` of an
environment module that are called outside any block."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.declarations import EnvironmentSpec, McpConfig, ModuleSource, ProfileChoice
from interpreter.environment import Around, build, choose_provider, rooted
from interpreter.environment_config import Config, derive, parse_config
from interpreter.environment_locate import locate_in
from interpreter.environment_mcp import parse_mcp_config
from interpreter.errors import Denied, EvaluationError, MlldError
from interpreter.names import same_name
from interpreter.policy_reader import Locator
from interpreter.ports import Ports, SandboxSession
from interpreter.profiles import choose
from interpreter.source import Span
from interpreter.values import NULL, UNDEFINED, Undefined, Value, record, type_name

from .blocks import statements
from .collections import function_labels
from .core import DECLARING, Env, Returned, absent, at, evaluate, handles
from .credentials import Secrets, auth_secret, no_secrets
from .declarations import locator
from .declared import declaring_ports
from .functions import CALLABLES, Function
from .modules import Module
from .observing import announce
from .sources import module_source
from .workspaces import Workspace

if TYPE_CHECKING:
    from .mounting import Mount

MCP_CONFIG = "mcpConfig"
# No keys that a configuration could have.
WORKSPACE = "\0workspace"
LABELLED = "\0labelled"


class BoxState:
    """The env block in force: its declaration, its session, its profile."""

    __slots__ = ("auth", "config", "labelled", "mount", "session", "spec", "tools", "workspace")

    def __init__(
        self, spec: EnvironmentSpec, config: Config, session: SandboxSession | None, workspace: Workspace | None = None
    ) -> None:
        self.spec, self.config, self.session = spec, config, session
        self.auth = config.auth
        self.tools: list[str] = []
        self.labelled: dict[Any, tuple[str, ...]] = {}  # function → labels of its entry in the tools of this block
        self.workspace = workspace  # where `file` writes; None: into the project
        self.mount: Mount | None = None  # where its commands start, once that is the workspace

    @property
    def profile(self) -> str | None:
        return self.spec.profile.profile.name if self.spec.profile is not None else None

    @property
    def root(self) -> str | None:
        """What `@root` is inside: where commands find the project, or the workspace over it."""
        return self.mount.path if self.mount is not None else self.session.project if self.session is not None else None

    def offers(self, tool: str) -> bool:
        """Does the block let an agent have this one of its own tools?"""
        allowed, denied = self.spec.tools, self.spec.tools_denied
        return (allowed == "*" or any(same_name(tool, name) for name in allowed)) and not any(
            same_name(tool, name) for name in denied
        )

    def check_command(self, kind: str, span: Span) -> None:
        """`tools` without Bash means that no commands run."""
        allowed = self.spec.tools
        if allowed != "*" and not any(same_name(name, "bash") for name in allowed):
            what = "Command" if kind == "cmd" else "Shell" if kind == "sh" else "Code"
            raise Denied(
                f"{what} execution requires 'Bash' in env.tools", rule="env.tools", span=span,
                hint=f"the block allows {', '.join(allowed) or 'no tools'}: add \"Bash\" to its tools",
            )  # fmt: skip

    async def secrets(self, env: Env) -> Secrets:
        """What `auth:` of the configuration gives to every command of the block."""
        held = no_secrets()
        for name in self.auth:
            held = held.joined(auth_secret(name, env, n.Using(auth=name)))
        return held

    async def show_workspace(self, env: Env, span: Span | None) -> None:
        """From now on commands start in the workspace, and see its files."""
        if self.mount is None and self.workspace is not None:
            from .mounting import opened

            mount = await opened(self.workspace, env, span, project=True)
            if self.mount is None:
                self.mount = mount
            else:  # a parallel branch was quicker
                await mount.directory.close()

    def tool_names(self) -> dict[str, Any]:
        return {"allowed": list(self.tools), "denied": list(self.spec.tools_denied)}


@handles(n.Box)
async def box(node: n.Box, env: Env) -> Value:
    """A block for its value: nothing of what it runs is printed."""
    return await run_box(node, env, lambda inside: statements(node.body.body, inside.block()))


async def run_box(node: n.Box, env: Env, run: Callable[[Env], Awaitable[object]]) -> Value:
    """Enter the environment of a block, run its statements there, leave it."""
    return await announce("box", node, env, lambda: enter_box(node, env, run))


async def enter_box(node: n.Box, env: Env, run: Callable[[Env], Awaitable[object]]) -> Value:
    plain, locate = await configuration(node, env)
    space, labelled = plain.pop(WORKSPACE, None), plain.pop(LABELLED)
    asked = None
    if node.options is not None and (said := node.options.get("profile")) is not None:
        value = (await evaluate(said, env)).data
        if value is not None and not isinstance(value, str):
            raise EvaluationError(f"profile must be a string, got {type_name(value)}", span=said.span)
        asked = value or None

    async def body(inside: Env) -> Value:
        inside.box.labelled = (env.box.labelled if env.box is not None else {}) | labelled
        try:
            await run(inside)
        except Returned as returned:
            return returned.value or NULL
        return Value(UNDEFINED) if inside.box.mount is None else Value(inside.box.workspace)

    try:
        return await in_environment(env, plain, locate, asked, body, name=_name(node), span=node.span, space=space)
    except MlldError as error:
        raise at(error, node.span) from None


def _name(node: n.Box) -> str:
    return node.config.name if isinstance(node.config, n.Variable) else "env"


async def configuration(node: n.Box, env: Env) -> tuple[dict[str, Any], Locator]:
    """The plain configuration of a block, and where its parts were written. Under `WORKSPACE`, the workspace that it is to
    have from its beginning: `env @ws`, `env { fs: @ws }`, or one of its own where there is no configuration. Under `LABELLED`,
    the labels that tool collections give to functions: what `with` narrows keeps those of the configuration.
    """
    labelled: dict[Any, tuple[str, ...]] = {}
    value = NULL if node.config is None else await evaluate(node.config, env)
    if isinstance(value.data, Undefined) or value.data is None:
        plain: dict[str, Any] = {}
        if node.config is None:
            plain[WORKSPACE] = Workspace("workspace")
    elif isinstance(value.data, Workspace):
        plain = {WORKSPACE: value.data}
    elif isinstance(value.data, dict):
        plain, labelled = config_plain(value), labels_of_tools(value)
    else:
        raise EvaluationError(
            f"box config must be an object, got {type_name(value)}", span=node.span,
            hint='env { profile: "readonly" } [ … ]',
        )  # fmt: skip
    locate = locator(node.config, env)
    if node.options is not None:
        narrowing = tuple(e for e in node.options.entries if not (isinstance(e, n.Entry) and e.key == "profile"))
        narrowed = await evaluate(n.Object(entries=narrowing, span=node.options.span), env)
        changes, labelled = config_plain(narrowed), labelled | labels_of_tools(narrowed)
        if changes:
            space = plain.pop(WORKSPACE, None)
            plain = derive(plain, changes, locate=locator(node.options, env))
            plain |= {} if space is None else {WORKSPACE: space}
    return plain | {LABELLED: labelled}, locate


def labels_of_tools(config: Value) -> dict[Any, tuple[str, ...]]:
    """Function → the labels that the `tools` of a configuration give it."""
    return function_labels(config.item(config.data["tools"])) if "tools" in config.data else {}


def config_plain(value: Value) -> dict[str, Any]:
    """Plain data, but functions (`mcpConfig: @f`) stay what they are; tool collections become their names."""
    plain: dict[str, Any] = {}
    for key, item in value.data.items():
        inner = item.data if isinstance(item, Value) else item
        if key == MCP_CONFIG and isinstance(inner, CALLABLES):
            plain[key] = inner
        elif key == "fs" and isinstance(inner, Workspace):
            plain[WORKSPACE] = inner
        elif key == "tools" and isinstance(inner, dict):
            plain[key] = {name: _tool_entry(value.item(entry)) for name, entry in inner.items()}
        elif key == "tools" and isinstance(inner, list):
            plain[key] = [getattr(_bare(entry), "name", None) or vt.to_plain(entry) for entry in inner]
        else:
            plain[key] = vt.to_plain(item)
    return plain


def _bare(item: Any) -> Any:
    return item.data if isinstance(item, Value) else item


def _tool_entry(entry: Value) -> Any:
    if isinstance(entry.data, CALLABLES):
        return {"mlld": entry.data.name}
    plain = vt.to_plain(entry)
    if isinstance(entry.data, dict) and "mlld" in entry.data:
        held = _bare(entry.data["mlld"])
        plain["mlld"] = getattr(held, "name", str(held))
    return plain


@handles(n.New)
async def new(node: n.New, env: Env) -> Value:
    """`new @cfg with { … }`: a configuration that only narrows; `new @Class(…)`: an imported class."""
    if node.options is None:
        from .calls import call_arguments

        callee = await evaluate(node.function, env)
        constructor = getattr(callee.data, "construct", None)
        if constructor is None:
            raise EvaluationError(f"`new` wants an imported class, got {type_name(callee)}", span=node.span)
        return await constructor(await call_arguments(node.arguments, env), env, node.span)  # type: ignore[no-any-return]
    base = await evaluate(node.function, env)
    if not isinstance(base.data, dict):
        raise EvaluationError(f"`new … with` wants a configuration, got {type_name(base)}", span=node.span)
    changes = await evaluate(node.options, env)
    made = derive(config_plain(base), config_plain(changes), locate=locator(node.options, env))
    kept = {**base.data, **changes.data}
    return record({key: base.item(kept[key]) if key in kept else Value(item) for key, item in made.items()}, base.own)


# ── Opening and closing ─────────────────────────────────────────────────────────────────────────────


async def in_environment(
    env: Env, plain: dict[str, Any], locate: Locator, asked: str | None, body: Callable[[Env], Awaitable[Value]],
    *, name: str, span: Span | None, module: Module | None = None, space: Workspace | None = None,
) -> Value:  # fmt: skip
    """Run `body` inside the environment that a configuration describes. With `space` its commands start in that workspace;
    without, `file` writes to a workspace of its own, unless the profile grants the project.
    """
    config, spec = await environment(env, plain, locate, asked, name=name, module=module, span=span)
    if env.ports.sandboxes is None:
        raise absent("an environment", span, env)
    for warning in spec.warnings:
        env.ports.output.stderr(f"warning: {warning}\n")
    from interpreter import operations

    session = await operations.open_sandbox(env.ports, spec)
    error: BaseException | None = None
    granted = "filesystem" in spec.grants
    state = BoxState(spec, config, session, space or (None if granted else Workspace("workspace")))
    try:
        inside = env.copy(box=state, ports=session_ports(env.ports, session, spec))
        inside = bind_tools(inside, state, session)
        if space is not None:
            await state.show_workspace(inside, span)
        return await body(inside)
    except BaseException as caught:
        error = caught
        raise
    finally:
        try:
            if state.mount is not None:
                await state.mount.directory.close()
        finally:
            await session.close(error)


def session_ports(ports: Ports, session: SandboxSession, spec: EnvironmentSpec) -> Ports:
    """The powers inside: commands of the sandbox, no network of the host; files as the sandbox grants them."""
    files = session.files
    if files is None and ports.files is not None:
        # Where nobody declared a profile and nothing is isolated, the script itself is held to no more than its commands.
        free = "filesystem" in spec.grants or (spec.provider == "local" and spec.profile is None)
        files = ports.files if free else read_only(ports)
    inside = replace(
        ports, commands=session.commands, files=files, http=ports.http if spec.provider == "local" else None
    )
    return inside if spec.provider == "local" else replace(inside, engine=None)


def read_only(ports: Ports) -> Any:
    from .declared import ReadOnly

    assert ports.files is not None
    return ReadOnly(ports.files)


def bind_tools(env: Env, state: BoxState, session: SandboxSession) -> Env:
    """The tools of the sandbox as functions of the block: `@listIssues`, or `@github.listIssues` for a server with
    `as`.
    """
    connection = session.tools
    if connection is None:
        return env
    from .mcp_calls import sandbox_tools

    names = sandbox_tools(connection, state)
    state.tools = list(names)
    return env.block(names)


async def environment(
    env: Env, plain: dict[str, Any], locate: Locator, asked: str | None, *, name: str, span: Span | None,
    module: Module | None = None,
) -> tuple[Config, EnvironmentSpec]:  # fmt: skip
    """The declaration of an environment, narrowed by what is around it. Nothing is started."""
    config = parse_config(
        {k: v for k, v in plain.items() if k != MCP_CONFIG or not isinstance(v, CALLABLES)}, locate=locate
    )
    policy = env.authority.policy
    provider = choose_provider(
        policy, config=config.provider, option=env.run.provider, variable=env.ports.env.get("MLLD_PROVIDER")
    )
    source = module or environment_module(env)
    choice = profile(env, config, asked, source, span)
    mcp = await mcp_config(env, plain.get(MCP_CONFIG), choice, source, span)
    around = Around(
        name=source.name if module is not None else name, provider=provider, policy=policy, choice=choice, mcp=mcp,
        needs=_needs(source), module=_source(env, module, source), auth=auths(env, source),
        parent=env.box.spec if env.box is not None else None,
    )  # fmt: skip
    spec = build(config, around)
    # Paths of servers are relative to the module that named them. A block's spec carries the script instead, and one
    # without guards carries nothing: then they are told whole.
    travels = module is not None and spec.module is not None
    return config, spec if travels else rooted(spec, str(source.root or source.directory))


def _needs(module: Module) -> Any:
    from interpreter.declarations import Needs

    return module.needs[0] if module.needs else Needs()


def _source(env: Env, module: Module | None, found: Module) -> ModuleSource | None:
    return module_source(module if module is not None else env.module, env)


def auths(env: Env, source: Module) -> dict[str, Any]:
    """Every auth declaration that can be meant by name here: the module's own, over-ruled by its callers'."""
    held = dict(source.auth)
    held.update(env.module.auth)
    for module in reversed(env.authority.modules):
        held.update(module.auth)
    held.update(env.authority.policy.auth)
    return held


def profile(env: Env, config: Config, asked: str | None, source: Module, span: Span | None) -> ProfileChoice | None:
    """The profile of a block: asked for, of its configuration, or what is in force around it."""
    wanted = asked or config.profile or env.run.profile or None
    module_profiles = tuple(source.profiles)
    if wanted is not None or config.profiles:
        return choose(
            config.profiles,
            env.authority.policy,
            asked=wanted,
            module=module_profiles,
            strict=env.run.strict_profiles,
            span=span,
        )
    if env.box is not None and env.box.spec.profile is not None:
        return env.box.spec.profile  # type: ignore[no-any-return]
    return choose(
        (), env.authority.joined_by(source).policy, module=module_profiles, strict=env.run.strict_profiles, span=span
    )


def environment_module(env: Env) -> Module:
    """The module whose profiles and @mcpConfig are meant: where the @mcpConfig in scope was written, else the script
    itself, unless it imported one environment module.
    """
    named = env.scope.find(MCP_CONFIG)
    if named is not None and isinstance(named.data, Function):
        return named.data.env.module
    if env.module.profiles:
        return env.module
    candidates = [m for m in env.module.modules_used.values() if MCP_CONFIG in m.scope.names]
    return candidates[0] if len(candidates) == 1 else env.module


async def mcp_config(env: Env, said: Any, choice: ProfileChoice | None, source: Module, span: Span | None) -> McpConfig:
    """What `@mcpConfig` answers for this profile: evaluated without effects."""
    function: Function | None = None
    if isinstance(said, Function):
        function = said
    elif isinstance(said, str) and not said.lstrip().startswith(("{", "[")):
        found = env.scope.find(said.lstrip("@"))
        if found is None or not isinstance(found.data, Function):
            raise EvaluationError(
                f"mcpConfig names '{said}', which is no function here", span=span, hint="mcpConfig: @yourFunction"
            )
        function = found.data
    elif said is not None:
        return parse_mcp_config(said)
    else:
        function = find_mcp_config(env, source, span)
    if function is None:
        return McpConfig()
    data = vt.to_plain(await call_declared(function, env, choice))
    return parse_mcp_config(data, locate=locate_in(function.body, data, function.env.module.written))


def find_mcp_config(env: Env, source: Module, span: Span | None) -> Function | None:
    local = env.scope.find(MCP_CONFIG)
    if local is not None and isinstance(local.data, Function):
        return local.data
    own = source.scope.names.get(MCP_CONFIG)
    if own is not None and isinstance(own.data, Function):
        return own.data
    found = {name: m for name, m in env.module.modules_used.items() if MCP_CONFIG in m.scope.names}
    if len(found) > 1:
        raise EvaluationError(
            f"{' and '.join(found)} both define @mcpConfig", span=span, code="mcp-config",
            hint="import the one you mean by name: `import { @mcpConfig } from …`, or say `mcpConfig:` in the configuration",
        )  # fmt: skip
    if not found:
        return None
    value = next(iter(found.values())).scope.names[MCP_CONFIG]
    return value.data if isinstance(value.data, Function) else None


async def call_declared(function: Function, env: Env, choice: ProfileChoice | None) -> Value:
    """Call a function that may only declare (P13)."""
    from .calls import call_function

    run = replace(env.run, limits=DECLARING, steps=0, deadline=None, engines=[])
    home = function.env.module
    inside = env.copy(run=run, ports=declaring_ports(env.ports, home), box=None)
    inside = inside.ambient(profile=None if choice is None else choice.profile.name)
    return await call_function(function, [], inside, function.span)


async def call_in_own_environment(
    function: Function, arguments: list[Value], env: Env, span: Span, again: Callable[[Env], Awaitable[Value]]
) -> Value:
    """`@spawn(…)` of an environment module outside any block: its environment is opened for the call."""
    module = function.env.module
    caller = env.copy(authority=env.authority.joined_by(module))
    return await in_environment(caller, {}, lambda path: None, None, again, name=module.name, span=span, module=module)
