"""Lifecycle over real Postgres and Redis: load, promote, roll back, follow, evict, prove again."""

import asyncio
import base64
import json
import shutil
import threading
from pathlib import Path

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from libs.common.identity import IDENTITY_HEADER, Signer
from libs.common.manifest import ManifestError, verify_file
from libs.common.manifest_signing import sign_manifest, verify_manifest
from services.inference.adapters.repository import EVICTED, ModelRepository
from services.inference.domain.lifecycle import victims
from services.inference.domain.repository import RepositoryPolicy
from tests.integration.inference.replicas import replica, until
from tests.support.tabular_models import copy_version, edit_manifest
from tests.support.text_models import build_text_version

pytestmark = pytest.mark.anyio


@pytest.fixture
def root(models: Path, tmp_path: Path) -> Path:
    """A repository with fraud version 1 and 2 of its own."""
    shutil.copytree(models / "fraud", tmp_path / "models/fraud")
    copy_version(tmp_path / "models/fraud/1", 2)
    return tmp_path / "models"


@pytest.fixture
def stores(tmp_path: Path, clean_postgres: str, redis_url: str) -> tuple[Path, str, str]:
    return tmp_path / "state", clean_postgres, redis_url


async def test_promote_switches_and_rollback_returns(root, stores):
    async with replica(root, *stores) as one:
        assert await one.serving() == "2"
        record = await one.post("/models/fraud/versions/1/promote", 200)
        assert (record["aliases"]["stable"], record["previous"]) == ("1", "2")
        assert (await one.score("card_1"))["model_version"] == "v1.0.0"
        await one.post("/models/fraud/rollback", 200)
        assert (await one.score("card_1"))["model_version"] == "v2.0.0"
        told = [(c["what"], c.get("from"), c["to"]) for c in one.changes("model.changed")]
        assert told == [("promote", "2", "1"), ("rollback", "1", "2")]


async def test_the_other_replica_follows_and_a_restart_remembers(root, stores):
    async with replica(root, *stores) as one, replica(root, *stores) as two:
        await one.post("/models/fraud/versions/1/promote", 200)
        await until(lambda: two.serving(), "a serving version")

        async def is_there() -> bool:
            return await two.serving() == "1"

        await until(is_there, "the other replica serves version 1")
    async with replica(root, *stores) as three:
        assert await three.serving() == "1"
        states = {v["version"]: v["state"] for v in (await three.get("/models/fraud"))["versions"]}
        assert states == {"1": "ready", "2": "unloaded"}


async def test_without_the_database_a_restart_serves_what_was_last_wanted(root, stores):
    state_dir, _, redis_url = stores
    async with replica(root, *stores) as one:
        await one.post("/models/fraud/versions/1/promote", 200)
    gone = "postgresql://nobody@127.0.0.1:9/none"
    async with replica(root, state_dir, gone, redis_url) as two:
        assert await two.serving() == "1"
        refused = await two.client.post("/models/fraud/versions/2/promote")
        assert refused.status_code == 503
        assert (await two.score("card_1"))["model_version"] == "v1.0.0"


