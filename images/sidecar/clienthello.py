"""The first message of a TLS client, read far enough to know whom it wants to talk to. No I/O.

A tunnel is granted for one host; the server name inside the handshake is what a shared front end routes by, so it must
be the same. The message may be cut into any number of records and each record into any number of packets.
"""

from __future__ import annotations

import struct

from msgspec import Struct

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_HOST_NAME = 0
# The inner name of an encrypted hello cannot be seen. Clients without its keys send a dummy: noted, not refused.
_ENCRYPTED_HELLO = 0xFE0D
_LARGEST_RECORD = 1 << 14
LARGEST_HELLO = 1 << 16
# A hello fits into one record; a few more are middle boxes at work, thousands are an attack on whoever counts them.
MOST_RECORDS = 1024


class NotTls(ValueError):
    """The bytes are not the start of a TLS handshake."""


class ClientHello(Struct, frozen=True, kw_only=True):
    """The server name that the client asked for, None if it named none, and whether a second one is encrypted."""

    server_name: str | None
    encrypted: bool = False


def parse(received: bytes) -> ClientHello | None:
    """The hello at the start of `received`, None if there is more to come."""
    message = bytearray()
    offset = 0
    for _ in range(MOST_RECORDS):
        record = received[offset : offset + 5]
        _check_record_head(record)
        if len(record) < 5:
            return None
        size = int.from_bytes(record[3:5], "big")
        if not 0 < size <= _LARGEST_RECORD:
            raise NotTls("a record has an impossible length")
        body = received[offset + 5 : offset + 5 + size]
        message += body
        if message and message[0] != _CLIENT_HELLO:
            raise NotTls("the first message is not a client hello")
        if len(message) >= 4:
            length = int.from_bytes(message[1:4], "big")
            if length > LARGEST_HELLO:
                raise NotTls("the client hello is too long")
            if len(message) >= 4 + length:
                return _hello(bytes(message[4 : 4 + length]))
        if len(body) < size:
            return None
        offset += 5 + size
    raise NotTls("the client hello comes in too many records")


def _check_record_head(head: bytes) -> None:
    if not bytes([_HANDSHAKE, 3]).startswith(head[:2]):
        raise NotTls("the first bytes are not TLS")


def _hello(body: bytes) -> ClientHello:
    try:
        offset = 2 + 32  # version, random
        offset += 1 + body[offset]  # session
        offset += 2 + struct.unpack_from("!H", body, offset)[0]  # cipher suites
        offset += 1 + body[offset]  # compression
        if offset == len(body):
            return ClientHello(server_name=None)
        end = offset + 2 + struct.unpack_from("!H", body, offset)[0]
        offset += 2
        if end != len(body):
            raise NotTls("the client hello is malformed")
        names: list[bytes] = []
        encrypted = False
        while offset < end:
            kind, size = struct.unpack_from("!HH", body, offset)
            data = body[offset + 4 : offset + 4 + size]
            if len(data) != size:
                raise NotTls("the client hello is malformed")
            if kind == _SERVER_NAME:
                names.append(_server_name(data))
            encrypted |= kind == _ENCRYPTED_HELLO
            offset += 4 + size
    except (struct.error, IndexError):
        raise NotTls("the client hello is malformed") from None
    if len(names) > 1:  # which one counts would be the server's choice
        raise NotTls("the client hello has two server names")
    return ClientHello(server_name=names[0].decode("latin-1") if names else None, encrypted=encrypted)


def _server_name(data: bytes) -> bytes:
    total, kind, size = struct.unpack_from("!HBH", data)
    name = data[5:]
    if total != len(data) - 2 or kind != _HOST_NAME or size != len(name):
        raise NotTls("the client hello has not exactly one server name")
    return name
