"""Drift and comparison over HTTP."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.analytics.conftest import Running, Start
from tests.support.predictions import model_drift, prediction

pytestmark = pytest.mark.anyio


async def seed(running: Running, *, shift: float) -> None:
    """600 predictions in each of two windows of ten minutes; scores of the second are shifted."""
    rng, now = random.Random(4), datetime.now(UTC)
    for back, moved in ((15, 0.0), (4, shift)):
        at = now - timedelta(minutes=back)
        running.log.append(
            *(
                prediction(
                    at,
                    score=min(1.0, rng.betavariate(2, 5) + moved),
                    version=str(1 + i % 2),
                    status="failed" if i % 2 and i % 7 == 0 else "ok",
                )
                for i in range(600)
            )
        )
    await running.counted(1200)


async def test_a_shifted_score_is_drift_and_the_rest_is_not(start: Start):
    async with start() as running:
        await seed(running, shift=0.3)
        answer = await running.client.get("/v1/analytics/drift?time_window_minutes=10&version=1")
        items = {row["metric"]: row for row in answer.json()["items"]}
        assert items["score"]["verdict"] == "major"
        assert items["score"]["n"] == items["score"]["m"] == 300
        assert items["input_length"]["verdict"] == "none"
        assert items["label"]["verdict"] == "none"


async def test_features_that_go_missing_or_stale_or_old_are_drift(start: Start):
    now, rng = datetime.now(UTC), random.Random(6)
    async with start() as running:
        for back, missing, stale, age_s in ((15, 0.02, 0.1, 5.0), (4, 0.1, 0.3, 50.0)):
            running.log.append(
                *(
                    prediction(
                        now - timedelta(minutes=back),
                        features={
                            "used": 10,
                            "missing": int(rng.random() < missing * 10),
                            "stale": int(rng.random() < stale),
                            "freshness_s": rng.expovariate(1 / age_s),
                        },
                    )
                    for _ in range(300)
                )
            )
        await running.counted(600)
        answer = await running.client.get("/v1/analytics/drift?time_window_minutes=10")
        items = {row["metric"]: row for row in answer.json()["items"]}
        assert items["freshness_s"]["verdict"] == "major"
        assert items["freshness_s"]["ks_p"] < 1e-6
        assert items["missing_features"]["verdict"] in {"minor", "moderate", "major"}
        assert items["stale_features"]["verdict"] in {"minor", "moderate", "major"}
        assert items["missing_features"]["ks_p"] is None
        assert items["score"]["verdict"] == "none"


async def test_a_version_with_more_errors_is_worse_and_the_split_is_checked(start: Start):
    async with start() as running:
        await seed(running, shift=0)
        question = "/v1/analytics/comparison?model=sentiment&version_a=1&version_b=2"
        body = (await running.client.get(f"{question}&time_window_minutes=10&share_b=0.5")).json()
        errors = next(row for row in body["items"] if row["metric"] == "error_rate")
        assert errors["verdict"] == "worse"
        assert errors["interval"][0] > 0
        assert body["is_split_valid"] is True
        off = (await running.client.get(f"{question}&time_window_minutes=10&share_b=0.1")).json()
        assert off["is_split_valid"] is False


async def test_means_quantiles_and_sequences_are_compared_from_a_fixed_start(start: Start):
    async with start() as running:
        await seed(running, shift=0)
        since = (datetime.now(UTC) - timedelta(hours=2)).isoformat().replace("+00:00", "Z")
        question = "/v1/analytics/comparison?model=sentiment&version_a=1&version_b=2"
        plain = (await running.client.get(f"{question}&time_window_minutes=30")).json()["items"]
        assert {row["metric"] for row in plain} == {
            "error_rate", "degraded_rate", "average_confidence", "latency_mean_ms", "score_mean",
            "latency_p50_ms", "latency_p95_ms",
        }  # fmt: skip
        assert all(row["sequential"] is None for row in plain)
        body = (await running.client.get(f"{question}&since={since}")).json()
        rows = {row["metric"]: row for row in body["items"]}
        assert rows["error_rate"]["n_a"] == 600
        assert rows["error_rate"]["sequential"]["verdict"] == "worse"
        assert rows["error_rate"]["sequential"]["e_value"] > 20
        assert rows["score_mean"]["verdict"] == "no_difference"
        assert rows["latency_p95_ms"]["verdict"] == "no_difference"


async def test_drift_is_measured_against_a_reference_period_when_one_is_named(start: Start):
    async with start() as running:
        await seed(running, shift=0.3)
        end = (datetime.now(UTC) - timedelta(minutes=12)).isoformat().replace("+00:00", "Z")
        question = f"/v1/analytics/drift?time_window_minutes=8&version=1&reference_end={end}"
        body = (await running.client.get(f"{question}&reference_minutes=60")).json()
        items = {row["metric"]: row for row in body["items"]}
        assert (items["score"]["m"], items["score"]["verdict"]) == (300, "major")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("drift?time_window_minutes=0", 422),
        ("drift?time_window_minutes=1441", 422),
        ("drift?window=5", 422),
        ("drift?reference_end=2999-01-01T00:00:00Z", 422),
        ("drift?reference_minutes=0", 422),
        ("comparison?model=m&version_a=1&version_b=2&since=2999-01-01T00:00:00Z", 422),
        ("comparison?model=m&version_a=1&version_b=2&since=2001-01-01T00:00:00Z", 422),
        ("comparison?model=m&version_a=1", 422),
        ("comparison?model=m&version_a=1&version_b=2&share_b=nan", 422),
        ("comparison?model=nobody&version_a=1&version_b=2", 404),
    ],
)
async def test_bad_questions_are_refused(start: Start, path, status):
    async with start() as running:
        assert (await running.client.get(f"/v1/analytics/{path}")).status_code == status


async def test_empty_windows_have_no_drift_to_report(start: Start):
    async with start() as running:
        body = (await running.client.get("/v1/analytics/drift")).json()
        assert (body["items"], body["inputs"]) == ([], [])


async def inputs_of(running: Running, n: int, query: str = "") -> list[dict[str, Any]]:
    """Wait until the answer has n inputs and scores."""

    async def found() -> Any:
        body = (await running.client.get(f"/v1/analytics/drift{query}")).json()
        return body if len(body["inputs"]) == n else None

    rows: list[dict[str, Any]] = (await running.until(found))["inputs"]
    return rows


async def test_drift_of_inputs_is_told_with_verdicts_and_the_newest_counts(start: Start):
    now = datetime.now(UTC)
    async with start() as running:
        running.log.append(
            model_drift(now - timedelta(minutes=1)),
            # Older, though later in the log: it was delayed.
            model_drift(
                now - timedelta(minutes=9), input_psi={"hour": 9.0}, input_ks={"hour": 0.9}
            ),
            model_drift(now, tenant="other", version="7"),
        )
        rows = {row["name"]: row for row in await inputs_of(running, 3)}
        assert {name: row["verdict"] for name, row in rows.items()} == {
            "score": "none", "amount": "major", "hour": "none",
        }  # fmt: skip
        assert [rows[name]["kind"] for name in ("score", "hour")] == ["score", "input"]
        amount = rows["amount"]
        assert (amount["model"], amount["version"], amount["release"]) == ("fraud", "2", "2.0.0")
        assert (amount["effect"], amount["ks"], amount["n"]) == (0.4, 0.3, 2_000)
        assert amount["p"] < 1e-9
        assert amount["ks_p"] < 1e-9
        assert rows["hour"]["ks_p"] > 0.5
        # Healed in the next event; asked for another version there is nothing.
        healed: dict[str, Any] = {"input_psi": {"amount": 0.0}, "input_ks": {"amount": 0.01}}
        running.log.append(model_drift(now + timedelta(seconds=1), **healed))
        assert {row["verdict"] for row in await inputs_of(running, 2)} == {"none"}
        assert await inputs_of(running, 0, "?version=1") == []


async def test_drift_of_inputs_that_is_old_or_unusable_is_not_shown(start: Start):
    now = datetime.now(UTC)
    async with start() as running:
        running.log.append(
            model_drift(now - timedelta(hours=2), version="1"),
            model_drift(now, version="2", rows_compared="many"),
            model_drift(now, version="3", rows_compared=150),
            model_drift(now, version="4", input_psi={"amount": "much", "hour": -1}),
            model_drift(now, version="5", input_psi=["amount"], score_psi=None),
        )
        rows = await inputs_of(running, 4)
        assert {(row["version"], row["name"], row["verdict"]) for row in rows} == {
            ("3", "amount", "insufficient_data"), ("3", "hour", "insufficient_data"),
            ("3", "score", "insufficient_data"), ("4", "score", "none"),
        }  # fmt: skip
        whole_day = await inputs_of(running, 7, "?time_window_minutes=1440")
        assert {row["version"] for row in whole_day} == {"1", "3", "4"}
