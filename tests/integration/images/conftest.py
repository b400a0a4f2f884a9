"""The bridge's program as a file, and the link of a seat."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import recipes
from runner.images import BRIDGE, ImageStore
from tests.support.bridges import Listener, listening


@pytest.fixture(scope="session")
def bridge(store: ImageStore) -> Iterator[Path]:
    """The bridge as built for containers; static, so that it runs here as well."""
    image = store.ensure(recipes.bridge())
    with tempfile.TemporaryDirectory(prefix="bridge-") as folder:
        path = Path(folder) / "bridge"
        path.write_bytes(store.engine.read(image.id, BRIDGE))
        path.chmod(0o755)
        path.parent.chmod(0o755)  # another user runs it in one test
        yield path


@pytest.fixture
def link() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="link-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def sidecar(link: Path) -> Iterator[Listener]:
    with listening(link / "stdio.sock") as listener:
        yield listener
