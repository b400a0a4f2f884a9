"""Files and pages as values: `<README.md>`, `<docs/*.md>`, `<guide.md # Section>`, `<https://…>`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from interpreter import nodes as n
from interpreter import operations
from interpreter import values_text as vt
from interpreter.errors import EvaluationError, MlldError
from interpreter.labels import NONE, Labels
from interpreter.operations import Request, perform
from interpreter.policy_subjects import Operation, spellings
from interpreter.values import NULL, Value, array, record

from . import sections
from .core import Env, absent, at, evaluate, handles
from .frontmatter import parse_yaml
from .metadata import FileInfo
from .paths import is_url, resolve, shown
from .templates import text_of_parts

GLOB = frozenset("*?[{")
IGNORED = frozenset({"node_modules", "dist", "build"})
"""What other programs wrote: no `**` leads into it."""


@handles(n.FileLoad)
async def load(node: n.FileLoad, env: Env) -> Value:
    held = await read_workspace(node, env)
    if held is not None:
        return await shape(held, node, env)
    path = await text_of_parts(node.path, env)
    text = path.data.strip().removesuffix("?")  # `<notes.md?>` means no pattern
    if not text:
        raise EvaluationError("File not found: `<>` names no file", span=node.span, code="file-not-found")
    try:
        if is_url(text):
            loaded = [await load_url(text, node, env)]
        elif has_glob(text):
            return await load_many(text, path, node, env)
        elif (held := in_block(text, env)) is not None:
            loaded = [held]
        else:
            loaded = [await load_near(text, node, env)]
    except (FileNotFoundError, IsADirectoryError) as error:
        if node.optional:
            return nothing(path.labels)
        raise missing(text, error, node, env) from None
    except PermissionError as error:
        raise EvaluationError(f"Cannot read {text}: {error}", span=node.span, code="file-permission") from None
    except MlldError as error:
        if node.optional and error.code == "network":
            return nothing(path.labels)
        raise at(unloaded(text, error), node.span) from None
    try:
        value = await shape(loaded[0], node, env)
    except MlldError as error:
        if node.optional and error.code == "section-not-found":
            return nothing(loaded[0].labels)
        raise at(unloaded(text, error), node.span) from None
    return value.with_labels(path.labels) if path.labels is not NONE else value


def nothing(labels: Labels) -> Value:
    """What an optional load gives when there is nothing: null, which is also shown as such."""
    return Value(None, labels, meta={"text": "null"})


def unloaded(text: str, error: MlldError) -> MlldError:
    """The fault of what a file holds, with the name of the load."""
    if error.code not in ("section-not-found", "not-json", "selector"):
        return error
    message = f"Failed to load content: {text}: {error.message}"
    return EvaluationError(message, span=error.span, code=error.code, hint=error.hint)


async def read_workspace(node: n.FileLoad, env: Env) -> Value | None:
    if not node.path or not isinstance(node.path[0], n.Variable):
        return None
    from .workspaces import read

    return await read(node, env)


def in_block(text: str, env: Env) -> Value | None:
    """The file of the block's workspace that a path means: there it lies over the one of the project."""
    space = env.box.workspace if env.box is not None else None
    if space is None or not space.files:
        return None
    from .workspaces import file_of

    place = resolve(text, env)
    inside = str(place.relative_to(env.run.root)) if place.is_relative_to(env.run.root) else None
    for path in (text.strip().removeprefix("./"), inside):
        if path is not None and path in space.files:
            return file_of(space, path)
    return None


def found_here(text: str, env: Env) -> list[Path | Value]:
    """What a glob fits, in order: files of the block's workspace take the place of the project's."""
    found: dict[str, Path | Value] = {str(path): path for path in find(text, env)}
    space = env.box.workspace if env.box is not None else None
    if space is not None and space.files:
        from .workspaces import file_of, matching

        pattern = str(resolve(text, env))
        for path in matching({str(env.run.root / path): path for path in space.files}, pattern):
            found[str(env.run.root / path)] = file_of(space, path)
    return [found[path] for path in sorted(found)]


