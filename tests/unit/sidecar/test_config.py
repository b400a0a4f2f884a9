"""The configuration line: read exactly, refused with the path of what is wrong."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from images.sidecar.config import parse
from images.sidecar.reading import ConfigError
from images.sidecar.rules import Allowed
from images.sidecar.seams import Lifecycle, Limits

WHOLE: dict[str, Any] = {
    "version": 1,
    "run": "r1",
    "token": "0123456789abcdef",
    "agent": {"link": "/.mlld/links/agent"},
    "servers": [
        {
            "name": "tickets",
            "link": "/.mlld/links/tickets",
            "transport": "stdio",
            "url": None,
            "headers": {},
            "tools": ["list_tickets"],
            "as": None,
            "bind": {
                "list_tickets": {"bind": {"repo": "here"}, "expose": ["state"], "optional": [], "description": "d"}
            },
            "labels": {"close_ticket": ["destructive"]},
            "pins": {"list_tickets": {"description": "Lists."}},
        },
        {
            "name": "remote",
            "link": None,
            "transport": "http",
            "url": "https://example.com/mcp",
            "headers": {"Authorization": "Bearer s3cret-value"},
            "tools": "*",
            "as": "far",
        },
    ],
    "lifecycle": {"startupTimeoutMs": 1500, "idleTimeoutMs": 2000, "callTimeoutMs": 2500, "maxConcurrent": 3},
    "egress": {
        "agent": {
            "allow": [{"host": "*.example.com", "ports": [443], "source": "index.mld:4:12"}],
            "deny": [{"host": "bad.example.com"}],
            "public": False,
        },
        "remote": {"allow": [{"host": "example.com"}]},
    },
    "resolver": "127.0.0.1:5353",
    "hostAddresses": ["93.184.215.14", "2606:2800::/64"],
    "module": {
        "entry": "index.mld",
        "files": {"index.mld": "var @x = 1"},
        "name": "myenv",
        "profile": "full",
        "policy": {"deny": ["sh"]},
    },
    "limits": {"resultBytes": 2048, "bodyBytes": 4096},
}
LEAST: dict[str, Any] = {key: WHOLE[key] for key in ("version", "run", "token", "agent")} | {"servers": []}


def test_everything_is_read() -> None:
    config = parse(json.dumps(WHOLE))
    tickets, remote = config.servers
    assert (tickets.name, tickets.transport, tickets.link) == ("tickets", "stdio", "/.mlld/links/tickets")
    assert (remote.transport, remote.url, remote.prefix) == ("http", "https://example.com/mcp", "far")
    assert config.rules["tickets"].tools == ("list_tickets",)
    assert config.rules["tickets"].labels == {"close_ticket": ("destructive",)}
    assert config.rules["tickets"].shapes["list_tickets"].bind == {"repo": "here"}
    assert config.rules["tickets"].shapes["list_tickets"].expose == ("state",)
    assert config.rules["tickets"].pins == {"list_tickets": {"description": "Lists."}}
    assert config.rules["remote"].pins is None
    assert config.rules["remote"].tools == "*"
    assert config.lifecycle == Lifecycle(startup_timeout=1.5, idle_timeout=2.0, call_timeout=2.5, max_concurrent=3)
    assert config.limits == Limits(result_bytes=2048, body_bytes=4096)
    assert isinstance(config.egress["agent"].judge("a.example.com", 443), Allowed)
    assert config.resolver == ("127.0.0.1", 5353)
    assert len(config.host_addresses) == 2
    assert config.module is not None
    assert config.module.policy == {"deny": ["sh"]}
    assert config.links == {"agent": "/.mlld/links/agent", "tickets": "/.mlld/links/tickets"}
    assert config.endpoint.token == config.token


def test_what_is_absent_grants_nothing() -> None:
    config = parse(json.dumps(LEAST))
    assert (config.servers, config.egress, config.module) == ((), {}, None)
    assert config.lifecycle == Lifecycle()


def test_secrets_are_the_token_and_the_headers() -> None:
    assert {"0123456789abcdef", "Bearer s3cret-value", "s3cret-value"} <= parse(json.dumps(WHOLE)).secrets()


ABSENT = object()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("version",), 2, "config.version must be 1"),
        (("versoin",), 1, "config.versoin is unknown; did you mean 'version'?"),
        (("run",), ABSENT, "config.run must be a string, got null"),
        (("token",), "short", "config.token must have at least 16 characters"),
        (("agent", "link"), "links/agent", "config.agent.link must be an absolute path"),
        (("agent", "link"), "/.mlld/links/../x", "config.agent.link must be an absolute path"),
        (("servers",), {}, "config.servers must be a list, got an object"),
        (("servers", 0, "name"), "a/b", "config.servers[0].name must be letters"),
        (("servers", 1, "name"), "tickets", "config.servers[1].name must be unique"),
        (("servers", 1, "name"), "agent", "config.servers[1].name must be unique"),
        (("servers", 0, "link"), None, "config.servers[0] must have `link` and no `url`"),
        (("servers", 0, "transport"), "pigeon", "config.servers[0].transport must be one of stdio, http, sse"),
        (("servers", 1, "url"), None, "config.servers[1] must have `url`"),
        (("servers", 0, "tools"), ABSENT, "config.servers[0].tools must be a list, got null"),
        (("servers", 0, "tools"), "all", "config.servers[0].tools must be a list, got a string"),
        (("servers", 0, "tools", 0), 7, "config.servers[0].tools[0] must be a string, got a number"),
        (("servers", 0, "tool"), [], "config.servers[0].tool is unknown; did you mean 'tools'?"),
        (("servers", 0, "bind", "list_tickets", "exposed"), [], "did you mean 'expose'?"),
        (("servers", 1, "headers", "Authorization"), None, "config.servers[1].headers.Authorization must be a string"),
        (("lifecycle", "maxConcurrent"), 0, "config.lifecycle.maxConcurrent must be from 1 to"),
        (("lifecycle", "callTimeoutMs"), True, "config.lifecycle.callTimeoutMs must be a whole number, got a boolean"),
        (("lifecycle", "callTimeoutMs"), 1.5, "config.lifecycle.callTimeoutMs must be a whole number, got a number"),
        (("egress", "nobody"), {}, "config.egress.nobody must be named after a member (agent, remote, tickets)"),
        (
            ("egress", "agent", "allow", 0, "host"),
            "*",
            "config.egress.agent.allow[0].host is refused: '*' grants everybody's",
        ),
        (("egress", "agent", "allow", 0, "host"), "1.1.1.1", "config.egress.agent.allow[0].host is refused"),
        (
            ("egress", "agent", "allow", 0, "ports", 0),
            0,
            "config.egress.agent.allow[0].ports[0] must be from 1 to 65535",
        ),
        (("egress", "agent", "public"), "no", "config.egress.agent.public must be true or false, got a string"),
        (("egress", "agent", "denied"), [], "config.egress.agent.denied is unknown; did you mean 'deny'?"),
        (("resolver",), "dns.example:53", "config.resolver must be ADDRESS:PORT"),
        (("resolver",), "127.0.0.1", "config.resolver must be ADDRESS:PORT"),
        (("hostAddresses", 0), "10.0.0.1/8", "config.hostAddresses[0] must be an address or a network"),
        (("module", "entry"), "other.mld", "config.module.entry must be one of the files"),
        (("module", "files", "index.mld"), 1, "config.module.files.index.mld must be a string, got a number"),
        (("limits", "bodyBytes"), 1, "config.limits.bodyBytes must be from 1024"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(path: tuple[Any, ...], value: Any, message: str) -> None:
    broken = copy.deepcopy(WHOLE)
    place: Any = broken
    for step in path[:-1]:
        place = place[step]
    if value is ABSENT:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(ConfigError) as caught:
        parse(json.dumps(broken))
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 100_000])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="config"):
        parse(text)


def test_no_configuration_can_lift_the_refusal_of_inward_addresses() -> None:
    """`hostAddresses` is the only word about addresses, and it only refuses more."""
    for key in ("addresses", "allowPrivate", "insecure"):
        with pytest.raises(ConfigError, match="is unknown"):
            parse(json.dumps(WHOLE | {key: True}))
