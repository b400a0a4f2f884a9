"""`mlld sandbox tools` and `call`: what the agent sees, and one call through the same fence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import click

from interpreter.names import same_name
from interpreter.ports import SandboxSession, ToolConnection, ToolInfo
from runner import lock
from runner.cli import interrupt
from runner.cli.environment import environment_options, load
from runner.cli.lazy import Command
from runner.errors import BadOption, Denied, UnknownName
from runner.host.sandboxes import Session, exit_code_of
from runner.plan import SandboxPlan
from runner.record import RunRecord, read
from runner.report import Summary, at, clean

CALL_EXAMPLES = """
Examples:
  mlld sandbox call --env @local/myenv get_ticket id=T-1
  mlld sandbox call --env @local/myenv list_tickets '{"status": "open"}'
"""


@click.command(cls=Command, examples="\nExamples:\n  mlld sandbox tools --env @local/myenv --profile readonly\n")
@environment_options
@click.option("--json", "as_json", is_flag=True, help="A JSON list with the schemas.")
@click.option("--lock", "locking", is_flag=True, help="Accept them as they are now; a later change stops a run.")
def tools(as_json: bool, locking: bool, **options: Any) -> int:
    """The tools as the agent sees them: after filters, collisions and tool collections."""
    found: list[ToolInfo] = []

    async def look(connection: ToolConnection) -> None:
        found.extend(connection.tools)

    record = interrupt.run(_with_tools(look, command="tools", locking=locking, **options))
    events = list(read(record.path))
    plan = Summary.of(events).plan
    assert plan is not None
    if as_json:
        shown = [
            {
                "server": tool.server,
                "name": tool.name,
                "labels": labels_of(plan, tool),
                "description": tool.description,
                "schema": tool.input_schema,
            }
            for tool in found
        ]
        click.echo(json.dumps(shown, ensure_ascii=False, default=dict))
        return 0
    width = max((len(clean(tool.name)) for tool in found), default=0)
    home = max((len(clean(tool.server)) for tool in found), default=0)
    for tool in found:
        labels = f"[{', '.join(map(clean, labels_of(plan, tool)))}] " if labels_of(plan, tool) else ""
        named = f"{clean(tool.name):<{width}}  {clean(tool.server):<{home}}"
        click.echo(f"{named}  {labels}{clean(tool.description, 80)}".rstrip())
    for line in hidden_in(events):
        click.echo(line, err=True)
    for server in plan.servers:
        if server.tools != "*":
            click.echo(
                f"{clean(server.name)}: only those that `tools` lists{at(server.place)}; all others are hidden",
                err=True,
            )
    if plan.guards:
        click.echo(f"guards and policy of {clean(plan.guards.module)} judge every call", err=True)
    click.echo(f"{len(found)} tools", err=True)
    return 0


def hidden_in(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """The tools that the agent is not to know of, one line each, with the reason."""
    last = {str(event["server"]): event for event in events if event.get("event") == "list" and event.get("hidden")}
    lines: list[str] = []
    for server, event in last.items():
        hidden: Mapping[str, str] = event["hidden"]
        lines += [f"hidden: {clean(name)} of {clean(server)}: {clean(why)}" for name, why in hidden.items()]
        if (more := int(event.get("total", 0)) - len(hidden)) > 0:
            lines.append(f"hidden: {more} more of {clean(server)}")
    return lines


def labels_of(plan: SandboxPlan, tool: ToolInfo) -> list[str]:
    """What the module declares this tool to be."""
    found: set[str] = set()
    for server in plan.servers:
        if tool.server in ("", server.name):
            found.update(*(labels for name, labels in server.labels.items() if same_name(name, tool.name)))
            found.update(*(binding.labels for binding in server.bindings if binding.exposed == tool.name))
    return sorted(found)


@click.command(cls=Command, examples=CALL_EXAMPLES)
@environment_options
@click.argument("tool")
@click.argument("arguments", nargs=-1, metavar="[NAME=VALUE | JSON]...")
def call(tool: str, arguments: tuple[str, ...], **options: Any) -> int:
    """Call one TOOL through the fence: the same filters, guards and record as for the agent."""
    code = 0

    async def ask(connection: ToolConnection) -> None:
        nonlocal code
        info = next((info for info in connection.tools if info.name == tool), None)
        if info is None:
            raise UnknownName(
                "tool", tool, [info.name for info in connection.tools], remedy="mlld sandbox tools --env REF"
            )
        result = await connection.call(tool, values_for(info, arguments))
        if result.denied is not None:
            message = f"{tool} was denied by {result.denied.rule}: {result.denied.reason}"
            raise Denied(clean(message), rule=clean(result.denied.rule))
        click.echo(result.text, err=result.is_error)
        code = 1 if result.is_error else 0

    interrupt.run(_with_tools(ask, command="call", **options))
    return code


def values_for(tool: ToolInfo, arguments: tuple[str, ...]) -> Mapping[str, object]:
    """`NAME=VALUE` by the schema's type, or one JSON object. Errors: `BadOption`, `UnknownName`."""
    if len(arguments) == 1 and arguments[0].lstrip().startswith("{"):
        try:
            value = json.loads(arguments[0])
        except ValueError as error:
            raise BadOption(f"the arguments are not JSON: {error}", remedy="mlld sandbox call --help") from None
        assert isinstance(value, dict)
        return value
    properties = tool.input_schema.get("properties")
    known: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
    values: dict[str, object] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            raise BadOption(f"{argument!r} is not NAME=VALUE", remedy="mlld sandbox call --help")
        if known and name not in known:
            raise UnknownName("parameter", name, known, remedy="mlld sandbox tools --json --env REF")
        values[name] = _typed(text, known.get(name, {}).get("type"), name)
    return values


def _typed(text: str, kind: object, name: str) -> object:
    if kind in (None, "string"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise BadOption(
            f"{name} must be of type {kind}, got {text!r}", remedy="mlld sandbox tools --json --env REF"
        ) from None


async def _with_tools(
    use: Callable[[ToolConnection], Awaitable[None]],
    *,
    agent: str | None,
    command: str,
    locking: bool = False,
    **options: Any,
) -> RunRecord:
    """Open the environment, use its tools, and take everything away. The record of it."""
    environment = await load(agent_name=agent, asked={"command": command}, close_records=False, **options)
    error: BaseException | None = None
    session: SandboxSession | None = None
    try:
        spec = environment.spec()
        environment.sandboxes.locking = locking
        session = await environment.sandboxes.open(spec)
        environment.progress.clear()
        await use(session.tools or NoTools())
        if locking and isinstance(session, Session):
            path = lock.write(environment.sandboxes.project, spec.name, session.sandbox.pins)
            click.echo(f"locked in {path}", err=True)
    except (Exception, asyncio.CancelledError) as failure:
        error = failure
        raise
    finally:
        if session is not None:
            await session.close(error)
        environment.end(exit_code_of(error), error)
    assert environment.record is not None
    return environment.record


class NoTools:
    """What a profile without servers has."""

    tools: tuple[ToolInfo, ...] = ()

    async def call(self, tool: str, arguments: Mapping[str, object]) -> Any:
        raise UnknownName("tool", tool, ())

    async def close(self) -> None: ...
