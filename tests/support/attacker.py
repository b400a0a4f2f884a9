"""What an attacker in a seat can do with Python's standard library: each attempt by its name, and what came of it.

Runs inside containers as `python3 -c SOURCE`: reads a JSON list of `[name, arguments…]`, writes a JSON list of outcomes.
An outcome is the answer's text, or the name of the error.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import ssl
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

PROXY = ("127.0.0.1", 7001)
TIMEOUT = 6.0


def receive(sock: socket.socket) -> str:
    pieces = []
    try:
        while piece := sock.recv(65536):
            pieces.append(piece)
    except OSError:
        if not pieces:
            raise
    return b"".join(pieces).decode("latin-1")


def raw(data: str) -> str:
    """Bytes to the proxy as they are."""
    with socket.create_connection(PROXY, TIMEOUT) as sock:
        sock.sendall(data.encode("latin-1"))
        return receive(sock)


def get(url: str, host: str | None = None) -> str:
    return raw(f"GET {url} HTTP/1.1\r\nHost: {host or url.split('/')[2]}\r\n\r\n")


def tunnel(target: str, then: str) -> str:
    """A CONNECT, and then these bytes in the tunnel."""
    with socket.create_connection(PROXY, TIMEOUT) as sock:
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = sock.recv(65536).decode("latin-1")
        if " 200 " not in head.split("\r\n")[0]:
            return head + receive(sock)
        sock.sendall(then.encode("latin-1"))
        return receive(sock)


def https(target: str, server_name: str, authority: str) -> str:
    """A CONNECT, and then TLS for this name."""
    with socket.create_connection(PROXY, TIMEOUT) as sock:
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = sock.recv(65536).decode("latin-1")
        if " 200 " not in head.split("\r\n")[0]:
            return head
        context = ssl.create_default_context(cadata=authority)
        with context.wrap_socket(sock, server_hostname=server_name) as secure:
            secure.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return receive(secure)


def tcp(address: str, port: int) -> str:
    with socket.create_connection((address, port), 3):
        return "connected"


def udp(address: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", (address, port))
        return "sent"


def bound(address: str, port: int) -> str:
    """With a bound device Linux takes every address for a neighbour."""
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
            sock.sendto(b"x", (address, port))
            if name != "lo":
                return "sent"
    return "nothing but lo"


def kind(family: int, type: int, protocol: int) -> str:
    with socket.socket(family, type, protocol):
        return "opened"


def resolve(name: str) -> str:
    return str(socket.getaddrinfo(name, 80))


def abstract() -> str:
    with open("/proc/net/unix") as lines:
        return json.dumps([line.split()[-1] for line in lines if "@" in line])


def files(path: str) -> str:
    return json.dumps(sorted(os.listdir(path)))


def unix(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        return "connected"


def replace(path: str) -> str:
    os.unlink(path)
    return "unlinked"


def library(url: str, proxies: dict[str, str] | None = None) -> str:
    """As programs do it: by the environment's proxy variables, or by others, or without any."""
    handler = urllib.request.ProxyHandler(proxies)
    with urllib.request.build_opener(handler).open(url, timeout=TIMEOUT) as answer:
        return str(answer.read().decode())


ATTEMPTS: dict[str, Callable[..., str]] = {
    f.__name__: f
    for f in (raw, get, tunnel, https, tcp, udp, bound, kind, resolve, abstract, files, unix, replace, library)
}


def outcome(name: str, *arguments: Any) -> str:
    try:
        return ATTEMPTS[name](*arguments)
    except ssl.SSLError as error:
        return f"SSLError {error.reason}"
    except urllib.request.HTTPError as error:
        return f"HTTP {error.code} {error.headers.get('X-Mlld-Denied')} {error.read().decode()}"
    except socket.gaierror:
        return "gaierror"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)


if __name__ == "__main__":
    json.dump([outcome(*attempt) for attempt in json.load(sys.stdin)], sys.stdout)
