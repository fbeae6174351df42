"""Logs a released version to MLflow: parameters, metrics, artefacts, registered version, alias.

    python -m training.mlflow_registry models/fraud/1 --alias champion

`MLFLOW_TRACKING_URI` decides where; without it an SQLite file under .gatehouse/mlflow. MLflow is
taken from this environment (extra `mlflow`), else from the one that `make mlflow` makes
(.venv-mlflow, or GATEHOUSE_MLFLOW_VENV). The artefacts are the version's folder as it is, so that
serving verifies the same hashes that training wrote. `training.fraud` and
`training.personalization` log what they train in the same way where MLFLOW_TRACKING_URI is set.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ARTIFACT_PATH = "gatehouse"
_VALUE_MAX = 500
_ROOT = Path(__file__).resolve().parents[1]


def log_version(directory: Path, *, tracking_uri: str, alias: str | None = None) -> str:
    """Log and register one version folder.

    Args:
        directory: `models/<name>/<version>` with its manifest.
        tracking_uri: server or `sqlite:///file`.
        alias: to point at the new registry version.

    Returns:
        The registry's version number.

    Raises:
        RuntimeError: there is no MLflow, or it refused.
    """
    try:
        from mlflow import MlflowClient
    except ImportError:
        return _log_elsewhere(directory, tracking_uri, alias)
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    client = MlflowClient(tracking_uri, tracking_uri)
    name = str(manifest["name"])
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    run = client.create_run(experiment, run_name=f"{name}-{manifest['release']}")
    run_id = run.info.run_id
    for key, value in flat(manifest["training"]):
        client.log_param(run_id, key, str(value)[:_VALUE_MAX])
    for key, value in flat(manifest["metrics"]):
        if isinstance(value, int | float) and not isinstance(value, bool):
            client.log_metric(run_id, key, float(value))
    client.log_artifacts(run_id, str(directory), ARTIFACT_PATH)
    client.set_terminated(run_id)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    source = f"{run.info.artifact_uri}/{ARTIFACT_PATH}"
    version = client.create_model_version(name, source, run_id)
    client.set_model_version_tag(name, version.version, "release", manifest["release"])
    if alias is not None:
        client.set_registered_model_alias(name, alias, version.version)
    return str(version.version)


def record(directory: Path) -> str | None:
    """Log a version that was just trained, where MLFLOW_TRACKING_URI is set; gives its number."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return None
    version = log_version(directory, tracking_uri=uri)
    print(f"{directory}: logged to MLflow as version {version}")
    return version


def _log_elsewhere(directory: Path, tracking_uri: str, alias: str | None) -> str:
    """Run this module in the environment that has MLflow."""
    place = Path(os.environ.get("GATEHOUSE_MLFLOW_VENV") or _ROOT / ".venv-mlflow")
    python = place / "bin/python"
    if not python.exists():
        raise RuntimeError("no MLflow here: `make mlflow` installs it into .venv-mlflow")
    command = [str(python), "-m", "training.mlflow_registry", str(directory.resolve())]
    done = subprocess.run(
        [*command, *(("--alias", alias) if alias else ())],
        env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri},
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"MLflow refused: {done.stderr.strip()[-500:]}")
    return done.stdout.split()[-1]


def flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give the leaves of a nested document as `a.b`; lists are left to the artefacts."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            yield f"{prefix}{key}", value


def default_uri() -> str:
    """Give the tracking store: the environment's, else an SQLite file."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    folder = Path(".gatehouse/mlflow")
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder.resolve()}/mlflow.db"


def main(arguments: Sequence[str] | None = None) -> None:
    """Log one version from the command line."""
    parser = argparse.ArgumentParser(description="Log a released version to MLflow.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--alias")
    asked = parser.parse_args(arguments)
    version = log_version(asked.directory, tracking_uri=default_uri(), alias=asked.alias)
    print(f"{asked.directory}: registered as version {version}")


if __name__ == "__main__":
    main()
