"""The official MCP conformance suite through the endpoint, from both sides. (All of it: `python -m tests.conformance`.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import __main__ as conformance


@pytest.fixture(scope="module")
def suite() -> tuple[str, Path]:
    return conformance.provided()


@pytest.mark.parametrize("revision", conformance.EXPECTED)
def test_a_server_passes_behind_the_endpoint_what_it_passes_alone(suite: tuple[str, Path], revision: str) -> None:
    with conformance.endpoint("both") as url:
        passed, failed, said = conformance.run(*suite, url, revision)
    assert not failed, said
    assert passed >= conformance.EXPECTED[revision], said


@pytest.mark.parametrize(
    ("revision", "scenario"), [(revision, name) for revision, names in conformance.AS_CLIENT.items() for name in names]
)
def test_the_endpoint_is_a_client_as_the_suite_wants_it(suite: tuple[str, Path], revision: str, scenario: str) -> None:
    passed, failed, said = conformance.run_as_client(*suite, scenario, revision)
    assert passed, said
    assert not failed, said
