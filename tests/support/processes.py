"""What the kernel says of a process of this machine."""

from __future__ import annotations

import os
from pathlib import Path


def _fields(pid: int) -> list[str]:
    """Its `stat` after the name of its program."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def is_alive(pid: int) -> bool:
    """Is it there, and no zombie that waits to be read?"""
    try:
        return _fields(pid)[0] != "Z"
    except OSError:
        return False


def cpu_seconds(pid: int) -> float:
    """The processor time that it has used."""
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
