"""A real Feast SDK against our service: `FEAST_PYTHON feast_client.py URL`; prints JSON.

Runs in the peer's environment (benchmarks/peers/make.sh) and imports nothing of ours. The feature
repository is its own; the online store is `remote`, so every read and write goes over HTTP.
"""

import json
import os
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

VIEW, SOURCE = "fv1", "fv1_push"
FEATURES = ("f1_0", "f1_1")


def _store(directory: Path, url: str) -> Any:
    """Apply a repository with one entity, one pushed view and one service."""
    from feast import (  # type: ignore[import-not-found] # lives in the peer's environment
        Entity,
        FeatureService,
        FeatureStore,
        FeatureView,
        Field,
        FileSource,
        ValueType,
    )
    from feast.data_source import PushSource  # type: ignore[import-not-found] # as above
    from feast.types import Float64, Int64  # type: ignore[import-not-found] # as above

    auth = (
        f"auth:\n  type: oidc\n  token: {os.environ['GATEHOUSE_API_KEY']}\n"
        if "GATEHOUSE_API_KEY" in os.environ
        else ""
    )
    (directory / "feature_store.yaml").write_text(
        "project: peer\nprovider: local\nregistry: registry.db\n"
        "entity_key_serialization_version: 3\n"
        f"online_store:\n  type: remote\n  path: {url}\n  connection_retries: 0\n{auth}"
    )
    import pandas

    frame = pandas.DataFrame(
        {
            "card_id": [7],
            "f1_0": [0.0],
            "f1_1": [0],
            "event_timestamp": [datetime(2026, 1, 1, tzinfo=UTC)],
        }
    )
    frame.to_parquet(directory / "rows.parquet")
    batch = FileSource(path=str(directory / "rows.parquet"), timestamp_field="event_timestamp")
    card = Entity(name="card", join_keys=["card_id"], value_type=ValueType.INT64)
    view = FeatureView(
        name=VIEW,
        entities=[card],
        ttl=timedelta(hours=1),
        schema=[Field(name="f1_0", dtype=Float64), Field(name="f1_1", dtype=Int64)],
        source=PushSource(name=SOURCE, batch_source=batch),
    )
    store = FeatureStore(repo_path=str(directory))
    store.apply([card, view, FeatureService(name="svc", features=[view])])
    return store


def _error(call: Any) -> str:
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return ""


def main() -> None:
    """Push, read and fail; print what the SDK made of the answers."""
    import pandas
    from feast.infra.online_stores.remote import (  # type: ignore[import-not-found] # as above
        get_remote_online_features,
    )

    with tempfile.TemporaryDirectory() as directory:
        store = _store(Path(directory), sys.argv[1])
        now = datetime.now(UTC).replace(microsecond=123_456)
        rows = {"card_id": [7, 8], "f1_0": [0.5, None], "f1_1": [3, 4]}
        store.push(SOURCE, pandas.DataFrame({**rows, "event_timestamp": [now, now]}))
        names = [f"{VIEW}:{name}" for name in FEATURES]
        cards = [{"card_id": 7}, {"card_id": 8}, {"card_id": 9}]
        online = store.get_online_features(features=names, entity_rows=cards)
        service = store.get_online_features(
            features=store.get_feature_service("svc"), entity_rows=cards, full_feature_names=True
        )
        bodies = {
            "view": {"features": ["nope:f"], "entities": {"card_id": [7]}},
            "service": {"feature_service": "nope", "entities": {"card_id": [7]}},
            "feature": {"features": [f"{VIEW}:nope"], "entities": {"card_id": [7]}},
        }
        found = {
            "values": online.to_dict(),
            "statuses": [[int(s) for s in column.statuses] for column in online.proto.results],
            "service": service.to_dict(),
            "errors": {
                name: _error(
                    lambda body=body: get_remote_online_features(config=store.config, req_body=body)
                )
                for name, body in bodies.items()
            },
        }
        print(json.dumps(found))


if __name__ == "__main__":
    main()
