"""An environment module as a runner uses it: read without effects, declared as a spec, then entered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from interpreter import values_text
from interpreter.declarations import EnvironmentSpec
from interpreter.environment_modules import Found, find_module
from interpreter.errors import ImportFault, MlldError, listing
from interpreter.evaluate import RunOptions
from interpreter.evaluate.boxes import environment, in_environment
from interpreter.evaluate.calls import invoke
from interpreter.evaluate.core import Env
from interpreter.evaluate.declarations import locator
from interpreter.evaluate.functions import Function
from interpreter.evaluate.run import close
from interpreter.labels import Labels
from interpreter.module_read import ReadModule, read_module, secrets_used
from interpreter.policy import NO_POLICY, Policy
from interpreter.policy_patterns import nearest
from interpreter.ports import Ports
from interpreter.source import NOWHERE
from interpreter.values import Value


class NoSuchFunction(MlldError):
    """An environment module without the function that a command needs."""

    code = "no-function"
    exit_code = 3


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What `@spawn` gave back: its text, and everything that rules are matched against."""

    text: str
    taint: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    value: object = None


@dataclass(kw_only=True, eq=False)
class EnvironmentModule:
    """A module that was read, with the profile that was chosen and the servers that it asked for."""

    found: Found
    read: ReadModule
    config: Mapping[str, Any]
    profile: str | None
    declared: EnvironmentSpec

    @property
    def name(self) -> str:
        return self.found.name

    @property
    def policy(self) -> Policy:
        """The module's own policy and its caller's."""
        return self.read.env.authority.policy

    def spec(self) -> EnvironmentSpec:
        """The environment, already narrowed by policy. Nothing is started."""
        return self.declared

    def require(self, name: Literal["spawn", "shell"]) -> Function:
        """The function of that name. Errors: `NoSuchFunction`."""
        function = self.read.function(name)
        if function is not None:
            return function
        module = self.read.module
        exported = module.exports if module.exports is not None else module.defined
        defined = self.read.module.scope.names.get(name)
        if defined is not None and isinstance(defined.data, Function):
            hint = f"export {{ @{name} }}"
        elif close := nearest(name, exported):
            hint = f"did you mean @{close}? The function must be called @{name}"
        else:
            hint = "exe @spawn(prompt) = cmd { … }" if name == "spawn" else "exe @shell() = cmd { bash -i }"
        raise NoSuchFunction(
            f"'{self.found.name}' exports no @{name}: it exports {listing(f'@{each}' for each in exported)}", hint=hint
        )

    async def spawn(self, prompt: str, ports: Ports) -> Answer:
        """The answer of `@spawn(prompt)`, evaluated in the environment. Errors: `MlldError`, what the ports raise."""
        # The prompt comes from whoever types it; what it makes the agent say carries that.
        return await self._enter("spawn", [Value(prompt, Labels.of(automatic=("src:user",)))], ports)

    async def shell(self, ports: Ports) -> None:
        """Runs `@shell()` in the environment, in the user's terminal."""
        await self._enter("shell", [], ports)

    async def _enter(self, name: Literal["spawn", "shell"], arguments: list[Value], ports: Ports) -> Answer:
        function = self.require(name)
        env = self.read.env.copy(ports=ports)

        async def body(inside: Env) -> Value:
            return await invoke(Value(function), arguments, inside, NOWHERE)

        try:
            value = await in_environment(
                env, dict(self.config), lambda path: None, self.profile, body,
                name=self.found.name, span=None, module=self.read.module,
            )  # fmt: skip
        finally:
            await close(env.run)
        text = env.run.mask(values_text.display(value) if value.data is not None else "")
        return Answer(
            text=text, taint=value.labels.taint, sources=value.labels.sources, value=values_text.to_plain(value)
        )


async def load_environment(
    ref: str,
    *,
    project: Path,
    ports: Ports,
    policy: str | Policy | None = None,
    profile: str | None = None,
    strict: bool = False,
    provider: str | None = None,
    home: Path | None = None,
    directory: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> EnvironmentModule:
    """Reads an environment module and asks it for its environment. No effect of the module is possible.

    `policy` is put on top of the module's own: a policy, or a module that declares one. `profile` is a declared name.
    Errors: `MlldError` with a place; nothing was started then.
    """
    assert ports.files is not None
    found = find_module(ref, project=project, files=ports.files, home=home, directory=directory)
    composed = await _policy(policy, project, ports, home, directory)
    options = RunOptions(
        root=project,
        home=home,
        profile=profile,
        strict_profiles=strict,
        provider=provider,
        settings=dict(settings or {}),
    )
    read = await read_module(
        found.entry, root=found.root, project=project, ports=ports, policy=composed, options=options
    )
    read.module.name = found.name
    config, locate = _config(read)
    _, spec = await environment(read.env, config, locate, profile, name=found.name, module=read.module, span=None)
    document = read.module.document
    used = secrets_used(document) if document is not None else ()
    spec = replace(
        spec, agent_auth=tuple(dict.fromkeys((*spec.agent_auth, *(name for name in used if name in spec.auth))))
    )
    _check_auth(spec)
    return EnvironmentModule(found=found, read=read, config=config, profile=profile, declared=spec)


def _config(read: ReadModule) -> tuple[dict[str, Any], Any]:
    """`var @config` of the module: the configuration that its environment has when no script gives another."""
    value = read.module.scope.names.get("config")
    if value is None or not isinstance(value.data, dict):
        return {}, lambda path: None
    return values_text.to_plain(value), locator(read.module.written.get("config"), read.env)


async def _policy(
    policy: str | Policy | None, project: Path, ports: Ports, home: Path | None, directory: Path | None
) -> Policy:
    if policy is None or isinstance(policy, Policy):
        return policy or NO_POLICY
    assert ports.files is not None
    found = find_module(policy, project=project, files=ports.files, home=home, directory=directory, kind=None)
    read = await read_module(found.entry, root=found.root, project=project, ports=ports)
    if not read.module.policy.layers:
        raise ImportFault(f"'{policy}' declares no policy", hint='policy @p = { deny: ["network"] }')
    return read.module.policy


def _check_auth(spec: EnvironmentSpec) -> None:
    for server in spec.mcp.servers:
        for name in server.auth:
            if name not in spec.auth:
                close = nearest(name, spec.auth)
                where = f"{server.place}: " if server.place else ""
                raise MlldError(
                    f"{where}server '{server.name}' wants auth '{name}', which is not declared", code="auth",
                    hint=f"did you mean '{close}'?" if close else f'auth @{name} = {{ from: "env:NAME", as: "NAME" }}',
                )  # fmt: skip
