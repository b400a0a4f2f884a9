"""Checks values against JSON Schemas, in a process of its own: `python -m images.sidecar.validator`.

A schema is a program that a server wrote: a handful of references can ask for more steps than there is time for. So it
is run where it can be killed, without a network, without files, in bounded memory; `validating` is the other end.

Each line of standard input is `{"key": …, "schema": …, "value": …}`, the schema only when its key is new; each line of
standard output is `{"faults": ["arguments.n: …", …]}`, empty if the value fits, `{"refused": "…"}` if the schema cannot
be used, or `{"failed": "…"}` if it cannot for this value. JSON Schema 2020-12, or what `$schema` names of the drafts since 4.
"""

from __future__ import annotations

import resource
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson

MEMORY_BYTES = 96 << 20
"""Of addresses, a third of which it has when it starts: two of them fit beside a sidecar."""
_MOST_KEPT = 1000
_MOST_FAULTS, _LONGEST_FAULT = 5, 300


class Unfetched(ValueError):
    """A schema names another document."""


def _fetch(uri: str) -> Any:
    raise Unfetched(f"it refers to {uri[:200]}, and nothing is fetched for a schema")


def compiled(schema: Any) -> jsonschema_rs.Validator:
    """The validator of a schema. Errors: ValueError with the reason."""
    try:
        # The engine without look-around, whose time is linear in the text.
        patterns = jsonschema_rs.RegexOptions()
        return jsonschema_rs.validator_for(schema, retriever=_fetch, pattern_options=patterns, mask="the value")
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        where = ".".join(map(str, getattr(error, "instance_path", ())))
        text = str(error.args[0] if error.args else error).split("\n")[0]
        raise ValueError(f"{where}: {text}" if where else text) from None


def faults(validator: jsonschema_rs.Validator, value: Any) -> Iterator[str]:
    """What of the value is not as the schema says: the path, and what was expected there."""
    for error in islice(validator.iter_errors(value), _MOST_FAULTS):
        path = "arguments" + "".join(_step(part) for part in error.instance_path)
        yield f"{path}: {error.message}"[:_LONGEST_FAULT]


def _step(part: object) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{part}"


def _answer(known: OrderedDict[str, jsonschema_rs.Validator], request: dict[str, Any]) -> dict[str, Any]:
    key = request["key"]
    try:
        if "schema" in request:
            known[key] = compiled(request["schema"])
            if len(known) > _MOST_KEPT:
                known.popitem(last=False)
        elif key not in known:
            return {"unknown": True}
    except (ValueError, TypeError, RecursionError) as error:
        return {"refused": str(error)[:_LONGEST_FAULT]}
    try:
        return {"faults": [*faults(known[key], request["value"])]}
    except (ValueError, TypeError, RecursionError) as error:
        return {"failed": str(error)[:_LONGEST_FAULT]}


def main(arguments: Sequence[str]) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    # Where memory runs out all the same, this is what the kernel ends, and not the sidecar.
    Path("/proc/self/oom_score_adj").write_text("1000")
    known: OrderedDict[str, jsonschema_rs.Validator] = OrderedDict()
    for line in sys.stdin.buffer:
        try:
            answer = _answer(known, orjson.loads(line))
        except orjson.JSONDecodeError as error:
            answer = {"refused": str(error)}
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
