"""The pepper: the secret that keys the digests of API keys."""

import hashlib
import os
import secrets
from pathlib import Path

from services.gateway.settings import GatewaySettings

_BYTES = 32


def load_pepper(settings: GatewaySettings) -> bytes:
    """Give the pepper from the setting, else from a 0600 file that is made on first use."""
    if settings.pepper:
        return settings.pepper.get_secret_value().encode()
    path = settings.state_dir / "secrets" / "pepper"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        _create_once(path)
    return bytes.fromhex(path.read_text().strip())


def _create_once(path: Path) -> None:
    """Make the file whole or not at all, so that two starting processes agree on one pepper."""
    draft = path.with_name(f".pepper.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(_BYTES))
    try:
        os.link(draft, path)  # fails when another process was first: its pepper counts
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def pepper_id(pepper: bytes) -> str:
    """Name a pepper without telling it, so that rows say which one they were made with."""
    return hashlib.sha256(b"gatehouse pepper id" + pepper).hexdigest()[:8]
