"""The seccomp profile of every container: what is not named here does not exist.

It is the engine's own idea (default deny) with the differences that measurements asked for: AF_VSOCK reaches services
of the hypervisor whatever the network mode, and io_uring does I/O that no filter of system calls sees; engine 20.10
allows both. Since no container has a capability, every call that needs one is absent, and so are ptrace and its
relatives, keyrings, BPF, user namespaces and the 32-bit table (its `socketcall` cannot be filtered by family).
"""

from __future__ import annotations

import json
from functools import cache

# By theme, so that a reader can find what is allowed and why something is not.
_FILES = """
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
    fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
    flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64
    futimesat getcwd getdents getdents64 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch lchown
    lchown32 lgetxattr link linkat listxattr llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat
    mknod mknodat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink
    readlinkat readv removexattr rename renameat renameat2 rmdir sendfile sendfile64 setxattr splice stat stat64 statfs
    statfs64 statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime
    utimensat utimensat_time64 utimes vmsplice write writev cachestat
"""
_MEMORY = """
    brk madvise membarrier memfd_create mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap msync munlock munlockall
    munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages get_mempolicy set_mempolicy mbind
    map_shadow_stack
"""
_PROCESSES = """
    arch_prctl capget capset execve execveat exit exit_group fork vfork getegid getegid32 geteuid geteuid32 getgid getgid32
    getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getresgid getresgid32 getresuid getresuid32 getrlimit
    getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kill pidfd_open pidfd_send_signal prctl prlimit64
    restart_syscall rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp set_robust_list get_robust_list set_thread_area get_thread_area set_tid_address
    setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setpriority setregid setregid32
    setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32 sysinfo tgkill times
    tkill ugetrlimit uname wait4 waitid waitpid getcpu landlock_add_rule landlock_create_ruleset landlock_restrict_self
"""
_SIGNALS_AND_TIME = """
    alarm clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer
    gettimeofday nanosleep pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo setitimer sigaltstack signalfd signalfd4 sigprocmask sigreturn
    time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
"""
_WAITING_AND_IPC = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
    futex futex_time64 futex_waitv futex_wake futex_wait futex_requeue io_cancel io_destroy io_getevents io_pgetevents
    io_setup io_submit ioctl mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd pipe pipe2 poll ppoll ppoll_time64 pselect6 pselect6_time64
    select semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget getrandom
"""
_SOCKETS = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 recvmsg
    send sendmmsg sendmsg sendto setsockopt shutdown
"""

_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}  # not VSOCK, PACKET, ALG, BLUETOOTH, …
# clone(2) flags that make a namespace: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_NAMESPACES = 0x7E020000
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_ENOSYS = 38


@cache
def profile() -> str:
    """The profile as JSON text: engines take the content, not a path, over their API."""
    names = " ".join((_FILES, _MEMORY, _PROCESSES, _SIGNALS_AND_TIME, _WAITING_AND_IPC, _SOCKETS)).split()
    rules = [
        _allow(*names),
        *(_allow("socket", args=[_argument(0, family, "SCMP_CMP_EQ")]) for family in _FAMILIES.values()),
        _allow("socketpair", args=[_argument(0, _FAMILIES["AF_UNIX"], "SCMP_CMP_EQ")]),
        _allow("clone", args=[{**_argument(0, _NAMESPACES, "SCMP_CMP_MASKED_EQ"), "valueTwo": 0}]),
        *(_allow("personality", args=[_argument(0, value, "SCMP_CMP_EQ")]) for value in _PERSONALITIES),
        # Its flags lie in memory, where no filter sees them. With ENOSYS a C library falls back to clone.
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
    ]
    architectures = [
        {"architecture": name, "subArchitectures": None} for name in ("SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64")
    ]
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "archMap": architectures, "syscalls": rules})


def _allow(*names: str, args: list[dict[str, object]] | None = None) -> dict[str, object]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", "args": args or []}


def _argument(index: int, value: int, comparison: str) -> dict[str, object]:
    return {"index": index, "value": value, "op": comparison}
