"""`import`: names and namespaces from files, modules, directories, templates, inputs, and MCP servers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from interpreter import nodes as n
from interpreter import operations
from interpreter import values_text as vt
from interpreter.environment_modules import find_module
from interpreter.errors import ImportFault, MlldError
from interpreter.guards import Guards
from interpreter.labels import Labels
from interpreter.lexer_words import STATEMENT_WORDS
from interpreter.names import FIXED
from interpreter.operations_output import Document
from interpreter.policy_subjects import Operation
from interpreter.source import Mode, Source
from interpreter.values import NULL, Value, record

from .core import Env, absent, at, handles
from .declarations import PolicyValue
from .frontmatter import read_own
from .metadata import FileInfo
from .modules import Module
from .paths import is_url, resolve, shown
from .scope import reserved_name
from .templates import text_of_parts

MODULE_SUFFIXES = (".mld", ".mld.md", ".mlld", ".md")
GIVEN = ("input", "stdin", "payload", "state", "debug")
"""Reserved sources that may have nothing in them."""


@handles(n.Import)
async def import_(node: n.Import, env: Env) -> Value:
    async def run() -> Value:
        await bring_in(node, env)
        return NULL

    return await operations.observed(Operation(kind="import"), (), node.span, env, run)


async def bring_in(node: n.Import, env: Env) -> None:
    origin = node.origin
    try:
        if node.kind == "tools" or origin.form == "mcp":
            from .mcp_imports import import_tools

            await import_tools(node, env)
        elif origin.form == "reserved":
            import_reserved(node, env)
        elif origin.form in ("node", "python"):
            from .host_modules import import_host

            await import_host(node, env)
        elif node.kind == "templates":
            from .directories import import_templates

            await import_templates(node, env)
        else:
            await import_module(node, env)
    except MlldError as error:
        raise at(error, node.span) from None


# ── Binding names ───────────────────────────────────────────────────────────────────────────────────


def bind(name: str, value: Value, source: str, node: n.Import, env: Env) -> None:
    """An imported name: constant, and never twice from two places."""
    module = env.module
    if name in FIXED and ("/" in source or not source.startswith("@")):
        raise reserved_name(name, node.span)
    before = module.imported.get(name)
    if before is not None:
        raise ImportFault(
            f"Import collision - '{name}' already imported from {before}. Alias one of the imports.",
            span=node.span, code="IMPORT_NAME_CONFLICT", hint=f"import {{ {name} as @other }} from …",
        )  # fmt: skip
    if name in module.defined:
        told = f"Variable '{name}' is already defined locally and cannot be imported"
        if node.kind == "tools" or node.origin.form == "mcp":
            told = f"Import collision - '{name}' already defined. Alias the import."
        raise ImportFault(
            told, span=node.span, code="IMPORT_NAME_CONFLICT", hint=f"import {{ {name} as @other }} from …"
        )
    if node.labels:
        value = value.with_labels(Labels.of(*node.labels))
    module.imported[name] = source
    module.scope.define(name, value)


def namespace_of(source: str) -> str:
    """The namespace of an import without alias: the name of its file, less what says its kind."""
    name = source.rstrip("/").rsplit("/", 1)[-1].split("@")[0]
    return re.sub(r"\W", "_", re.sub(r"(\.(?:mlld|mld))?\.(?:mlld|mld|md|json)$", "", name))


def choose_names(
    node: n.Import, offered: dict[str, Value], source: str, env: Env, missing: Any, frontmatter: Any = None
) -> None:
    """Bind what an import selects of the names on offer."""
    alias = node.alias
    if alias is None and not node.what and not node.everything:
        alias = namespace_of(source)
    if alias is not None and not node.what:
        bind(
            alias, record(offered).with_meta(namespace=source, alias=alias, frontmatter=frontmatter), source, node, env
        )
        return
    if node.everything:
        raise ImportFault(
            "Wildcard imports '/import { * }' are no longer supported. Use namespace imports instead", span=node.span,
            hint='import "./file.mld" as @name, or name what you need: import { @a, @b } from …',
        )  # fmt: skip
    for item in node.what:
        if item.name not in offered:
            raise missing(item)
        bind(item.alias or item.name, offered[item.name], source, node, env)


# ── Reserved sources ────────────────────────────────────────────────────────────────────────────────


def import_reserved(node: n.Import, env: Env) -> None:
    name = node.origin.name or ""
    name = "input" if name == "INPUT" else name  # as older scripts write it
    if name == "keychain":
        raise ImportFault(
            "Direct keychain imports are not available. Use policy.auth with using auth:*.", span=node.span,
            hint='auth @key = { from: "keychain:service/account", as: "KEY" }, then `run cmd { … } using auth:key`',
        )  # fmt: skip
    if name in ("now", "time"):
        from .moments import forms

        offered = forms(env, [item.name for item in node.what])
        if node.alias and not node.what:
            bind(node.alias, offered["iso"], f"@{name}", node, env)
            return
        choose_names(node, offered, f"@{name}", env, lambda item: ImportFault(
            f"@{name} has no format '{item.name}'", span=item.span, hint=f"it has: {', '.join(offered)}"))  # fmt: skip
        return
    value = env.run.variables.get(name)
    if name in ("input", "stdin"):
        from .inputs import importable

        value = importable(env)
    if value is None:
        if name not in GIVEN:
            raise ImportFault(
                f"@{name} is no source of imports", span=node.origin.span, code="IMPORT_NOT_FOUND",
                hint="import from a path in quotes, from @author/name, or from @input, @payload, @state or @now",
            )  # fmt: skip
        value = Value({})
    if not node.what and not node.everything:
        env.module.scope.define(node.alias or name, value)
        return
    fields = (
        {key: value.item(item) for key, item in value.data.items()}
        if isinstance(value.data, dict)
        else {"content": value}
    )
    for item in node.what:
        # What the caller did not give is null: a script decides itself whether it needs it.
        bind(item.alias or item.name, fields.get(item.name, NULL), f"@{name}", node, env)
    if node.everything:
        for key, field in fields.items():
            bind(key, field, f"@{name}", node, env)


# ── Files and modules ───────────────────────────────────────────────────────────────────────────────


async def locate(node: n.Import, env: Env) -> tuple[Path | str, str]:
    """The file, directory or URL that an import means, and the name under which people know it."""
    origin = node.origin
    if origin.form == "module":
        from .registry import find

        return find(origin, node, env)
    text = vt.text(await text_of_parts(origin.parts, env)).strip()
    if is_url(text):
        return text, text
    if text.startswith("@") and not text.startswith(("@root", "@base")):
        name = text[1:]
        if name in ("input", "payload", "state", "now", "stdin"):
            import_reserved(
                n.Import(**{**fields_of(node), "origin": n.ImportOrigin(form="reserved", name=name, span=origin.span)}),
                env,
            )
            return "", ""
        if "/" in name:
            from .registry import find_text

            return find_text(text, node, env)
        found = env.scope.find(name)
        if found is not None:
            text = vt.text(found)
    return module_file(text, env), text


def module_file(text: str, env: Env) -> Path:
    """What a path of an import means: `./dir` is its `index.mld` if it has one, `./dir/` all modules below, and an ending may
    be left out.
    """
    from .nearby import nearby
    from .registry import is_directory, is_file

    path = resolve(text, env)
    if is_directory(path, env):
        index = path / "index.mld"
        return index if not text.endswith("/") and is_file(index, env) else path
    return path if is_file(path, env) else nearby(text, env) or path


def check_kind(node: n.Import) -> None:
    """Errors: the word before the names says another source than the one behind `from`."""
    origin = node.origin
    first = origin.parts[0] if origin.parts else None
    text = first.text if isinstance(first, n.Text) else ""
    module = origin.form == "module"
    local = (origin.name or "").startswith("local/") or text.startswith("@local/")
    file = not module and isinstance(first, n.Text) and not is_url(text) and not text.startswith("@")
    told, hint = {
        "cached": ("requires an absolute URL source.", 'import cached(1h) "https://…"'),
        "module": ("requires a registry module reference.", "import module { @x } from @author/name"),
        "local": ("expects an @local/... module.", "import local { @x } from @local/name"),
        "static": ("supports local files or @root/@base/@project paths.", 'import static { @x } from "./file.mld"'),
        "live": ("is only valid for resolvers, URLs, or @input.", "import live { @x } from @input"),
    }.get(node.kind or "", ("", ""))
    wrong = {
        "cached": not is_url(text),
        "module": not module,
        "local": not module and not local,
        "static": is_url(text) or (module and not local),
        "live": file,
    }
    if wrong.get(node.kind or "", False):
        raise ImportFault(f"Import type '{node.kind}' {told}", span=node.span, hint=hint)


def fields_of(node: n.Node) -> dict[str, Any]:
    return {name: getattr(node, name) for name, _ in node._plan}


async def import_module(node: n.Import, env: Env) -> None:
    if env.ports.files is None:
        raise absent("`import`", node.span, env)
    from .registry import is_directory

    check_kind(node)
    if node.parameters is not None:
        raise ImportFault(
            "Import parameters are only supported with 'templates' imports", span=node.span,
            hint=f'import templates from "./directory" as @{node.alias}(…)',
        )  # fmt: skip
    target, name = await locate(node, env)
    if target == "":
        return
    if isinstance(target, Path) and is_directory(target, env):
        from .directories import import_directory

        await import_directory(target, name, node, env)
        return
    if isinstance(target, Path) and target.suffix in (".json", ".jsonl", ".yaml", ".yml"):
        await import_data(target, name, node, env)
        return
    loaded = await load_module(target, name, node, env)
    if node.kind == "policy":
        import_policy(loaded, node, env)
        return
    offered = exported(loaded, node)
    names_guards(loaded, node, env, offered)
    env.module.modules_used[loaded.name] = loaded

    def missing(item: n.ImportName) -> ImportFault:
        import difflib

        close = difflib.get_close_matches(item.name, offered, n=1)
        return ImportFault(
            f"Import '{item.name}' not found in module '{target}'", span=item.span, code="IMPORT_EXPORT_MISSING",
            hint=f"did you mean '{close[0]}'?" if close else f"it exports: {', '.join(offered) or 'nothing'}",
        )  # fmt: skip

    choose_names(node, offered, name, env, missing, loaded.frontmatter)


async def import_data(target: Path, name: str, node: n.Import, env: Env) -> None:
    """The fields of a JSON or YAML file, as names."""
    from .loading import load_one

    try:
        value = await load_one(target, n.FileLoad(path=(), span=node.span), env)
    except FileNotFoundError:
        raise not_found(target, name, node, env) from None
    offered = (
        {str(k): value.item(v) for k, v in value.data.items()} if isinstance(value.data, dict) else {"content": value}
    )
    choose_names(node, offered, name, env, lambda item: ImportFault(
        f"Import '{item.name}' not found in module '{target}'", span=item.span, code="IMPORT_EXPORT_MISSING",
        hint=f"it has: {', '.join(offered)}"))  # fmt: skip


def not_found(target: Path | str, name: str, node: n.Node, env: Env) -> ImportFault:
    from .nearby import did_you_mean

    close = did_you_mean(name, env)
    return ImportFault(
        f"File not found: {name}. There is no module {target}", span=node.span, code="IMPORT_NOT_FOUND",
        hint=f"did you mean {close}?" if close else
        "the path starts at the directory of this file; `@root/…` starts at the project",
    )  # fmt: skip


def names_guards(loaded: Module, node: n.Import, env: Env, offered: dict[str, Value]) -> None:
    """A guard that is imported by name watches here, too."""
    for item in node.what:
        guard = loaded.own_guards.get(item.name)
        if guard is not None:
            held = env.module.own_guards.setdefault(item.name, guard)
            if held is not guard:
                raise ImportFault(
                    f"Guard with name {item.name} already exists", span=item.span,
                    hint="give the one of this file another name: guards are told apart by their names",
                )  # fmt: skip
            env.module.guards = env.module.guards | Guards(all=(guard,))
            env.module.version += 1
            offered.setdefault(item.name, NULL)


def import_policy(loaded: Module, node: n.Import, env: Env) -> None:
    offered = exported(loaded, node)
    name = node.alias or (node.what[0].name if node.what else "config")
    candidates = [offered.get(name), offered.get("config"), offered.get("policy"), *offered.values()]
    for value in candidates:
        if value is None:
            continue
        if isinstance(value.data, dict) and not isinstance(value.data, PolicyValue) and "config" in value.data:
            value = value.item(value.data["config"])
        if isinstance(value.data, PolicyValue | dict):
            from .declarations import choose_profile, policy_of

            policy = policy_of(value, name, node)
            env.module.declare_policy(policy)
            bind(name, Value(PolicyValue(policy, vt.to_plain(value))), loaded.name, node, env)
            choose_profile(env)
            return
    raise ImportFault(
        f"'{loaded.name}' exports no policy", span=node.span, hint="export { @p }, where `policy @p = { … }`"
    )


async def load_module(target: Path | str, name: str, node: n.Node, env: Env) -> Module:
    """The module at a place, evaluated once per run."""
    key = str(target)
    known = env.run.modules.get(key)
    chain = env.run.loading
    if key in chain:
        steps = [*(Path(k).name for k in chain[chain.index(key) + 1 :]), Path(key).name]
        raise ImportFault(
            f"Circular import detected: {' → '.join([key, *steps])}",
            span=node.span,
            hint="move what both need into a third file",
        )
    if known is not None:
        return known  # type: ignore[no-any-return]
    text = await read_module(target, name, node, env)
    path = Path(target) if isinstance(target, Path) else None
    module = new_module(path, name, text, env)
    mark_environment(module, env)
    if module.is_environment:
        # What is only declared may come from anywhere: it gets to read its own files and nothing else (P13).
        from .declared import declaring

        inner = declaring(env, module)
    else:
        inner = env.copy(mx={}, calls=None, run=replace(env.run, document=Document.nowhere()))
    chain.append(key)
    try:
        await run_module(module, inner)
    finally:
        chain.pop()
    env.run.modules[key] = module
    return module


def mark_environment(module: Module, env: Env) -> None:
    """A directory with a `module.yml` of type environment is a module that may only declare, whoever imports it."""
    if module.is_environment or module.path is None:
        module.root = env.module.root
        return
    try:
        found = find_module(str(module.directory), project=env.run.root, files=env.ports.files)  # type: ignore[arg-type]
    except (MlldError, PermissionError):
        return
    if found.manifest is not None and found.entry == module.path:
        module.is_environment, module.root = True, found.root
        module.name = found.name


async def read_module(target: Path | str, name: str, node: n.Node, env: Env) -> Source:
    from .loading import load_one, load_url

    load = n.FileLoad(path=(n.Text(text=str(target), span=node.span),), span=node.span)
    try:
        value = await (load_url(target, load, env) if isinstance(target, str) else load_one(target, load, env))
    except IsADirectoryError:
        raise ImportFault(f"{name} is a directory", span=node.span, hint='import "./dir" as @names') from None
    except (FileNotFoundError, NotADirectoryError):
        raise not_found(target, name, node, env) from None
    except PermissionError as error:
        raise ImportFault(f"Cannot read module '{name}': {error}", span=node.span) from None
    if isinstance(target, Path) and target in env.run.pins:
        from .registry import check_pin

        info = (value.meta or {}).get("file")
        check_pin(target, info.raw if isinstance(info, FileInfo) else "", node, env)
        return Source(name=f"{name}{cached_suffix(vt.text(value))}", text=vt.text(value))
    shown_name = shown(target, env) if isinstance(target, Path) else target
    if not str(target).endswith(MODULE_SUFFIXES) and isinstance(target, Path):
        if target.suffix in (".att", ".mtt"):
            raise ImportFault(
                f"Template files cannot be imported: {target}", span=node.span,
                code="TEMPLATE_IMPORT_NOT_ALLOWED", hint=f'exe @t(a) = template "{name}"',
            )  # fmt: skip
        raise ImportFault(
            f"Import target is not a module: {name} (content type: text)", span=node.span,
            hint=f"load it: `var @x = <{name}>`",
        )  # fmt: skip
    return Source(name=shown_name, text=vt.text(value))


def cached_suffix(text: str) -> str:
    """How a module of the cache is written, where all are called `content.mld`: a document begins with `/…` or prose."""
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    first = next((line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith(">>")), "")
    word = re.match(r"[a-z]+", first)
    return ".mld" if not first or (word is not None and word[0] in STATEMENT_WORDS) else ".mld.md"


def new_module(path: Path | None, name: str, source: Source, env: Env) -> Module:
    from interpreter.parser import parse_or_raise

    mode: Mode | None = None if path is not None else "strict"
    document = parse_or_raise(source, mode)
    frontmatter = None
    if document.frontmatter is not None:
        frontmatter = read_own(document.frontmatter.text)
    return Module(
        path=path, name=name, directory=path.parent if path is not None else env.module.directory, document=document,
        frontmatter=frontmatter,
        is_environment=env.module.is_environment,
    )  # fmt: skip


async def run_module(module: Module, env: Env) -> None:
    """The statements of a module, in a scope of its own."""
    from .run import run_body

    inside = env.copy(
        module=module, scope=module.scope, authority=env.authority.joined_by(module), top=True, mx={}, box=None
    )
    assert module.document is not None
    module.result = await run_body(module.document, inside, prose=False)


def exported(module: Module, node: n.Node) -> dict[str, Value]:
    """What a module offers: the names of its `export`, or everything that it defined or imported."""
    offered: dict[str, Value] = {}
    if module.exports is not None and not module.export_everything:
        for name, own in module.exports.items():
            value = module.scope.names.get(own)
            if value is None:
                if own in module.own_guards:
                    value = NULL
                else:
                    raise ImportFault(
                        f"Exported name '{own}' is not defined in this module", span=module.export_spans.get(name),
                        code="EXPORTED_NAME_NOT_FOUND", hint="export what the file defines, or remove the name",
                    )  # fmt: skip
            offered[name] = value
    else:
        had = module.defined.keys() | module.imported.keys()
        offered = {name: value for name, value in module.scope.names.items() if name in had}
        offered.update((name, NULL) for name in module.own_guards)
    if module.result is not None:
        offered["default"] = module.result
    return offered
