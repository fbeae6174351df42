"""A fresh audit process over an empty log."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.audit.process import AuditProcess


@pytest.fixture
def audit(state_dir: Path, clean_postgres: str) -> Iterator[AuditProcess]:
    process = AuditProcess(state_dir, clean_postgres)
    process.start()
    yield process
    process.kill()
