"""Running a script: from its text to its output."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError, LimitReached, MlldError
from interpreter.operations_output import Document
from interpreter.parser import parse_or_raise
from interpreter.ports import Ports
from interpreter.source import Mode, Source
from interpreter.values import NULL, Value

from .authority import Authority
from .core import Env, Limits, LoopContinue, LoopDone, RetryAsked, Returned, Run, Signal, Skipped, at
from .frontmatter import read_own
from .modules import Module
from .statements import execute


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What whoever starts a script decides about it."""

    root: Path
    home: Path | None = None  # of the user; by default the variable HOME, if the script may read it
    directory: Path | None = None  # where commands start; the directory of the script by default
    mode: Mode | None = None
    payload: Any = None
    state: Any = None
    variables: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] | None = None  # mlld-config.json
    profile: str | None = None
    strict_profiles: bool = False
    provider: str | None = None
    resume: str | None = None  # `--resume`: what to make again, "" for nothing in particular
    recursion: int = 64
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What is left of a script that ran: the value of its `=>`, if it had one."""

    value: Any = None
    returned: bool = False


async def run_script(source: Source, path: Path | None, ports: Ports, options: RunOptions) -> RunResult:
    """Evaluate a script with the powers that it is given. Errors: `MlldError`, with a place."""
    document = parse_or_raise(source, options.mode)
    deepen()
    env = make_env(source, path, document, ports, options)
    if ports.checkpoints is not None:

        def begin() -> Any:
            from .checkpointing import read_store

            return read_store(env, document, options.resume)

        env.run.begin_checkpoints = begin
        if options.resume:
            begin()  # a target that names nothing is told before anything runs
    try:
        result = await run_body(document, env, prose=True)
        if result is not None and result.data is not None:
            env.run.document.printed(vt.display(result))
    finally:
        await close(env.run)
    return RunResult() if result is None else RunResult(value=result, returned=True)


# A call of the language takes about twenty calls of Python; `Limits.depth` of them must fit.
PYTHON_CALLS = 16_000


def deepen() -> None:
    """Let Python nest as deeply as the language may: its own bound, with a diagnostic, is met first."""
    if sys.getrecursionlimit() < PYTHON_CALLS:
        sys.setrecursionlimit(PYTHON_CALLS)


def make_env(source: Source, path: Path | None, document: n.Document | None, ports: Ports, options: RunOptions) -> Env:
    directory = options.directory or (path.parent if path is not None else options.root)
    home = options.home or (Path(said) if (said := ports.env.get("HOME")) else None)
    run = Run(
        root=options.root, home=home, directory=directory, document=Document.nowhere(), limits=Limits(recursion=options.recursion),
        settings=options.settings or {}, profile=options.profile, strict_profiles=options.strict_profiles,
        provider=options.provider, quiet=options.quiet,
    )  # fmt: skip
    run.document = Document(ports.output.document, run.mask)
    for name, given in (("payload", options.payload), ("state", options.state)):
        run.variables[name] = Value({} if given is None else given)
    for name, given in (options.variables or {}).items():
        run.variables[name] = Value(given)
    frontmatter = None
    if document is not None and document.frontmatter is not None:
        frontmatter = read_own(document.frontmatter.text)
    module = Module(
        path=path, name=source.name, directory=path.parent if path is not None else directory, document=document,
        frontmatter=frontmatter,
    )  # fmt: skip
    return Env(run=run, module=module, scope=module.scope, ports=ports, authority=Authority((module,)), top=True)


async def close(run: Run) -> None:
    """End what the script opened: servers, sandboxes, the engine."""
    for closer in reversed(run.closers):
        await closer()
    run.closers.clear()
    for engine in run.engines:
        engine.close()
    run.engines.clear()


async def run_body(document: n.Document, env: Env, *, prose: bool) -> Value | None:
    """The statements of a file in order; the value of a `=>` at its top ends it. None without one."""
    try:
        for statement in document.body:
            if isinstance(statement, n.Text):
                if prose:
                    env.run.document.prose(statement.text)
                continue
            if not prose and not env.module.is_environment and is_for_readers(statement):
                continue
            if env.run.declare_only and not env.module.is_environment:
                await declare_statement(statement, env)
                continue
            await run_statement(statement, env)
            if prose and document.mode == "document" and not in_fence(statement, document):
                end_of_directive(statement, env)
    except Returned as returned:
        return returned.value or NULL
    return None


def is_for_readers(statement: n.Node) -> bool:
    """Does a file do this for whoever runs it, and not for whoever imports it: show, write, run something?

    An environment module may not do it at all, and is told so.
    """
    if isinstance(statement, n.ExpressionStatement):
        return isinstance(statement.value, n.Call)
    return isinstance(statement, n.Show | n.Log | n.Output | n.Append | n.Run)


DECLARATIONS = (n.Var, n.Exe, n.Import, n.Export, n.Guard, n.Policy, n.Auth, n.Needs, n.Profiles, n.ShadowEnvironment)


async def declare_statement(statement: n.Node, env: Env) -> None:
    """One statement of a script that is read for its guards: effects are left out, and so is every name that needs one.

    A guard that uses such a name denies, since the name is unknown to it.
    """
    left_out = env.module.left_out
    if not isinstance(statement, DECLARATIONS):
        return
    if isinstance(statement, n.Import) and (
        statement.kind == "tools" or statement.origin.form in ("mcp", "node", "python")
    ):
        left_out.update(item.alias or item.name for item in statement.what)
        left_out.add(statement.alias or "")
        return
    if isinstance(statement, n.Var) and not left_out.isdisjoint(names_in(statement.value)):
        left_out.add(statement.name)
        return
    try:
        await run_statement(statement, env)
    except LimitReached:
        raise
    except MlldError:
        if not isinstance(statement, n.Var):
            raise
        left_out.add(statement.name)


def names_in(node: n.Node) -> Iterator[str]:
    """Every variable that a tree mentions."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if isinstance(current, n.Variable):
            yield current.name
        waiting.extend(current.children())


