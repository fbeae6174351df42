"""Settings of audit."""

import base64
from pathlib import Path
from typing import ClassVar

from libs.common.settings import ServiceSettings, SettingsError, Url, env
from libs.common.transparency.note import COSIGNATURE, VerifierKey


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
    witness_url: Url | None = env(
        "WITNESS_URL",
        default=None,
        description="Where the witness answers; without it checkpoints are published unwitnessed.",
    )
    witness_name: str = env(
        "WITNESS_NAME",
        default="gatehouse.local/witness",
        pattern=r"^[^\s+]+$",
        description="Name of the witness in cosignatures.",
    )
    witness_key: str | None = env(
        "WITNESS_KEY",
        default=None,
        description="Verifier key of the witness; default made of WITNESS_NAME and "
        "KEYS_DIR/witness.pub.",
    )

    audit_anonymize: bool = env(
        "AUDIT_ANONYMIZE",
        default=False,
        description="Let guardrails mask who is named in the text members of events (reasons, "
        "former and new values) before these are hashed; what it cannot judge is withheld.",
    )

    @property
    def witness_verifier(self) -> VerifierKey:
        """The key that cosignatures are checked against.

        Raises:
            SettingsError: there is none, or it is malformed.
        """
        try:
            if self.witness_key:
                return VerifierKey.parse(self.witness_key)
            text = (self.keys_path / "witness.pub").read_text().strip()
            public = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            return VerifierKey.of(self.witness_name, public, COSIGNATURE)
        except (OSError, ValueError):
            raise SettingsError(
                "audit: WITNESS_URL is set, but there is no key to check the witness: set "
                "WITNESS_KEY, or put witness.pub into KEYS_DIR"
            ) from None

    @property
    def audit_keys_path(self) -> Path:
        """The directory of the log's own keys."""
        return self.audit_keys_dir or self.state_dir / "audit"
