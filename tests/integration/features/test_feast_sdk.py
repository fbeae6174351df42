"""A real Feast 0.67 client, in its own environment, reads and pushes over HTTP."""

import json
import os
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.integration.features.test_feast import VIEW
from tests.integration.features.test_kill import _service

ROOT = Path(__file__).resolve().parents[3]
PYTHON = Path(os.environ.get("FEAST_PYTHON", ROOT / ".venv" / "peers" / "feast" / "bin" / "python"))

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="Feast's environment is not there: run make peers"
)
PRESENT, NULL_VALUE, NOT_FOUND = 1, 2, 3  # feast.serving.FieldStatus


def test_the_sdk_pushes_reads_and_raises_its_own_errors(
    clean_postgres: str, redis_url: str, state_dir: Path
) -> None:
    features = [{"name": "f1_0", "dtype": "float64"}, {"name": "f1_1", "dtype": "int64"}]
    with _service(clean_postgres, redis_url, state_dir) as (_, url):
        defined = httpx2.post(
            f"{url}/features/definitions",
            json={
                "definitions": [
                    {**VIEW, "features": features},
                    {
                        "kind": "feature_service",
                        "name": "svc",
                        "features": ["fv1:f1_0", "fv1:f1_1"],
                    },
                ]
            },
        )
        defined.raise_for_status()
        script = ROOT / "benchmarks" / "peers" / "feast_client.py"
        done = subprocess.run(
            [str(PYTHON), str(script), url], capture_output=True, text=True, timeout=120
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
