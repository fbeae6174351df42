"""Faults: Redis dead, audit away, inference killed; nothing answered is lost or counted twice."""

import os
import signal
import statistics
import subprocess
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import httpx2
import pytest

from deploy.local.banner import FIRST_REQUEST
from deploy.local.servers import EmbeddedRedis
from libs.common.catalog import SERVICES
from tests.e2e.suite import Suite, audit_events, eventually

WITHOUT_AUDIT = ",".join(name for name in SERVICES if name != "audit")


def _score(client: httpx2.Client, request_id: str) -> httpx2.Response:
    return client.post("/score/fraud", content=FIRST_REQUEST, headers={"X-Request-ID": request_id})


def _records(client: httpx2.Client, wanted: set[str], key: str = "request_id") -> Counter[str]:
    return Counter(
        event[key]
        for event in audit_events(client)
        if event[key] in wanted and event["type"] == "prediction.made"
    )


def test_with_redis_killed_scoring_answers_in_time_and_says_what_is_missing(
    state: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    redis = EmbeddedRedis(tmp_path_factory.mktemp("r"))
    suite = Suite(state, REDIS_URL=redis.start()).start()
    try:
        with suite.client() as client:
            assert _score(client, str(uuid.uuid4())).status_code == 200
            redis.kill()
            durations, answers = [], []
            for _ in range(21):
                began = time.perf_counter()
                answers.append(_score(client, str(uuid.uuid4())))
                durations.append(time.perf_counter() - began)
    finally:
        redis.stop()
        assert suite.stop() == 0
    assert {answer.status_code for answer in answers} == {200}
    # The median, since the machine of the tests runs other tests beside this one.
    assert statistics.median(durations) < 0.1
    body = answers[-1].json()
    assert body["features_used"] < 10
    assert body["feature_freshness_sec"] is None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    assert process.wait(20) == 0


def test_while_audit_is_away_scoring_goes_on_and_every_event_arrives_once(state: Path) -> None:
    suite = Suite(state, "--only", WITHOUT_AUDIT).start()
    asked: set[str] = set()
    audit: subprocess.Popen[bytes] | None = None
    try:
        with suite.client() as client:

            def score(count: int) -> None:
                for _ in range(count):
                    request_id = str(uuid.uuid4())
                    assert _score(client, request_id).status_code == 200
                    asked.add(request_id)

            def all_arrived() -> bool:
                return set(_records(client, asked)) == asked

            score(30)
            audit = suite.run_service("audit")
            assert eventually(lambda: client.get("/v1/audit/events").status_code == 200, 30)
            assert eventually(all_arrived, 30)
            _end(audit)
            audit = None
            score(30)
            audit = suite.run_service("audit")
            assert eventually(lambda: client.get("/v1/audit/events").status_code == 200, 30)
            assert eventually(all_arrived, 30)
            assert set(_records(client, asked).values()) == {1}
    finally:
        if audit is not None:
            audit.terminate()
            audit.wait(20)
        assert suite.stop() == 0


def test_after_a_kill_of_inference_under_load_every_answered_decision_is_in_the_log(
    state: Path,
) -> None:
    suite = Suite(state).start()
    answered: set[str] = set()
    stop = threading.Event()

    def load() -> None:
        with suite.client() as client:
            while not stop.is_set():
                try:
                    answer = _score(client, str(uuid.uuid4()))
                    if answer.status_code == 200:
                        answered.add(answer.json()["prediction_id"])
                except httpx2.HTTPError:
                    return

    pid = suite.pid("inference")
    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: len(answered) >= 200)
    os.kill(pid, signal.SIGKILL)
    assert suite.wait() == 1
    stop.set()
    for thread in threads:
        thread.join(10)
    assert "inference ended by itself: killed by SIGKILL" in suite.log
    assert suite.left_behind() == []

    again = Suite(state).start()
    try:
        with again.client() as client:
            # By the id of the decision: a request that the gateway sent again after the kill may
            # have a second record, of the attempt that nobody was answered with.
            assert eventually(lambda: set(_records(client, answered, "id")) == answered, 30)
            assert set(_records(client, answered, "id").values()) == {1}
    finally:
        assert again.stop() == 0
