"""Names that the language defines: `@mx`, `@root`, `@now`, `@fm`, `@input`, `@debug`."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from interpreter import values_text as vt
from interpreter.errors import EvaluationError
from interpreter.labels import Labels
from interpreter.values import NULL, Value

from .core import Env


class AmbientMx:
    """`@mx`: what is going on around: the loop, the pipeline, the operation, the guard, the profile."""

    kind = "object"
    __slots__ = ("env",)

    def __init__(self, env: Env) -> None:
        self.env = env

    def get_field(self, name: str, env: Env, own: Labels) -> Value | None:
        env = self.env
        if name in env.mx:
            found = env.mx[name]
            return found if isinstance(found, Value) else Value(found)
        if name == "guard":
            raise EvaluationError(
                '@mx has no "guard" here', code="field-not-found",
                hint="@mx.guard is known in guards, and in the `denied =>` of a function that was denied",
            )  # fmt: skip
        computed = AMBIENT.get(name)
        if computed is None:
            return NULL
        found = computed(env)
        return found if isinstance(found, Value) else Value(found)

    def describe(self) -> Any:
        shown = {key: vt.to_plain(value) for key, value in self.env.mx.items() if key in PUBLIC}
        return {**shown, "profile": _profile(self.env)}

    def shown(self) -> str:
        return vt.layout(self.describe())


def _profile(env: Env) -> Any:
    if "profile" in env.mx:  # an environment that is being described: nothing of it is open yet
        return env.mx["profile"]
    if env.box is not None and env.box.profile is not None:
        return env.box.profile
    return env.module.profile_name


def _tools(env: Env) -> Any:
    calls = [call["name"] for call in env.run.tool_calls]
    scope = env.box.tool_names() if env.box is not None else {}
    return {
        "calls": calls,
        "history": env.mx.get("history", list(env.run.tool_calls)),
        "allowed": [],
        "denied": [],
        **scope,
    }


def _policy(env: Env) -> Any:
    return env.authority.describe_policies()


def _errors(env: Env) -> Any:
    found = env.scope.find("\0errors")
    return found.data if found is not None else env.run.errors


def _of_pipeline(env: Env, what: str) -> Any:
    """What few stages ask about their pipeline, made when it is asked."""
    pipeline = env.mx.get("pipeline")
    if pipeline is None:
        return [] if what == "tries" else NULL
    context = pipeline.data
    return {"tries": context.attempts, "pipe": context.ambient, "lastOutput": lambda: context.outputs[-1]}[what]()


PUBLIC = {
    "for",
    "loop",
    "while",
    "try",
    "stage",
    "hint",
    "isPipeline",
    "op",
    "guard",
    "labels",
    "taint",
    "sources",
    "args",
}
AMBIENT: dict[str, Callable[[Env], Any]] = {
    "profile": _profile,
    "tools": _tools,
    "policy": _policy,
    "errors": _errors,
    "denied": lambda env: False,
    "isPipeline": lambda env: False,
    "try": lambda env: 1,
    "tries": lambda env: _of_pipeline(env, "tries"),
    "pipe": lambda env: _of_pipeline(env, "pipe"),
    "lastOutput": lambda env: _of_pipeline(env, "lastOutput"),
    "stage": lambda env: 0,
    "labels": lambda env: [],
    "taint": lambda env: [],
    "sources": lambda env: [],
}


def now(env: Env) -> Value:
    """The time as ISO text; it carries its formats, for `import { iso, unix } from @now`."""
    moment = datetime.datetime.fromtimestamp(env.ports.clock.now(), datetime.UTC)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
    return Value(text)


def _input(env: Env) -> Value | None:
    """What flows into the stage of a pipeline; elsewhere what the script was given."""
    if "pipeline" in env.mx:
        flowing: Value = env.mx["input"]
        return flowing
    return _given(env)


def _given(env: Env) -> Value:
    from .inputs import given

    return given(env)


def _root(env: Env) -> Value:
    """The project, where the commands of this place find it."""
    inside = env.box.root if env.box is not None else None
    return Value(str(env.run.root) if inside is None else inside)


def _debug(env: Env) -> Value:
    names = [name for name in env.scope.visible() if not name.startswith("_")]
    return Value({"variables": names, "module": str(env.module.path), "root": str(env.run.root)})


RESERVED: dict[str, Callable[[Env], Value | None]] = {
    "mx": lambda env: Value(AmbientMx(env)),
    "root": _root,
    "base": _root,
    "now": now,
    "time": now,
    "fm": lambda env: Value(env.module.frontmatter) if env.module.frontmatter is not None else None,
    "p": lambda env: env.mx.get("pipeline"),
    "pipeline": lambda env: env.mx.get("pipeline"),
    "frontmatter": lambda env: Value(env.module.frontmatter) if env.module.frontmatter is not None else None,
    "input": _input,
    "stdin": _given,
    "debug": _debug,
}
