"""The port of a model repository: what serves, and what is known about every version."""

from typing import Protocol

from libs.common.manifest import Manifest
from services.inference.domain.lifecycle import VersionStatus
from services.inference.domain.model import LoadedModel


class Repository(Protocol):
    """Versions with their states, and the one version of each model that serves.

    Failure policy: a version that cannot be loaded never replaces one that serves.
    """

    def serving(self, name: str) -> LoadedModel:
        """Give the version that serves; raises ModelNotLoadedError when none is ready."""
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