async def test_of_two_operators_who_promote_at_once_one_gets_409(root, stores):
    async with replica(root, *stores) as one:
        generation = (await one.get("/models/fraud"))["generation"]
        answers = await asyncio.gather(
            *(
                one.client.post(
                    f"/models/fraud/versions/{version}/promote", json={"generation": generation}
                )
                for version in (1, 2)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        late = await one.client.post(
            "/models/fraud/versions/1/promote", json={"generation": generation}
        )
        assert (late.status_code, late.json()["code"]) == (409, "conflict")


async def test_a_broken_version_cannot_be_promoted_and_the_old_one_serves_on(root, stores):
    (root / "fraud/1/model.onnx").write_bytes(b"noise")
    async with replica(root, *stores) as one:
        problem = await one.post("/models/fraud/versions/1/promote", 409)
        assert problem["code"] == "version_broken"
        assert "bytes" in problem["detail"]
        assert await one.serving() == "2"
        failed = next(c for c in one.changes("model.changed") if c["what"] == "load")
        assert (failed["version"], failed["model"]) == ("1", "fraud")
        assert "bytes" in failed["reason"]
        text = (await one.client.get("/metrics")).text
        assert 'inference_model_state{model="fraud",state="failed",version="1"} 1.0' in text


async def test_a_loaded_version_stands_by_and_the_gauges_follow(root, stores):
    async with replica(root, *stores) as one:
        answer = await one.client.post("/models/fraud/versions/1/load")
        assert (answer.status_code, answer.headers["location"]) == (202, "/models/fraud")

        async def states() -> dict[str, str]:
            found = await one.get("/models/fraud")
            return {item["version"]: item["state"] for item in found["versions"]}

        async def both() -> bool:
            return await states() == {"1": "ready", "2": "ready"}

        await until(both, "both versions are ready")
        await one.post("/models/fraud/versions/1/unload", 202)

        async def gone() -> bool:
            text = (await one.client.get("/metrics")).text
            return 'inference_model_state{model="fraud",state="unloaded",version="1"} 1.0' in text

        await until(gone, "the gauge shows that version 1 is unloaded")
        refused = await one.post("/models/fraud/versions/2/unload", 409)
        assert "serves" in refused["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/models/nobody/versions/1/load", None, 404),
        ("POST", "/models/fraud/versions/9/promote", None, 404),
        ("PUT", "/models/fraud/aliases/champion", {"version": "9"}, 404),
        ("PUT", "/models/fraud/aliases/champion", {"version": 1}, 422),
        ("PUT", "/models/fraud/aliases/Not-One", {"version": "1"}, 422),
        ("POST", "/models/fraud/rollback", None, 409),
        ("POST", "/models/fraud/versions/x/load", None, 422),
    ],
)
async def test_wrong_wishes_are_refused(root, stores, method, path, body, status):
    async with replica(root, *stores) as one:
        answer = await one.client.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        assert await one.serving() == "2"


async def test_an_alias_names_a_version_and_stable_promotes(root, stores):
    async with replica(root, *stores) as one:
        put = await one.client.put("/models/fraud/aliases/challenger", json={"version": "1"})
        assert put.json()["aliases"] == {"challenger": "1"}
        await one.client.put("/models/fraud/aliases/stable", json={"version": "1"})
        assert await one.serving() == "1"


async def test_a_new_version_on_disk_is_found_by_reload(root, stores):
    async with replica(root, *stores) as one:
        copy_version(root / "fraud/1", 3)
        assert (await one.client.post("/models/fraud/versions/3/promote")).status_code == 404
        await one.post("/models/fraud/reload", 200)
        await one.post("/models/fraud/versions/3/promote", 200)
        assert await one.serving() == "3"


