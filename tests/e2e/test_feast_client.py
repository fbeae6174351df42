"""A real Feast SDK, in its own environment, reads and pushes through the gateway."""

import json
import os
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.e2e.suite import Suite

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("FEAST_PYTHON", ROOT / ".venv" / "peers" / "feast" / "bin" / "python"))

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="Feast's environment is not there: run make peers"
)
PRESENT, NULL_VALUE, NOT_FOUND = 1, 2, 3  # feast.serving.FieldStatus
DEFINITIONS = [
    {
        "kind": "feature_view",
        "name": "fv1",
        "join_keys": ["card_id"],
        "ttl_s": 3600,
        "push_source": "fv1_push",
        "features": [{"name": "f1_0", "dtype": "float64"}, {"name": "f1_1", "dtype": "int64"}],
    },
    {"kind": "feature_service", "name": "svc", "features": ["fv1:f1_0", "fv1:f1_1"]},
]


def test_the_sdk_pushes_reads_and_raises_its_own_errors_through_the_gateway(
    suite: Suite, gateway: httpx2.Client
) -> None:
    answer = gateway.post("/features/definitions", json={"definitions": DEFINITIONS})
    answer.raise_for_status()
    script = ROOT / "benchmarks" / "peers" / "feast_client.py"
    done = subprocess.run(
        [str(PYTHON), str(script), suite.url("gateway")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "GATEHOUSE_API_KEY": gateway.headers["x-api-key"]},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["values"] == {
        "card_id": [7, 8, 9],
        "f1_0": [0.5, None, None],
        "f1_1": [3, 4, None],
    }
    assert found["service"]["fv1__f1_1"] == [3, 4, None]
    assert found["errors"] == {
        "view": "FeatureViewNotFoundException",
        "service": "FeatureServiceNotFoundException",
        "feature": "FeastError",
    }
    assert sorted(map(tuple, found["statuses"][1:])) == sorted(
        [(PRESENT, NULL_VALUE, NOT_FOUND), (PRESENT, PRESENT, NOT_FOUND)]
    )


def test_a_caller_without_the_scope_gets_feasts_permission_error(suite: Suite) -> None:
    body = {"features": ["fv1:f1_0"], "entities": {"card_id": [7]}}
    answer = httpx2.post(f"{suite.url('gateway')}/get-online-features", json=body)
    assert answer.status_code == 401
    assert "module" in json.loads(answer.json())
