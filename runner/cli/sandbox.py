"""`mlld sandbox …` (also `mlld env …`, `mlld box …`): the table of its commands."""

from __future__ import annotations

from runner.cli.lazy import LazyGroup

COMMANDS = {
    "spawn": ("runner.cli.spawn:spawn", "Give an agent a prompt, in its fence; its answer goes to stdout."),
    "shell": ("runner.cli.shell:shell", "An interactive shell in the agent's seat."),
    "plan": ("runner.cli.plan:plan", "Who can reach what, and which line says so. Starts nothing."),
    "check": ("runner.cli.ask:check", "Whether one thing is allowed, and by which line."),
    "tools": ("runner.cli.tools:tools", "The tools as the agent sees them."),
    "call": ("runner.cli.tools:call", "One tool call through the fence."),
    "connect": ("runner.cli.connect:connect", "The tools of a fenced environment for a client on this side."),
    "login": ("runner.cli.login:login", "Log in to a remote server, for the runs that follow."),
    "logout": ("runner.cli.login:logout", "Forget such a login."),
    "ps": ("runner.cli.runs:ps", "The runs that go on; with --all also those that ended."),
    "show": ("runner.cli.runs:show", "Look back at a run: profile, reach, calls, denials, answer, taint."),
    "logs": ("runner.cli.logs:logs", "What a run does, line by line; with -f while it goes on."),
    "view": ("runner.cli.view:view", "A run as one page for a browser: lanes, calls, denials, labels, what held."),
    "verify": ("runner.cli.runs:verify", "Whether the record of a run is whole."),
    "stop": ("runner.cli.clean:stop", "Stop a run and remove what it made."),
    "gc": ("runner.cli.clean:gc", "Remove what runs have left whose owner is gone."),
    "init": ("runner.cli.init:init", "Make a module that works, with comments."),
    "images": ("runner.cli.images:images", "Build, list and prune the images."),
    "explain": ("runner.cli.explain:explain", "A page about an error code, or why a run refused something."),
}

EXAMPLES = """
Examples:
  mlld sandbox init myenv
  mlld sandbox plan --env @local/myenv
  mlld sandbox spawn "Summarize open tickets" --env @local/myenv --profile readonly
  mlld sandbox show last
"""

sandbox = LazyGroup(
    name="sandbox",
    table=COMMANDS,
    examples=EXAMPLES,
    help="Run agents and MCP servers in a fence, and look back at runs.",
    no_args_is_help=True,
)
