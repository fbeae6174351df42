"""Hand a challenger to what serves: to a running suite, to MLflow's registry, or to both.

A suite gets the version beside the champion, loaded and proven, under the alias `challenger`; it
answers nobody until somebody starts a rollout or promotes it. Before that the champion is made the
stable version by name, so that a restart does not take the newest folder for it.
"""

import shutil
from pathlib import Path
from typing import Any

import aiohttp

from libs.cli.connection import Gateway
from training.mlflow_registry import log_version

ALIAS = "challenger"


class RegisterError(Exception):
    """The suite refused a step; the text holds its answer."""


def next_version(roots: list[Path], name: str) -> int:
    """Give the first number that no root has a version under."""
    taken = [
        int(path.name)
        for root in roots
        for path in (root / name).glob("*")
        if path.is_dir() and path.name.isdigit()
    ]
    return max(taken, default=0) + 1


async def serving(gateway: Gateway, name: str) -> int | None:
    """Give the version that answers, None when none does."""
    async with gateway.session() as session:
        document = await _call(session, "GET", f"/models/{name}")
    found = document.get("serving")
    return int(found["version"]) if found else None


async def to_suite(gateway: Gateway, version: Path, root: Path) -> None:
    """Copy a version folder into a root of the suite and put it behind the alias.

    Raises:
        RegisterError: the suite refused a step.
    """
    name, number = version.parent.name, version.name
    champion = await serving(gateway, name)
    target = root / name / number
    part = root / f".{name}-{number}"
    shutil.copytree(version, part)
    target.parent.mkdir(parents=True, exist_ok=True)
    async with gateway.session() as session:
        if champion is not None:
            await _call(session, "POST", f"/models/{name}/versions/{champion}/promote")
        part.rename(target)
        await _call(session, "POST", f"/models/{name}/reload")
        body = {"version": number}
        await _call(session, "PUT", f"/models/{name}/aliases/{ALIAS}", json=body)
        await _call(session, "POST", f"/models/{name}/versions/{number}/load")


def to_mlflow(version: Path, tracking_uri: str) -> str:
    """Log the version and point the alias `challenger` at it; gives the registry's number."""
    return log_version(version, tracking_uri=tracking_uri, alias=ALIAS)


async def _call(
    session: aiohttp.ClientSession, method: str, path: str, **options: Any
) -> dict[str, Any]:
    async with session.request(method, path, **options) as response:
        if response.status >= 300:
            raise RegisterError(f"{method} {path}: {response.status} {await response.text()}")
        document: dict[str, Any] = await response.json()
        return document
