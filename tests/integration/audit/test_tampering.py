"""A superuser edits the log: every edit is caught, and the first bad index is named."""

import pytest

from libs.common.postgres import Postgres
from tests.integration.audit.tampering import EDITS, build, run_edits

pytestmark = pytest.mark.anyio
COUNT = 14 * len(EDITS)


async def test_every_random_edit_is_caught_and_named(clean_postgres, tmp_path):
    postgres = Postgres(clean_postgres, "audit")
    world = await build(postgres, tmp_path / "keys")
    await postgres.close()
    result = await run_edits(clean_postgres, world, COUNT, seed=1)
    assert sum(result.tried.values()) == COUNT >= 300
    assert result.missed == []
    assert result.misnamed == []