_COMMENT = re.compile(r"[ \t]*(\n[ \t]*)?(?:>>|<<)")


def end_of_directive(statement: n.Node, env: Env) -> None:
    """The line of a directive in a document. A comment behind it takes the end of the line; one below leaves blank lines be."""
    comment = _COMMENT.match(statement.span.source.text, statement.span.end)
    shown = ends_its_line(statement)
    if comment is None or (comment.group(1) and not shown):
        env.run.document.end_of_directive(shown=shown)


def in_fence(statement: n.Node, document: n.Document) -> bool:
    """Does it stand in a `mlld-run` fence, of which the document has only what is printed there?"""
    return any(begin <= statement.span.start < end for begin, end in document.fences)


def ends_its_line(statement: n.Node) -> bool:
    """Does the directive take the blank lines below it along? `show` does, unless it shows a file, a `foreach` or a literal."""
    if not isinstance(statement, n.Show):
        return False
    value = statement.value
    if isinstance(value, n.Pipeline) and isinstance(value.source, n.Literal):
        return False
    if isinstance(value, n.With):
        return not isinstance(value.value, n.Foreach)
    while isinstance(value, n.Pipeline | n.Field | n.Index | n.Slice):
        value = value.source if isinstance(value, n.Pipeline) else value.target
    return not isinstance(value, n.FileLoad | n.Foreach)


async def run_statement(statement: n.Node, env: Env) -> None:
    try:
        await execute(statement, env)
    except MlldError as error:
        raise at(error, statement.span) from None
    except RecursionError:
        raise LimitReached("the script is nested too deeply", span=statement.span) from None
    except (LoopDone, LoopContinue, Skipped, RetryAsked) as stray:
        raise misplaced(stray, statement) from None


def misplaced(signal: Signal, statement: n.Node) -> EvaluationError:
    word, where = {
        LoopDone: ("done", "a loop"), LoopContinue: ("continue", "a loop"), Skipped: ("skip", "the body of a `for`"),
        RetryAsked: ("retry", "a stage of a pipeline"),
    }[type(signal)]  # fmt: skip
    return EvaluationError(f"`{word}` has a meaning in {where} only", span=statement.span, code="misplaced")


def recursion_depth(environment: Mapping[str, str]) -> int:
    """`MLLD_RECURSION_DEPTH`, within what the stack bears."""
    try:
        return max(1, min(int(environment.get("MLLD_RECURSION_DEPTH", "64")), 400))
    except ValueError:
        return 64
