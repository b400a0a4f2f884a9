"""P3: what is declared is what the engine has. Every flag of every container, read back with `inspect`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from interpreter.declarations import AuthDecl, Files, HostRule, Network, PathRule
from interpreter.declarations import Limits as Asked
from runner.backends import docker_seccomp
from runner.plan import AGENT, SIDECAR
from runner.sandbox import Sandbox
from tests.support.runs import Runs, environment, python, server

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]
SEATS = (AGENT, SIDECAR, "a", "b")
SECRET = "s3cret-value-of-this-test"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def full(runs: Runs) -> AsyncIterator[Sandbox]:
    """A run with every grant, two servers, and a secret in one of them."""
    spec = environment(
        server("a", auth=("key",), limits=Asked(memory_bytes=96 << 20, pids=40, cpus=0.5)),
        server("b", files=Files(write=(PathRule(path="data"),))),
        grants=("network", "filesystem", "sh"),
        network=Network(allow=(HostRule(host="api.example.com"),)),
        auth={"key": AuthDecl(name="key", variable="API_KEY", source="env:API_KEY")},
        limits=Asked(memory_bytes=256 << 20),
    )
    workspace = runs.workspace({"data/x": "1", ".env": "TOKEN=1", ".git/hooks/pre-commit": "", ".git/config": ""})
    async with runs.sandbox(spec, workspace=workspace, secrets={"key": SECRET}) as sandbox:
        yield sandbox


def host(runs: Runs, sandbox: Sandbox, member: str) -> dict[str, Any]:
    found: dict[str, Any] = runs.inspect(sandbox, member)["HostConfig"]
    return found


@pytest.mark.parametrize("member", SEATS)
async def test_every_container_is_hardened(runs: Runs, full: Sandbox, member: str) -> None:
    found, effective = runs.inspect(full, member), host(runs, full, member)
    planned = full.plan.container(member)
    assert effective["CapDrop"] == ["ALL"]
    assert not effective["CapAdd"]
    assert effective["Privileged"] is False
    assert effective["ReadonlyRootfs"] is True
    assert "no-new-privileges:true" in effective["SecurityOpt"]
    (seccomp,) = (o.removeprefix("seccomp=") for o in effective["SecurityOpt"] if o.startswith("seccomp="))
    assert json.loads(seccomp) == json.loads(docker_seccomp.profile())
    assert found["Config"]["User"] == "1000:1000"
    assert effective["Memory"] == effective["MemorySwap"] == planned.limits.memory_bytes
    assert effective["NanoCpus"] == int(planned.limits.cpus * 1e9)
    assert effective["PidsLimit"] == planned.limits.pids
    assert effective["ShmSize"] == planned.limits.shm_bytes
    assert {u["Name"]: u["Hard"] for u in effective["Ulimits"]} == {"nofile": planned.limits.open_files, "core": 0}
    assert effective["OomKillDisable"] is False
    assert effective["RestartPolicy"]["Name"] == "no"
    assert effective["AutoRemove"] is True
    assert effective["LogConfig"]["Type"] == "none"
    assert (effective["PidMode"], effective["UTSMode"], effective["UsernsMode"]) == ("", "", "")
    assert effective["IpcMode"] == "private"
    assert effective["CgroupnsMode"] == "private"
    assert not effective["Devices"]
    assert not effective["DeviceRequests"]
    assert not effective["PortBindings"]
    assert effective["PublishAllPorts"] is False
    assert effective["Binds"] is None
    assert not effective["VolumesFrom"]
    assert found["Config"]["Entrypoint"] == [planned.argv[0]]
    assert found["Config"]["Healthcheck"] == {"Test": ["NONE"]}
    assert found["Config"]["StdinOnce"] is True
    assert found["Config"]["Labels"]["dev.mlld.run"] == full.run_id


@pytest.mark.parametrize("member", SEATS)
async def test_only_the_sidecar_has_a_network(runs: Runs, full: Sandbox, member: str) -> None:
    mode = host(runs, full, member)["NetworkMode"]
    networks = runs.inspect(full, member)["NetworkSettings"]["Networks"]
    wanted = full.plan.network_name if member == SIDECAR else "none"
    assert mode == wanted
    assert list(networks) == [wanted]


async def test_the_sidecars_network_is_its_own(runs: Runs, full: Sandbox) -> None:
    found = runs.client.api.inspect_network(full.plan.network_name)
    assert [c["Name"] for c in found["Containers"].values()] == [full.plan.container_name(SIDECAR)]
    assert found["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert (found["EnableIPv6"], found["Attachable"], found["Driver"]) == (False, False, "bridge")
    assert host(runs, full, SIDECAR)["Sysctls"] == {"net.ipv4.ip_forward": "0"}


@pytest.mark.parametrize("member", SEATS)
async def test_every_mount_is_a_planned_one(runs: Runs, full: Sandbox, member: str) -> None:
    planned = full.plan.container(member)
    found = {m["Destination"]: m for m in runs.inspect(full, member)["Mounts"]}
    bound = {m.target: m for m in planned.mounts if not (m.kind == "mask" and m.directory)}
    assert set(found) == set(bound)
    for target, mount in bound.items():
        assert found[target]["RW"] is not mount.read_only, target
        if mount.kind == "link":
            assert found[target]["Name"] == full.plan.volume_name(mount.source)
    masked = {m.target for m in planned.mounts if m.kind == "mask" and m.directory}
    assert set(host(runs, full, member)["Tmpfs"]) == {t.target for t in planned.tmpfs} | masked


async def test_links_are_small_and_belong_to_the_sidecar(runs: Runs, full: Sandbox) -> None:
    for link in full.plan.links:
        options = runs.client.api.inspect_volume(full.plan.volume_name(link.member))["Options"]
        assert options["type"] == "tmpfs"
        assert f"size={link.size_bytes}" in options["o"]
        assert "uid=1000" in options["o"]


async def test_a_secret_is_in_nothing_that_the_engine_shows(runs: Runs, full: Sandbox) -> None:
    shown = json.dumps([runs.inspect(full, member) for member in SEATS])
    shown += json.dumps([runs.client.api.inspect_volume(full.plan.volume_name(x.member)) for x in full.plan.links])
    assert SECRET not in shown
    assert "API_KEY" not in shown
    assert full.handover.token not in shown
    # The positive control: its holder has it, and nobody else.
    assert full.tools is not None
    code = "[open(f'/proc/{p}/environ').read() for p in os.listdir('/proc') if p.isdigit() and p != '1']"
    names = [tool.name for tool in full.tools.tools if "look" in tool.name]
    said = {name: (await full.tools.call(name, {"code": code})).text for name in names}
    assert [name for name, text in said.items() if SECRET in text] == ["a__look"]
    assert SECRET not in await python(full, "import os; print(os.environ)")


async def test_the_effective_limits_are_the_declared_ones(full: Sandbox) -> None:
    code = (
        "import os, resource; print(os.statvfs('/tmp').f_blocks * os.statvfs('/tmp').f_frsize, "
        "resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE))"
    )
    assert await python(full, code) == f"{256 << 20} (1024, 1024) (0, 0)"


async def test_an_image_with_a_volume_gets_memory_instead(runs: Runs) -> None:
    """A VOLUME of an image would be a writable directory on the engine's disk, without a limit, that outlives the run."""
    agent = runs.plan(environment()).container(AGENT).image
    tag = "mlld-test/volume:latest"
    container = runs.client.api.create_container(agent, command=["none"], labels={"dev.mlld.test": "volume"})
    runs.client.api.commit(container["Id"], repository="mlld-test/volume", tag="latest", changes="VOLUME /var/spool")
    runs.client.api.remove_container(container["Id"])
    id = runs.client.api.inspect_image(tag)["Id"]
    try:
        async with runs.sandbox(environment(image=id)) as sandbox:
            mounts = runs.inspect(sandbox, AGENT)["Mounts"]
            assert not [m for m in mounts if m["Destination"] == "/var/spool"]
            said = await python(sandbox, "print([l.split()[2] for l in open('/proc/mounts') if ' /var/spool ' in l])")
            assert said == "['tmpfs']"
    finally:
        runs.client.api.remove_image(tag)
