"""Settings of audit."""

from pathlib import Path
from typing import ClassVar

from libs.common.settings import ServiceSettings, env


class AuditSettings(ServiceSettings):
    """What audit reads beyond the shared settings."""

    service: ClassVar[str] = "audit"

    audit_keys_dir: Path | None = env(
        "AUDIT_KEYS_DIR",
        default=None,
        description="Directory of the log's signing key and the key-encryption key; default "
        "STATE_DIR/audit. Keep it outside of the database's backups.",
    )
    audit_origin: str = env(
        "AUDIT_ORIGIN",
        default="gatehouse.local/log",
        pattern=r"^[^\s+]+$",
        description="Origin line of checkpoints: the log's public URL prefix without scheme.",
    )

    @property
    def audit_keys_path(self) -> Path:
        """The directory of the log's own keys."""
        return self.audit_keys_dir or self.state_dir / "audit"
