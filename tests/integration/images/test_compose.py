"""A plan under compose: the agent's answer and exit code, the flags of a run, the secrets, and the end of everything."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from interpreter.declarations import (
    AuthDecl,
    Authorization,
    EnvironmentSpec,
    Files,
    HostRule,
    McpConfig,
    Needs,
    Network,
    PathRule,
    Place,
    Profile,
    ProfileChoice,
    ServerSpec,
)
from runner import recipes
from runner.backends.docker_create import container_body
from runner.errors import Unsupported
from runner.handover import Handover
from runner.images import ImageStore
from runner.images_run import images_for
from runner.plan import SandboxPlan
from runner.planner import plan
from runner.planner_options import PlanOptions
from runner.report_compose import TOKEN_DEFAULT, ComposeOptions, compose_text
from runner.survey import survey
from tests.support import demo_compose
from tests.support.composes import Project
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.engine

PLACE = Place(file="index.mld", line=1, column=1)
SECCOMP = recipes.PROJECT / "images/base/seccomp.json"

# A server that tells what it sees: a file of the workspace, and the length of its secret.
SERVER = r"""
import json, os, sys
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m: continue
    if m["method"] == "initialize":
        r = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "t", "version": "1"}}
    elif m["method"] == "tools/list":
        r = {"tools": [{"name": "look", "description": "look", "inputSchema": {"type": "object"}}]}
    elif m["method"] == "tools/call":
        seen = open("/workspace/notes.txt").read().strip() + f" / {len(os.environ.get('KEY', ''))} $PATH ${{x}}"
        r = {"content": [{"type": "text", "text": seen}]}
    else:
        r = {}
    print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": r}), flush=True)
"""


def spec(*, network: bool = False, secret: bool = False) -> EnvironmentSpec:
    server = ServerSpec(
        name="looker", source="command", target="python3", args=("-c", SERVER), place=PLACE,
        files=Files(read=(PathRule(path="notes.txt", place=PLACE),)), auth=("key",) if secret else (),
        network=Network(allow=(HostRule(host="example.com", place=PLACE),)) if network else Network(),
    )  # fmt: skip
    profile = Profile(name="p", requires=Needs(filesystem=True, network=network))
    return EnvironmentSpec(
        name="@local/t",
        profile=ProfileChoice(profile=profile, reason="first permitted"),
        grants={"filesystem": PLACE, **({"network": PLACE} if network else {})},
        mcp=McpConfig(servers=(server,)),
        auth={"key": AuthDecl(name="key", variable="KEY", source="env:KEY", place=PLACE)} if secret else {},
    )


def planned(store: ImageStore, folder: Path, declared: EnvironmentSpec) -> SandboxPlan:
    (folder / "notes.txt").write_text("a note\n")
    (folder / "notes.txt").chmod(0o644)
    folder.chmod(0o755)
    facts = survey(declared, workspace=folder, home=Path("/root"))
    return plan(declared, PlanOptions(run="compose", images=images_for(store, declared), host=facts))


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seen by another user in the containers, so every folder above it must be open."""
    made = tmp_path_factory.mktemp("compose")
    for parent in (made.parent, made.parent.parent):
        parent.chmod(0o755)
    return made


def project(engine: docker.DockerClient, folder: Path, made: SandboxPlan, prompt: str, **env: str) -> Project:
    name = f"mlld-test-{time.time_ns()}"
    options = ComposeOptions(
        agent=("scripted",), bridge_image=recipes.bridge().tag, seccomp=str(SECCOMP), name=name, prompt="say default"
    )
    (folder / "compose.yaml").write_text(compose_text(made, Handover(token=TOKEN_DEFAULT, secret_files=True), options))
    return Project(engine, folder, name, {"MLLD_PROMPT": prompt, **env})


def test_the_answer_and_the_exit_code_are_the_agents(
    engine: docker.DockerClient, store: ImageStore, folder: Path
) -> None:
    made = planned(store, folder, spec())
    with project(engine, folder, made, "call look {}\nsay it's $done\nexit 7") as p:
        done = p.compose("up", "--exit-code-from", "agent")
        answer = p.answer()
        assert done.returncode == 7, done.stdout + done.stderr + p.compose("logs").stdout
        assert "a note / 0 $PATH ${x}" in answer
        assert "it's $done" in answer
        assert "a note / 0 $PATH ${x}" in done.stdout


