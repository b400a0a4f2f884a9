"""P6: privilege. No call of the kernel that would give more than was given, and no way to take the machine down."""

from __future__ import annotations

import platform
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from interpreter.declarations import Limits as Asked
from runner.plan import AGENT, SIDECAR
from runner.sandbox import Sandbox
from tests.support.probes import program
from tests.support.runs import Recorder, Runs, environment, python, server

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]
SEATS = (AGENT, SIDECAR, "a")

_CALL = """import ctypes
libc = ctypes.CDLL(None, use_errno=True)
result = libc.syscall({call})
if result < 0: raise OSError(ctypes.get_errno(), 'refused')
return result"""


def syscall(call: str) -> str:
    return program(_CALL.format(call=call))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(runs: Runs) -> AsyncIterator[Sandbox]:
    """A run with every grant that has to do with programs."""
    limits = Asked(memory_bytes=160 << 20, pids=60)
    async with runs.sandbox(
        environment(server("a", limits=limits), grants=("sh", "filesystem"), limits=limits)
    ) as sandbox:
        yield sandbox


# Numbers of x86-64. Each call is lawful in form, so that only the fence can be what refuses it.
CALLS = {
    "unshare a user namespace": "272, 0x10000000",
    "unshare a network": "272, 0x40000000",
    "mount": "165, b'none', b'/tmp', b'tmpfs', 0, None",
    "umount": "166, b'/.mlld/link', 2",
    "the new mount api": "428, -100, b'/', 1",
    "pivot_root": "155, b'/', b'/'",
    "chroot": "161, b'/tmp'",
    "setns": "308, 0, 0",
    "ptrace": "101, 16, 1, 0, 0",
    "read another's memory": "310, 1, None, 0, None, 0, 0",
    "keyctl": "250, 0, -3, 0",
    "add_key": "248, b'user', b'x', b'y', 1, -3",
    "bpf": "321, 0, None, 0",
    "perf_event_open": "298, None, 0, -1, -1, 0",
    "userfaultfd": "323, 0",
    "io_uring_setup": "425, 8, ctypes.create_string_buffer(128)",
    "open_by_handle_at": "304, -100, None, 0",
    "a 32-bit personality": "135, 0x0400000",
    "reboot": "169, 0xfee1dead, 672274793, 0",
    "init_module": "175, None, 0, b''",
    "kexec_load": "246, 0, 0, None, 0",
    "swapon": "167, b'/tmp/x', 0",
    "settimeofday": "164, ctypes.create_string_buffer(16), None",
    "sethostname": "170, b'x', 1",
    "syslog": "103, 3, None, 0",
    "quotactl": "179, 0, None, 0, None",
    "fanotify": "300, 0, 0",
    "setuid to root": "105, 0",
    "setgid to root": "106, 0",
    "a socket of the kernel's crypto": "41, 38, 5, 0",
    "a socket of bluetooth": "41, 31, 3, 1",
}


@pytest.mark.parametrize("member", SEATS)
@pytest.mark.parametrize("call", CALLS)
async def test_cannot_call(sandbox: Sandbox, call: str, member: str) -> None:
    said = await python(sandbox, syscall(CALLS[call]), member=member)
    assert said in ("blocked EPERM", "blocked EACCES", "blocked ENOSYS", "blocked EINVAL"), said


async def test_calls_that_programs_need_work(sandbox: Sandbox) -> None:
    """The control: the same way of calling, for something harmless."""
    assert await python(sandbox, syscall("39")) != "blocked EPERM"  # getpid
    assert (await python(sandbox, syscall("41, 1, 1, 0"))).startswith("reached")  # a Unix socket


async def test_cannot_call_through_the_32_bit_table(sandbox: Sandbox) -> None:
    """`int 0x80` has numbers and a `socketcall` of its own, which a filter by family cannot read."""
    code = (
        "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\n"
        "m.write(bytes.fromhex('53b814000000cd805bc3'))\n"  # push rbx; mov eax, getpid; int 0x80; pop rbx; ret
        "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\nprint('pid', f())"
    )
    said = await python(sandbox, code)
    assert not said.startswith("pid ") or int(said.split()[1]) < 0


@pytest.mark.parametrize("member", SEATS)
async def test_cannot_gain_from_a_setuid_program(sandbox: Sandbox, member: str) -> None:
    code = (
        "import os\nfound = [os.path.join(d, f) for d, _, fs in os.walk('/usr') for f in fs "
        "if not os.path.islink(os.path.join(d, f)) and os.stat(os.path.join(d, f)).st_mode & 0o6000]\n"
        "s = dict(l.split(':', 1) for l in open('/proc/self/status'))\n"
        "print(s['NoNewPrivs'].strip(), s['CapEff'].strip(), s['CapBnd'].strip(), s['CapAmb'].strip(), os.getresuid()[1:])"
    )
    assert await python(sandbox, code, member=member) == f"1 {'0' * 16} {'0' * 16} {'0' * 16} (1000, 1000)"