async def test_a_model_that_does_not_fit_evicts_the_least_recently_used(models, stores):
    size = sum(p.stat().st_size for p in (models / "fraud/1").iterdir())
    budget = max(1, (2 * size) // (1 << 20) + 1)
    async with replica(models, *stores, models_pinned=("fraud",), model_memory_mib=budget) as one:
        found = await one.get("/models")
        assert {item["name"] for item in found["items"]} == {"fraud", "relevance", "conversion"}
        assert (await one.score("card_1"))["model_version"] == "v1.0.0"


async def test_golden_cases_that_fail_in_service_take_the_version_out(root, stores, monkeypatch):
    from services.inference.adapters import loading
    from services.inference.adapters import repository as module

    async with replica(root, *stores, golden_interval_s=0.3) as one:
        real = loading.prove

        def prove(model):
            if model.manifest.version == 2:
                raise ManifestError("fraud: golden case 0 gives another answer")
            real(model)

        monkeypatch.setattr(module, "prove", prove)

        async def replaced() -> bool:
            return await one.serving() == "1"

        await until(replaced, "version 1 takes over")
        versions = (await one.get("/models/fraud"))["versions"]
        assert next(v for v in versions if v["version"] == "2")["state"] == "failed"
        await until(
            lambda: any(c["what"] == "golden" for c in one.changes("model.changed")), "the event"
        )


async def test_a_replica_serves_the_models_it_is_told_to(models, stores):
    async with replica(models, *stores, models_served=("fraud",)) as one:
        assert [item["name"] for item in (await one.get("/models"))["items"]] == ["fraud"]


def test_signatures_are_checked_and_may_be_demanded(root: Path):
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    directory = root / "fraud/1"
    verify_manifest(directory, key.public_key(), is_required=False)
    with pytest.raises(ManifestError, match="not signed"):
        verify_manifest(directory, key.public_key(), is_required=True)
    sign_manifest(directory, key)
    verify_manifest(directory, key.public_key(), is_required=True)
    with pytest.raises(ManifestError, match="wrong"):
        verify_manifest(directory, other.public_key(), is_required=False)
    edit_manifest(directory, release="9.9.9")
    with pytest.raises(ManifestError, match="wrong"):
        verify_manifest(directory, key.public_key(), is_required=False)


async def test_ten_swaps_under_load_fail_nobody(root, stores):
    async with replica(root, *stores) as one:
        stop, statuses, versions = asyncio.Event(), [], set()

        async def load(number: int) -> None:
            count = 0
            while not stop.is_set():
                count += 1
                body = {"card_id": f"card_{number}_{count}", "transaction_amount": 5.0}
                answer: httpx2.Response = await one.client.post("/score/fraud", json=body)
                statuses.append(answer.status_code)
                versions.add(answer.json().get("model_version"))
                await asyncio.sleep(0)  # nothing in this process waits for a socket

        workers = [asyncio.create_task(load(number)) for number in range(4)]
        for swap in range(10):
            await one.post(f"/models/fraud/versions/{1 + swap % 2}/promote", 200)
        stop.set()
        await asyncio.gather(*workers)
        assert set(statuses) == {200}
        assert versions == {"v1.0.0", "v2.0.0"}


def test_the_least_recently_used_model_goes_first(tmp_path):
    root = tmp_path / "texts"
    for name in ("one", "two", "three"):
        build_text_version(root, name, task="text-classification")
    policy = RepositoryPolicy(pinned=frozenset({"three"}))
    repository = ModelRepository(root, policy=policy)
    repository.load_all()
    held = {item.name: item.memory_bytes for item in repository.residents()}
    needed = held["one"]
    repository.serving("one")  # used last, though loaded first
    budget = sum(held.values())
    leaving = victims(repository.residents(), needed, budget)
    assert [item.name for item in leaving] == ["two"]
    with pytest.raises(MemoryError):
        victims(repository.residents(), budget, budget)  # the pinned one never goes


async def test_an_evicted_model_is_loaded_again_by_the_call_that_misses_it(models, stores):
    async with replica(models, *stores, models_pinned=()) as one:
        control = one.state["control"].models
        repository = control.repository
        repository._leave(repository._loaded.pop(("relevance", 1)), EVICTED)
        del repository._serving["relevance"]
        await until(
            lambda: repository.status("relevance", 1).state.value == "unloaded", "it has drained"
        )
        body = {"user_id": "user_1", "item_id": "item_1"}
        refused = await one.client.post("/score/personalization", json=body)
        assert (refused.status_code, refused.json()["code"]) == (503, "model_not_loaded")

        async def is_back() -> bool:
            answer = await one.client.post("/score/personalization", json=body)
            return answer.status_code == 200

        await until(is_back, "it is loaded again")


async def test_a_caller_without_the_models_scope_is_refused(root, stores, state_dir):
    for version in (1, 2):
        document = json.loads((root / f"fraud/{version}/manifest.json").read_text())
        parameters = {**document["parameters"], "scope": "fraud:score"}
        edit_manifest(root / f"fraud/{version}", parameters=parameters)
    build_text_version(root, "secret", task="text-classification", parameters={"scope": "secret:x"})
    signer = Signer.from_directory("gateway", state_dir / "keys")
    payment = {"card_id": "card_1", "transaction_amount": 5.0}
    _, *rest = stores
    settings = {"identity_mode": "required", "text_loading": "eager"}
    async with replica(root, state_dir, *rest, **settings) as one:

        async def status(path: str, body: dict[str, object], *scopes: str) -> int:
            header = signer.header(
                "inference", tenant="default", principal="key:a", scopes=(*scopes, "predict:*")
            )
            answer = await one.client.post(path, json=body, headers={IDENTITY_HEADER: header})
            return answer.status_code

        texts: dict[str, object] = {"inputs": ["good"]}
        tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["good"]}
        tensors: dict[str, object] = {"inputs": [tensor]}
        assert await status("/score/fraud", payment) == 403
        assert await status("/score/fraud", payment, "fraud:score") == 200
        assert await status("/v1/models/secret/predict", texts) == 403
        assert await status("/v1/models/secret/predict", texts, "secret:x") == 200
        assert await status("/v2/models/secret/infer", tensors) == 403
        assert await status("/v2/models/secret/infer", tensors, "secret:*") == 200


