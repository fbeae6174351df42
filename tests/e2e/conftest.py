"""The suite under test is the runner of `make run`, with automatic ports and a state of its own."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.e2e.suite import Suite


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep these tests on one worker: they share one running suite."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.xdist_group("e2e"))


@pytest.fixture(scope="session")
def state() -> Iterator[Path]:
    """A state directory for all suites of this run: initialising and seeding take seconds."""
    with tempfile.TemporaryDirectory(prefix="gh-e-", ignore_cleanup_errors=True) as directory:
        os.chmod(directory, 0o755)  # the embedded PostgreSQL runs as another user under root
        yield Path(directory) / "s"


@pytest.fixture(scope="module")
def suite(state: Path) -> Iterator[Suite]:
    """All six services, started once per module, stopped without an orphan."""
    # At debug level every service writes a line per request, the gateway does so always.
    running = Suite(state, LOG_LEVEL="debug").start()
    yield running
    assert running.stop() == 0
    assert running.left_behind() == []


@pytest.fixture
def gateway(suite: Suite) -> Iterator[httpx2.Client]:
    """A client with the demo key."""
    with suite.client() as client:
        yield client
