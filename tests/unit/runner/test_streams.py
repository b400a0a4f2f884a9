"""Frames and lines come whole, however the engine cuts them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.backends.docker_stream import Frames
from runner.backends.lines import LONGEST_LINE, Lines

CHUNKS = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=12)
CUTS = st.lists(st.integers(1, 9), min_size=1, max_size=60)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data, cut at these distances, again and again."""
    found, at, turn = [], 0, 0
    while at < len(data):
        found.append(data[at : at + cuts[turn % len(cuts)]])
        at += cuts[turn % len(cuts)]
        turn += 1
    return found


@given(CHUNKS, CUTS)
def test_frames_survive_every_cut(chunks: list[tuple[int, bytes]], cuts: list[int]) -> None:
    wire = b"".join(bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data for stream, data in chunks)
    frames, got = Frames(), {"stdout": b"", "stderr": b""}
    for piece in pieces(wire, cuts):
        for stream, payload in frames.feed(piece):
            got[stream] += payload
    assert got["stdout"] == b"".join(data for stream, data in chunks if stream == 1)
    assert got["stderr"] == b"".join(data for stream, data in chunks if stream == 2)


@given(st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=10), CUTS)
def test_lines_survive_every_cut(texts: list[bytes], cuts: list[int]) -> None:
    lines = Lines()
    got = [line for piece in pieces(b"\n".join(texts), cuts) for line in lines.feed(piece)]
    got += lines.rest()
    assert got == (texts if texts and texts[-1] else texts[:-1])


def test_a_line_that_never_ends_comes_in_pieces() -> None:
    lines = Lines()
    got = list(lines.feed(b"x" * (LONGEST_LINE + 10)))
    assert [len(line) for line in got] == [LONGEST_LINE]
    assert b"".join(lines.rest()) == b"x" * 10