async def test_an_unsigned_version_is_not_loaded_where_signatures_are_required(
    root, stores, tmp_path
):
    key = Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes_raw()
    path = tmp_path / "models.pub"
    path.write_text(base64.urlsafe_b64encode(raw).decode().rstrip("=") + "\n")
    sign_manifest(root / "fraud/1", key)
    settings = {"model_signatures": "required", "model_public_key_path": path}
    async with replica(root, *stores, **settings) as one:
        assert await one.serving() == "1"
        versions = (await one.get("/models/fraud"))["versions"]
        unsigned = next(item for item in versions if item["version"] == "2")
        assert unsigned["state"] == "failed"
        assert "not signed" in unsigned["reason"]
        problem = await one.post("/models/fraud/versions/2/promote", 409)
        assert problem["code"] == "version_broken"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"engine": "abacus"}, "engine"),
        ({"files": [{"path": "model.onnx", "bytes": 1}]}, "sha256"),
        ({"files": [{"path": "model.pkl", "bytes": 1, "sha256": "0" * 64}]}, "pickle"),
        ({"release": "1.0"}, "release"),
        ({"feature_fingerprint": "another"}, "this process reads"),
        ({"task": "sentiment"}, "activation"),
        ({"golden_cases": []}, "no golden case"),
        ({"memory_limit_mib": 0}, "memory_limit_mib"),
    ],
)
async def test_a_manifest_that_is_not_acceptable_says_why(root, stores, change, reason):
    edit_manifest(root / "fraud/2", **change)
    async with replica(root, *stores, text_loading="eager") as one:
        assert await one.serving() == "1"
        versions = (await one.get("/models/fraud"))["versions"]
        broken = next(item for item in versions if item["version"] == "2")
        assert broken["state"] == "failed"
        assert reason in broken["reason"]


async def test_drift_is_told_as_events_and_gauges(root, stores):
    async with replica(root, *stores, drift_event_s=0.1) as one:
        drift = one.state["scoring"].plane.drift
        for _ in range(3):
            requests = [{"card_id": f"card_{n}", "transaction_amount": 5} for n in range(100)]
            await one.post("/score/batch", 200, model_type="fraud_detection", requests=requests)
        control = one.state["control"].models
        control._drift_at = 0.0
        await until(lambda: one.changes("model.drift"), "the event")
        told = one.changes("model.drift")[0]
        assert (told["model"], told["version"], told["rows"]) == ("fraud", "2", 300)
        assert told["rows_compared"] == 300
        assert told["score_psi"] >= 0
        assert 0 < told["score_ks"] <= 1
        assert told["input_psi"].keys() == told["input_ks"].keys()
        assert told["inputs_compared"] >= len(told["input_psi"]) > 0
        assert drift.due_events() == []
        text = (await one.client.get("/metrics")).text
        assert 'inference_score_drift_psi{model="fraud",version="2"}' in text


async def test_a_version_that_is_loaded_already_is_loaded_no_second_time(root, stores):
    async with replica(root, *stores) as one:
        before = (await one.get("/models/fraud"))["versions"][0]["loaded_at"]
        answer = await one.post("/models/fraud/versions/2/load", 202)
        assert answer["standby"] in ([], ["2"])
        after = (await one.get("/models/fraud"))["versions"][0]
        assert (after["state"], after["loaded_at"]) == ("ready", before)


