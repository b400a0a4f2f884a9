"""One engine, one set of images for all integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.runs import Runs, make_runs


@pytest.fixture(scope="session")
def runs() -> Iterator[Runs]:
    with make_runs() as made:
        yield made
