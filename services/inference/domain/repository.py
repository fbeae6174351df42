"""The port of a model repository: what serves, and what is known about every version."""

from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from libs.common.manifest import Manifest
from services.inference.domain.lifecycle import VersionStatus
from services.inference.domain.model import LoadedModel

_NO_BUDGET = 1 << 62


@dataclass(frozen=True, slots=True)
class RepositoryPolicy:
    """What this replica may load.

    Attributes:
        only: names it serves; empty serves all.
        pinned: models that are never evicted.
        budget_bytes: all loaded versions together.
        public_key: whose signature of a manifest counts.
        needs_signature: refuse manifests without one.
    """

    only: frozenset[str] = frozenset()
    pinned: frozenset[str] = frozenset()
    budget_bytes: int = _NO_BUDGET
    public_key: Ed25519PublicKey | None = None
    needs_signature: bool = False

    def serves(self, name: str) -> bool:
        """Whether the replica serves a model."""
        return not self.only or name in self.only


class Repository(Protocol):
    """Versions with their states, and the one version of each model that serves.

    Failure policy: a version that cannot be loaded never replaces one that serves.
    """

    def serving(self, name: str) -> LoadedModel:
        """Give the version that serves; raises ModelNotLoadedError when none is ready."""
        ...

    def loaded(self, name: str, version: int) -> LoadedModel:
        """Give one loaded version; raises ModelNotLoadedError when it is not."""
        ...

    def serving_version(self, name: str) -> int | None:
        """Give the number of the version that serves, None when none does."""
        ...

    def names(self) -> list[str]:
        """Models known, loaded or not."""
        ...

    def versions(self, name: str) -> list[VersionStatus]:
        """States of all versions, newest first; raises UnknownModelError."""
        ...

    def manifest(self, name: str, version: int) -> Manifest | None:
        """Give the manifest of a version, None when it could not be read."""
        ...
