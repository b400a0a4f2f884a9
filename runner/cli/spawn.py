"""`mlld sandbox spawn`: a prompt for an agent in its fence. Its answer goes to stdout and nothing else does."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from interpreter.errors import CommandFailed
from interpreter.labels import Labels
from interpreter.ports import Command as Program
from interpreter.ports import Witnessed
from runner import environ
from runner.agents import Agent
from runner.cli import interrupt
from runner.cli.environment import Environment, environment_options, load
from runner.cli.lazy import Command
from runner.cli.live import Live
from runner.errors import BadOption, EmptyPrompt, TimedOut
from runner.host.sandboxes import exit_code_of
from runner.plan import to_json
from runner.record import RunRecord, read
from runner.report import Summary, markdown, result_object, transcript

EXAMPLES = """
Examples:
  mlld sandbox spawn "Summarize open tickets" --env @local/myenv
  mlld sandbox spawn "Summarize open tickets" --env @local/myenv --profile readonly
  mlld sandbox spawn - --env ./envs/review --agent claude --timeout 600 < prompt.txt
  mlld sandbox spawn "…" --env @local/myenv --json --summary "$GITHUB_STEP_SUMMARY"
"""


_ASKED = Labels.of(automatic=("src:cmd", "src:user"))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How an agent ended: what it said, what it saw, its exit code."""

    text: str
    taint: tuple[str, ...] = ()
    exit_code: int = 0
    shown: bool = False  # it went to stdout while it came


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is shown and kept of a run."""

    as_json: bool
    quiet: bool
    summary: str | None
    out: str | None


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("prompt")
@environment_options
@click.option("--json", "as_json", is_flag=True, help="One result object on stdout instead of the answer.")
@click.option("--summary", metavar="FILE", help="Append a page of Markdown, as CI job summaries want it.")
@click.option("--out", metavar="DIR", help="Keep answer, plan and record of this run in that directory.")
@click.option("--quiet", "-q", is_flag=True, help="No transcript on stderr.")
def spawn(prompt: str, as_json: bool, summary: str | None, out: str | None, quiet: bool, **options: Any) -> int:
    """Give PROMPT to the environment's agent (`-` reads it from standard input)."""
    text = text_of(sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt))
    if not text.strip():
        raise EmptyPrompt()
    shown = Shown(as_json=as_json, quiet=quiet, summary=summary, out=out)
    return interrupt.run(_spawn(text, shown, **options))


def text_of(prompt: bytes) -> str:
    """The prompt as text. Errors: `BadOption`."""
    try:
        return prompt.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadOption(
            f"the prompt is not UTF-8 text: byte {error.start} is 0x{prompt[error.start]:02x}",
            remedy="convert it first, for example with iconv",
        ) from None


async def _spawn(prompt: str, shown: Shown, *, ref: str, agent: str | None, **options: Any) -> int:
    asked = {"command": "spawn", "prompt": prompt if len(prompt) <= 4000 else prompt[:4000] + "…"}
    environment = await load(ref, agent_name=agent, asked=asked, close_records=False, **options)
    live = Live(environment.context.masker, environment.progress, stdout=not shown.as_json)
    code = 0
    error: BaseException | None = None
    try:
        if environment.agent is None:
            environment.module.require("spawn")
            answer = await _own_answer(environment, prompt, live)
        else:
            answer = await _agents_answer(environment, environment.agent, prompt, live)
        code = answer.exit_code
        environment.tell("answer", text=answer.text, exit=code, taint=list(answer.taint))
        if not shown.as_json and not answer.shown:
            sys.stdout.write(answer.text if answer.text.endswith("\n") or not answer.text else answer.text + "\n")
            sys.stdout.flush()
    except (Exception, asyncio.CancelledError) as failure:
        error, code = failure, exit_code_of(failure)
        raise
    finally:
        environment.end(code, error)
        environment.progress.clear()
        if environment.record is not None:
            _show(environment, environment.record, code, shown)
    return code


async def _own_answer(environment: Environment, prompt: str, live: Live) -> Answer:
    """The module's @spawn answers; what its commands print is passed on as it comes."""
    failure: CommandFailed | None = None
    try:
        value = await environment.module.spawn(prompt, replace(environment.ports, live=live))
    except CommandFailed as error:
        failure = error
    finally:
        live.end()
    if failure is not None:
        if not live.heard and failure.stderr.strip():
            # What a server says reaches this text past the masks of the script: only the runner knows its secrets.
            sys.stderr.write(f"{environment.context.masker.text(failure.stderr.rstrip())}\n")
        return Answer(text=live.text, exit_code=failure.status or 1, shown=True)
    text = environment.context.masker.text(value.text)
    shown = live.shows(text, value.value)
    live.end_line()
    return Answer(text=text, taint=value.taint, shown=shown)


async def _agents_answer(environment: Environment, agent: Agent, prompt: str, live: Live) -> Answer:
    """An agent of the table answers; its output is passed on as it comes."""
    session = await environment.sandboxes.open(environment.spec())
    error: BaseException | None = None
    try:
        mark = session.mark()
        command = Program(
            kind="cmd",
            text=agent.command(),
            stdin=prompt.encode(),
            secrets=environment.sandboxes.agent_secrets,
            on_output=live,
        )
        result = await session.commands.run(command)
        witnessed = await session.witnessed(mark)
    except BaseException as caught:
        error = caught
        raise
    finally:
        live.end()
        await session.close(error)
    if result.timed_out:
        raise TimedOut("the agent", environment.sandboxes.options.timeout_seconds or 0)
    return Answer(text=live.text, taint=taint_of(witnessed), exit_code=result.exit_code, shown=True)


def taint_of(witnessed: Witnessed) -> tuple[str, ...]:
    """What the answer of an agent carries: that a user asked a command for it, and every tool and label that it saw
    (semantics §6), as the answer of a module's own @spawn does."""
    return tuple(sorted((_ASKED | witnessed.labels).taint))


def _show(environment: Environment, record: RunRecord, code: int, shown: Shown) -> None:
    """The run, as its record tells it: an object on stdout, files, the transcript on stderr."""
    summary = Summary.of(read(record.path))
    if shown.as_json:
        print(json.dumps(result_object(summary, exit_code=code), ensure_ascii=False), flush=True)
    if shown.summary:
        with Path(shown.summary).open("a", encoding="utf-8") as file:
            file.write(markdown(summary))
    if shown.out:
        _keep(Path(shown.out), record, summary)
    if shown.quiet or shown.as_json:
        return
    print(transcript(summary, answer=False), file=sys.stderr)
    print(f"record: {record.path} · {record.head[:16]}", file=sys.stderr)
    following = f"next: mlld sandbox show {record.name}; mlld sandbox plan --env {environment.ref}"
    print(environ.typed(following), file=sys.stderr)


def _keep(directory: Path, record: RunRecord, summary: Summary) -> None:
    """Answer, plan and record as files."""
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(record.path, directory / "record.jsonl")
    (directory / "answer.txt").write_text(summary.answer or "", encoding="utf-8")
    if summary.plan:
        (directory / "plan.json").write_bytes(to_json(summary.plan))
