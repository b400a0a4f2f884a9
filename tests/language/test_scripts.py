"""The language by example: scripts with their expectations in place.

A file in `scripts/` holds cases, each beginning with a line `>> case: name`. What a case prints is written where it prints it:

    show "a"            >> expect: a           one line of the document
    >> expect: b                               the next one
    >> error: phrase                           the script fails, and the message holds this
    >> at: 3:6                                 line (counted from the case's first) and column of the diagnostic
    >> hint: phrase                            its hint holds this
    >> exit: 4                                 its exit code
    >> stderr: phrase                          something said on stderr
    >> file: name | text                       a file beside the script, `\\n` for line ends

Scripts named `*.md` are documents. Expectations of output are compared as a whole: nothing else may be printed, blank lines aside.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from interpreter.errors import MlldError
from interpreter.evaluate import RunOptions, run_script
from interpreter.ports import Ports
from interpreter.source import Source
from runner.host.commands import HostCommands
from runner.host.engine import QuickJS
from runner.host.files import HostFiles

SCRIPTS = Path(__file__).parent / "scripts"
MARK = re.compile(r">> (expect|error|at|hint|exit|stderr|file): ?(.*)$")


@dataclass
class Case:
    name: str
    suffix: str
    text: str
    wanted: dict[str, list[str]] = field(default_factory=dict)

    def one(self, key: str) -> str | None:
        found = self.wanted.get(key)
        return found[0] if found else None


class Clock:
    def now(self) -> float:
        return 1_700_000_000.0

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.05))


class Output:
    def __init__(self) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self.events: list[object] = []

    def document(self, text: str) -> None:
        self.out.append(text)

    def stdout(self, text: str) -> None:
        self.out.append(text)

    def stderr(self, text: str) -> None:
        self.err.append(text)

    def event(self, event: object) -> None:
        self.events.append(event)


class Vault:
    def read(self, source: str) -> str:
        if source == "env:GH_TOKEN":
            return "gh-secret-value"
        raise LookupError(f"{source} is not set")


def cases() -> list[Case]:
    found = []
    for path in sorted(SCRIPTS.iterdir()):
        for block in re.split(r"^>> case: ", path.read_text(), flags=re.M)[1:]:
            name, _, body = block.partition("\n")
            case = Case(f"{path.name}: {name.strip()}", path.suffix, "")
            lines = []
            for line in body.split("\n"):
                match = MARK.search(line)
                if match:
                    case.wanted.setdefault(match.group(1), []).append(match.group(2))
                    line = line[: match.start()].rstrip()
                lines.append(line)
            case.text = "\n".join(lines)
            found.append(case)
    return found


def run(case: Case, tmp_path: Path) -> tuple[str, str, MlldError | None]:
    path = tmp_path / f"script{case.suffix}"
    path.write_text(case.text)
    for entry in case.wanted.get("file", ()):
        name, _, text = entry.partition("|")
        target = tmp_path / name.strip()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.strip().replace("\\n", "\n"))
    output = Output()
    ports = Ports(
        programs=lambda name: shutil.which(name) is not None,
        output=output,
        clock=Clock(),
        files=HostFiles([tmp_path], writable=[tmp_path]),
        commands=HostCommands(env={"PATH": os.environ["PATH"]}, cwd=str(tmp_path)),
        engine=QuickJS,
        secrets=Vault(),
    )
    error = None
    try:
        source = Source(name=path.name, text=case.text)
        config = tmp_path / "mlld-config.json"
        settings = json.loads(config.read_text()) if config.exists() else None
        asyncio.run(run_script(source, path, ports, RunOptions(root=tmp_path, settings=settings)))
    except MlldError as caught:
        error = caught
    return "".join(output.out), "".join(output.err), error


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_script(case: Case, tmp_path: Path) -> None:
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 6000))
    out, err, error = run(case, tmp_path)
    wanted = case.one("error")
    if error is not None and wanted is None:
        pytest.fail(error.render())
    printed = [line for line in out.split("\n") if line.strip()]
    assert printed == [line for line in case.wanted.get("expect", []) if line.strip()]
    for phrase in case.wanted.get("stderr", ()):
        assert phrase in err
    if wanted is not None:
        assert error is not None, f"it should fail with: {wanted}"
        assert wanted in error.render()
        diagnostic = error.diagnostics[0]
        if (place := case.one("at")) is not None:
            assert diagnostic.span is not None
            assert f"{diagnostic.span.line}:{diagnostic.span.column}" == place
        if (hint := case.one("hint")) is not None:
            assert hint in (diagnostic.hint or "")
        if (code := case.one("exit")) is not None:
            assert error.exit_code == int(code)


def test_a_wrong_expectation_is_noticed(tmp_path: Path) -> None:
    case = Case("wrong", ".mld", 'show "a"', {"expect": ["b"]})
    with pytest.raises(AssertionError):
        test_script(case, tmp_path)