def test_without_options_it_ends_by_itself_and_everything_with_it(
    engine: docker.DockerClient, store: ImageStore, folder: Path
) -> None:
    made = planned(store, folder, spec())
    with project(engine, folder, made, "call look {}") as p:
        done = p.compose("up", timeout=PATIENCE)
        assert done.returncode == 0
        wait_until(lambda: not [c for c in p.containers().values() if c["State"]["Running"]], "somebody lives on")
        codes = {name: c["State"]["ExitCode"] for name, c in p.containers().items()}
        assert codes == {"agent": 0, "sidecar": 0, "looker": 0, "bridge": 0}


def test_a_sidecar_that_dies_is_no_success(engine: docker.DockerClient, store: ImageStore, folder: Path) -> None:
    made = planned(store, folder, spec())
    with project(engine, folder, made, "call look {}\nsleep 600") as p:
        assert p.compose("up", "--detach").returncode == 0
        wait_until(lambda: "a note" in p.answer())
        engine.containers.get(p.containers()["sidecar"]["Id"]).kill()
        codes = {
            name: engine.containers.get(c["Id"]).wait(timeout=PATIENCE)["StatusCode"]
            for name, c in p.containers().items()
        }
        assert codes["agent"] == 75
        assert codes["looker"] == 0


def test_secrets_come_as_files_and_are_nowhere_else(
    engine: docker.DockerClient, store: ImageStore, folder: Path
) -> None:
    made = planned(store, folder, spec(secret=True))
    secret = folder / "key"
    secret.write_text("s3cr3t-value\n")
    secret.chmod(0o644)
    with project(engine, folder, made, "call look {}") as p:
        refused = p.compose("config")
        assert refused.returncode != 0
        assert "put the secret key into a file" in refused.stderr
        p.env["KEY_FILE"] = str(secret)
        done = p.compose("up", "--exit-code-from", "agent")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "a note / 12" in p.answer()
        assert "s3cr3t" not in json.dumps(p.containers())
        assert "s3cr3t" not in p.compose("logs").stdout


READ = """
import os, pathlib
from images.sidecar import config
(server,) = (s for s in config.parse(os.environ["MLLD_CONFIG"], secrets=pathlib.Path("/run/secrets")).servers if s.url)
print({name: len(value) for name, value in server.headers.items()})
"""


def test_the_sidecar_reads_the_secrets_of_remote_servers(
    engine: docker.DockerClient, store: ImageStore, folder: Path
) -> None:
    declared = spec(network=True)
    far = ServerSpec(
        name="far", source="url", target="https://example.com/mcp", place=PLACE, auth=("key",),
        authorization=Authorization(grant="bearer", bearer="key"),
        network=Network(allow=(HostRule(host="example.com", place=PLACE),)),
    )  # fmt: skip
    declared = replace(
        declared,
        mcp=McpConfig(servers=(*declared.mcp.servers, far)),
        auth={"key": AuthDecl(name="key", variable="KEY", source="env:KEY", place=PLACE)},
    )
    secret = folder / "key"
    secret.write_text("s3cr3t-value\n")
    secret.chmod(0o644)
    with project(engine, folder, planned(store, folder, declared), "say hello", KEY_FILE=str(secret)) as p:
        assert p.compose("create").returncode == 0
        seen = p.containers()
        assert "s3cr3t" not in json.dumps(seen) + (folder / "compose.yaml").read_text()
        mounted = {n: [m for m in c["Mounts"] if m["Destination"] == "/run/secrets/key"] for n, c in seen.items()}
        assert [name for name, mounts in mounted.items() if mounts] == ["sidecar"]
        assert mounted["sidecar"][0]["RW"] is False
        done = p.compose("run", "--rm", "--no-deps", "--entrypoint", "python3", "sidecar", "-c", READ)
        assert done.stdout.strip() == "{'Authorization': 19}", done.stderr


# What a compose project has instead of what a run has; the docstring of runner/report_compose.py says why.
REPLACED_TOP = {
    "AttachStdin", "AttachStdout", "AttachStderr", "OpenStdin", "StdinOnce", "Env", "Cmd", "Labels", "Entrypoint",
    "Image", "Volumes", "ArgsEscaped", "OnBuild",
}  # fmt: skip
REPLACED_HOST = {
    "AutoRemove",
    "LogConfig",
    "NetworkMode",
    "Mounts",
    "Binds",
    "SecurityOpt",
    "VolumesFrom",
    "ConsoleSize",
}
# Empty in one spelling or the other.
NOTHING = (None, [], {}, "", 0, False)


