"""A fresh audit process over an empty log, with a state directory of its own."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.audit.process import AuditProcess


@pytest.fixture
def own_state(state_dir: Path, tmp_path: Path) -> Path:
    """The session's identities, but no event log that another test's killed process left."""
    shutil.copytree(state_dir / "keys", tmp_path / "keys")
    return tmp_path


@pytest.fixture
def audit(own_state: Path, clean_postgres: str) -> Iterator[AuditProcess]:
    process = AuditProcess(own_state, clean_postgres)
    process.start()
    yield process
    process.kill()
