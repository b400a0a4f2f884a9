"""Every way in which a run can fail, each with its words, its exit code and the next step.

    RunnerError
    ├── UsageFailure            2   the command line itself
    │   ├── UnknownName             a name that is not there; the nearest one is offered
    │   ├── BadName                 refused before the file system is touched
    │   ├── EmptyPrompt
    │   ├── UnknownRun · AmbiguousRun
    │   └── BadOption
    ├── CheckFailure            3   found before anything started
    │   └── NoSpawn · UnknownAgent · Unsupported · TelemetryMissing
    ├── Denied                  4   policy or a guard said no
    ├── SandboxFailure          5   the sandbox could not be made
    │   ├── EngineFailure           EngineMissing · EngineStopped · EngineNotPermitted · EngineTooOld · NoAddressPool
    │   ├── NoSpace                 the engine's disk, or ours
    │   ├── ImageMissing · PackageMissing · BuildFailed
    │   ├── PlanViolated            an invariant of the plan does not hold: nothing was started
    │   ├── FenceBroken             the self-test saw what must not be there
    │   ├── ServerFailed · ServerSilent · ToolUnknown
    │   ├── SecretMissing
    │   └── RecordFailed            the record cannot be written, so the run stops
    ├── LimitReached            6   TimedOut · OutOfMemory
    └── Interrupted           130

A class owns its message, so that one failure reads the same wherever it is met. `code` is stable and is what
`mlld sandbox explain` takes. No error ever exits 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from runner.spelling import listed, nearest


class RunnerError(Exception):
    """Base of all: what happened (`message`), where or by what (`detail`), and what to do (`remedy`)."""

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1
    default_remedy: ClassVar[str] = ""

    def __init__(self, message: str, *, detail: str = "", remedy: str | None = None, place: object = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail.rstrip()
        self.remedy = self.default_remedy if remedy is None else remedy
        self.place = None if place is None else str(place)

    def to_json(self) -> dict[str, object]:
        """The same diagnostic as an object (`--json`)."""
        fields = {
            "code": self.code,
            "message": self.message,
            "detail": self.detail,
            "next": self.remedy,
            "at": self.place,
        }
        return {key: value for key, value in fields.items() if value} | {"exit": self.exit_code}


# ---------------------------------------------------------------------------------------------------------- 2: usage


class UsageFailure(RunnerError):
    """The command line asks for something that cannot be meant."""

    code = "usage"
    exit_code = 2
    default_remedy = "mlld --help"


class UnknownName(UsageFailure):
    """A name that is not there."""

    code = "unknown-name"

    def __init__(self, kind: str, name: str, known: Iterable[str], *, remedy: str | None = None) -> None:
        known = list(known)
        like = nearest(name, known)
        guess = f"did you mean {like!r}?" if like else f"known: {listed(known)}"
        super().__init__(f"there is no {kind} {name!r}", detail=guess, remedy=remedy)


class BadName(UsageFailure):
    """A name with characters that a name cannot have."""

    code = "bad-name"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} is not a name of an environment",
            detail="a name is made of letters, digits, '-' and '_'",
            remedy="give @local/NAME, or a path that starts with ./ or /",
        )


class EmptyPrompt(UsageFailure):
    """A prompt without a word in it."""

    code = "empty-prompt"

    def __init__(self) -> None:
        super().__init__(
            "the prompt is empty",
            remedy='mlld sandbox spawn "what the agent should do" --env REF   (or `-` to read it from stdin)',
        )


class UnknownRun(UsageFailure):
    """No record goes by that name."""

    code = "unknown-run"

    def __init__(self, name: str, known: Iterable[str] = (), *, running: Iterable[str] | None = None) -> None:
        """`running`: the only ones that count, where a run that has ended is of no use."""
        if running is not None:
            detail = running_now(running)
            super().__init__(f"there is no run {name!r} that goes on", detail=detail, remedy="mlld sandbox ps")
            return
        known = list(known)
        like = nearest(name, known)
        if not known:
            message = (
                "nothing has been run yet" if name == "last" else f"there is no run {name!r}: nothing has been run yet"
            )
            super().__init__(message, remedy='mlld sandbox spawn "…" --env REF')
            return
        detail = f"did you mean {like!r}?" if like else f"the latest: {listed(known, limit=5)}"
        super().__init__(f"there is no run {name!r}", detail=detail, remedy="mlld sandbox ps --all")


def running_now(names: Iterable[str]) -> str:
    """The runs that go on, for the detail of an error."""
    names = list(names)
    return f"running: {listed(names, limit=20)}" if names else "nothing is running"


class AmbiguousRun(UsageFailure):
    """A prefix that fits several runs."""

    code = "ambiguous-run"

    def __init__(self, name: str, fits: Sequence[str]) -> None:
        super().__init__(
            f"{name!r} fits {len(fits)} runs", detail=listed(fits), remedy="give more letters of one of them"
        )


class BadOption(UsageFailure):
    """An option whose value cannot be used."""

    code = "bad-option"


# ---------------------------------------------------------------------------------------------------------- 3: check


class CheckFailure(RunnerError):
    """Found by looking: nothing was started."""

    code = "check"
    exit_code = 3
    default_remedy = "mlld check FILE"


class NoSpawn(CheckFailure):
    """An environment without the function that the command calls."""

    code = "no-spawn"

    def __init__(self, ref: str, function: str = "spawn") -> None:
        super().__init__(
            f"{ref} exports no @{function}",
            remedy=f"export a function @{function}(prompt) from it, or name an agent: --agent scripted",
        )


class UnknownAgent(CheckFailure):
    """An agent without an entry in the adapter table."""

    code = "unknown-agent"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        known = list(known)
        like = nearest(name, known)
        super().__init__(
            f"there is no agent {name!r}",
            detail=f"did you mean {like!r}?" if like else f"known: {listed(known)}",
            remedy="name one of these, or let the module's @spawn run a command of its own",
        )


class Unsupported(CheckFailure):
    """Something declared that this provider, engine or format cannot enforce: refused, never ignored."""

    code = "unsupported"


class TelemetryMissing(CheckFailure):
    """An endpoint for telemetry is set, and the packages that would speak to it are not installed."""

    code = "telemetry-missing"

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(
            f"OTEL_EXPORTER_OTLP_ENDPOINT asks for telemetry, and {' and '.join(missing)} cannot be imported",
            remedy="pip install 'mlld-sandbox[otel]', or OTEL_SDK_DISABLED=true to export nothing",
        )


# ----------------------------------------------------------------------------------------------------------- 4: denied


class Denied(RunnerError):
    """Policy or a guard said no."""

    code = "denied"
    exit_code = 4

    def __init__(
        self, message: str, *, rule: str = "", detail: str = "", remedy: str | None = None, place: object = None
    ) -> None:
        super().__init__(message, detail=detail or (f"rule: {rule}" if rule else ""), remedy=remedy, place=place)
        self.rule = rule


# ---------------------------------------------------------------------------------------------------------- 5: sandbox


class SandboxFailure(RunnerError):
    """The sandbox could not be made, or fell over."""

    code = "sandbox"
    exit_code = 5
    default_remedy = "mlld doctor"


class EngineFailure(SandboxFailure):
    """Something is wrong with the Docker engine."""

    code = "engine"


class EngineMissing(EngineFailure):
    """No engine is installed."""

    code = "engine-missing"

    def __init__(self, detail: str = "") -> None:
        super().__init__("there is no Docker engine on this machine", detail=detail, remedy="mlld doctor --fix")


class EngineStopped(EngineFailure):
    """An engine is installed and does not answer."""

    code = "engine-stopped"

    def __init__(self, address: str = "", detail: str = "") -> None:
        at = f" at {address}" if address else ""
        super().__init__(f"the Docker engine does not answer{at}", detail=detail, remedy="mlld doctor --fix")


class EngineNotPermitted(EngineFailure):
    """The engine's socket is not ours to open."""

    code = "engine-not-permitted"

    def __init__(self, address: str = "", detail: str = "") -> None:
        super().__init__(
            f"this user may not talk to the Docker engine{f' at {address}' if address else ''}",
            detail=detail,
            remedy='sudo usermod -aG docker "$USER", then log in again; or use a rootless engine (DOCKER_HOST)',
        )


