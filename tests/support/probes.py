"""Attacks on the network as small programs: each prints `reached …` or `blocked REASON`, in whichever seat it runs."""

from __future__ import annotations

_START = """
import errno, os, socket, struct, sys
def told(what):
    try:
        print("reached", what())
    except OSError as e:
        print("blocked", errno.errorcode.get(e.errno, e.errno) if e.errno else type(e).__name__)
"""


def program(body: str) -> str:
    return (
        f"{_START}\ndef attack():\n" + "".join(f"    {line}\n" for line in body.strip().splitlines()) + "told(attack)"
    )


def tcp(host: str, port: int) -> str:
    return program(f"s = socket.create_connection(({host!r}, {port}), 3)\nreturn s.recv(64)")


def udp(host: str, port: int) -> str:
    return program(
        f"s = socket.socket(socket.AF_INET6 if ':' in {host!r} else socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"s.settimeout(3)\ns.connect(({host!r}, {port}))\ns.send(b'probe')\nreturn s.recv(64)"
    )


def bound_to_device(host: str, port: int) -> str:
    """With a bound device Linux takes every destination for a neighbour: two-way to the host on `--internal` networks."""
    return program(
        "s = socket.socket()\ns.settimeout(3)\n"
        "device = [n for _, n in socket.if_nameindex() if n != 'lo'][:1] or ['eth0']\n"
        "s.setsockopt(socket.SOL_SOCKET, 25, device[0].encode())\n"
        f"s.connect(({host!r}, {port}))\nreturn s.recv(64)"
    )


def icmp(host: str) -> str:
    return program(
        "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)\ns.settimeout(3)\n"
        "head = struct.pack('!BBHHH', 8, 0, 0, 1, 1)\nrest = sum(struct.unpack('!4H', head))\n"
        "packet = struct.pack('!BBHHH', 8, 0, ~(rest + (rest >> 16)) & 0xffff, 1, 1)\n"
        f"s.sendto(packet, ({host!r}, 0))\nreturn len(s.recv(200))"
    )


def packet_socket() -> str:
    """Frames past every routing table and filter of addresses."""
    return program("return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)).fileno() > 0")


def vsock() -> str:
    """Not in any network namespace: services of the hypervisor. 20.10's own profile lets it through."""
    return program("return socket.socket(40, socket.SOCK_STREAM).fileno() > 0")


def abstract(name: str) -> str:
    return program(f"s = socket.socket(socket.AF_UNIX)\ns.connect({chr(0) + name!r})\nreturn s.recv(64)")


def unix(path: str) -> str:
    return program(f"s = socket.socket(socket.AF_UNIX)\ns.connect({path!r})\nreturn 'connected'")


def name(host: str) -> str:
    return program(f"return socket.getaddrinfo({host!r}, 80)[0][4]")


def dns_over_udp(server: str) -> str:
    """A question put by hand, past the C library."""
    return udp(server, 53).replace(
        "b'probe'", r"b'\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01'"
    )


def gate(request: str) -> str:
    """A request to the egress gate, as any program in the seat can send it. Reached: the status line of a tunnel."""
    return program(
        "s = socket.create_connection(('127.0.0.1', 7001), 5)\n"
        f"s.sendall({request.encode()!r})\nanswer = s.recv(4096).split(b'\\r\\n')[0]\n"
        "if b' 200 ' not in answer + b' ': raise OSError(errno.EACCES, answer)\nreturn answer"
    )
