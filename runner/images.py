"""The image store: makes what a recipe says if the engine does not have it, several at a time, once per machine.

An image is named by the content of its recipe, so having the name is having the image: `ensure` of a warm store is one
inspect. Two processes that want the same image meet at a file lock; the second finds it made.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from runner import recipes
from runner.backends.docker_images import DockerImages, ImageInfo, StepFailed
from runner.errors import BuildFailed, ImageMissing, PackageMissing, SandboxFailure
from runner.recipes import ASSET, Recipe

Say = Callable[[str], None]
BRIDGE = "/.mlld/bin/bridge"


@dataclass(frozen=True, kw_only=True)
class ImageRef:
    """An image that the engine has."""

    name: str
    id: str  # sha256:…
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class BridgeRef:
    """The volume with the bridge, which every agent and server container mounts read-only."""

    volume: str
    sha256: str


def quiet(_: str) -> None:
    """A listener that says nothing."""


def host_trust(env: Mapping[str, str]) -> bytes:
    """The certificate bundle of this machine, or nothing if it has none of its own."""
    candidates = [env.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, recipes.CA_BUNDLE]
    for candidate in filter(None, candidates):
        path = Path(candidate)
        if path.is_file():
            return path.read_bytes()
    return b""


def _network_settings(env: Mapping[str, str]) -> dict[str, str]:
    """Proxies and mirrors of this machine that a build needs as well. One that holds a password is left out: an image
    keeps the arguments of its build."""
    names = (*_PROXIES, *(name.lower() for name in _PROXIES), "PIP_INDEX_URL", "NPM_CONFIG_REGISTRY")
    return {name: env[name] for name in names if env.get(name) and "@" not in env[name]}


_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(kw_only=True)
class ImageStore:
    """The images of one engine. `say` gets lines for people: what is built, how big it is, how far it is."""

    engine: DockerImages
    cache: Path
    env: Mapping[str, str] = field(default_factory=dict)
    say: Say = quiet
    _ca: bytes | None = None
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _registry: bool | None = None

    @property
    def ca(self) -> bytes:
        """The trust that goes into recipes made for this store."""
        if self._ca is None:
            self._ca = host_trust(self.env)
        return self._ca

    def ensure(self, recipe: Recipe) -> ImageRef:
        """The image of this recipe, made if need be. Errors: `SandboxFailure`."""
        if (found := self.engine.find(recipe.tag)) is None:
            with self._locked(recipe.tag):
                if self.engine.find(recipe.tag) is None:
                    self._make(recipe)
            found = self.engine.find(recipe.tag)
        if found is None:
            raise ImageMissing(recipe.tag, "it was built, and then somebody removed it")
        if recipe.latest not in found.tags:
            self.engine.name(found.id, recipe.latest)
        return ImageRef(name=recipe.tag, id=found.id, size=found.size)

    def ensure_all(self, wanted: Sequence[Recipe]) -> list[ImageRef]:
        """These images, made side by side where they do not depend on each other."""
        if len(wanted) < 2:
            return [self.ensure(recipe) for recipe in wanted]
        with ThreadPoolExecutor(max_workers=4, thread_name_prefix="images") as pool:
            return list(pool.map(self.ensure, wanted))

    def ensure_custom(self, reference: str) -> ImageInfo:
        """An image that the module names: what the engine has, else what its registry has."""
        found = self.engine.find(reference)
        if found is None:
            self.say(f"images: pulling {reference}")
            try:
                self.engine.pull(reference, self._prefixed(reference))
            except (StepFailed, SandboxFailure) as error:
                raise ImageMissing(reference, str(error), remedy=f"docker pull {reference}") from error
            found = self.engine.find(reference)
        if found is None:
            raise ImageMissing(reference)
        return found

    def ensure_bridge(self) -> BridgeRef:
        """The shared volume with the bridge, filled and checked once per volume and machine."""
        image = self.ensure(recipes.bridge())
        stamp = self.cache / "bridge" / f"{image.id.removeprefix('sha256:')}.json"
        known = _read_stamp(stamp)
        if known and self.engine.volume_created(known["volume"]) == known["created"]:
            return BridgeRef(volume=known["volume"], sha256=known["sha256"])
        with self._locked("bridge-volume"):
            digest = hashlib.sha256(self.engine.read(image.id, BRIDGE)).hexdigest()
            volume = f"mlld-bridge-{digest[:12]}"
            self.engine.fill_volume(volume, image.id, str(Path(BRIDGE).parent), {ASSET: "bridge"})
            self.check_bridge(volume, image, digest)
            created = self.engine.volume_created(volume)
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.write_text(json.dumps({"volume": volume, "sha256": digest, "created": created}))
        return BridgeRef(volume=volume, sha256=digest)

    def ours(self) -> list[ImageInfo]:
        """The images that we made, newest first."""
        return self.engine.labelled(f"{ASSET}=image")

    def unneeded(self, keep: Sequence[Recipe]) -> list[str]:
        """Tags of the images that we made and that no recipe of `keep` needs."""
        kept = {step.tag for recipe in keep for step in recipe.lineage()}
        kept |= {recipes.unpacked_tag(recipe.lineage()[0]) for recipe in keep}
        names = {step.latest for recipe in keep for step in recipe.lineage()}
        return [tag for image in self.ours() for tag in image.tags if tag not in kept | names]

    def prune(self, keep: Sequence[Recipe]) -> list[str]:
        """Removes what is not needed and not in use; returns the tags."""
        return [tag for tag in self.unneeded(keep) if self.engine.remove(tag)]

    # ------------------------------------------------------------------------------------------------------- making

    def _make(self, recipe: Recipe) -> None:
        start, install = self._start(recipe)
        begun = time.monotonic()
        size = f", about {recipe.size} MB" if recipe.size else ""
        packages = f" with {', '.join(recipe.packages)}" if recipe.packages else ""
        self.say(f"images: building {recipe.name}{packages}{size}")
        args = _network_settings(self.env)
        try:
            context = recipes.context(recipe, start=start, install=install, arguments=args)
            self.engine.build(context, recipe.tag, self._prefixed(recipe.name), buildargs=args)
        except StepFailed as failure:
            raise explained(recipe, failure) from failure
        found = self.engine.find(recipe.tag)
        self.say(
            f"images: {recipe.name} is ready, {(found.size if found else 0) / 1e6:.0f} MB, {time.monotonic() - begun:.1f} s"
        )

    def _start(self, recipe: Recipe) -> tuple[str, Sequence[str]]:
        """What to build on: the parent; for a root Debian's own image where a registry has it, else unpacked packages."""
        if recipe.parent is not None:
            return self.ensure(recipe.parent).name, ()
        tag = recipes.unpacked_tag(recipe)
        if self.engine.find(tag) is not None:
            return tag, ()
        pinned = str(recipes.pins()["debian"]["image"])
        if self.engine.find(pinned) is not None or self._can_pull(pinned):
            return pinned, recipe.debian
        self._unpack(recipe, tag)
        return tag, ()

    def _can_pull(self, pinned: str) -> bool:
        with self._locked("registry"):
            if self._registry is None:
                self._registry = self.engine.reachable(pinned, recipes.pins()["debian"]["registry_timeout"])
                if self._registry:
                    self.engine.pull(pinned, self._prefixed("debian"))
                else:
                    self.say("images: no registry answers for Debian's image; its packages are unpacked instead")
            return self._registry

    def _unpack(self, recipe: Recipe, tag: str) -> None:
        if shutil.which("mmdebstrap") is None:
            raise ImageMissing(
                str(recipes.pins()["debian"]["image"]),
                "no registry answers, and mmdebstrap, which could make it from Debian packages, is not installed",
            )
        suite = recipes.pins()["debian"]["suite"]
        self.say(
            f"images: unpacking {len(recipe.debian)} packages of Debian {suite} and what they need for {recipe.name}"
        )
        hook = f"sh {recipes.IMAGES / 'base/unpacked.sh'}"
        include = f"--include={','.join(recipe.debian)}"
        command = ["mmdebstrap", "--variant=extract", include, f'--extract-hook={hook} "$1"', suite, "-"]
        said: list[str] = []
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            listener = threading.Thread(target=self._listen, args=(process.stderr, said, recipe.name), daemon=True)
            listener.start()
            try:
                self.engine.load_root(process.stdout, tag, [f"LABEL {ASSET}=image {recipes.RECIPE}=unpacked"])
            finally:
                process.stdout.close()
                code = process.wait()
                listener.join()
        if code != 0:
            self.engine.remove(tag)
            raise explained(recipe, StepFailed(f"mmdebstrap ended with {code}", said))

    def _listen(self, stream: IO[bytes], said: list[str], name: str) -> None:
        for raw in stream:
            said.append(line := raw.decode(errors="replace").rstrip())
            if line.startswith(("I: downloading", "I: extracting", "I: creating")):
                self.say(f"images: {name}: {line.removeprefix('I: ')}")

    def check_bridge(self, volume: str, image: ImageRef, digest: str) -> None:
        """A volume that was there already may hold anything: what is in it must be what is in the image."""
        found = hashlib.sha256(self.engine.read_volume(volume, image.id, BRIDGE)).hexdigest()
        if found != digest:
            raise BuildFailed(f"the volume {volume} does not hold our bridge", remedy=f"docker volume rm {volume}")

    def _prefixed(self, name: str) -> Say:
        def listener(line: str) -> None:
            if shown := _progress(line):
                self.say(f"images: {name}: {shown}")

        return listener

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Between threads, and between processes of this user."""
        with self._guard:
            lock = self._locks.setdefault(name, threading.Lock())
        folder = self.cache / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with lock, (folder / re.sub(r"[^a-z0-9.-]", "_", name)).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def explained(recipe: Recipe, failure: StepFailed) -> SandboxFailure:
    """Why a build failed, in the words of whoever failed: pip, npm, apt."""
    text = "\n".join(failure.log)
    for ecosystem, pattern in _MISSING:
        if (match := pattern.search(text)) is not None:
            said = [_shortened(line) for line in text.splitlines() if _says_error(line)]
            return PackageMissing(ecosystem, match.group(1), "\n".join([*said[:6], _MISSING_NOTES.get(ecosystem, "")]))
    ours = [line.removeprefix("mlld: ") for line in text.splitlines() if line.startswith("mlld: ")]
    if ours:
        return BuildFailed(ours[-1], remedy="correct the server in @mcpConfig")
    tail = "\n".join(
        line for line in text.splitlines() if not line.startswith((" --->", "Step ", "Removing intermediate"))
    )
    return BuildFailed(
        f"the image {recipe.name} could not be built: {failure.message}",
        detail=tail[-3000:],
        remedy="./dev doctor checks the network, the trust in certificates and the disk",
    )


_MISSING = (
    ("PyPI", re.compile(r"No matching distribution found for ([^\s(]+)")),
    ("npm", re.compile(r"npm (?:error|ERR!) 404\s+'?([^\s']+?)@[^@\s']*'? is not in")),
    ("npm", re.compile(r"npm (?:error|ERR!) notarget No matching version found for (\S+?)\.?\s")),
    ("Debian", re.compile(r"Unable to locate package (\S+)")),
)
_MISSING_NOTES = {
    "PyPI": "only wheels are installed: building from source would run the package's code outside of the fence",
    "Debian": "a command that another package brings: name the package (`needs { cmd: [PACKAGE] }`)",
}
_NOISE = re.compile(
    r"npm (?:error|ERR!)\s*(code \S+|A complete log.*|404|404 Note that.*|404 tarball, folder.*)?$"
    r"|E: (apt download|mmdebstrap) failed"
)


def _says_error(line: str) -> bool:
    return line.startswith(("ERROR", "npm error", "npm ERR!", "E:")) and not _NOISE.match(line)


def _shortened(line: str, limit: int = 300) -> str:
    return line if len(line) <= limit else f"{line[: limit // 3]} … {line[-limit * 2 // 3 :]}"


def _progress(line: str) -> str:
    """What of a builder's output says how far it is: steps that take time, and the progress of a pull."""
    if line.startswith(("pulling ", "Status:")):
        return line
    step = _STEP.match(line)
    return f"step {step[1]} of {step[2]}: {_shortened(' '.join(json.loads(step[3])), 80)}" if step else ""


_STEP = re.compile(r"Step (\d+)/(\d+) : RUN (\[.*\])")


def _read_stamp(path: Path) -> dict[str, str] | None:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None
