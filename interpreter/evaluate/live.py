"""Output of commands while it arrives: who may see it before the command has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from interpreter.policy_subjects import Operation

from .calls import CallOptions
from .core import Env
from .programs import MARK

Listener = Callable[[Literal["stdout", "stderr"], bytes], None]


def listener(env: Env, kind: str, operation: Operation, options: CallOptions | None) -> Listener | None:
    """Whom the output of this command goes to as it comes; None where it is shown when the command has ended."""
    in_seat = env.box is not None and env.box.session is not None
    if in_seat and env.ports.live is not None and not _judged_later(env, operation):
        # Bodies in these languages give their value back on stdout, behind a mark.
        return _until_mark(env.ports.live) if kind in ("node", "py") else env.ports.live
    asked = options is not None and options.options is not None and "stream" in options.options
    if not (asked or env.mx.get("stream")) or env.run.quiet:
        return None
    return lambda name, chunk: env.ports.output.stderr(env.run.mask(chunk.decode(errors="replace")))


def _judged_later(env: Env, operation: Operation) -> bool:
    """Whether something decides about the output once it is whole: nobody may have seen it by then.

    Guards of MCP tools are not meant: what a tool gives is judged in the sidecar, before the agent has it.
    """
    authority = env.authority
    return any(hook.timing == "after" for hook in authority.hooks) or any(
        guard.watches("after")
        and (guard.concerns(operation) or guard.kind != "operation" or guard.filter.partition(":")[0] != "mcp")
        for guard in authority.guards.all
    )


def _until_mark(sink: Listener) -> Listener:
    """Passes stdout on up to the mark, which may come in pieces."""
    mark, held = MARK.encode(), b""

    def pass_on(name: Literal["stdout", "stderr"], chunk: bytes) -> None:
        nonlocal held
        if name == "stderr":
            sink(name, chunk)
            return
        held += chunk
        at = held.find(mark)
        if at < 0:
            partial = next((n for n in range(len(mark) - 1, 0, -1) if held.endswith(mark[:n])), 0)
            at = len(held) - partial
        if at:
            sink(name, held[:at])
            held = held[at:]

    return pass_on
