"""Egress rules: which hosts and ports a member was granted, by which line of the source.

Default deny. A deny beats every allow. A host is written exactly (`api.example.com`) or as all names below one
(`*.example.com`, which does not include `example.com` itself). What would grant too much by accident is refused when
the rule is read: a bare `*`, `*.com`, `*.co.uk`, an address. Any public address is granted by the word `public` alone.

Hosts are compared in one spelling: lower case, no trailing dot, punycode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from msgspec import Struct

Address = IPv4Address | IPv6Address

WEB_PORTS = frozenset({80, 443})

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Registries sell names directly below these; `*.co.uk` would be as wide as `*.com`.
_REGISTRY = re.compile(r"(?:ac|co|com|edu|gov|net|org)\.[a-z]{2}")
# IDNA 2003 and 2008 map these to different names, so that a rule would mean one host here and another at the client.
_DEVIATIONS = frozenset("ßς\u200c\u200d")


class BadHost(ValueError):
    """A text that is no host name and no address, or one that a rule may not name."""


class Allowed(Struct, frozen=True, kw_only=True):
    """A grant that covers the host and port."""

    rule: str


class Denied(Struct, frozen=True, kw_only=True):
    """A refusal: the rule that made it, and one sentence for the member with its next step."""

    rule: str
    sentence: str


Decision = Allowed | Denied


def parse_host(text: str) -> str | Address:
    """The one spelling of a host as a client wrote it: a lower-case ASCII name, or an address."""
    if not text.isascii():
        raise BadHost(f"{text!a} is not ASCII; write the punycode form (xn--…)")
    name = text.lower()
    if name.startswith("[") and name.endswith("]"):
        return _parse_address(name[1:-1], text)
    if ":" in name:
        raise BadHost(f"{text!r} is not a host name")
    name = name.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadHost(f"{text!r} is not a host name")
    # inet_aton spellings (127.1, 0x7f.1, 2130706433) end in a number: a dotted quad or nothing.
    if _NUMBER.fullmatch(labels[-1]):
        return _parse_address(name, text)
    return name


def _parse_address(text: str, shown: str) -> Address:
    try:
        if "%" in text:  # a zone names an interface of ours
            raise ValueError
        return ip_address(text)
    except ValueError:
        raise BadHost(f"{shown!r} is not a host name or an address") from None


class HostRule(Struct, frozen=True, kw_only=True):
    """One line of an allow or deny list. No ports: every port (only a deny may say that)."""

    host: str | Address
    below: bool = False
    ports: frozenset[int] = frozenset()
    source: str | None = None

    @classmethod
    def allow(cls, host: str, *, ports: Iterable[int] = (), source: str | None = None) -> HostRule:
        """A grant, ports 80 and 443 unless stated; refuses what grants too much by accident."""
        name, below = _split_pattern(host)
        if isinstance(name, Address):
            raise BadHost(f"{host!r} is an address; grant a host name, or `public` for any public address")
        if name == "*" or (below and "." not in name) or (below and _REGISTRY.fullmatch(name)):
            raise BadHost(
                f"{host!r} grants everybody's hosts; name one domain, as in '*.example.com', "
                "or write `public` for any public address"
            )
        if "." not in name:
            raise BadHost(f"{host!r} has no domain; a sandbox reaches public hosts only, as in 'api.example.com'")
        return cls(host=name, below=below, ports=frozenset(ports) or WEB_PORTS, source=source)

    @classmethod
    def deny(cls, host: str, *, ports: Iterable[int] = (), source: str | None = None) -> HostRule:
        """A refusal: as wide as one likes, addresses too, every port unless stated."""
        name, below = _split_pattern(host)
        return cls(host=name, below=below, ports=frozenset(ports), source=source)

    def covers_host(self, host: str | Address) -> bool:
        if self.host == "*":
            return True
        if self.below:
            return isinstance(host, str) and host.endswith(f".{self.host}")
        return host == self.host

    def covers_port(self, port: int) -> bool:
        return not self.ports or port in self.ports

    def __str__(self) -> str:
        pattern = f"*.{self.host}" if self.below else str(self.host)
        return f"{pattern} ({self.source})" if self.source else pattern


def _split_pattern(text: str) -> tuple[str | Address, bool]:
    """The host of a rule as (name, whether it means all names below it)."""
    if text == "*":
        return "*", False
    below = text.startswith("*.")
    host = text.removeprefix("*.")
    if not host.isascii():
        if _DEVIATIONS & set(host):
            raise BadHost(f"{text!r} has more than one punycode form; write the one that you mean (xn--…)")
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise BadHost(f"{text!r} is not a host name") from None
    name = parse_host(host)
    if below and isinstance(name, Address):
        raise BadHost(f"{text!r} is not a host name")
    return name, below


class EgressRules(Struct, frozen=True, kw_only=True):
    """All that one member may reach."""

    allow: tuple[HostRule, ...] = ()
    deny: tuple[HostRule, ...] = ()
    public: bool = False

    def judge(self, host: str | Address, port: int) -> Decision:
        """Whether the member may ask for this host and port, before anything is resolved."""
        shown = f"[{host}]" if isinstance(host, IPv6Address) else str(host)
        for rule in self.deny:
            if rule.covers_host(host) and rule.covers_port(port):
                return _denied_by(rule, shown)
        other_ports: set[int] = set()
        for rule in self.allow:
            if rule.covers_host(host):
                if rule.covers_port(port):
                    return Allowed(rule=f"allow {rule}")
                other_ports |= rule.ports
        if self.public:
            if port in WEB_PORTS:
                return Allowed(rule="public")
            other_ports |= WEB_PORTS
        if other_ports:
            ports = ", ".join(str(granted) for granted in sorted(other_ports))
            return Denied(
                rule="port",
                sentence=f"{shown} is granted on port {ports}, not on {port}: use a granted port, or ask the user to "
                f'grant `{{ host: "{shown}", ports: [{port}] }}`.',
            )
        return Denied(
            rule="default-deny",
            sentence=f"{shown}:{port} was not granted to this sandbox: work without it, or ask the user to add "
            f'"{shown}" to `net.allow` of the environment.',
        )

    def judge_address(self, host: str | Address, address: Address, port: int) -> Denied | None:
        """A deny of an address also denies every name that leads to it."""
        for rule in self.deny:
            if rule.host == address and rule.covers_port(port):
                return _denied_by(rule, f"{host} leads to {address}, which")
        return None


def _denied_by(rule: HostRule, subject: str) -> Denied:
    return Denied(
        rule=f"deny {rule}",
        sentence=f"{subject} is denied by the rule {rule}: work without it; no grant can lift a deny.",
    )