async def test_a_long_load_shows_state_bytes_and_seconds(root, stores, monkeypatch):
    from services.inference.adapters import repository as module

    real, gate = verify_file, threading.Event()

    def slow(directory: Path, entry: object) -> None:
        real(directory, entry)  # type: ignore[arg-type]
        gate.wait(10)

    async with replica(root, *stores) as one:
        monkeypatch.setattr(module, "verify_file", slow)
        await one.post("/models/fraud/versions/1/load", 202)

        async def progress() -> dict[str, object] | None:
            versions = (await one.get("/models/fraud"))["versions"]
            found = next(item for item in versions if item["version"] == "1")
            return found["progress"] if found["state"] == "loading" else None

        await until(progress, "the load is under way")
        shown = await progress()
        assert shown is not None
        assert 0 <= shown["bytes_done"] < shown["bytes_total"]  # type: ignore[operator]
        assert shown["seconds"] >= 0  # type: ignore[operator]
        gate.set()

        async def ready() -> bool:
            versions = (await one.get("/models/fraud"))["versions"]
            return any(v["version"] == "1" and v["state"] == "ready" for v in versions)

        await until(ready, "it is loaded")


async def test_protocol_calls_go_through_the_control_to_every_replica(root, stores):
    async with replica(root, *stores) as one, replica(root, *stores) as two:
        await one.post("/models/fraud/versions/1/promote", 200)
        await one.post("/v2/repository/models/fraud/unload", 200)
        assert await one.serving() is None

        async def serves(version: str | None) -> bool:
            return await two.serving() == version

        await until(lambda: serves(None), "the other replica serves nothing")
        refused = await two.client.post(
            "/score/fraud", json={"card_id": "card_1", "transaction_amount": 10.0}
        )
        assert refused.status_code == 503
        async with replica(root, *stores) as three:
            assert await three.serving() is None, "a restart remembers"

            async def is_ready() -> bool:
                return (await three.client.get("/readyz")).status_code == 200

            await until(is_ready, "a replica without the unloaded model is ready")
        await two.post("/v2/repository/models/fraud/load", 200)
        assert await two.serving() == "1", "what an operator promoted, not the newest"
        await until(one.serving, "the first replica follows")
        assert await one.serving() == "1"
        told = [(c["what"], c.get("from"), c.get("to")) for c in one.changes("model.changed")]
        assert told == [("promote", "2", "1"), ("unload", "1", None)]
        told = [(c["what"], c.get("from"), c.get("to")) for c in two.changes("model.changed")]
        assert told == [("load", None, "1")]


async def test_a_promotion_ends_a_withdrawal(root, stores):
    async with replica(root, *stores) as one:
        await one.post("/v2/repository/models/fraud/unload", 200)
        record = await one.post("/models/fraud/versions/1/promote", 200)
        assert (record["withdrawn"], await one.serving()) == (False, "1")


async def test_protocol_load_serves_a_version_that_is_new_on_disk(root, stores):
    async with replica(root, *stores) as one:
        copy_version(root / "fraud/1", 3)
        await one.post("/v2/repository/models/fraud/load", 200)
        assert await one.serving() == "3"


async def test_the_protocol_unloads_nothing_that_a_rollout_needs(root, stores):
    async with replica(root, *stores) as one:
        plan = {"candidate": "1", "mode": "shadow"}
        await one.post("/models/fraud/rollouts", 201, **plan)
        refused = await one.post("/v2/repository/models/fraud/unload", 409)
        assert "rollout" in refused["error"]
        assert await one.serving() == "2"
        await one.post("/v2/repository/models/fraud/load", 200)
        assert await one.serving() == "2"


async def test_without_a_database_the_protocol_acts_on_this_process(root, stores):
    state_dir, _, redis_url = stores
    async with replica(root, state_dir, None, redis_url) as one:
        await one.post("/v2/repository/models/fraud/unload", 200)
        assert await one.serving() is None
        await one.post("/models/fraud/reload", 200)
        assert await one.serving() is None
        await one.post("/v2/repository/models/fraud/load", 200)
        assert await one.serving() == "2"
