"""A Feast server over Redis with the benchmark's data: `feast_server.py DIR REDIS PORT ENTITIES`.

Runs in the peer's environment. Applies five views of ten doubles, writes every entity, prints
`ready`, then serves with one worker until it is stopped.
"""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

VIEWS, FEATURES = 5, 10


def _apply(directory: Path, redis: str, entities: int) -> None:
    import pandas
    from feast import (  # type: ignore[import-not-found] # lives in the peer's environment
        Entity,
        FeatureStore,
        FeatureView,
        Field,
        FileSource,
        ValueType,
    )
    from feast.types import Float64  # type: ignore[import-not-found] # as above

    (directory / "feature_store.yaml").write_text(
        "project: peer\nprovider: local\n"
        "registry:\n  path: registry.db\n  cache_ttl_seconds: 3600\n"
        "entity_key_serialization_version: 3\n"
        f"online_store:\n  type: redis\n  connection_string: {redis}\n"
    )
    card = Entity(name="card", join_keys=["card_id"], value_type=ValueType.STRING)
    now = datetime.now(UTC)
    store = FeatureStore(repo_path=str(directory))
    objects: list[Any] = [card]
    frames = {}
    for number in range(VIEWS):
        names = [f"f{number}_{index}" for index in range(FEATURES)]
        rows: dict[str, Any] = {"card_id": [f"card_{n}" for n in range(entities)]}
        rows |= {name: [n / 7 + i for n in range(entities)] for i, name in enumerate(names)}
        frames[f"fv{number}"] = pandas.DataFrame({**rows, "event_timestamp": [now] * entities})
        path = directory / f"fv{number}.parquet"
        frames[f"fv{number}"].head(1).to_parquet(path)
        objects.append(
            FeatureView(
                name=f"fv{number}",
                entities=[card],
                ttl=timedelta(days=1),
                schema=[Field(name=name, dtype=Float64) for name in names],
                source=FileSource(path=str(path), timestamp_field="event_timestamp"),
            )
        )
    store.apply(objects)
    for name, frame in frames.items():
        store.write_to_online_store(name, frame)


def main() -> None:
    """Prepare, then become the server."""
    directory, redis, port, entities = sys.argv[1:]
    _apply(Path(directory), redis, int(entities))
    print("ready", flush=True)
    feast = str(Path(sys.executable).with_name("feast"))
    options = ["serve", "-h", "127.0.0.1", "-p", port, "--no-access-log", "-w", "1"]
    os.execv(feast, [feast, "-c", directory, *options, "--registry_ttl_sec", "3600"])


if __name__ == "__main__":
    main()
