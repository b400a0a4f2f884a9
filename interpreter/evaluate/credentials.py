"""Secrets for commands: `using auth:name`, `using @value as NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from interpreter import nodes as n
from interpreter import operations
from interpreter import values_text as vt
from interpreter.declarations import AuthDecl
from interpreter.errors import EvaluationError
from interpreter.labels import NONE, Labels
from interpreter.policy import Denied as Refusal
from interpreter.policy import judge
from interpreter.policy_subjects import Operation

from .core import Env, absent, evaluate

SECRET = Labels.of("secret")


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """Variables for one process, and the labels of what they hold."""

    values: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    labels: Labels = NONE

    def joined(self, other: Secrets) -> Secrets:
        return (
            other
            if not self.values
            else Secrets(values={**self.values, **other.values}, labels=self.labels | other.labels)
        )


_NONE = Secrets()


def no_secrets() -> Secrets:
    return _NONE


async def resolve_using(using: Any, env: Env) -> Secrets:
    """The secrets of one `using` clause, or of several."""
    if isinstance(using, list | tuple):
        held = _NONE
        for each in using:
            held = held.joined(await resolve_using(each, env))
        return held
    if using.auth is not None:
        return auth_secret(using.auth, env, using)
    value = await evaluate(using.value, env)
    name = using.name or str(getattr(using.value, "name", "VALUE"))
    return Secrets(values={name: vt.text(value)}, labels=value.labels | SECRET)


def find_auth(name: str, env: Env) -> AuthDecl | None:
    """The module's own declaration, unless the caller has one: its `policy.auth` wins over its standalone `auth`."""
    own = env.module.auth.get(name)
    callers = [module for module in env.authority.modules if module is not env.module]
    standalone = next((module.auth[name] for module in callers if name in module.auth), None)
    policy = env.authority.policy.auth.get(name)
    return policy or standalone or own


def auth_secret(name: str, env: Env, node: n.Using) -> Secrets:
    declared = find_auth(name, env)
    if declared is None:
        known = sorted(
            {
                *env.module.auth,
                *(key for module in env.authority.modules for key in module.auth),
                *env.authority.policy.auth,
            }
        )
        raise EvaluationError(
            f"Auth config '{name}' is not defined", span=node.span, code="auth",
            hint=f'declare `auth @{name} = {{ from: "env:NAME", as: "NAME" }}`; there are {", ".join(known) or "none"}',
        )  # fmt: skip
    source = declared.source.replace("{projectname}", str(env.run.settings.get("projectname") or env.run.root.name))
    if source.startswith("keychain:"):
        operation = Operation(kind="secret", name=source.removeprefix("keychain:"))
        decision = judge(env.authority.policy, operation)
        if isinstance(decision, Refusal):
            raise operations.PolicyDenied(decision, operation, node.span)
    if env.ports.secrets is None:
        raise absent("secrets", node.span, env)
    try:
        secret = operations.read_secret(env.ports, source)
    except LookupError as error:
        raise EvaluationError(
            f"the secret of auth:{name} is missing: {error.args[0] if error.args else source}", span=node.span, code="auth",
            hint=f"put it where `auth @{name}` looks: {source}",
        ) from None  # fmt: skip
    if len(secret) >= 4:
        env.run.secrets.add(secret)
    return Secrets(values={declared.variable: secret}, labels=SECRET)
