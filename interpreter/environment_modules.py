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


def find_module(
    ref: str,
    *,
    project: Path,
    files: FilePort,
    home: Path | None = None,
    directory: Path | None = None,
    kind: str | None = "environment",
) -> Found:
    """The module that a reference names. Relative paths start at `directory` (default: the project).

    `kind` is the type that a manifest must state; None takes any, for modules that are only served.
    Errors: `BadModuleName`, `ModuleNotFound` with the nearest name, `NotAnEnvironment` with what is wrong.
    """
    try:
        return _Search(project=project, files=files, home=home, kind=kind).find(ref, directory or project)
    except PermissionError as error:
        raise ModuleNotFound(f"'{ref}' cannot be looked at: {error}", hint="keep modules inside the project") from None


def list_modules(*, project: Path, files: FilePort, home: Path | None = None) -> Iterator[Found]:
    """Every environment module that `@local/NAME` can name, the one that wins where two share a name."""
    return _Search(project=project, files=files, home=home, kind="environment").all()


@dataclass(frozen=True, kw_only=True)
class _Search:
    """Where modules are looked for, and what counts as one."""

    project: Path
    files: FilePort
    home: Path | None
    kind: str | None

    def find(self, ref: str, directory: Path) -> Found:
        text = ref.strip()
        if not text or "\0" in text:
            raise BadModuleName(
                "the name of the environment is empty", hint="give @local/NAME, or a path such as ./envs/my"
            )
        if not text.startswith("@"):
            if text.startswith("~/") and self.home:
                return self._at(self.home / text[2:], ref)
            if text.startswith((".", "/", "~")) or "/" in text or text.endswith(SUFFIXES):
                return self._at(directory / text, ref)
            # A bare word is meant as a local name: `mlld sandbox spawn … --env myenv`.
            return self._local(text, ref)
        prefix, _, rest = text.partition("/")
        if prefix == "@local":
            return self._local(rest, ref)
        prefixes = self._prefixes()
        base = prefixes.get(prefix + "/")
        if base is None:
            close = nearest(prefix + "/", ["@local/", *prefixes])
            known = f"known are {listing(['@local/', *prefixes])}; a path such as ./envs/my works too"
            raise ModuleNotFound(
                f"no module source is called '{prefix}'", hint=f"did you mean {close}{rest}?" if close else known
            )
        if not all(NAME.match(part.removesuffix(".mld")) for part in rest.split("/")):
            raise _bad_name(rest)
        return self._at(self.project / base / rest, ref)

    def all(self) -> Iterator[Found]:
        seen: set[str] = set()
        for directory in self._directories():
            for path in sorted(self._candidates(directory)):
                name = _plain_name(path)
                if name in seen or not NAME.match(name):
                    continue
                try:
                    found = self._at(path, f"@local/{name}")
                except (MlldError, OSError):
                    continue
                seen.add(name)
                yield found

    def _candidates(self, directory: Path) -> Iterator[Path]:
        patterns = ["*/module.yml", "*/module.yaml", *(f"*{s}" for s in SUFFIXES if directory.name == "modules")]
        for pattern in patterns:
            try:
                found = self.files.glob(directory, pattern)
            except OSError:  # not there, or not ours to look at: there is no module then
                continue
            yield from (path.parent if path.name.startswith("module.y") else path for path in found)

    def _directories(self) -> Iterator[Path]:
        for name in DIRECTORIES:
            yield self.project / name
        if self.home is not None:
            for name in DIRECTORIES[:2]:
                yield self.home / name

    def _exists(self, path: Path) -> bool:
        try:
            return self.files.exists(path)
        except PermissionError:  # a home directory that the port does not show
            return False

    def _local(self, name: str, ref: str) -> Found:
        if not NAME.match(name):
            raise _bad_name(name)
        for directory in self._directories():
            single = [directory / f"{name}{suffix}" for suffix in SUFFIXES] if directory.name == "modules" else []
            for candidate in (directory / name, *single):
                if self._exists(candidate):
                    return self._at(candidate, ref)
        known = [found.name for found in self.all()]
        close = nearest(name, known)
        if close:
            hint = f"did you mean @local/{close}?"
        elif known:
            hint = f"there are {listing(f'@local/{each}' for each in known)}"
        else:
            hint = f"mlld sandbox init {name} makes one in .mlld/env/{name}"
        told = f"Local module not found for {ref}: there is no environment '{ref}' in {listing(DIRECTORIES)}"
        raise ModuleNotFound(told, hint=hint)

    def _prefixes(self) -> Mapping[str, str]:
        """`resolvers.prefixes` of mlld-config.json, those that name a directory of the project: prefix → directory."""
        path = self.project / "mlld-config.json"
        if not self._exists(path):
            return {}
        try:
            config = json.loads(self.files.read(path))
            entries = config.get("resolvers", {}).get("prefixes", [])
        except (ValueError, AttributeError) as error:
            raise NotAnEnvironment(
                f"mlld-config.json cannot be read: {error}", hint="it must be a JSON object"
            ) from None
        found: dict[str, str] = {}
        for entry in entries if isinstance(entries, list) else []:
            if not isinstance(entry, dict) or entry.get("resolver", "LOCAL") != "LOCAL":
                continue
            prefix, settings = entry.get("prefix"), entry.get("config")
            base = settings.get("basePath") if isinstance(settings, dict) else None
            # Only below the project: a prefix of a cloned repository must not read elsewhere.
            inside = isinstance(base, str) and not base.startswith(("/", "~")) and ".." not in base.split("/")
            if isinstance(prefix, str) and inside:
                found[prefix if prefix.endswith("/") else prefix + "/"] = str(base)
        return found

    def _at(self, path: Path, ref: str) -> Found:
        if self.files.is_dir(path):
            return self._directory(path, ref)
        if not self.files.exists(path):
            for suffix in SUFFIXES:
                if self.files.exists(single := path.with_name(path.name + suffix)):
                    return self._at(single, ref)
            raise ModuleNotFound(
                f"there is nothing at '{ref}'", hint="give the directory that holds module.yml, or a .mld file"
            )
        if not path.name.endswith(SUFFIXES):
            raise NotAnEnvironment(
                f"'{ref}' is no {self._wanted}: not a .mld file", hint="mlld sandbox init NAME makes one"
            )
        return Found(name=_plain_name(path), root=path.parent, entry=path)

    @property
    def _wanted(self) -> str:
        return f"{self.kind} module" if self.kind else "module"

    def _directory(self, path: Path, ref: str) -> Found:
        manifest_path = next((p for n in ("module.yml", "module.yaml") if self.files.exists(p := path / n)), None)
        if manifest_path is None:
            raise NotAnEnvironment(
                f"'{ref}' is no {self._wanted}: it has no module.yml",
                hint=f"write module.yml with name, type: {self.kind or 'library'} and entry: index.mld",
            )
        manifest = _manifest(self.files.read(manifest_path), ref)
        kind = manifest.get("type")
        if self.kind is not None and kind != self.kind:
            said = f"its type is '{kind}'" if kind else "its module.yml says no type"
            raise NotAnEnvironment(f"'{ref}' is no {self._wanted}: {said}", hint=f"type: {self.kind} makes it one")
        entry_name = manifest.get("entry", "index.mld")
        if not isinstance(entry_name, str) or entry_name.startswith("/") or ".." in entry_name.split("/"):
            raise NotAnEnvironment(f"'{ref}': entry must name a file inside the module", hint="entry: index.mld")
        entry = path / entry_name
        if not self.files.exists(entry) or self.files.is_dir(entry):
            raise NotAnEnvironment(
                f"'{ref}': its entry {entry_name} is not there", hint=f"create {entry_name}, or correct entry:"
            )
        name = manifest.get("name", path.name)
        if not isinstance(name, str) or not NAME.match(name):
            raise NotAnEnvironment(f"'{ref}': the name in module.yml is no name", hint="letters, digits, - and _")
        return Found(name=name, root=path, entry=entry, manifest=manifest)


def _plain_name(path: Path) -> str:
    name = path.name
    for suffix in reversed(SUFFIXES):
        name = name.removesuffix(suffix)
    return name


def _bad_name(name: str) -> BadModuleName:
    return BadModuleName(
        f"'{name}' is no name of an environment",
        hint="a name is made of letters, digits, - and _; for a file give a path such as ./envs/my",
    )


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
