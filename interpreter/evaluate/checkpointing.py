"""`checkpoint "name" with { resume, ttl, complete }`, and results of `exe llm` that earlier runs kept.

A kept result stands for the body of the function only: guards, policy, hooks and the labels of what it is given now apply
to it as to a fresh one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from interpreter import events, operations
from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.checkpoints import (
    MODES,
    MOST_BYTES,
    MOST_RESULT,
    BadTarget,
    Kept,
    Mode,
    Store,
    key_of,
    labels_of,
    line_of,
    targeted,
)
from interpreter.errors import EvaluationError, MlldError
from interpreter.labels import joined
from interpreter.values import NULL, Value, sequence_labels, truthy

from .core import Env, evaluate, handles
from .functions import CALLABLES, Function
from .loops import seconds_of
from .observing import observes


@dataclass(kw_only=True)
class Scope:
    """What a `checkpoint` says about the calls that follow it."""

    name: str | None = None
    mode: Mode | None = None
    ttl: float | None = None  # seconds
    complete: n.Node | None = None
    env: Env | None = None  # where `complete` is asked


@dataclass(kw_only=True)
class Checkpoints:
    """The results of one run, and of those before it."""

    mode: Mode
    replay: bool  # `--resume`: whatever the script says
    store: Store
    scope: Scope = field(default_factory=Scope)
    before: Counter[str] = field(default_factory=Counter)  # equal calls so far
    calls: Counter[str] = field(default_factory=Counter)  # of each function

    @property
    def writes(self) -> bool:
        return self.replay or (self.scope.mode or self.mode) != "never"

    def kept(self, key: str, now: float) -> Kept | None:
        """The result to use again, if the script and its checkpoints let it be."""
        found = self.store.results.get(key)
        if found is None or self.replay:
            return found
        scope = self.scope
        if (scope.mode or self.mode) != "auto" or (scope.ttl is not None and now - found.at > scope.ttl):
            return None
        return found if scope.complete is None or self.store.complete.get(scope.name or "") else None


STORE = "\0checkpoints"  # no name of a module


def checkpoints(env: Env) -> Checkpoints | None:
    """Those of the run; None where nothing is kept."""
    if env.ports.checkpoints is None or env.run.begin_checkpoints is None:
        return None
    known = env.run.modules.get(STORE)
    return known if known is not None else env.run.begin_checkpoints()  # type: ignore[no-any-return]


def read_store(env: Env, document: n.Document | None, resume: str | None) -> Checkpoints:
    """What earlier runs of a script kept. `resume`: a target, "" for none, None if it was not asked for."""
    output, store = env.ports.output, Store()
    try:
        data = operations.read_checkpoints(env.ports)
    except OSError as error:
        output.stderr(f"warning: kept results cannot be read: {error}\n")
    else:
        if len(data) > MOST_BYTES:
            output.stderr(
                f"warning: more than {MOST_BYTES >> 20} MiB of kept results are not read: `--fresh` clears them\n"
            )
        else:
            store = Store.read(data)
    if store.broken:
        output.stderr(f"warning: {store.broken} kept results cannot be read, and are made again\n")
    said = env.module.frontmatter.get("resume") if isinstance(env.module.frontmatter, dict) else None
    if said is not None and said not in MODES:
        raise EvaluationError(f"resume: {said} is none of {', '.join(MODES)}", code="checkpoint", hint="resume: auto")
    if resume:
        try:
            gone = targeted(resume, store.results.values(), names_in(document))
        except BadTarget as error:
            hint = '--resume @fn, @fn:2, @fn("prefix"), or "name"'
            raise EvaluationError(str(error), code="checkpoint", hint=hint) from None
        for key in gone:
            del store.results[key]
        if gone:
            _keep(env, line_of("drop", keys=sorted(gone)))
    held = Checkpoints(mode=said or "manual", replay=resume is not None, store=store)
    env.run.modules[STORE] = held

    async def close() -> None:
        await _close_scope(held, env)

    env.run.closers.append(close)
    return held


def names_in(document: n.Document | None) -> list[str]:
    """The names of a script's checkpoints in order, where they are written out."""
    found: list[str] = []
    waiting: list[n.Node] = [] if document is None else [document]
    while waiting:
        node = waiting.pop()
        if isinstance(node, n.Checkpoint) and isinstance(node.name, n.Literal):
            found.append(str(node.name.value))
        waiting.extend(reversed(list(node.children())))
    return found


