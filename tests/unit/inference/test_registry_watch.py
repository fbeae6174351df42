"""The watch of a registry: pauses grow while it is down, and health says so."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from libs.common.errors import UnavailableError
from libs.common.manifest import ManifestError
from services.inference.adapters.mlflow_source import _artifact_path, _safe
from services.inference.control.registry import RegistryWatch

pytestmark = pytest.mark.anyio


class Registry:
    def __init__(self) -> None:
        self.version: str | None = "1"
        self.error: Exception | None = None
        self.fetched: list[str] = []

    async def alias_version(self, name: str, alias: str) -> str | None:
        if isinstance(self.error, UnavailableError):
            raise self.error
        return self.version

    async def fetch(self, name: str, version: str) -> Any:
        self.fetched.append(version)
        if self.error:
            raise self.error
        return SimpleNamespace(version=int(version))


class Models:
    def __init__(self) -> None:
        self.promoted: list[int] = []
        self.repository = SimpleNamespace(serving_version=lambda _: 0)

    async def reload(self, name: str) -> None:
        return None

    async def promote(self, name: str, version: int, expected: Any, *, what: str) -> None:
        self.promoted.append(version)


def _watch(registry: Registry, models: Models) -> RegistryWatch:
    return RegistryWatch(
        registry, cast(Any, models), names=("fraud",), alias="champion", poll_s=0.01
    )


async def test_an_alias_is_followed_once_per_move():
    registry, models = Registry(), Models()
    watch = _watch(registry, models)
    await watch.look("fraud")
    await watch.look("fraud")
    registry.version = "2"
    await watch.look("fraud")
    assert models.promoted == [1, 2]
    assert (await watch.health()).status == "ok"


async def test_an_unsound_version_is_told_and_not_tried_again_until_the_alias_moves():
    registry, models = Registry(), Models()
    registry.error = ManifestError("sha256 differs")
    watch = _watch(registry, models)
    await watch.look("fraud")
    await watch.look("fraud")
    assert registry.fetched == ["1"]
    assert models.promoted == []
    health = await watch.health()
    assert (health.status, "sha256" in health.detail) == ("degraded", True)


async def test_an_alias_that_points_nowhere_is_said_in_health():
    registry, models = Registry(), Models()
    registry.version = None
    watch = _watch(registry, models)
    await watch.look("fraud")
    assert "points nowhere" in (await watch.health()).detail


async def test_a_registry_that_is_down_is_retried_and_comes_back():
    registry, models = Registry(), Models()
    registry.error = UnavailableError("down")
    watch = _watch(registry, models)
    task = asyncio.create_task(watch.run())
    try:
        async with asyncio.timeout(5):
            while (await watch.health()).status != "degraded":  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.005)
            registry.error = None
            while not models.promoted:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.005)
    finally:
        task.cancel()
    assert models.promoted == [1]


@pytest.mark.parametrize("uri", ["s3://bucket/x", "file:///etc", "mlflow-artifacts:/../x"])
def test_artefacts_from_elsewhere_are_refused(uri: str):
    with pytest.raises(ManifestError):
        _artifact_path(uri)


def test_a_path_outside_of_the_version_is_refused():
    with pytest.raises(ManifestError):
        _safe("../../etc/passwd")
