"""A challenger handed to a running service stands by, and no restart lets it serve."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2

from libs.cli.connection import Gateway
from tests.integration.inference.conftest import running
from tests.support.tabular_models import build_version
from training.retrain import register


def _described(url: str) -> dict[str, Any]:
    document: dict[str, Any] = httpx2.get(f"{url}/models/fraud").json()
    return document


def test_a_registered_challenger_stands_by_and_outlives_a_restart(
    state_dir: Path, redis_url: str, models: Path, clean_postgres: str, tmp_path: Path
):
    challenger = build_version(tmp_path / "made", "fraud", 2, seed=5)
    root = state_dir / "inference" / "models"
    environ = {"POSTGRES_URL": clean_postgres, "IDENTITY_MODE": "open"}
    try:
        with running(state_dir, redis_url, models, **environ) as service:
            gateway = Gateway(service.url, "unused")
            assert asyncio.run(register.serving(gateway, "fraud")) == 1
            assert register.next_version([models, root], "fraud") == 2
            asyncio.run(register.to_suite(gateway, challenger, root))
            shown = _described(service.url)
            assert shown["aliases"] == {"challenger": "2", "stable": "1"}
            assert shown["serving"]["version"] == "1"
            assert register.next_version([models, root], "fraud") == 3
        with running(state_dir, redis_url, models, **environ) as service:
            shown = _described(service.url)
            assert (shown["serving"]["version"], shown["aliases"]["challenger"]) == ("1", "2")
            payment = {"card_id": "card_1", "transaction_amount": 10.0}
            answer = httpx2.post(f"{service.url}/score/fraud", json=payment).json()
            assert answer["model_version"] == "v1.0.0"
    finally:
        _remove(root / "fraud")


def _remove(folder: Path) -> None:
    """Leave the session's state directory as the other tests expect it."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    if folder.is_dir():
        folder.rmdir()