@pytest.mark.parametrize("network", [False, True], ids=["no network", "network"])
def test_file_and_run_agree_on_every_flag(
    engine: docker.DockerClient, store: ImageStore, folder: Path, network: bool
) -> None:
    made = planned(store, folder, spec(network=network))
    with project(engine, folder, made, "say hello") as p:
        created = p.compose("create")
        assert created.returncode == 0, created.stderr
        seen = p.containers()
        for container in made.containers:
            body = container_body(made, container, labels={"dev.mlld.test": "compose"})
            body["HostConfig"]["NetworkMode"] = "none"  # the network of the run is not there
            body["HostConfig"]["Mounts"] = [m for m in body["HostConfig"]["Mounts"] if m["Type"] == "bind"]
            reference = _create(engine, body)
            try:
                ours = engine.api.inspect_container(reference)
            finally:
                engine.api.remove_container(reference, force=True)
            _same(ours["Config"], seen[container.member]["Config"], REPLACED_TOP, container.member)
            _same(ours["HostConfig"], seen[container.member]["HostConfig"], REPLACED_HOST, container.member)
            _same_security(ours, seen[container.member])
            _same_mounts(container_body(made, container, labels={}), seen[container.member])
            assert (seen[container.member]["HostConfig"]["NetworkMode"] == "none") is (container.network == "none")


def _create(engine: docker.DockerClient, body: dict[str, Any]) -> str:
    api = engine.api
    return str(api._result(api._post_json(api._url("/containers/create"), data=body), True)["Id"])


def _same(ours: dict[str, Any], theirs: dict[str, Any], replaced: set[str], member: str) -> None:
    for key in ours.keys() | theirs.keys():
        if key in replaced:
            continue
        one, two = ours.get(key), theirs.get(key)
        if key == "Ulimits":
            one, two = (sorted(map(json.dumps, value)) for value in (one, two))
        if key == "Healthcheck":
            one, two = ({"Test": value["Test"]} for value in (one, two))
        assert one == two or (one in NOTHING and two in NOTHING), (
            f"{member}: {key} is {one!r} in a run, {two!r} in compose"
        )


def _same_security(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    def normal(options: list[str]) -> list[Any]:
        return sorted(
            json.dumps(json.loads(o.removeprefix("seccomp=")), sort_keys=True) if o.startswith("seccomp=") else o
            for o in options
        )

    one, two = (normal(c["HostConfig"]["SecurityOpt"]) for c in (ours, theirs))
    assert one == two


def _same_mounts(body: dict[str, Any], theirs: dict[str, Any]) -> None:
    one = {
        (m["Target"], m["Type"], m["ReadOnly"], m["Source"] if m["Type"] == "bind" else "")
        for m in body["HostConfig"]["Mounts"]
    }
    two = {
        (m["Destination"], m["Type"], not m["RW"], m["Source"] if m["Type"] == "bind" else "") for m in theirs["Mounts"]
    }
    assert one == two


def test_the_committed_seccomp_profile_is_the_one_of_runs() -> None:
    """To renew it: ./dev compose-file"""
    assert SECCOMP.read_text() == demo_compose.seccomp()


@pytest.fixture(scope="module")
def rendered() -> str:
    """The compose file of the demo as it should be; rendering it makes the images."""
    return demo_compose.demo_compose()


def test_the_committed_file_is_what_the_demos_plan_becomes(rendered: str) -> None:
    """To renew it: ./dev compose-file"""
    assert (recipes.PROJECT / "compose.yaml").read_text() == rendered, "renew it: ./dev compose-file"


@pytest.mark.usefixtures("rendered")
def test_the_committed_file_runs_the_demo(engine: docker.DockerClient) -> None:
    """As a newcomer types it, in the repository."""
    prompt = 'call get_ticket {"id": "T-3"}\ncall close_ticket {"id": "T-3"}\nsay over\nexit 5'
    with Project(engine, recipes.PROJECT, f"mlld-test-{time.time_ns()}", {"MLLD_PROMPT": prompt}) as p:
        done = p.compose("up", "--exit-code-from", "agent")
        assert done.returncode == 5, done.stdout + done.stderr + p.compose("logs").stdout
        answer = p.answer()
        assert "Draw a run as one static page" in answer
        assert "Unknown tool: close_ticket" in answer
        assert "over" in answer
        assert answer in "".join(line.partition("| ")[2] + "\n" for line in done.stdout.splitlines() if "| " in line)
        networks = [list(c["NetworkSettings"]["Networks"]) for c in p.containers().values()]
        assert networks == [["none"]] * 5, "readonly: no container has a network"


def test_what_compose_cannot_carry_is_refused(store: ImageStore, folder: Path) -> None:
    made = planned(store, folder, spec())
    options = ComposeOptions(agent=("scripted",), bridge_image="x", seccomp="x")

    with pytest.raises(Unsupported, match="after a time"):
        compose_text(replace(made, timeout_seconds=3.0), Handover(token=TOKEN_DEFAULT), options)
