"""What `spawn`, `shell`, `plan`, `tools` and `call` have in common: an environment by its reference, ready to be opened."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from interpreter import EnvironmentModule, load_environment
from interpreter.declarations import AuthDecl, EnvironmentSpec
from interpreter.environment_modules import Found, list_modules
from interpreter.ports import Output, Ports
from runner.agents import Agent, agent
from runner.cli.context import Context
from runner.cli.opening import sandboxes_for
from runner.errors import BadOption
from runner.host.output import StreamOutput
from runner.host.sandboxes import Options, Sandboxes, finish
from runner.record import RunRecord
from runner.report_progress import Progress

_REF = "The environment: @local/NAME, or a path; needed where there are several."
_OPTIONS = (
    click.option("--profile", metavar="NAME", help="A profile of it; grants nothing that policy denies."),
    click.option("--profile-strict", is_flag=True, help="An error, not a warning, where policy permits no profile."),
    click.option("--policy", metavar="FILE", help="A module whose policy is put on top: it can only narrow."),
    click.option("--agent", metavar="NAME", help="An agent of the table instead of the module's @spawn."),
    click.option("--timeout", type=click.FloatRange(min=0.1), metavar="SECONDS", help="What the agent may take."),
    click.option("--runtime", metavar="NAME", help="An OCI runtime of the engine, for example runsc."),
    click.option("--provider", metavar="NAME", help="docker (the default), or local: nothing is isolated there."),
    click.option("--progress", type=click.Choice(["auto", "plain", "none"]), help="How progress is shown on stderr."),
)


def environment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that takes an environment."""
    return click.option("--env", "ref", callback=_chosen, metavar="REF", help=_REF)(_others(command))


def _chosen(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    """The environment that is meant: where there is only one it need not be named. Errors: `BadOption`."""
    if given is not None or ctx.resilient_parsing:
        return given
    context = Context.here()
    known = [f"@local/{found.name}" for found in _known(context)]
    if len(known) == 1:
        click.echo(f"--env {known[0]}: the only one here", err=True)
        return known[0]
    if not known:
        raise BadOption(
            "there is no environment here yet: --env would name one",
            remedy="mlld sandbox init NAME makes one; a path such as --env ./envs/my works too",
        )
    raise BadOption(f"--env is missing: there are {', '.join(known)}", remedy=f"{ctx.command_path} … --env {known[0]}")


def _known(context: Context) -> Iterator[Found]:
    files = context.files(context.project)
    return list_modules(project=context.project, files=files, home=context.home)


def optional_environment(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a command that can do without one."""
    return click.option("--env", "ref", metavar="REF", help=_REF)(_others(command))


def _others(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(kw_only=True)
class Environment:
    """An environment module with the options of the command line, and the sandboxes to open it in."""

    ref: str
    context: Context
    module: EnvironmentModule
    ports: Ports
    sandboxes: Sandboxes
    progress: Progress
    agent: Agent | None = None
    records: list[RunRecord]

    @property
    def record(self) -> RunRecord | None:
        """The record of the run, once something was started."""
        return self.records[0] if self.records else None

    def tell(self, event: str, /, **fields: object) -> None:
        """An event for the record of every sandbox that was opened (a module's @spawn may open several)."""
        for record in self.records:
            record.append(event, **fields)

    def end(self, code: int, error: BaseException | None) -> None:
        """The last lines."""
        for record in self.records:
            finish(record, error, exit_code=code)
        self.sandboxes.close()

    def spec(self) -> EnvironmentSpec:
        """The declaration, with the agent that was asked for and the key that it needs."""
        spec = self.module.spec()
        return with_agent(spec, self.agent) if self.agent else spec


def with_agent(spec: EnvironmentSpec, chosen: Agent) -> EnvironmentSpec:
    """The declaration for an agent of the table. Its key is what an `auth` of the module gives under that variable; where
    none does, asking for the agent means the variable of whoever asks."""
    spec = replace(spec, agent=chosen.name)
    if chosen.key is None:
        return spec
    declared = next((name for name, auth in spec.auth.items() if auth.variable == chosen.key), None)
    if declared is None:
        declared = f"{chosen.name}-key"
        own = AuthDecl(name=declared, variable=chosen.key, source=f"env:{chosen.key}")
        spec = replace(spec, auth={**spec.auth, declared: own})
    return replace(spec, agent_auth=tuple(dict.fromkeys((*spec.agent_auth, declared))))


async def load(
    ref: str,
    *,
    profile: str | None,
    profile_strict: bool,
    policy: str | None,
    agent_name: str | None,
    timeout: float | None,
    runtime: str | None,
    provider: str | None,
    progress: str | None,
    asked: Mapping[str, object],
    output: Output | None = None,
    close_records: bool = True,
) -> Environment:
    """Read the module; nothing is started. Errors: `MlldError`, `RunnerError`."""
    context = Context.here()
    settings = context.settings
    wanted = agent_name or settings.agent
    chosen = agent(wanted) if wanted else None
    shown = Progress(sys.stderr, progress or settings.progress, env=context.env)  # type: ignore[arg-type]
    files = context.files(context.cwd, *_extra_roots(ref, context))
    made: list[RunRecord] = []

    def on_record(record: RunRecord) -> None:
        made.append(record)
        record.listen(shown)

    options = Options(
        agent=chosen,
        runtime=runtime or settings.runtime or "",
        timeout_seconds=timeout or settings.timeout,
        ca_bundle=settings.ca_bundle,
    )
    sandboxes = sandboxes_for(
        context, options=options, say=shown.note, on_record=on_record, asked={"env": ref, **asked}, files=files
    )
    sandboxes.close_records = close_records
    ports = replace(
        context.ports(output=output or StreamOutput(context.masker, stdout=sys.stderr), sandboxes=sandboxes),
        files=files,
    )
    module = await load_environment(
        ref,
        project=context.project,
        ports=ports,
        policy=policy,
        profile=profile or settings.profile,
        strict=profile_strict or settings.profile_strict,
        provider=provider or settings.provider,
        home=context.home,
        directory=context.cwd,
        settings=context.config,
    )
    return Environment(
        ref=ref,
        context=context,
        module=module,
        ports=ports,
        sandboxes=sandboxes,
        progress=shown,
        agent=chosen,
        records=made,
    )


def _extra_roots(ref: str, context: Context) -> list[Path]:
    """A module given by its path may lie outside of the project; its directory may be read then."""
    if ref.startswith("@"):
        return []
    path = (context.cwd / ref).resolve()
    return [path if path.is_dir() else path.parent]
