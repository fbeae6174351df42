"""Repository calls of the V2 protocol: index, load, unload."""

from collections.abc import Mapping
from typing import Any, Protocol

from services.inference.domain.lifecycle import VersionState, VersionStatus
from services.inference.errors import UnknownModelError
from services.inference.routes.v2.errors import V2BadRequestError, V2UnknownModelError

# Our states in the protocol's words.
_STATES = {
    VersionState.LOADING: "LOADING",
    VersionState.WARMING: "LOADING",
    VersionState.READY: "READY",
    VersionState.DRAINING: "UNLOADING",
    VersionState.UNLOADED: "UNAVAILABLE",
    VersionState.FAILED: "UNAVAILABLE",
}


class Repository(Protocol):
    """The part of the repository that is shown."""

    def names(self) -> list[str]:
        """Models known, loaded or not."""
        ...

    def versions(self, name: str) -> list[VersionStatus]:
        """States of all versions, newest first."""
        ...


class Control(Protocol):
    """The part of the model control that these calls go through, as those of `/models` do."""

    async def bring(self, name: str) -> None:
        """Let a model serve; returns when it is ready or its versions have failed."""
        ...

    async def withdraw(self, name: str) -> None:
        """Take all versions of a model out of service."""
        ...


def index(repository: Repository, *, only_ready: bool) -> list[dict[str, str]]:
    """List versions with their states."""
    return [
        {
            "name": name,
            "version": str(status.version),
            "state": _STATES[status.state],
            "reason": status.reason,
        }
        for name in repository.names()
        for status in repository.versions(name)
        if not only_ready or status.state is VersionState.READY
    ]


async def load(
    repository: Repository, control: Control, name: str, parameters: Mapping[str, Any]
) -> None:
    """Load the newest version of a model; returns when it is ready.

    Raises:
        V2UnknownModelError: no such model.
        V2BadRequestError: the call wants to change the configuration or bring files, or no version
            passes its checks.
    """
    if any(key == "config" or key.startswith("file:") for key in parameters):
        raise V2BadRequestError(
            "configuration overrides and file uploads are refused: a version is what its "
            "manifest pins"
        )
    try:
        await control.bring(name)
    except UnknownModelError:
        raise V2UnknownModelError(name) from None
    states = repository.versions(name)
    if not any(status.state is VersionState.READY for status in states):
        raise V2BadRequestError(f"failed to load '{name}': {states[0].reason}")


async def unload(control: Control, name: str) -> None:
    """Take all versions of a model out of service.

    Raises:
        V2UnknownModelError: no such model.
        ConflictError: a rollout or an ensemble needs a version.
    """
    try:
        await control.withdraw(name)
    except UnknownModelError:
        raise V2UnknownModelError(name) from None
