"""Egress rules: what may be written in one, and who wins."""

from __future__ import annotations

import pytest

from images.sidecar.rules import Allowed, BadHost, Denied, EgressRules, HostRule, parse_host
from tests.unit.sidecar.gate_world import allow


@pytest.mark.parametrize(
    ("host", "hint"),
    [
        ("*", "public"),
        ("*.com", "public"),
        ("*.co.uk", "public"),
        ("*.", "not a host name"),
        ("**.example.com", "not a host name"),
        ("a.*.example.com", "not a host name"),
        ("*example.com", "not a host name"),
        ("93.184.215.14", "is an address"),
        ("[2606:2800::1]", "is an address"),
        ("2606:2800::1", "not a host name"),
        ("127.1", "not a host name or an address"),
        ("localhost", "has no domain"),
        ("", "not a host name"),
        (".example.com", "not a host name"),
        ("example..com", "not a host name"),
        ("-example.com", "not a host name"),
        ("example.com/path", "not a host name"),
        ("https://example.com", "not a host name"),
        ("example.com:443", "not a host name"),
        ("exam ple.com", "not a host name"),
        ("a" * 64 + ".example.com", "not a host name"),
        (".".join(["abcdefg"] * 32) + ".com", "not a host name"),
        ("straße.example", "more than one punycode form"),
    ],
)
def test_a_grant_that_is_too_wide_or_no_host_is_refused(host: str, hint: str) -> None:
    with pytest.raises(BadHost, match=hint):
        HostRule.allow(host)


@pytest.mark.parametrize(
    "host", ["example.com", "*.example.com", "EXAMPLE.com.", "bücher.example", "_x.example.com", "co.uk"]
)
def test_a_grant_of_one_domain_is_taken(host: str) -> None:
    assert HostRule.allow(host).ports == {80, 443}


@pytest.mark.parametrize("host", ["*", "*.com", "93.184.215.14", "[2606:2800::1]", "localhost"])
def test_a_deny_may_be_as_wide_as_one_likes(host: str) -> None:
    assert HostRule.deny(host).ports == frozenset()


@pytest.mark.parametrize("port", [80, 443, 22])
def test_a_deny_beats_every_allow(port: int) -> None:
    rules = allow("*.example.com", "a.example.com", ports=(80, 443, 22), deny=("a.example.com",), public=True)
    assert rules.judge("b.example.com", port) == Allowed(rule="allow *.example.com (index.mld:4:12)")
    denied = rules.judge("a.example.com", port)
    assert isinstance(denied, Denied)
    assert denied.rule == "deny a.example.com (index.mld:5:3)"


def test_a_deny_of_a_port_leaves_the_others() -> None:
    rules = EgressRules(allow=(HostRule.allow("example.com"),), deny=(HostRule.deny("*", ports=(80,)),))
    assert isinstance(rules.judge("example.com", 80), Denied)
    assert isinstance(rules.judge("example.com", 443), Allowed)


def test_no_rules_grant_nothing() -> None:
    denied = EgressRules().judge("example.com", 443)
    assert isinstance(denied, Denied)
    assert denied.rule == "default-deny"


def test_public_grants_web_ports_only() -> None:
    rules = EgressRules(public=True)
    assert isinstance(rules.judge("example.com", 443), Allowed)
    assert isinstance(rules.judge("example.com", 25), Denied)


@pytest.mark.parametrize("text", ["EXAMPLE.COM", "example.com.", "Example.Com."])
def test_spellings_of_one_host(text: str) -> None:
    assert parse_host(text) == "example.com"


@pytest.mark.parametrize(
    "text", ["example.com..", ".", "bücher.example", "a%2eb.example", "example.com\0", "ex\tample.com"]
)
def test_cannot_spell_a_host_in_a_way_that_others_read_differently(text: str) -> None:
    with pytest.raises(BadHost):
        parse_host(text)
