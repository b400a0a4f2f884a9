"""Hosts as declared become egress rules: spelt out, lower case, never an address, never a whole top-level domain."""

from __future__ import annotations

import ipaddress
import re

from interpreter.declarations import HostRule, Network, Place
from runner.errors import Unsupported
from runner.plan import Egress, Host

PUBLIC = "public"  # the one spelling of "every public address"
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")


def egress(member: str, network: Network, *, key: str, public: bool, place: Place | None) -> Egress | None:
    """The rule of a member whose network is granted, or None. `public`: without a list, every public host."""
    if network.none:
        return None
    deny = tuple(_host(rule, f"{key}.deny[{i}]", deny=True) for i, rule in enumerate(network.deny))
    if network.allow is None:
        return Egress(member=member, deny=deny, public=True, place=place) if public else None
    everything = any(rule.host.strip().lower() == PUBLIC for rule in network.allow)
    allow = tuple(
        _host(rule, f"{key}.allow[{i}]") for i, rule in enumerate(network.allow) if rule.host.strip().lower() != PUBLIC
    )
    if not allow and not everything:
        return None
    return Egress(member=member, allow=allow, deny=deny, public=everything, place=place)


def host_name(text: str) -> str:
    """The one spelling of a host name: lower case, no trailing dot, punycode. Errors: `ValueError`."""
    name = text.strip().lower().removesuffix(".")
    try:
        name = name.encode("idna").decode("ascii") if not name.isascii() else name
    except UnicodeError as error:
        raise ValueError(f"{text!r} is not a host name") from error
    labels = name.split(".")
    if not name or len(name) > 253 or not all(_LABEL.match(label) for label in labels):
        raise ValueError(f"{text!r} is not a host name")
    return name


def _host(rule: HostRule, key: str, *, deny: bool = False) -> Host:
    text = rule.host.strip()
    if _is_address(text):
        raise Unsupported(
            f"{key}: {text!r} is an address; a rule names hosts, because an address does not say who answers there",
            remedy="name the host, e.g. api.example.com",
            place=rule.place,
        )
    wild = text.startswith("*.")
    if text == "*" or (wild and "." not in text[2:].removesuffix(".")):
        if not deny:
            raise Unsupported(
                f"{key}: {text!r} is too wide to be a grant",
                remedy=f'name hosts or a domain, e.g. "*.example.com"; every public address is spelt "{PUBLIC}"',
                place=rule.place,
            )
        return Host(host=text.lower(), ports=rule.ports, place=rule.place)
    try:
        name = host_name(text[2:] if wild else text)
    except ValueError as error:
        raise Unsupported(
            f"{key}: {error}", remedy='write a host ("api.example.com") or a domain ("*.example.com")', place=rule.place
        ) from error
    if not rule.ports or not all(1 <= port <= 65535 for port in rule.ports):
        raise Unsupported(f"{key}: {rule.ports} are not ports", remedy="give ports from 1 to 65535", place=rule.place)
    return Host(host=f"*.{name}" if wild else name, ports=tuple(rule.ports), place=rule.place)


def _is_address(text: str) -> bool:
    bare = text.removeprefix("[").removesuffix("]").removesuffix(".")
    try:
        ipaddress.ip_address(bare.split("/")[0])
    except ValueError:
        # What inet_aton takes for an address: 127.1, 0x7f000001, 2130706433.
        return bool(re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}", bare.lower()))
    return True