class EngineTooOld(EngineFailure):
    """The engine lacks what the fence needs."""

    code = "engine-too-old"

    def __init__(self, version: str, wanted: str) -> None:
        super().__init__(
            f"the Docker engine is {version}; {wanted} or newer is needed", remedy="upgrade it, then: mlld doctor"
        )


class NoAddressPool(EngineFailure):
    """The engine has no subnet left for a new network."""

    code = "no-address-pool"

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            "the Docker engine has no address range left for another network",
            detail=detail,
            remedy="mlld sandbox gc; or `docker network prune`; or widen default-address-pools in daemon.json",
        )


class NoSpace(SandboxFailure):
    """A disk is full."""

    code = "disk-full"

    def __init__(self, where: str, detail: str = "") -> None:
        super().__init__(
            f"no space is left on {where}",
            detail=detail,
            remedy="mlld sandbox images prune; mlld sandbox gc; docker system df shows the rest",
        )


class ImageMissing(SandboxFailure):
    """An image that is neither here nor to be had."""

    code = "image-missing"

    def __init__(self, image: str, detail: str = "", remedy: str = "mlld sandbox images build") -> None:
        super().__init__(f"the image {image} is not here and cannot be had", detail=detail, remedy=remedy)


class PackageMissing(SandboxFailure):
    """A package that its registry does not have."""

    code = "package-missing"

    def __init__(self, ecosystem: str, package: str, detail: str = "", *, place: object = None) -> None:
        super().__init__(
            f"there is no {ecosystem} package {package!r}",
            detail=detail,
            remedy="correct its name or version in the module",
            place=place,
        )


