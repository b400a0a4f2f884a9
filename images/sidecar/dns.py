"""DNS messages: a query as bytes, and an answer read without trust. No I/O.

An answer counts only if it repeats our id and question. Names are followed through CNAMEs inside that one answer;
addresses of other names, which a hostile server may add, are ignored.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from msgspec import Struct

from images.sidecar.rules import Address

A, CNAME, AAAA = 1, 5, 28
_IN = 1
_RECURSION_DESIRED = 0x0100
_RESPONSE, _TRUNCATED, _OPCODE, _RCODE = 0x8000, 0x0200, 0x7800, 0x000F

MOST_RECORDS = 256
MOST_ALIASES = 8
MOST_ADDRESSES = 32


class Malformed(ValueError):
    """The bytes are no answer to our question."""


class Refused(ValueError):
    """The server answered, and the answer is that there is nothing for us."""


class Question(Struct, frozen=True, kw_only=True):
    """What we asked, to compare the answer with."""

    id: int
    name: str
    type: int

    def encode(self) -> bytes:
        labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in self.name.split("."))
        header = struct.pack("!6H", self.id, _RECURSION_DESIRED, 1, 0, 0, 0)
        return header + labels + struct.pack("!BHH", 0, self.type, _IN)


class Answer(Struct, frozen=True, kw_only=True):
    """The addresses of the name, none if it has none of this type; or a cut answer, to be asked again over TCP."""

    addresses: tuple[Address, ...] = ()
    truncated: bool = False


def decode(message: bytes, question: Question) -> Answer:
    """The answer to `question` in `message`."""
    try:
        return _decode(message, question)
    except (struct.error, IndexError):
        raise Malformed("the answer ends in the middle") from None


def _decode(message: bytes, question: Question) -> Answer:
    ident, flags, questions, answers, _, _ = struct.unpack_from("!6H", message)
    if ident != question.id or not flags & _RESPONSE or flags & _OPCODE or questions != 1:
        raise Malformed("the answer is not to our question")
    name, offset = _name(message, 12)
    if (name, *struct.unpack_from("!HH", message, offset)) != (question.name, question.type, _IN):
        raise Malformed("the answer is to another question")
    if flags & _TRUNCATED:
        return Answer(truncated=True)
    match flags & _RCODE:
        case 0:
            pass
        case 3:
            raise Refused("there is no such name")
        case code:
            raise Refused(f"the name server failed (code {code})")
    if answers > MOST_RECORDS:
        raise Malformed("the answer has too many records")
    offset += 4
    aliases: dict[str, str] = {}
    found: dict[str, list[Address]] = {}
    for _ in range(answers):
        owner, offset = _name(message, offset)
        kind, klass, _, size = struct.unpack_from("!HHIH", message, offset)
        offset += 10
        data = message[offset : offset + size]
        if len(data) != size:
            raise Malformed("the answer ends in the middle")
        if klass == _IN and kind == CNAME:
            target, _ = _name(message, offset)
            if aliases.setdefault(owner, target) != target:
                raise Malformed("the answer has two aliases for one name")
        elif klass == _IN and kind == question.type:
            found.setdefault(owner, []).append(_address(kind, data))
        offset += size
    canonical = question.name
    for _ in range(MOST_ALIASES):
        if canonical not in aliases:
            break
        canonical = aliases[canonical]
    else:
        raise Malformed("the answer has too many aliases")
    addresses = found.get(canonical, [])
    if len(addresses) > MOST_ADDRESSES:
        raise Malformed("the answer has too many addresses")
    return Answer(addresses=tuple(addresses))


def _address(kind: int, data: bytes) -> Address:
    if len(data) != (4 if kind == A else 16):
        raise Malformed("an address has the wrong length")
    return IPv4Address(data) if kind == A else IPv6Address(data)


def _name(message: bytes, offset: int) -> tuple[str, int]:
    """The name at `offset` in lower case, and the offset after it. Pointers lead strictly backwards, so it ends."""
    labels: list[str] = []
    after: int | None = None
    limit = offset
    length = 0
    while True:
        size = message[offset]
        if size & 0xC0 == 0xC0:
            target = (size & 0x3F) << 8 | message[offset + 1]
            after = offset + 2 if after is None else after
            if target >= limit:
                raise Malformed("a name points forwards")
            offset = limit = target
            continue
        if size & 0xC0:
            raise Malformed("a name has an unknown kind of label")
        offset += 1
        if size == 0:
            return ".".join(labels), offset if after is None else after
        label = message[offset : offset + size]
        length += size + 1
        # A dot inside a label would make two labels of it in our spelling.
        if len(label) != size or length > 254 or not label.isascii() or b"." in label:
            raise Malformed("a name is malformed")
        labels.append(label.decode("ascii").lower())
        offset += size
