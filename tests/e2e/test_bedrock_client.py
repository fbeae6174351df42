"""A real boto3, in its own environment, applies a policy through the gateway."""

import json
import os
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.e2e.suite import Suite

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("BOTO3_PYTHON", ROOT / ".venv" / "peers" / "boto3" / "bin" / "python"))

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="boto3's environment is not there: run make peers"
)


def test_boto3_applies_a_policy_reads_the_full_scope_and_raises_its_own_errors(
    suite: Suite, gateway: httpx2.Client
) -> None:
    script = ROOT / "benchmarks" / "peers" / "bedrock_client.py"
    done = subprocess.run(
        [str(PYTHON), str(script), suite.url("gateway")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "GATEHOUSE_API_KEY": gateway.headers["x-api-key"]},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["action"] == "GUARDRAIL_INTERVENED"
    assert found["outputs"] == ["mail <EMAIL_ADDRESS>"]
    assert found["types"] == ["EMAIL"]
    assert found["calm"] == ["NONE", []]
    assert found["full_detected"] == [False]
    assert found["filters"] == ["PROMPT_ATTACK"]
    assert found["units"] == 1
    assert found["errors"] == {
        "unknown": "ResourceNotFoundException",
        "too_long": "ValidationException",
    }
