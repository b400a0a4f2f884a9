"""P5: files. Nothing outside of the mounts, nothing through them, and nothing that the host obeys later."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from interpreter.declarations import Files, PathRule
from runner.errors import Unsupported
from runner.plan import AGENT
from runner.sandbox import Sandbox
from tests.support import probes
from tests.support.runs import Runs, environment, python, server

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]
OBEYED = {
    ".git/hooks/pre-commit": "#!/bin/sh\n", ".git/config": "[core]\n", ".mcp.json": "{}", ".claude/settings.json": "{}",
    ".mlld/env/x/index.mld": "", "CLAUDE.md": "be good", ".vscode/tasks.json": "{}",
}  # fmt: skip
ABSENT = [
    ".envrc",
    ".codex/config.toml",
    ".cursor/rules",
    ".idea/workspace.xml",
    "mlld-config.json",
    "mlld-lock.json",
    ".gemini/x",
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workspace(runs: Runs) -> Path:
    (runs.folder / "outside").mkdir(exist_ok=True)
    (runs.folder / "outside" / "secret").write_text("outside")
    (runs.folder / "outside").chmod(0o777)
    made = runs.workspace(
        {"src/main.py": "print(1)", ".env": "TOKEN=hidden", "app/.env.local": "TOKEN=hidden", **OBEYED}
    )
    (made / "away").symlink_to(runs.folder / "outside")
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(runs: Runs, workspace: Path) -> AsyncIterator[Sandbox]:
    """A run that may write its whole workspace."""
    files = Files(read=(PathRule(path="src"),))
    async with runs.sandbox(
        environment(server("a", files=files), grants=("filesystem", "sh")), workspace=workspace
    ) as sandbox:
        yield sandbox


async def test_the_workspace_can_be_written(sandbox: Sandbox, workspace: Path) -> None:
    """The control: what may be done can be done."""
    assert await python(sandbox, probes.program("return open('/workspace/src/new', 'w').write('x')")) == "reached 1"
    assert (workspace / "src" / "new").read_text() == "x"
    made = "import os; os.mkdir('/workspace/deep'); os.rename('/workspace/deep', '/workspace/moved'); print('ok')"
    assert await python(sandbox, made) == "ok"


@pytest.mark.parametrize("how", ["open", "append", "unlink", "rename", "replace", "truncate", "chmod", "link"])
@pytest.mark.parametrize("name", OBEYED)
async def test_cannot_change_what_the_host_obeys(sandbox: Sandbox, workspace: Path, name: str, how: str) -> None:
    path = f"/workspace/{name}"
    code = {
        "open": f"open({path!r}, 'w').write('evil')",
        "append": f"open({path!r}, 'a').write('evil')",
        "unlink": f"os.unlink({path!r})",
        "rename": f"os.rename({path!r}, '/workspace/taken')",
        "replace": f"(open('/workspace/evil', 'w').write('evil'), os.replace('/workspace/evil', {path!r}))",
        "truncate": f"os.truncate({path!r}, 0)",
        "chmod": f"os.chmod({path!r}, 0o777)",
        "link": f"os.link({path!r}, '/workspace/linked')",
    }[how]
    said = await python(sandbox, probes.program(f"return {code}"))
    assert said in ("blocked EROFS", "blocked EBUSY", "blocked EXDEV", "blocked EACCES", "blocked EPERM"), said
    assert (workspace / name).read_text() == OBEYED[name]


@pytest.mark.parametrize("folder", [".git", ".git/hooks", ".mlld", ".claude", ".vscode"])
async def test_cannot_move_away_what_the_host_obeys(sandbox: Sandbox, workspace: Path, folder: str) -> None:
    """A mount point cannot be renamed, but its parent could: `mv .git old; mkdir -p .git/hooks`."""
    path = f"/workspace/{folder}"
    for code in (f"os.rename({path!r}, '/workspace/old')", f"os.rmdir({path!r})", "os.rename('/workspace', '/w')"):
        said = await python(sandbox, probes.program(f"return {code}"))
        assert said in ("blocked EBUSY", "blocked EROFS", "blocked ENOTEMPTY", "blocked EXDEV", "blocked EACCES"), said
    assert (workspace / folder).is_dir()


@pytest.mark.parametrize("name", ABSENT)
async def test_cannot_create_what_the_host_would_obey(sandbox: Sandbox, workspace: Path, name: str) -> None:
    code = probes.program(
        f"os.makedirs(os.path.dirname('/workspace/{name}'), exist_ok=True)\nreturn open('/workspace/{name}', 'w').write('evil')"
    )
    said = await python(sandbox, code)
    found = workspace / name
    assert said in ("blocked EROFS", "reached 4"), said  # a masked file takes bytes and keeps none
    assert not found.exists() or found.read_bytes() == b""
    away = probes.program(f"return os.rename('/workspace/{name.split('/')[0]}', '/workspace/old')")
    assert await python(sandbox, away) == "blocked EBUSY"


@pytest.mark.parametrize("name", [".env", "app/.env.local"])
async def test_cannot_read_secrets_of_the_workspace(sandbox: Sandbox, workspace: Path, name: str) -> None:
    assert (workspace / name).read_text() == "TOKEN=hidden"
    assert await python(sandbox, f"print(repr(open('/workspace/{name}').read()))") == "''"
    assert (await python(sandbox, probes.program(f"return os.unlink('/workspace/{name}')"))) == "blocked EBUSY"


@pytest.mark.parametrize("member", [AGENT, "a"])
@pytest.mark.parametrize(
    "path",
    ["away/secret", "/workspace/../outside/secret", "/proc/1/root/etc/shadow", "/proc/self/root/../outside/secret", "/host",
     "/proc/kcore", "/proc/sysrq-trigger", "/sys/kernel/debug", "/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/kvm"],
)  # fmt: skip
async def test_cannot_follow_a_path_out(sandbox: Sandbox, member: str, path: str) -> None:
    full = path if path.startswith("/") else f"/workspace/{path}"
    said = await python(sandbox, probes.program(f"return open({full!r}, 'rb').read(9)"), member=member)
    assert said.startswith("blocked") or said == "reached b''", said


async def test_cannot_make_a_link_that_leads_out(sandbox: Sandbox, workspace: Path, runs: Runs) -> None:
    """A symbolic link in the workspace is the host's danger when the host follows it; the next run must not."""
    await python(sandbox, "import os; os.symlink('/etc', '/workspace/src/etc'); os.symlink('/', '/workspace/src/root')")
    with pytest.raises(Unsupported, match="leads out of the workspace"):
        runs.plan(environment(files=Files(read=(PathRule(path="src/etc"),))), workspace=workspace)
    (workspace / "hooked").mkdir()
    (workspace / "hooked" / ".git").symlink_to("/etc")
    with pytest.raises(Unsupported, match="symbolic link"):
        runs.plan(environment(grants=("filesystem",)), workspace=workspace / "hooked")