class BuildFailed(SandboxFailure):
    """An image that could not be built; `detail` has the end of its log."""

    code = "build-failed"


class PlanViolated(SandboxFailure):
    """The plan breaks an invariant. This is a defect of ours or an attack: nothing was started."""

    code = "plan-violated"

    def __init__(self, violations: Sequence[str]) -> None:
        super().__init__(
            f"the plan breaks {len(violations)} invariant{'s' * (len(violations) != 1)}; nothing was started",
            detail="\n".join(violations),
            remedy="mlld sandbox plan --env REF shows it; please report it (SECURITY.md)",
        )


class FenceBroken(SandboxFailure):
    """The self-test of a seat saw what must not be there."""

    code = "fence-broken"

    def __init__(self, member: str, saw: Sequence[str]) -> None:
        super().__init__(
            f"the fence around {member} failed its self-test; nothing of yours was run in it",
            detail="\n".join(saw),
            remedy="mlld doctor",
        )


class ServerFailed(SandboxFailure):
    """An MCP server that ended, or answered with an error, before it was ready; its stderr is shown."""

    code = "server-failed"

    def __init__(self, server: str, reason: str, stderr: str = "", *, place: object = None) -> None:
        super().__init__(
            f"the MCP server {server!r} failed to start: {reason}",
            detail=f"its last words on stderr:\n{stderr.rstrip()}" if stderr.strip() else "it wrote nothing on stderr",
            remedy="mlld sandbox logs last --of " + server,
            place=place,
        )


class ServerSilent(SandboxFailure):
    """An MCP server that never answered `initialize`."""

    code = "server-silent"

    def __init__(self, server: str, seconds: float, stderr: str = "", *, place: object = None) -> None:
        super().__init__(
            f"the MCP server {server!r} did not answer within {seconds:g} s",
            detail=f"its last words on stderr:\n{stderr.rstrip()}" if stderr.strip() else "it wrote nothing on stderr",
            remedy="raise lifecycle.startupTimeoutMs in @mcpConfig, or try the server by hand: mlld sandbox shell",
            place=place,
        )


class ToolUnknown(SandboxFailure):
    """A tool filter that names what the server does not have."""

    code = "tool-unknown"

    def __init__(self, server: str, tool: str, has: Iterable[str], *, place: object = None) -> None:
        has = list(has)
        like = nearest(tool, has)
        guess = f"did you mean {like!r}? " if like else ""
        super().__init__(
            f"the MCP server {server!r} has no tool {tool!r}",
            detail=f"{guess}it has: {listed(has, limit=40)}",
            remedy="correct `tools:` of that server in @mcpConfig",
            place=place,
        )


class ToolChanged(SandboxFailure):
    """A tool, or a server (no `tool`), that is not the one which somebody looked at and locked."""

    code = "tool-changed"

    def __init__(self, server: str, tool: str, reason: str, diff: str, *, place: object = None) -> None:
        super().__init__(
            f"{f'the tool {tool!r}' if tool else 'what is said in `instructions`'} of the MCP server {server!r} "
            f"was not accepted: {reason}",
            detail=diff,
            remedy="read the change; if it is meant, accept it: mlld sandbox tools --env REF --lock",
            place=place,
        )


class SecretMissing(SandboxFailure):
    """A secret that is not where its `auth` declaration says."""

    code = "secret-missing"

    def __init__(self, name: str, looked: str, *, place: object = None) -> None:
        super().__init__(
            f"the secret auth:{name} is not to be found",
            detail=looked,
            remedy="set it there, or point the auth declaration elsewhere",
            place=place,
        )


class RecordFailed(SandboxFailure):
    """The record of the run cannot be written. A run without a record is not a run: it stops."""

    code = "record-failed"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"the record of this run cannot be written: {reason}",
            detail=path,
            remedy="free some space there, or set XDG_DATA_HOME to another disk",
        )


# ------------------------------------------------------------------------------------------------------ 6 and 130: ends


class LimitReached(RunnerError):
    """A limit of the plan stopped the run."""

    code = "limit"
    exit_code = 6


class TimedOut(LimitReached):
    """The agent, or a script, used up its time."""

    code = "timed-out"

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(
            f"{what} took longer than {seconds:g} s and was stopped",
            remedy="--timeout, or limits.timeout in the module, gives it more",
        )


class OutOfMemory(LimitReached):
    """The memory limit killed a process."""

    code = "out-of-memory"

    def __init__(self, member: str, limit_bytes: int | None = None) -> None:
        limit = f" of {limit_bytes // 2**20} MiB" if limit_bytes else ""
        super().__init__(
            f"{member} went over its memory limit{limit} and was killed",
            remedy="limits.mem in the module gives it more",
        )


class Interrupted(RunnerError):
    """The user or the system said stop."""

    code = "interrupted"
    exit_code = 130

    def __init__(self, signal_name: str = "SIGINT") -> None:
        super().__init__(f"stopped by {signal_name}")
