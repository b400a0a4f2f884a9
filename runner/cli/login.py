"""`mlld sandbox login` and `logout`: a person at a remote server."""

from __future__ import annotations

import secrets
import sys
import time
import webbrowser
from collections.abc import Mapping
from typing import Any

import click

from runner import environ, trust
from runner.cli import interrupt
from runner.cli.environment import environment_options, load
from runner.cli.lazy import Command
from runner.handover import Handover
from runner.host.logins import alone, environment_of, log_in, server_of
from runner.report import clean
from runner.secrets_logins import Credential

LOGIN_EXAMPLES = """
Examples:
  mlld sandbox login mail --env @local/myenv
  mlld sandbox login mail --scope mail.send          a wider scope than the server asks for at first
  mlld sandbox login mail --no-browser --port 8765   over ssh -L 8765:127.0.0.1:8765
"""


@click.command(cls=Command, examples=LOGIN_EXAMPLES)
@click.argument("server")
@environment_options
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="A scope to ask for in addition.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Where the browser comes back; any by default.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def login(server: str, scopes: tuple[str, ...], port: int, no_browser: bool, **options: Any) -> None:
    """Log in to SERVER, a remote one whose auth is a person's. Runs use it until it ends."""
    interrupt.run(_login(server, scopes, port, no_browser, **options))


async def _login(
    name: str, scopes: tuple[str, ...], port: int, no_browser: bool, *, agent: str | None, **options: Any
) -> None:
    environment = await load(agent_name=agent, asked={"command": "login"}, **options)
    spec, sandboxes = environment.spec(), environment.sandboxes
    server = server_of(spec, name)
    plan = sandboxes.plan(alone(spec, server))
    handover = Handover(
        token=secrets.token_urlsafe(24),
        secrets=sandboxes.secret_values(plan, spec),
        host_addresses=sandboxes.host_addresses(plan),
        ca_bundle=trust.planned(plan.ca_bundle),
    )

    def on_url(url: str) -> None:
        click.echo(f"to log in to {name}, open this page in a browser of this machine:\n\n  {clean(url)}\n", err=True)
        if not no_browser and _has_browser(sandboxes.env):
            webbrowser.open(url)

    # Asking for more is no reason to lose what there was.
    former = (sandboxes.logins.read(environment_of(spec), name) or {}).get("scopes", ()) if scopes else ()
    wanted = tuple(dict.fromkeys((*former, *scopes)))
    credential = await log_in(plan, handover, env=sandboxes.env, port=port, scopes=wanted, on_url=on_url)
    sandboxes.logins.write(environment_of(spec), name, credential)
    click.echo(_told(name, credential), err=True)


@click.command(cls=Command, examples="\nExamples:\n  mlld sandbox logout mail --env @local/myenv\n")
@click.argument("server")
@environment_options
def logout(server: str, **options: Any) -> None:
    """Forget the login to SERVER. (Its authorization server is not told: its own pages take access away.)"""
    interrupt.run(_logout(server, **options))


async def _logout(name: str, *, agent: str | None, **options: Any) -> None:
    environment = await load(agent_name=agent, asked={"command": "logout"}, **options)
    spec = environment.spec()
    gone = environment.sandboxes.logins.forget(environment_of(spec), server_of(spec, name).name)
    click.echo(f"the login to {name} is forgotten" if gone else f"nobody was logged in to {name}", err=True)


def _has_browser(env: Mapping[str, str]) -> bool:
    """Whether a page opens in a window: a browser in the terminal would take it over."""
    return sys.platform == "darwin" or any(env.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _told(name: str, credential: Credential) -> str:
    scopes = " ".join(map(str, credential.get("scopes") or ())) or "no scope"
    lapses = credential.get("lapses")
    until = "renewed by itself" if credential.get("refresh_token") else "until it is refused"
    if not credential.get("refresh_token") and isinstance(lapses, int | float):
        until = f"until {time.strftime('%Y-%m-%d %H:%M', time.localtime(lapses))}"
    return environ.typed(f"logged in to {name} at {clean(str(credential['issuer']))}: {clean(scopes)}, {until}")
