"""One command from labelled feedback to a challenger, over a real store and real feedback."""

import asyncio
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from libs.common.features.fraud import FRAUD_V2
from libs.common.manifest import load_manifest
from libs.common.postgres import Postgres
from services.inference.adapters.tabular import load_tabular, run_golden_cases
from tests.integration.features.conftest import Running, Start
from training.fraud import feature_rows
from training.generators.transactions import NEVER_MS, Transactions, generate
from training.generators.world import COUNTRIES
from training.retrain.__main__ import main
from training.retrain.source import Window, load

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
DAYS = 32
RELEASED = Path(__file__).parents[3] / "models" / "fraud" / "2"


def _world() -> Transactions:
    """A month that ended yesterday, of cards that met fraud and a few that did not."""
    day_ms = 86_400_000
    start_ms = (time.time_ns() // 1_000_000 // day_ms - DAYS) * day_ms
    payments = generate(3, 2_500, 20_000, DAYS, start_ms)
    misused = np.unique(payments.card[payments.is_fraud])
    return payments.select(np.isin(payments.card, misused[:110]) | (payments.card < 60))


async def _ingest(running: Running, payments: Transactions) -> None:
    events = [
        {
            "event_id": row["transaction_id"],
            "type": "card_transaction",
            "event_ms": row["event_ms"],
            "arrival_ms": row["event_ms"],
            "entities": {"card_id": row["card_id"], "merchant_id": row["merchant_id"]},
            "values": {"amount_minor": row["amount_minor"]},
            "attrs": {name: row[name] for name in ("mcc_code", "country_code", "device_id")},
        }
        for row in payments.events()
    ]
    for start in range(0, len(events), 1_000):
        body = {"events": events[start : start + 1_000]}
        answer = await running.client.post("/features/backfills", json=body)
        assert answer.json()["rejected"] == []


async def _feedback(running: Running, payments: Transactions) -> None:
    for row in payments.select(payments.is_fraud).events():
        body = {"transaction_id": row["transaction_id"], "label": "fraud"}
        assert (await running.client.post("/v1/feedback", json=body)).status_code == 200


async def _is_what_training_computes(postgres_url: str, payments: Transactions) -> None:
    """Rows out of the store, as of each payment, equal the generator's own offline features."""
    postgres = Postgres(postgres_url, "features")
    try:
        now_ms = time.time_ns() // 1_000_000
        data = await load(postgres, FRAUD_V2, Window("default", 365, 0.0, 0.0, now_ms))
    finally:
        await postgres.close()
    # The reports came a moment ago: at no payment's own time was one of them known.
    unknown = replace(payments, label_available_ms=np.full(len(payments), NEVER_MS))
    np.testing.assert_allclose(data.rows, feature_rows(unknown), rtol=1e-6)
    assert data.is_fraud.tolist() == payments.is_fraud.tolist()


async def _retrain(tmp_path: Path, run: str, *more: str) -> int:
    """Run the command over the store; nothing serves, so nothing is registered."""
    arguments = ["--state-dir", str(tmp_path / "nobody"), "--models", str(tmp_path / "none")]
    arguments += ["--out", str(tmp_path / run), "--register", "none", "--maturity-days", "0"]
    return await asyncio.to_thread(main, [*arguments, "--warm-up-days", "3", *more])


async def test_feedback_becomes_a_challenger_with_its_report(
    start: Start, clean_postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("POSTGRES_URL", clean_postgres)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    payments = _world()
    async with start() as running:
        await _ingest(running, payments)
        await _feedback(running, payments)
    await _is_what_training_computes(clean_postgres, payments)
    retrain = partial(_retrain, tmp_path)
    # Nothing serves yet: the first one is registered for what it is.
    assert await retrain("weak", "--trees", "2") == 0
    weak = tmp_path / "weak" / "fraud" / "1"
    assert orjson.loads((tmp_path / "weak" / "report.json").read_bytes())["verdict"] == "first"
    # Against a model of the same world that saw sixty times as much, a month is not enough.
    assert await retrain("poor", "--trees", "30", "--champion", str(RELEASED)) == 1
    poor = orjson.loads((tmp_path / "poor" / "report.json").read_bytes())
    assert poor["verdict"] == "worse"
    out = tmp_path / "run"
    assert await retrain("run", "--trees", "30", "--champion", str(weak)) == 0

    version = out / "fraud" / "1"
    manifest = load_manifest(version)
    assert manifest.feature_fingerprint == FRAUD_V2.fingerprint
    run_golden_cases(load_tabular(version, manifest, use_onnx=True))
    assert manifest.metrics["onnx_parity_max"] <= 1e-6
    report: dict[str, Any] = orjson.loads((out / "report.json").read_bytes())
    assert report["verdict"] in {"better", "not worse"}
    for model in ("champion", "challenger"):
        found = report["measures"][model]["average_precision"]
        assert found["low"] <= found["value"] <= found["high"]
    text, page = (out / "report.md").read_text(), (out / "report.html").read_text()
    for heading in ("By category (mcc)", "By country", "Drift", "Champion and challenger"):
        assert heading in text
        assert heading in page
    assert any(f"| {country} |" in text for country in COUNTRIES)
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert {"precision_recall.png", "reliability.png", "scores.png"} <= set(pictures)
    assert page.count("data:image/png;base64,") == len(pictures)
    assert "http" not in page.replace("http-equiv", "")
