"""How much of their limits the seats of a run use, out of what either version of cgroups measures."""

from __future__ import annotations

from typing import Any

import docker.errors
import pytest

from runner.backends.docker_usage import Usage, usage
from runner.errors import EngineFailure

MIB = 1 << 20


def measured(spare: dict[str, int], *, processes: int = 3) -> dict[str, Any]:
    return {
        "memory_stats": {"usage": 50 * MIB, "limit": 512 * MIB, "stats": spare},
        "pids_stats": {"current": processes, "limit": 128},
    }


class Api:
    """An engine with these containers: what it measures of each, or the error with which it answers."""

    def __init__(self, **seats: dict[str, Any] | Exception) -> None:
        self.seats = seats

    def containers(self, *, filters: dict[str, str]) -> list[dict[str, Any]]:
        assert filters == {"label": "dev.mlld.run=kubo"}
        return [{"Id": name, "Labels": {"dev.mlld.member": name}} for name in self.seats]

    def stats(self, container: str, *, stream: bool, one_shot: bool) -> dict[str, Any]:
        found = self.seats[container]
        if isinstance(found, Exception):
            raise found
        return found


@pytest.mark.parametrize(
    "spare", [{"inactive_file": 16 * MIB}, {"total_inactive_file": 16 * MIB, "inactive_file": MIB}], ids=["v2", "v1"]
)
def test_a_seat_is_measured_without_what_the_kernel_gives_back(spare: dict[str, int]) -> None:
    assert usage(Api(agent=measured(spare)), "kubo") == [
        Usage(member="agent", memory_bytes=34 * MIB, memory_limit=512 * MIB, processes=3, processes_limit=128)
    ]


def test_a_seat_that_has_ended_is_left_out() -> None:
    gone, over = docker.errors.NotFound("404"), {"memory_stats": {}, "pids_stats": {}}
    seats = usage(Api(tickets=measured({}), gone=gone, over=over, agent=measured({})), "kubo")
    assert [seat.member for seat in seats] == ["agent", "tickets"]


def test_an_engine_that_refuses_is_told() -> None:
    with pytest.raises(EngineFailure, match="no such thing"):
        usage(Api(agent=docker.errors.APIError("no such thing")), "kubo")
