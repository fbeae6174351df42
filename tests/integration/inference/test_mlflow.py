"""A real MLflow server: training logs and registers, inference follows the alias.

Needs MLflow in an environment of its own: `make mlflow` makes .venv-mlflow; GATEHOUSE_MLFLOW_VENV
names another one.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deploy.local.ports import free_port
from services.inference.adapters.mlflow_source import MlflowSource
from tests.integration.inference.replicas import Replica, replica, until
from tests.support.tabular_models import copy_version, edit_manifest
from training.mlflow_registry import log_version

ROOT = Path(__file__).parents[3]
VENV = Path(os.environ.get("GATEHOUSE_MLFLOW_VENV", ROOT / ".venv-mlflow"))
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (VENV / "bin/mlflow").exists(), reason="no MLflow; `make mlflow` installs it"
    ),
]


@contextlib.contextmanager
def server(folder: Path, port: int) -> Iterator[str]:
    """Run a server over SQLite and a folder; gives its URL."""
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [
            *(VENV / "bin/mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
            *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 180
        while True:
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"{url}/health", timeout=2).status_code == 200:
                    break
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:  # it waits for connections that clients keep open
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server that all tests but the last share."""
    with server(tmp_path_factory.mktemp("mlflow"), free_port()) as url:
        yield url


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the training code find MLflow where this test found it."""
    monkeypatch.setenv("GATEHOUSE_MLFLOW_VENV", str(VENV))


def log(directory: Path, tracking: str, alias: str) -> str:
    """Log and register a version as the pipelines do."""
    return log_version(directory, tracking_uri=tracking, alias=alias)


def _get(tracking: str, path: str) -> dict[str, Any]:
    response = httpx2.get(f"{tracking}/api/2.0/mlflow/{path}", timeout=20)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_a_run_holds_parameters_metrics_and_the_whole_version(models, tmp_path, tracking):
    trained = tmp_path / "fraud"
    shutil.copytree(models / "fraud", trained)
    directory = copy_version(trained / "1", 7)
    edit_manifest(directory, metrics={"test": {"auprc": 0.5}, "rows": 600})
    version = log(directory, tracking, "challenger")
    named = _get(tracking, "registered-models/alias?name=fraud&alias=challenger")["model_version"]
    assert named["version"] == version
    run = _get(tracking, f"runs/get?run_id={named['run_id']}")["run"]
    assert {"key": "seed", "value": "7"} in run["data"]["params"]
    metrics = {one["key"]: one["value"] for one in run["data"]["metrics"]}
    assert metrics == {"test.auprc": 0.5, "rows": 600.0}
    listed = _get(tracking, f"artifacts/list?run_id={named['run_id']}&path=gatehouse")["files"]
    wanted = {f"gatehouse/{path.name}" for path in directory.iterdir()}
    assert {one["path"] for one in listed} == wanted


async def test_the_version_that_the_alias_names_is_fetched_and_served(
    models, tmp_path, clean_postgres, redis_url, tracking
):
    local, trained = tmp_path / "models", tmp_path / "trained"
    shutil.copytree(models / "fraud", local / "fraud")
    shutil.copytree(models / "fraud", trained / "fraud")
    settings = {"mlflow_tracking_uri": tracking, "mlflow_poll_s": 0.3}
    stores = (tmp_path / "state", clean_postgres, redis_url)
    async with replica(local, *stores, **settings) as one:
        assert await one.serving() == "1"
        log(copy_version(trained / "fraud/1", 2), tracking, "champion")

        async def serves(version: str) -> bool:
            return await one.serving() == version

        await until(lambda: serves("2"), "version 2 of the registry serves", 20)
        found = (await one.get("/models/fraud"))["versions"]
        assert next(v for v in found if v["version"] == "2")["source"] == "mlflow"
        assert (await one.score("card_1"))["model_version"] == "v2.0.0"

        broken = copy_version(trained / "fraud/1", 3)
        (broken / "model.onnx").write_bytes(b"noise")
        log(broken, tracking, "champion")

        async def told() -> bool:
            health = (await one.client.get("/health")).json()["components"]["mlflow"]
            return "model.onnx" in health.get("detail", "")

        await until(told, "health names the broken version", 20)
        assert await one.serving() == "2"


async def test_an_alias_that_points_nowhere_is_none(tmp_path, tracking):
    source = MlflowSource(tracking, tmp_path)
    for alias in ("champion", "version:1", "stage:Production"):
        assert await source.alias_version("nobody", alias) is None


async def test_a_version_or_a_stage_may_be_named_instead(models, tmp_path, tracking):
    source = MlflowSource(tracking, tmp_path)
    trained = tmp_path / "fraud"
    shutil.copytree(models / "fraud", trained)
    version = log(copy_version(trained / "1", 8), tracking, "other")
    assert await source.alias_version("fraud", f"version:{version}") == version
    assert await source.alias_version("fraud", "version:999") is None
    body = {"name": "fraud", "version": version, "stage": "Production"}
    moved = httpx2.post(f"{tracking}/api/2.0/mlflow/model-versions/transition-stage", json=body)
    assert moved.status_code == 200, moved.text
    assert await source.alias_version("fraud", "stage:Production") == version


async def test_a_registry_that_is_down_changes_nothing_and_is_followed_when_it_returns(
    models, tmp_path, clean_postgres, redis_url
):
    local, trained = tmp_path / "models", tmp_path / "trained"
    shutil.copytree(models / "fraud", local / "fraud")
    shutil.copytree(models / "fraud", trained / "fraud")
    (tmp_path / "mlflow").mkdir()
    port = free_port()
    stores = (tmp_path / "state", clean_postgres, redis_url)

    async def mlflow(one: Replica) -> dict[str, Any]:
        return dict((await one.client.get("/health")).json()["components"]["mlflow"])

    url = f"http://127.0.0.1:{port}"
    settings: dict[str, Any] = {"mlflow_tracking_uri": url, "mlflow_poll_s": 0.2}
    async with replica(local, *stores, **settings) as one:

        async def is_down() -> bool:
            found = await mlflow(one)
            return bool(found["status"] == "degraded" and "does not answer" in found["detail"])

        await until(is_down, "health says that the registry is down")
        assert (await one.score("card_1"))["model_version"] == "v1.0.0"
        assert (await one.client.get("/readyz")).status_code == 200
        with server(tmp_path / "mlflow", port):
            log(copy_version(trained / "fraud/1", 2), url, "champion")

            async def serves() -> bool:
                return await one.serving() == "2"

            await until(serves, "the alias is followed once the registry is back", 60)

            async def is_well() -> bool:
                return bool((await mlflow(one))["status"] == "ok")

            await until(is_well, "health says that all is well")
        await until(is_down, "health says that it is down again")
        assert (await one.score("card_1"))["model_version"] == "v2.0.0"
