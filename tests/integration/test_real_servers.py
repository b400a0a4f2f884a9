"""Real servers answer through the sidecar what they answer directly: the demo's. (All: `python -m tests.conformance.real`.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from tests.conformance.real import plain

ROOT = Path(__file__).parents[2]


def test_an_answer_is_the_same_to_the_byte() -> None:
    command = [sys.executable, "-m", "tests.conformance.real", "everything", "git"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stdout + done.stderr[-4000:]
    assert done.stdout.count("answers are the same") == 2


def test_what_is_not_the_same_is_seen() -> None:
    """The positive control: a blank, an order of keys, a foreign key in `_meta` count; only what is ours does not."""
    result = b'{"content":[{"type":"text","text":"a"}],"_meta":{"x":1}}'

    def answer(changed: bytes) -> object:
        assert msgspec.json.decode(changed)
        return plain(b'{"jsonrpc":"2.0","id":1,"result":%s}' % changed)

    same = answer(result)
    assert answer(result.replace(b'{"x":1}', b'{"x":1,"dev.mlld/labels":["src:mcp"]}')) == same
    assert answer(result.replace(b'{"type"', b'{ "type"')) != same
    assert answer(result.replace(b'"x":1', b'"x":2')) != same
    assert answer(result.replace(b'"type":"text","text":"a"', b'"text":"a","type":"text"')) != same
