"""What crosses between the endpoint (moves MCP messages) and the gate (decides about them): data and protocols.

The endpoint never decides and the gate never moves bytes. Each side is tested with a fake of the other.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from msgspec import Struct

from images.sidecar.trace import RunTrace

GUARD_FAILURE = "guard failure"
"""The rule of a denial that no guard has said: it failed, or took too long."""

Kind = Literal["tool", "resource", "template", "prompt", "task"]
"""What a name is the name of: tools and prompts have the name the server uses, resources and templates their URI."""


Grant = Literal["authorization_code", "client_credentials", "jwt_bearer", "identity_assertion"]
"""How a token is asked for: RFC 6749 §4.1 and §4.4, RFC 7523 §2.1, and the latter with an assertion of an enterprise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IdentityProvider:
    """An enterprise's own authorization server, which says who the user is (SEP-990)."""

    token_endpoint: str
    client_id: str
    client_secret: str = field(default="", repr=False)
    id_token: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class OAuth:
    """How tokens for a remote server are got. Secrets are values here: this comes by standard input."""

    grant: Grant
    issuer: str | None = None
    """The only authorization server that credentials may go to; None: the one that the server names."""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)
    """PEM; signs with `algorithm`."""
    algorithm: str = "ES256"
    client_metadata: str = ""
    """URL of a client ID metadata document."""
    scopes: tuple[str, ...] | None = None
    """The only ones that may be asked for; None: those that the server wants."""
    assertion: str = field(default="", repr=False)
    """Of `jwt_bearer`: who the workload is."""
    provider: IdentityProvider | None = None
    credential: Mapping[str, Any] | None = field(default=None, repr=False)
    """What a login has left (`authorizer.Credential`)."""

    def secrets(self) -> tuple[str, ...]:
        """Values that must never be written anywhere."""
        provider = (self.provider.client_secret, self.provider.id_token) if self.provider else ()
        kept = self.credential or {}
        left = [str(kept.get(key, "")) for key in ("access_token", "refresh_token", "client_secret", "key")]
        return (self.client_secret, self.private_key, self.assertion, *provider, *left)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSpec:
    """One MCP server as the endpoint sees it: where it is reached, nothing about what it may do."""

    name: str
    transport: Literal["stdio", "http", "sse"] = "stdio"
    link: str | None = None
    """Directory of the link: the endpoint listens on `<link>/stdio.sock`, each connection may become a process."""
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    oauth: OAuth | None = None
    command: tuple[str, ...] = ()
    """A child process of the endpoint itself: for benchmarks and conformance runs, never in a sandbox."""
    remembered: Mapping[str, Any] | None = None
    """What it offered in an earlier run (`remembered.Offers`), by situation; None: not to be remembered."""
    prefix: str | None = None
    """`as` of the declaration: the name in front of `__` where tools of two servers collide."""


class Lifecycle(Struct, frozen=True, kw_only=True):
    """Times in seconds, and how many calls one server gets at once."""

    startup_timeout: float = 10.0
    idle_timeout: float = 60.0
    call_timeout: float = 60.0
    max_concurrent: int = 8


class Limits(Struct, frozen=True, kw_only=True):
    """Bytes that one message may have: a server's result, an agent's request."""

    result_bytes: int = 10 << 20
    body_bytes: int = 4 << 20


class EndpointSpec(Struct, frozen=True, kw_only=True):
    """Everything the endpoint needs to run; `config` makes it from the configuration line."""

    servers: tuple[ServerSpec, ...] = ()
    token: str = ""
    """The bearer that the agent must send; empty asks for none (conformance runs, which cannot send one)."""
    hosts: tuple[str, ...] = ("127.0.0.1:7000", "localhost:7000")
    lifecycle: Lifecycle = Lifecycle()
    limits: Limits = Limits()
    trace: RunTrace | None = None
    """None: nobody keeps a trace of this run."""


class Allowed(Struct, frozen=True, kw_only=True):
    """The name may be listed and used; its results carry `labels` beside `src:mcp` and `mcp:<server>:<name>`."""

    labels: tuple[str, ...] = ()