def missing(text: str, error: OSError, node: n.FileLoad, env: Env) -> EvaluationError:
    if isinstance(error, IsADirectoryError):
        return EvaluationError(
            f"Failed to load content: {text} is a directory",
            span=node.span,
            code="file-not-found",
            hint=f"`<{text.rstrip('/')}/*.md>` loads its files",
        )
    from .nearby import did_you_mean

    close = did_you_mean(text, env)
    return EvaluationError(
        f"File not found: {text}", span=node.span, code="file-not-found",
        hint=f"did you mean {close}?" if close else
        f"looked at {shown(resolve(text, env), env)}; `<{text}>?` gives null when a file is missing",
    )  # fmt: skip


def has_glob(text: str) -> bool:
    return (bool(GLOB & set(text)) and not Path(text).is_absolute()) or "*" in text


async def resolve_paths(node: n.FileLoad, env: Env) -> list[Path]:
    """The files that a load names, without reading them."""
    text = vt.text(await text_of_parts(node.path, env)).strip().removesuffix("?")
    files = env.ports.files
    if files is None:
        raise absent("files", node.span, env)
    if is_url(text):
        return []
    try:
        if has_glob(text):
            return find(text, env)
        path = resolve(text, env)
        return [path] if operations.file_exists(files, path) else []
    except (PermissionError, OSError):
        return []


def find(text: str, env: Env) -> list[Path]:
    assert env.ports.files is not None
    base = resolve(text, env)
    parts = base.parts
    split = next((i for i, part in enumerate(parts) if GLOB & set(part)), len(parts))
    root, pattern = Path(*parts[:split]), "/".join(parts[split:])
    found: dict[Path, None] = {}
    if pattern.endswith("**"):
        pattern += "/*"  # files, not directories
    for each in expand(pattern):
        found.update(dict.fromkeys(operations.find_files(env.ports.files, root, each)))
    hidden = any(part.startswith(".") for part in pattern.split("/"))

    def wanted(path: Path) -> bool:
        below = path.relative_to(root).parts
        return IGNORED.isdisjoint(below) and (hidden or not any(part.startswith(".") for part in below))

    return sorted(filter(wanted, found))


def expand(pattern: str) -> list[str]:
    """`{a,b}` written out: one pattern for each."""
    start = pattern.find("{")
    end = pattern.find("}", start)
    if start < 0 or end < 0:
        return [pattern]
    return [
        each
        for choice in pattern[start + 1 : end].split(",")
        for each in expand(pattern[:start] + choice + pattern[end + 1 :])
    ][:64]


async def load_many(text: str, path: Value, node: n.FileLoad, env: Env) -> Value:
    if env.ports.files is None:
        raise absent("files", node.span, env)
    loaded: list[Value] = []
    files = found_here(text, env)
    if node.selectors:
        from .selectors import wanted_in_glob

        files = [each for each in files if isinstance(each, Value) or wanted_in_glob(each)]
    for each in files:
        try:
            one = each if isinstance(each, Value) else await load_one(each, node, env)
            shaped = await shape(one, node, env, many=True)
            if shaped.data is None and lists_names(node):
                continue
            loaded.extend(shaped.items() if node.selectors and isinstance(shaped.data, list) else [shaped])
        except MlldError as error:
            if error.code == "section-not-found":
                continue  # of many files, those that have the section
            if error.code in ("not-json", "not-yaml"):
                assert isinstance(each, Path)
                loaded.append(
                    await load_one(each, node, env, raw=True)
                )  # of many files, one that is broken is its text
                continue
            raise
    return array(loaded, path.labels).with_meta(between="\n\n", each=not node.selectors)


