"""`make demo`: a generated day through the gateway, and what it prints is in the audit log."""

import json
import subprocess
import sys
from pathlib import Path

import httpx2

from tests.e2e.suite import Suite

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_decides_every_payment_and_its_audit_ids_exist(
    suite: Suite, gateway: httpx2.Client
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "libs.cli", "demo", "--state-dir", str(suite.layout.root),
         "--limit", "120", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["payments"] == sum(report["decisions"].values()) == 120
    assert set(report["decisions"]) <= {"approve", "review", "challenge", "decline"}
    for row in report["declined"]:
        event = gateway.get(f"/v1/audit/events/{row['audit_id']}").json()
        assert (event["type"], event["request_id"]) == ("prediction.made", row["request_id"])


def test_the_demo_says_what_to_do_when_no_suite_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "libs.cli", "demo", "--state-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "make run" in done.stderr
