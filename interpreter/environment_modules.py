"""Finding an environment module: `@local/NAME`, a path, or a name with a prefix of the project's configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from interpreter.errors import MlldError, listing
from interpreter.policy_patterns import nearest
from interpreter.ports import FilePort

NAME = re.compile(r"[A-Za-z0-9_-]+\Z")
# Where `@local/NAME` is looked for, in this order; the first two also below the home directory.
DIRECTORIES = (".mlld/env", ".mlld/box", "llm/modules")
SUFFIXES = (".mld", ".mld.md")
_LARGEST = 1 << 20  # of a manifest: it is read whole


class BadModuleName(MlldError):
    """A name that could be anything but a name; refused before the file system is touched."""

    code = "bad-name"
    exit_code = 2


class ModuleNotFound(MlldError):
    """No module answers to the reference."""

    code = "unknown-environment"
    exit_code = 2


class NotAnEnvironment(MlldError):
    """Something is there, but it is no environment module."""

    code = "not-an-environment"
    exit_code = 3


@dataclass(frozen=True, kw_only=True)
class Found:
    """A module on disk. `manifest` is None for a single file."""

    name: str
    root: Path  # its directory: nothing outside belongs to the module
    entry: Path
    manifest: Mapping[str, object] | None = None

    @property
    def about(self) -> str:
        return str((self.manifest or {}).get("about", ""))


def find_module(ref: str, *, project: Path, files: FilePort, home: Path | None = None) -> Found:
    """The environment module that a reference names.

    Errors: `BadModuleName`, `ModuleNotFound` with the nearest name, `NotAnEnvironment` with what is wrong.
    """
    text = ref.strip()
    if not text or "\0" in text:
        raise BadModuleName(
            "the name of the environment is empty", hint="give @local/NAME, or a path such as ./envs/my"
        )
    if not text.startswith("@"):
        if _is_path(text):
            return _at(project / text, ref, files)
        # A bare word is meant as a local name: `mlld sandbox spawn … --env myenv`.
        return _local(text, ref, project, files, home)
    prefix, _, rest = text.partition("/")
    if prefix == "@local":
        return _local(rest, ref, project, files, home)
    base = _prefixes(project, files).get(prefix + "/")
    if base is None:
        known = ["@local/", *_prefixes(project, files)]
        close = nearest(prefix + "/", known)
        raise ModuleNotFound(
            f"no module source is called '{prefix}'",
            hint=f"did you mean {close}{rest}?"
            if close
            else f"known are {listing(known)}; a path such as ./envs/my works too",
        )
    parts = rest.split("/")
    if not all(NAME.match(part.removesuffix(".mld")) for part in parts):
        raise _bad_name(rest)
    return _at(project / base / rest, ref, files)


def list_modules(*, project: Path, files: FilePort, home: Path | None = None) -> Iterator[Found]:
    """Every environment module that `@local/NAME` can name, the one that wins where two share a name."""
    seen: set[str] = set()
    for directory in _directories(project, home):
        for path in sorted(files.glob(directory, "*")):
            name = path.name
            for suffix in reversed(SUFFIXES):
                name = name.removesuffix(suffix)
            if name in seen or not NAME.match(name):
                continue
            try:
                found = _at(path, f"@local/{name}", files)
            except (MlldError, PermissionError):
                continue
            seen.add(name)
            yield found


def _is_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or "/" in text or text.endswith(SUFFIXES)


def _bad_name(name: str) -> BadModuleName:
    return BadModuleName(
        f"'{name}' is no name of an environment",
        hint="a name is made of letters, digits, - and _; for a file give a path such as ./envs/my",
    )


def _directories(project: Path, home: Path | None) -> Iterator[Path]:
    for directory in DIRECTORIES:
        yield project / directory
    for directory in DIRECTORIES[:2] if home else ():
        yield home / directory  # type: ignore[operator]


def _local(name: str, ref: str, project: Path, files: FilePort, home: Path | None) -> Found:
    if not NAME.match(name):
        raise _bad_name(name)
    for directory in _directories(project, home):
        single = [directory / f"{name}{suffix}" for suffix in SUFFIXES] if directory.name == "modules" else []
        for candidate in (directory / name, *single):
            if files.exists(candidate):
                return _at(candidate, ref, files)
    known = [found.name for found in list_modules(project=project, files=files, home=home)]
    close = nearest(name, known)
    if close:
        hint = f"did you mean @local/{close}?"
    elif known:
        hint = f"there are {listing(f'@local/{each}' for each in known)}"
    else:
        hint = f"mlld sandbox init {name} makes one in .mlld/env/{name}"
    looked = listing(str(each.relative_to(project)) for each in _directories(project, None))
    raise ModuleNotFound(f"there is no environment '{ref}': looked in {looked}", hint=hint)


def _prefixes(project: Path, files: FilePort) -> Mapping[str, str]:
    """`resolvers.prefixes` of mlld-config.json, those that name a directory of the project: prefix → directory."""
    path = project / "mlld-config.json"
    if not files.exists(path):
        return {}
    try:
        config = json.loads(files.read(path))
        entries = config.get("resolvers", {}).get("prefixes", [])
    except (ValueError, AttributeError) as error:
        raise NotAnEnvironment(f"mlld-config.json cannot be read: {error}", hint="it must be a JSON object") from None
    found: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else []:
        prefix, settings = entry.get("prefix"), entry.get("config") or {}
        base = settings.get("basePath")
        if entry.get("resolver", "LOCAL") != "LOCAL" or not isinstance(prefix, str) or not isinstance(base, str):
            continue
        # Only below the project: a prefix of a cloned repository must not read elsewhere.
        if not base.startswith(("/", "~")) and ".." not in base.split("/"):
            found[prefix if prefix.endswith("/") else prefix + "/"] = base
    return found


def _at(path: Path, ref: str, files: FilePort) -> Found:
    if files.is_dir(path):
        return _directory(path, ref, files)
    if not files.exists(path):
        for suffix in SUFFIXES:
            if files.exists(single := path.with_name(path.name + suffix)):
                return _at(single, ref, files)
        raise ModuleNotFound(
            f"there is nothing at '{ref}'", hint="give the directory that holds module.yml, or a .mld file"
        )
    if not path.name.endswith((".mld", ".mld.md")):
        raise NotAnEnvironment(
            f"'{ref}' is no environment module: not a .mld file", hint="mlld sandbox init NAME makes one"
        )
    name = path.name
    for suffix in reversed(SUFFIXES):
        name = name.removesuffix(suffix)
    return Found(name=name, root=path.parent, entry=path)


def _directory(path: Path, ref: str, files: FilePort) -> Found:
    manifest_path = next((p for n in ("module.yml", "module.yaml") if files.exists(p := path / n)), None)
    if manifest_path is None:
        raise NotAnEnvironment(
            f"'{ref}' is no environment module: it has no module.yml",
            hint="write module.yml with name, type: environment and entry: index.mld",
        )
    manifest = _manifest(files.read(manifest_path), ref)
    kind = manifest.get("type")
    if kind != "environment":
        said = f"its type is '{kind}'" if kind else "its module.yml says no type"
        raise NotAnEnvironment(f"'{ref}' is no environment module: {said}", hint="type: environment makes it one")
    entry_name = manifest.get("entry", "index.mld")
    if not isinstance(entry_name, str) or entry_name.startswith("/") or ".." in entry_name.split("/"):
        raise NotAnEnvironment(f"'{ref}': entry must name a file inside the module", hint="entry: index.mld")
    entry = path / entry_name
    if not files.exists(entry) or files.is_dir(entry):
        raise NotAnEnvironment(
            f"'{ref}': its entry {entry_name} is not there", hint=f"create {entry_name}, or correct entry:"
        )
    name = manifest.get("name", path.name)
    if not isinstance(name, str) or not NAME.match(name):
        raise NotAnEnvironment(f"'{ref}': the name in module.yml is no name", hint="letters, digits, - and _")
    return Found(name=name, root=path, entry=entry, manifest=manifest)


def _manifest(data: bytes, ref: str) -> Mapping[str, object]:
    import yaml  # 15 ms: only for modules that are directories

    if len(data) > _LARGEST:
        raise NotAnEnvironment(
            f"'{ref}': module.yml is larger than 1 MB", hint="name, type, entry, about and version suffice"
        )
    try:
        # Before anything is built: aliases let a manifest of a few lines unfold to gigabytes.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(data.decode("utf-8"))):
            raise NotAnEnvironment(f"'{ref}': module.yml uses YAML aliases", hint="write the values out")
        manifest = yaml.safe_load(data.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise NotAnEnvironment(f"'{ref}': module.yml is not YAML{where}", hint="name: my-env") from None
    if not isinstance(manifest, dict):
        raise NotAnEnvironment(f"'{ref}': module.yml holds no keys", hint="name, type: environment, entry: index.mld")
    return manifest
