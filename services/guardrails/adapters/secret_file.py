"""The node's secret for keyed digests, under the state directory with mode 0600."""

import os
import secrets
from pathlib import Path

SECRET_BYTES = 32


def load_or_make(directory: Path, name: str = "guardrails.secret") -> bytes:
    """Read the secret; make it once when there is none.

    Two processes that start together agree: the file is created exclusively, the loser reads.

    Raises:
        ValueError: the file is shorter than 32 bytes.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / name
    if not path.exists():
        partial = directory / f"{name}.{os.getpid()}"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(SECRET_BYTES))
        try:
            os.link(partial, path)
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    secret = bytes.fromhex(path.read_text().strip())
    if len(secret) < SECRET_BYTES:
        raise ValueError(f"{name} holds fewer than {SECRET_BYTES} bytes")
    return secret
