"""Logs a released version to MLflow: parameters, metrics, artefacts, registered version, alias.

    python -m training.mlflow_registry models/fraud/1 --alias champion

`MLFLOW_TRACKING_URI` decides where; without it an SQLite file under .gatehouse/mlflow. Needs the
extra `mlflow` (or the environment that `make mlflow` makes). The artefacts are the version's folder
as it is, so that serving verifies the same hashes that training wrote.
"""

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ARTIFACT_PATH = "gatehouse"
_VALUE_MAX = 500


def log_version(directory: Path, *, tracking_uri: str, alias: str | None = None) -> str:
    """Log and register one version folder.

    Args:
        directory: `models/<name>/<version>` with its manifest.
        tracking_uri: server or `sqlite:///file`.
        alias: to point at the new registry version.

    Returns:
        The registry's version number.
    """
    from mlflow import MlflowClient

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