async def test_cannot_see_more_of_the_workspace_than_was_given(sandbox: Sandbox) -> None:
    """The server was given `src` to read, so there is nothing else of the workspace, and nothing to write."""
    assert await python(sandbox, "import os; print(os.listdir('/workspace'))", member="a") == "['src']"
    said = await python(sandbox, probes.program("return open('/workspace/src/new2', 'w')"), member="a")
    assert said == "blocked EROFS"


@pytest.mark.parametrize(
    "path",
    ["/", "/var/run/docker.sock", "~", "~/.ssh", "/proc", "/sys", "/etc", "/dev", "/home", "/root", "/run/containerd"],
)
async def test_cannot_plan_a_mount_of(runs: Runs, path: str) -> None:
    path = path.replace("~", str(Path.home()))
    for files in (Files(read=(PathRule(path=path),)), Files(write=(PathRule(path=path),))):
        with pytest.raises(Unsupported, match=r"fs\.(read|write)\[0\]"):
            runs.plan(environment(files=files, grants=("filesystem",)))


async def test_cannot_plan_a_mount_through_a_link(runs: Runs) -> None:
    workspace = runs.workspace()
    (workspace / "innocent").symlink_to("/var/run")
    with pytest.raises(Unsupported, match="leads out of the workspace"):
        runs.plan(environment(files=Files(read=(PathRule(path="innocent"),))), workspace=workspace)
    with pytest.raises(Unsupported, match="must not be seen"):
        runs.plan(environment(files=Files(read=(PathRule(path=str(workspace / "innocent")),))), workspace=workspace)