class Hidden(Struct, frozen=True):
    """The name does not exist for the agent; the reason goes to the record only."""

    reason: str
    ruled: bool = False
    """A policy or the lock says so, against what `tools` names: agents are told how many of those there are."""


class Admission(Protocol):
    """Decides which names exist, for lists and calls alike."""

    def admit(self, server: str, kind: Kind, name: str) -> Allowed | Hidden: ...

    def shapes(self, server: str) -> bool:
        """Whether `describe` may change an item of this server: when False, items are never parsed."""
        ...

    def describe(
        self, server: str, kind: Kind, item: dict[str, Any], *, remembered: bool = False
    ) -> dict[str, Any] | Hidden:
        """The item of a list as the agent sees it: without bound parameters, and checked by its pin. One that is
        `remembered` from an earlier run is held against the lock like any other, but is no first sight of a tool.

        The very same object means that its bytes may go out as they came.
        """
        ...

    def introduce(self, server: str, text: str, *, remembered: bool = False) -> Hidden | None:
        """Why what a server says of itself (`instructions`) does not exist for the agent; None if it does."""
        ...

    def listed(self, server: str, names: Sequence[str]) -> str | None:
        """Told the names of all tools of a server, hidden ones too; a note if its filter names one that it lacks."""
        ...


class Call(Struct, frozen=True, kw_only=True):
    """One request on its way through, as guards and the record see it."""

    id: int
    session: str
    server: str
    method: str
    name: str
    """Tool, prompt, URI or task id, in the server's own spelling; empty where the method has none."""
    params: Mapping[str, Any]
    """Of a request; empty where a result is judged."""
    labels: frozenset[str] = frozenset()
    """Of the data: what the session had seen when it asked; for a result, those of the result too."""


class Verdict(Struct, frozen=True, kw_only=True):
    """What guards and policy say. `value` replaces the params or the result when kind is `transform`."""

    kind: Literal["allow", "deny", "transform"]
    value: Any = None
    rule: str | None = None
    reason: str = ""
    labels: frozenset[str] = frozenset()
    """Labels which the result carries in addition."""


class Narrows(Protocol):
    """What labels take away: the requests that are closed to whoever has seen data with a label."""

    @property
    def run_wide(self) -> bool:
        """Whether what one session has seen counts in every session of the run."""
        ...

    def telling(self, labels: frozenset[str]) -> frozenset[str]:
        """What of the labels it depends on what is withdrawn: labels again, fewer and in the words of the rules."""
        ...

    def withdrawn(self, method: str, server: str, name: str, telling: frozenset[str]) -> str | None:
        """The rule that closes the request, whatever its params are; None if none does. `telling` is of `telling`."""
        ...


class Guarding(Protocol):
    """Judges requests and results of every method. Must not raise: a guard that fails is a denial."""

    async def narrows(self) -> Narrows | None:
        """What labels take away, once it is known; None if they take nothing."""
        ...

    @property
    def active(self) -> bool:
        """When False nothing is parsed for it and neither method is called."""
        ...

    async def request(self, call: Call) -> Verdict:
        """Judges `call.params` before the message goes on (also a server's own request to the agent)."""
        ...

    def watches(self, call: Call) -> bool:
        """Whether `result` has anything to say about the result of a call; when False it is not read for it."""
        ...

    async def result(self, call: Call, raw: bytes) -> Verdict:
        """Judges the JSON of a result before it goes back; `transform` gives the new result object."""
        ...


class Audit(Protocol):
    """The record's end in the sidecar."""

    def emit(self, event: dict[str, Any]) -> None:
        """Takes one event (`event` names its kind); adds the time; masks arguments and results, and cuts them."""
        ...

    @property
    def behind(self) -> bool:
        """Whether so much waits to be written that nothing new should begin."""
        ...

    async def drain(self) -> None:
        """Returns when the reader has caught up; raises if there is none any more."""
        ...


Dial = Callable[[str, str, int], Awaitable[socket.socket]]
"""(server, host, port) → a connected socket, by the egress rules of that server; raises PermissionError when denied."""
