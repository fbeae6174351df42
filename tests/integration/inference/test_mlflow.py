"""A real MLflow server: training logs and registers, inference follows the alias.

Needs MLflow in an environment of its own: `make mlflow` makes .venv-mlflow; GATEHOUSE_MLFLOW_VENV
names another one.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from services.inference.adapters.mlflow_source import MlflowSource
from tests.integration.inference.replicas import replica, until
from tests.support.tabular_models import copy_version

ROOT = Path(__file__).parents[3]
VENV = Path(os.environ.get("GATEHOUSE_MLFLOW_VENV", ROOT / ".venv-mlflow"))
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (VENV / "bin/mlflow").exists(), reason="no MLflow; `make mlflow` installs it"
    ),
]


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server over SQLite and a folder."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
        os.killpg(process.pid, 15)
        process.wait(20)


def log(directory: Path, tracking: str, alias: str) -> str:
    """Run the training helper in MLflow's environment."""
    done = subprocess.run(
        [VENV / "bin/python", "-m", "training.mlflow_registry", str(directory), "--alias", alias],
        env={**os.environ, "MLFLOW_TRACKING_URI": tracking, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().rpartition(" ")[2]


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
    assert await source.alias_version("nobody", "champion") is None
