"""`python -m deploy.helm.make_secrets [NAMESPACE]`: print new Secrets for the chart.

    python -m deploy.helm.make_secrets gatehouse | kubectl apply -f -

Signing keys of all services (Secret gatehouse-keys), their public halves (ConfigMap
gatehouse-public-keys) and what replicas share (Secret gatehouse-pepper). Run it once: new keys
make old identities invalid, a new pepper makes every API key invalid.
"""

import json
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any

from libs.common.catalog import SERVICES
from libs.common.identity import ensure_keys


def objects(namespace: str) -> list[dict[str, Any]]:
    """Make the keys and give the three objects."""
    with tempfile.TemporaryDirectory() as directory:
        ensure_keys(Path(directory), [*SERVICES, "witness"])
        files = {path.name: path.read_text() for path in sorted(Path(directory).iterdir())}

    def named(kind: str, name: str, **rest: Any) -> dict[str, Any]:
        meta = {"name": name, "namespace": namespace}
        return {"apiVersion": "v1", "kind": kind, "metadata": meta, **rest}

    private = {name: text for name, text in files.items() if name.endswith(".key")}
    public = {name: text for name, text in files.items() if name.endswith(".pub")}
    return [
        named("Secret", "gatehouse-keys", type="Opaque", stringData=private),
        named("ConfigMap", "gatehouse-public-keys", data=public),
        named(
            "Secret",
            "gatehouse-pepper",
            type="Opaque",
            stringData={"pepper": secrets.token_hex(32), "guardrails": secrets.token_hex(32)},
        ),
    ]


def main(argv: list[str]) -> int:
    """Print one list; kubectl reads JSON as well as YAML."""
    namespace = argv[0] if argv else "default"
    listed = {"apiVersion": "v1", "kind": "List", "items": objects(namespace)}
    print(json.dumps(listed, indent=2))  # noqa: T201 - a command whose output is piped
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
