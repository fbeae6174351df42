"""Signatures of model manifests: Ed25519 over the canonical JSON of all but the signature.

The manifest pins each file by hash, so its signature covers the whole version. Keys are raw 32
bytes in URL-safe base64, one line per file, as `python -m libs.common.keys` writes them.
"""

import base64
import json
from pathlib import Path

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from libs.common.manifest import ManifestError


def sign_manifest(directory: Path, key: Ed25519PrivateKey) -> None:
    """Write the signature into `directory/manifest.json`."""
    path = directory / "manifest.json"
    document = json.loads(path.read_bytes())
    document["signature"] = base64.b64encode(key.sign(_payload(document))).decode()
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def verify_manifest(directory: Path, key: Ed25519PublicKey, *, is_required: bool) -> None:
    """Check the signature of a version.

    Args:
        directory: the version's folder.
        key: whose signature counts.
        is_required: refuse a manifest without one; one that is there must always be right.

    Raises:
        ManifestError: it is missing though required, or does not verify.
    """
    document = json.loads((directory / "manifest.json").read_bytes())
    signature = document.get("signature")
    if not signature:
        if is_required:
            raise ManifestError(f"{directory.name}: the manifest is not signed")
        return
    try:
        key.verify(base64.b64decode(str(signature), validate=True), _payload(document))
    except (InvalidSignature, ValueError):
        raise ManifestError(f"{directory.name}: the manifest's signature is wrong") from None


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Read a key file.

    Raises:
        OSError, ValueError: it cannot be read or is no key.
    """
    return Ed25519PublicKey.from_public_bytes(
        base64.urlsafe_b64decode(path.read_text().strip() + "==")
    )


def _payload(document: dict[str, object]) -> bytes:
    """Give what is signed. Numbers are signed as the file writes them, hence as text."""
    kept = {name: value for name, value in document.items() if name != "signature"}
    return rfc8785.dumps({"manifest": json.dumps(kept, sort_keys=True, separators=(",", ":"))})