@handles(n.Checkpoint)
@observes("checkpoint")
async def checkpoint(node: n.Checkpoint, env: Env) -> Value:
    """Begins a scope: a name for `--resume`, and a policy for the calls that follow."""
    name = vt.text(await evaluate(node.name, env))
    if not name.strip():
        raise EvaluationError("checkpoint directive requires a non-empty name", span=node.span, code="checkpoint")
    if name in env.run.checkpoints:
        raise EvaluationError(
            f'Duplicate checkpoint "{name}"', span=node.span, code="checkpoint",
            hint="`--resume` goes on at a name: it can stand at one place only, and in no loop",
        )  # fmt: skip
    env.run.checkpoints.add(name)
    scope = Scope(name=name, env=env)
    for entry in node.options.entries if node.options is not None else ():
        key = entry.key if isinstance(entry, n.Entry) else ""
        if not isinstance(entry, n.Entry) or key not in ("resume", "ttl", "complete"):
            raise EvaluationError(
                f"a checkpoint has no option '{key}'", span=entry.span, code="checkpoint",
                hint="with { resume: auto, ttl: 1h, complete: @done }",
            )  # fmt: skip
        if key == "complete":
            scope.complete = entry.value
        elif key == "ttl":
            scope.ttl = await seconds_of(entry.value, env, "the ttl of a checkpoint")
        else:
            said = vt.text(await evaluate(entry.value, env))
            mode = next((mode for mode in MODES if mode == said), None)
            if mode is None:
                raise EvaluationError(
                    f"resume: {said} is none of {', '.join(MODES)}", span=entry.value.span, code="checkpoint",
                    hint='checkpoint "name" with { resume: auto }',
                )  # fmt: skip
            scope.mode = mode
    env.ports.output.event(events.CheckpointReached(name=env.run.mask(name), place=str(node.span)))
    held = checkpoints(env)
    if held is not None:
        await _close_scope(held, env)
        held.scope = scope
    return NULL


async def _close_scope(held: Checkpoints, env: Env) -> None:
    """Records whether a scope that says when it is complete was that."""
    scope = held.scope
    held.scope = Scope()
    if scope.complete is None or scope.env is None or not held.writes:
        return
    try:
        done = truthy(await evaluate(scope.complete, scope.env))
    except MlldError:
        done = False  # what it asks for was never reached
    _keep(env, line_of("complete", checkpoint=scope.name, complete=done))


async def remembered(
    function: Function, inputs: tuple[Value, ...], env: Env, body: Callable[[], Awaitable[Value]], told: dict[str, Any]
) -> Value:
    """The result of a call: kept by an earlier run, or made now and kept. `told` is `@mx.checkpoint` of this call."""
    held = checkpoints(env)
    if held is None:
        return await body()
    given = joined(value.labels for value in inputs)
    # Neither a secret nor what is made of one is written down.
    secret = "secret" in given or "secret" in function.labels
    if not held.writes or secret or any(isinstance(value.data, CALLABLES) for value in inputs):
        return await body()
    plain = [vt.to_plain(value) for value in inputs]
    same = key_of(function.name, function.span.text, plain, 0)
    key = told["key"] = key_of(function.name, function.span.text, plain, held.before[same])
    held.before[same] += 1
    index = held.calls[function.name]
    held.calls[function.name] += 1
    space = env.box.workspace if env.box is not None else None
    kept = held.kept(key, env.ports.clock.now())
    if kept is not None:
        told["hit"] = True
        labels = labels_of(kept.labels) | sequence_labels(inputs)
        if space is not None and kept.files:
            for path, text in kept.files.items():
                space.remove(path) if text is None else space.write(path, Value(text, labels))
            await env.box.show_workspace(env, None)
        env.ports.output.event(events.ResultReused(function=function.name, key=key, labels=labels.taint))
        return Value(kept.value, labels, meta=None if kept.text is None else {"text": kept.text})
    before = {} if space is None else {path: vt.text(value) for path, value in space.files.items()}
    result = await body()
    files = {} if space is None else changes(before, {path: vt.text(value) for path, value in space.files.items()})
    labels = joined((result.labels, *(space.files[path].labels for path in files if space and path in space.files)))
    if "secret" not in labels and not isinstance(result.data, CALLABLES):
        meta = result.meta or {}
        text = meta.get("text") or meta.get("stdout")
        line = Kept(
            key=key, function=function.name, index=index, first=vt.text(inputs[0])[:200] if inputs else "",
            checkpoint=held.scope.name, at=env.ports.clock.now(), value=vt.to_plain(result),
            text=str(text) if text is not None else None, labels=labels.json(), files=files,
        ).line()  # fmt: skip
        _keep(env, line)
    return result


def changes(before: dict[str, str], after: dict[str, str]) -> dict[str, str | None]:
    """What became of files: the new text of each that is not what it was, None for one that is gone."""
    found: dict[str, str | None] = {path: text for path, text in after.items() if before.get(path) != text}
    return found | {path: None for path in before if path not in after}


def _keep(env: Env, line: bytes) -> None:
    """Writes a line down. A store that cannot take it stops nothing."""
    if len(line) > MOST_RESULT or env.run.mask(text := line.decode()) != text:
        return
    try:
        operations.keep_checkpoint(env.ports, line)
    except OSError as error:
        env.ports.output.stderr(f"warning: a result cannot be kept: {error}\n")