@pytest.mark.parametrize("kind", ["0o060000", "0o020000"], ids=["block", "character"])
async def test_cannot_make_a_device(sandbox: Sandbox, kind: str) -> None:
    said = await python(sandbox, program(f"return os.mknod('/tmp/device', {kind} | 0o666, os.makedev(1, 1))"))
    assert said == "blocked EPERM"
    assert await python(sandbox, program(f"return os.mkfifo('/tmp/fifo{kind}')")) == "reached None"  # the control


@pytest.mark.parametrize("member", [AGENT, "a"])
async def test_cannot_touch_the_bridge(sandbox: Sandbox, member: str) -> None:
    """It holds the secrets' way in and the canary's word: not readable, not killable, not to be spoken for."""
    for what in ("open('/proc/1/environ').read()", "os.listdir('/proc/1/fd')", "open('/proc/1/mem', 'rb')"):
        assert await python(sandbox, program(f"return {what}"), member=member) == "blocked EACCES"
    await python(sandbox, "import os; os.kill(1, 9); os.kill(1, 19)", member=member)
    assert await python(sandbox, "print('alive')", member=member) == "alive"


@pytest.mark.parametrize("path", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/fs/cgroup/x", "/proc/sys/vm/x",
                                  "/proc/1/oom_score_adj", "/sys/power/state"])  # fmt: skip
async def test_cannot_write_the_kernels_files(sandbox: Sandbox, path: str) -> None:
    assert (await python(sandbox, program(f"return open({path!r}, 'w').write('1')"))).startswith("blocked")


@pytest.mark.parametrize("member", [AGENT, "a"])
async def test_cannot_fork_without_end(sandbox: Sandbox, member: str) -> None:
    code = (
        "import os, time\nmade = []\ntry:\n while len(made) < 500:\n  pid = os.fork()\n"
        "  if pid == 0: time.sleep(600)\n  made.append(pid)\n"
        "except OSError as e: print('blocked', e.errno, len(made) < 60)\nelse: print('reached', len(made))\n"
        "for pid in made: os.kill(pid, 9); os.waitpid(pid, 0)"
    )
    assert await python(sandbox, code, member=member) == "blocked 11 True"
    # The neighbours did not notice, and the seat can be used again.
    for seat in SEATS:
        assert await python(sandbox, "print('alive')", member=seat) == "alive"


async def test_cannot_take_all_memory(sandbox: Sandbox) -> None:
    said = await python(sandbox, "x = bytearray(400 << 20); print('reached')")
    assert said == ""
    assert isinstance(sandbox.sink, Recorder)
    assert {"event": "oom", "member": AGENT} in sandbox.sink.events


@pytest.mark.parametrize("folder", ["/tmp", "/home/agent", "/dev/shm"])
async def test_cannot_fill_a_disk(sandbox: Sandbox, folder: str) -> None:
    """Everything writable is memory with a size, and counts to the limit of the seat."""
    code = (
        f"import os\nf = open('{folder}/fill', 'wb')\ntry:\n for _ in range(400): f.write(bytes(1 << 20)); f.flush()\n"
        f" print('reached')\nexcept OSError as e: print('blocked', e.errno)\nfinally: os.unlink('{folder}/fill')"
    )
    said = await python(sandbox, code)
    assert said in ("blocked 28", ""), said  # no space left; or the memory limit came first
    await python(sandbox, f"import os; os.path.exists('{folder}/fill') and os.unlink('{folder}/fill')")


async def test_cannot_fill_the_link(sandbox: Sandbox) -> None:
    """The sidecar's side is the only one that writes it, and it is a megabyte."""
    said = await python(sandbox, program("return open('/.mlld/links/a/x', 'wb').write(bytes(2 << 20))"), member=SIDECAR)
    assert said == "blocked ENOSPC"
    await python(sandbox, "import os; os.unlink('/.mlld/links/a/x')", member=SIDECAR)


async def test_cannot_open_without_end(sandbox: Sandbox) -> None:
    code = (
        "n = []\ntry:\n while len(n) < 5000: n.append(open('/dev/null'))\n"
        "except OSError as e: print('blocked', e.errno, len(n) < 1024)"
    )
    assert await python(sandbox, code) == "blocked 24 True"


async def test_cannot_use_more_cpu_than_given(runs: Runs) -> None:
    """A quarter of a core is a quarter, however many threads burn it."""
    async with runs.sandbox(environment(limits=Asked(cpus=0.25), grants=("sh",))) as sandbox:
        code = (
            "import os, time\nbegan = time.monotonic()\n"
            "for _ in range(2):\n if os.fork() == 0:\n  while time.monotonic() - began < 2: pass\n  os._exit(0)\n"
            "os.wait(); os.wait(); used = os.times(); print(round(used[2] + used[3], 2))"
        )
        assert float(await python(sandbox, code)) < 0.9


async def test_the_numbers_are_of_this_machine() -> None:
    """Without this a machine of another architecture would pass by calling something else."""
    assert platform.machine() == "x86_64"
