"""Scripts by name (`mlld run hello` is `llm/run/hello.mld`), and what the command line gives to a script."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.cli.context import Context
from runner.errors import BadOption, UnknownName, UsageFailure

DIRECTORY = Path("llm", "run")
SUFFIXES = (".mld", ".mld.md")
ENTRIES = ("index.mld", "main.mld", "index.mld.md", "main.mld.md")


def directories(context: Context) -> Iterator[Path]:
    """Where scripts have names: `scriptDir` of mlld-config.json (`llm/run`), then the user's own. Errors: `UsageFailure`."""
    said = context.config.get("scriptDir", str(DIRECTORY))
    if not isinstance(said, str):
        raise UsageFailure("scriptDir in mlld-config.json is no text", remedy=f'"scriptDir": "{DIRECTORY}"')
    yield context.project / said
    yield context.home / ".mlld" / "run"


def named(context: Context) -> dict[str, Path]:
    """Every script that has a name; the project's hide the user's own."""
    found: dict[str, Path] = {}
    for directory in directories(context):
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            suffix = next((s for s in reversed(SUFFIXES) if path.name.endswith(s)), "")
            if suffix and path.is_file():
                found.setdefault(path.name.removesuffix(suffix), path)
            elif path.is_dir() and (entry := next((e for name in ENTRIES if (e := path / name).is_file()), None)):
                found.setdefault(path.name, entry)
    return found


def find(name: str, context: Context) -> str:
    """The path of a script that is given by its path or its name. Errors: `UnknownName`."""
    if name == "-" or "/" in name or Path(name).is_file():
        return name
    known = named(context)
    path = known.get(name) or next((p for p in known.values() if p.name == name), None)
    if path is not None:
        return str(path)
    if "." in name or not known:
        return name  # a file that is not there: told where it is read
    raise UnknownName("script", name, known, remedy="mlld run, to see all of them")


def given(arguments: Sequence[str], options: Iterable[str]) -> dict[str, Any]:
    """The payload: `name=value`, and flags that are no options (`--name value`, `--name`). Errors: `BadOption`."""
    payload: dict[str, Any] = {}
    waiting = list(arguments)
    known = list(options)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith("--"):
            name, equals, value = argument.partition("=")
            if not equals or not name.replace("-", "_").isidentifier():
                raise BadOption(f"{argument!r} is not NAME=VALUE", remedy="mlld run --help")
            payload[name] = value
            continue
        name, equals, text = argument[2:].partition("=")
        if not name.replace("-", "_").isidentifier():
            raise BadOption(f"{argument!r} is neither an option nor the name of a field", remedy="mlld run --help")
        like = difflib.get_close_matches(f"--{name}", known, n=1, cutoff=0.9)
        if like:
            # `--documnt` would else run the script with a field that it does not know.
            raise BadOption(
                f"there is no option '--{name}'", detail=f"did you mean {like[0]!r}?",
                remedy=f"{name}=… gives it to the script",
            )  # fmt: skip
        held: Any = text if equals else waiting.pop(0) if waiting and not waiting[0].startswith("--") else True
        payload[name] = held
        if "-" in name:
            first, *rest = name.split("-")
            payload[first + "".join(part.capitalize() for part in rest)] = held
    return payload


def state(values: Sequence[str]) -> dict[str, Any]:
    """`@state`: a JSON object, `@file.json`, or `name=value`, later ones over earlier ones. Errors: `BadOption`."""
    held: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if equals and name.isidentifier():
            held[name] = _data(text)
            continue
        try:
            read = json.loads(Path(value[1:]).read_text(encoding="utf-8") if value.startswith("@") else value)
        except (OSError, ValueError) as error:
            raise BadOption(f"--state {value!r} cannot be read: {error}", remedy="mlld run --help") from None
        if not isinstance(read, dict):
            raise BadOption(
                f"--state {value!r} is no JSON object", remedy="--state count=3, or --state '{\"count\": 3}'"
            )
        held.update(read)
    return held


def _data(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
