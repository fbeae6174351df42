"""A text model that is loaded and unloaded again and again leaves nothing behind."""

from pathlib import Path

import pytest

from benchmarks.text_cycles import run
from services.inference.adapters import draining
from services.inference.execution import plane

pytestmark = pytest.mark.anyio
MODELS = Path(__file__).resolve().parents[3] / "models"
# One cycle that kept its session would add 46 MiB, those after the fifth 184.
GROWTH_MIB_MAX = 40.0


async def test_memory_is_flat_after_the_fifth_cycle(monkeypatch):
    # Nobody else asks: what lets late calls come in need not take its time.
    monkeypatch.setattr(plane, "_LEAVING_S", 0.05)
    monkeypatch.setattr(draining, "_TEXT_GRACE_S", 0.2)
    found = await run(MODELS, "sentiment", 10)
    assert found.growth_mib < GROWTH_MIB_MAX, found.resident_mib
    # Each version has two executors; the pool of the loop may still grow by a thread.
    assert found.threads[-1] <= found.threads[4] + 2, "executors end with their version"