async def load_near(text: str, node: n.FileLoad, env: Env) -> Value:
    try:
        return await load_one(resolve(text, env), node, env)
    except FileNotFoundError:
        from .nearby import nearby

        if (path := nearby(text, env)) is None:
            raise
        return await load_one(path, node, env)


async def load_one(path: Path, node: n.FileLoad, env: Env, *, raw: bool = False) -> Value:
    files = env.ports.files
    if files is None:
        raise absent("files", node.span, env)
    operation = Operation(
        kind="read", paths=spellings(str(path), root=str(env.run.root), home=str(env.run.home or "/nonexistent"))
    )

    async def read(given: tuple[Value, ...]) -> Value:
        if operations.is_directory(files, path):
            raise IsADirectoryError(str(path))
        data = operations.read_file(files, path)
        return file_value(path, data, env, raw=raw)

    return await perform(Request(operation=operation, span=node.span), env, read)


def file_labels(path: Path, env: Env) -> Labels:
    directories = tuple(f"dir:{parent}" for parent in path.parents if str(parent) != "/")
    labels = Labels.of(automatic=("src:file", *directories), sources=(str(path),))
    written = env.run.written.get(path)
    return labels | written if written is not None else labels


def file_value(path: Path, data: bytes, env: Env, *, raw: bool = False) -> Value:
    text = data.decode("utf-8", errors="replace").removeprefix("\ufeff")
    extra = None
    if path.suffix.lower() in (".html", ".htm") and not raw:
        text, extra = page(text, "text/html", shown(path, env))
    info = FileInfo(path=path, root=env.run.root, raw=text, extra=extra)
    held = text if raw else file_data(path.name, text, shown(path, env))
    return Value(held, file_labels(path, env), meta={"file": info, "text": text})


def file_data(name: str, text: str, shown_as: str) -> Any:
    """What a file holds, by its type: JSON, JSON lines, YAML are data. So is any other file that is one JSON object or array, and
    else it is text.
    """
    suffix = name.rpartition(".")[2].lower()
    if suffix == "json":
        try:
            return json_data(text)
        except (ValueError, RecursionError) as error:
            raise EvaluationError(f"Failed to parse JSON from {shown_as}: {error}", code="not-json") from None
    if suffix == "jsonl":
        records = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    records.append(json_data(line))
                except (ValueError, RecursionError) as error:
                    raise EvaluationError(
                        f"Failed to parse JSONL from {shown_as} at line {number}: {error}", code="not-json"
                    ) from None
        return records
    if suffix in ("yaml", "yml"):
        try:
            return parse_yaml(text)
        except ValueError as error:
            raise EvaluationError(f"Failed to parse YAML from {shown_as}: {error}", code="not-yaml") from None
    whole = text.strip()
    if whole[:1] + whole[-1:] in ("{}", "[]"):
        try:
            return json_data(whole)
        except (ValueError, RecursionError):
            pass
    return text


def json_data(text: str) -> Any:
    """JSON, or what people write for it: comments, single quotes, commas at the end. Errors: `ValueError` of strict JSON."""
    try:
        return json.loads(text, parse_float=vt.json_float)
    except ValueError:
        from .relaxed_json import loads

        try:
            return loads(text)
        except ValueError:
            pass
        raise


async def load_url(url: str, node: n.FileLoad, env: Env) -> Value:
    if env.ports.http is None:
        raise absent("the network", node.span, env)
    host = urlsplit(url).hostname or ""
    operation = Operation(kind="network", host=host)

    async def get(given: tuple[Value, ...]) -> Value:
        try:
            body, content_type = await operations.load_url(env.ports, url)
        except OSError as error:
            raise EvaluationError(f"Failed to load content: {url}: {error}", span=node.span, code="network") from None
        raw = body.decode("utf-8", errors="replace")
        text, extra = page(raw, content_type, url)
        extra |= {"domain": host, "contentType": content_type, "status": 200}
        info = FileInfo(url=url, raw=text, extra=extra)
        data = vt.parse_loosely(text) if "json" in content_type else text
        labels = Labels.of(automatic=("src:network",), sources=(url,))
        return Value(data, labels, meta={"file": info, "text": text})

    return await perform(Request(operation=operation, span=node.span), env, get)


