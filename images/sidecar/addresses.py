"""Which addresses are public: the list of those that no name may lead to.

A name granted to a member is an entry in somebody else's DNS. It must never become a way to the machine, its neighbours
or a cloud's metadata, so an address is refused unless it is global unicast, and then for each range below that looks
global but is not.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from msgspec import Struct

from images.sidecar.rules import Address

Network = IPv4Network | IPv6Network

# First match names the refusal, so the narrow ranges stand first.
_REFUSED: tuple[tuple[str, Network], ...] = tuple(
    (reason, ip_network(text))
    for reason, text in (
        ("metadata", "169.254.169.254/32"),  # AWS, GCP, Azure, Oracle, DigitalOcean
        ("metadata", "169.254.170.2/32"),  # AWS container credentials
        ("metadata", "100.100.100.200/32"),  # Alibaba
        ("metadata", "168.63.129.16/32"),  # Azure's wire server: a public number that only the host answers
        ("metadata", "192.0.0.192/32"),  # Oracle classic
        ("metadata", "fd00:ec2::254/128"),  # AWS over IPv6
        ("metadata", "fd20:ce::254/128"),  # GCP over IPv6
        ("unspecified", "0.0.0.0/8"),  # Linux connects 0.0.0.0 to itself
        ("private", "10.0.0.0/8"),
        ("carrier-grade NAT", "100.64.0.0/10"),
        ("loopback", "127.0.0.0/8"),
        ("link-local", "169.254.0.0/16"),
        ("private", "172.16.0.0/12"),
        ("reserved", "192.0.0.0/24"),
        ("documentation", "192.0.2.0/24"),
        ("reserved", "192.88.99.0/24"),  # 6to4 relays
        ("private", "192.168.0.0/16"),
        ("benchmark", "198.18.0.0/15"),
        ("documentation", "198.51.100.0/24"),
        ("documentation", "203.0.113.0/24"),
        ("multicast", "224.0.0.0/4"),
        ("reserved", "240.0.0.0/4"),  # with broadcast
        ("unspecified", "::/128"),
        ("loopback", "::1/128"),
        ("IPv4-mapped", "::ffff:0:0/96"),
        ("IPv4-translated", "::ffff:0:0:0/96"),
        ("IPv4-compatible", "::/96"),
        ("NAT64", "64:ff9b::/96"),
        ("NAT64", "64:ff9b:1::/48"),
        ("Teredo", "2001::/32"),
        ("reserved", "2001::/23"),
        ("documentation", "2001:db8::/32"),
        ("6to4", "2002::/16"),
        ("documentation", "3fff::/20"),
        ("private", "fc00::/7"),
        ("link-local", "fe80::/10"),
        ("site-local", "fec0::/10"),
        ("multicast", "ff00::/8"),
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")


class AddressPolicy(Struct, frozen=True, kw_only=True):
    """The judge of addresses. `host` holds the machine's own public addresses: it can only refuse more, never less."""

    host: tuple[Network, ...] = ()

    def refusal(self, address: Address) -> str | None:
        """Why no member may reach the address, in a word or two; None if it is public."""
        for reason, network in _REFUSED:
            if address.version == network.version and address in network:
                return reason
        if any(address.version == network.version and address in network for network in self.host):
            return "the host's own"
        if address.version == 6 and address not in _GLOBAL_V6:
            return "reserved"
        # The registry of special addresses may know more than this list does one day.
        return None if address.is_global else "reserved"
