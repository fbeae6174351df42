"""Programs that tests need beside Python: a missing one is a visible skip, or a failure in CI."""

import os
import shutil

import pytest

from deploy.local.children import ROOT


def program(name: str, install: str) -> str:
    """Give the path of a program; skip with the install line, fail when REQUIRE_TOOLS is set."""
    found = shutil.which(name) or shutil.which(name, path=str(ROOT / ".venv" / "bin"))
    if found is None:
        missing = f"{name} is missing: {install}"
        if os.environ.get("REQUIRE_TOOLS") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return found