def page(raw: str, content_type: str, shown_as: str) -> tuple[str, dict[str, Any]]:
    """The text of a page, Markdown if it is HTML, and what is known about it."""
    if "html" not in content_type:
        return raw, {}
    from interpreter.web_page import UnreadablePage, read_page

    try:
        found = read_page(raw)
    except UnreadablePage as error:
        raise EvaluationError(f"Cannot read {shown_as}: {error}", code="page") from None
    except ImportError as missing:
        raise EvaluationError(
            f"Cannot read {shown_as}: HTML as Markdown needs the package {missing.name}", code="page",
            hint="pip install 'mlld-sandbox[web]'; `cmd { cat page.html }` gives the text as it is",
        ) from None  # fmt: skip
    return found.text, {"title": found.title, "description": found.description, "html": raw, "md": found.text}


def lists_names(node: n.FileLoad) -> bool:
    """`{ fn?? }` and `# ??` give names, not text."""
    return any(text.endswith("??") for text in node.selectors) or bool(node.sections)


async def shape(value: Value, node: n.FileLoad, env: Env, *, many: bool = False) -> Value:
    """What is left after sections, selectors and the `as` template. `many`: a glob named the file, among others."""
    if node.sections or node.without:
        value = await select_sections(value, node, env, many=many)
    if node.selectors:
        from .selectors import selected

        value = selected(value, node, env, many=many)
        if node.shape is not None and isinstance(value.data, list):
            shown = [
                item if item.data is None else await evaluate(node.shape, env.ambient(placeholder=item))
                for item in value.items()
            ]
            return array(shown, value.labels).with_meta(between="\n")
    if node.shape is None:
        return value
    if node.sections and (node.place == "heading" or (node.place == "behind" and not many)):
        # `as "## Title"` gives one section another heading, where `<>` is what stands below the old one.
        if len(node.sections) > 1:
            raise EvaluationError("Renaming multiple sections is not supported yet", span=node.span)
        below = part_of(value, sections.body(vt.text(value)))
        title = await evaluate(node.shape, env.ambient(placeholder=below))
        return part_of(value, sections.renamed(vt.text(value), vt.text(title))).with_labels(title.labels)
    text = await evaluate(node.shape, env.ambient(placeholder=value))
    return text.with_labels(value.labels)


def part_of(value: Value, text: str) -> Value:
    """A part of the text of a file, with what is known about the file."""
    info = (value.meta or {}).get("file")
    about = {"file": replace(info, part=text)} if isinstance(info, FileInfo) else {}
    return Value(text, value.labels, meta={**(value.meta or {}), **about, "text": text})


async def select_sections(value: Value, node: n.FileLoad, env: Env, *, many: bool) -> Value:
    text = vt.text(value)
    include = [((await text_of_parts(s.name, env)).data.strip(), s.optional) for s in node.sections]
    exclude = [(await text_of_parts(s.name, env)).data.strip() for s in node.without]
    if len(include) == 1 and include[0][0].rstrip().endswith("??"):
        hashes = include[0][0].rstrip()[:-2].strip()
        titles = sections.listing(text, len(hashes) if hashes else None)
        names = array((Value(title) for title in titles), value.labels)
        info = (value.meta or {}).get("file")
        if not many or not isinstance(info, FileInfo):
            return names.with_meta(between="\n\n")
        place = {"file": "filename", "relative": "relative", "absolute": "absolute"}
        where = {key: Value(info.field(name), value.labels) for key, name in place.items()}
        return record({"names": names, **where}) if names.data else NULL
    return part_of(value, sections.select(text, include, exclude))
