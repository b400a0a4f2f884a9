"""The texts of a module and of what it imports: they travel into the sidecar, where the module's guards decide."""

from __future__ import annotations

from pathlib import Path

from interpreter.declarations import ModuleSource

from .core import Env
from .modules import Module


def module_source(module: Module, env: Env) -> ModuleSource | None:
    """Every file that the guards of a module may need; None where neither a guard nor a policy is in force."""
    everything = [*reachable(module)]
    if not env.authority.policy.layers and not any(m.guards or m.policy.layers for m in everything):
        return None
    root = module.root or env.run.root
    files: dict[str, str] = {}
    for each in everything:
        if each.document is None:
            continue
        files[name_below(each.path, root)] = each.document.source.text
        files.update((name_below(path, root), text) for path, text in each.texts.items())
        manifest = manifest_of(each, env)
        if manifest is not None and each.root is not None:
            files[name_below(each.root / "module.yml", root)] = manifest
    return ModuleSource(
        name=module.name, entry=name_below(module.path, root), files=files,
        root=str(module.root or module.directory),
    )  # fmt: skip


def reachable(module: Module) -> dict[Module, None]:
    found: dict[Module, None] = {}
    todo = [module]
    while todo:
        each = todo.pop()
        if each not in found:
            found[each] = None
            todo.extend(each.modules_used.values())
    return found


def name_below(path: Path | None, root: Path) -> str:
    if path is None:
        return "script.mld"
    try:
        return str(path.resolve().relative_to(root.resolve()))
    except ValueError:
        return f".outside/{path.name}"


def manifest_of(module: Module, env: Env) -> str | None:
    if not module.is_environment or module.root is None:
        return None
    return f"name: {module.name.rsplit('/', 1)[-1]}\ntype: environment\nentry: {module.path.name if module.path else 'index.mld'}\n"
