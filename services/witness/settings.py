"""Settings of the witness, read once. Plain, so that the process stays below 40 MB."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Each variable with its effect, for `.env.example` and the documents.
VARIABLES: dict[str, str] = {
    "WITNESS_PORT": "Port of the witness; default 8086.",
    "WITNESS_NAME": "Name of the witness in cosignatures; default gatehouse.local/witness. Audit "
    "reads it too.",
    "WITNESS_LOGS_FILE": "File with the verifier keys of the logs to watch, one per line; default "
    "STATE_DIR/audit/log.vkey, which audit writes.",
}
DEFAULT_NAME = "gatehouse.local/witness"
DEFAULT_PORT = 8086


@dataclass(frozen=True, slots=True)
class WitnessSettings:
    """What the witness reads from its environment."""

    host: str
    port: int
    name: str
    state: Path
    key_file: Path
    logs_file: Path

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ) -> "WitnessSettings":
        """Read the environment.

        Raises:
            ValueError: the port is not a number from 0 to 65535.
        """
        root = Path(environ.get("STATE_DIR") or ".gatehouse")
        port = environ.get("WITNESS_PORT") or str(DEFAULT_PORT)
        if not port.isdigit() or int(port) > 65_535:
            raise ValueError("WITNESS_PORT: must be a number from 0 to 65535")
        keys = Path(environ.get("KEYS_DIR") or root / "keys")
        logs = environ.get("WITNESS_LOGS_FILE") or root / "audit" / "log.vkey"
        return cls(
            host=environ.get("BIND_HOST") or "127.0.0.1",
            port=int(port),
            name=environ.get("WITNESS_NAME") or DEFAULT_NAME,
            state=root / "witness",
            key_file=keys / "witness.key",
            logs_file=Path(logs),
        )
