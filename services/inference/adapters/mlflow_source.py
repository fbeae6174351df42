"""MLflow's registry over its REST API: which version an alias names, and its files.

Only plain HTTP: no MLflow client, no `pyfunc`, so nothing can be unpickled. A version's artefacts
are the folder of a Gatehouse version; it is verified in a staging folder and renamed into place.
API under /api/2.0/mlflow: registered-models/alias, registered-models/get-latest-versions,
model-versions/get, model-versions/get-download-uri; and mlflow-artifacts.
"""

import asyncio
import shutil
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp

from libs.common.errors import UnavailableError
from libs.common.ids import uuid7
from libs.common.manifest import Manifest, ManifestError, load_manifest

_TIMEOUT = aiohttp.ClientTimeout(total=300, connect=3, sock_read=30)
_CHUNK = 1 << 20
FILES_MAX = 200
BYTES_MAX = 8 << 30


class MlflowSource:
    """Reads one tracking server. Failure policy: UnavailableError; the caller tries again."""

    def __init__(self, url: str, staging: Path) -> None:
        self._url = url.rstrip("/")
        self._staging = staging

    async def alias_version(self, name: str, alias: str) -> str | None:
        """Give the registry's version that an alias names, None when it points nowhere.

        Args:
            name: registered model.
            alias: `champion`, or `version:5` for one version, or `stage:Production` for the newest
                of a stage (which MLflow keeps for old registries).

        Raises:
            UnavailableError: the server does not answer.
        """
        kind, _, value = alias.rpartition(":")
        asked = f"name={quote(name)}"
        if kind == "version":
            path = f"model-versions/get?{asked}&version={quote(value)}"
        elif kind == "stage":
            path = f"registered-models/get-latest-versions?{asked}&stages={quote(value)}"
        else:
            path = f"registered-models/alias?{asked}&alias={quote(value)}"
        found = await self._json(f"/api/2.0/mlflow/{path}", missing_ok=True)
        if kind == "stage":
            newest = (found or {}).get("model_versions", [])
            return str(newest[0]["version"]) if newest else None
        return None if found is None else str(found["model_version"]["version"])

    async def fetch(self, name: str, version: str) -> Manifest:
        """Download a registry version, verify it and put it among the staged versions.

        Raises:
            UnavailableError: the server does not answer.
            ManifestError: what it holds is no sound version of this model.
        """
        path = f"/api/2.0/mlflow/model-versions/get-download-uri?name={quote(name)}"
        found = await self._json(f"{path}&version={quote(version)}")
        root = _artifact_path(str((found or {})["artifact_uri"]))
        part = self._staging / f".{uuid7()}"
        try:
            await self._download(root, part)
            manifest = await asyncio.to_thread(load_manifest, part)
            if manifest.name != name:
                raise ManifestError(f"{name}: the registry's version holds {manifest.name}")
            await asyncio.to_thread(self._put, part, manifest)
            return manifest
        finally:
            await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)

    def _put(self, part: Path, manifest: Manifest) -> None:
        target = self._staging / manifest.name / str(manifest.version)
        if target.exists():
            if load_manifest(target, verify=False).files != manifest.files:
                raise ManifestError(
                    f"{manifest.name}/{manifest.version} exists with other files; "
                    "a version never changes"
                )
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        part.rename(target)

    async def _download(self, root: str, into: Path) -> None:
        """Fetch all files below an artefact path, bounded in number and bytes."""
        waiting, files, total = [root], 0, 0
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            while waiting:
                folder = waiting.pop()
                listing = await self._json(f"/api/2.0/mlflow-artifacts/artifacts?path={folder}")
                for entry in (listing or {}).get("files", []):
                    place = f"{folder}/{_safe(str(entry['path']))}"
                    if entry.get("is_dir"):
                        waiting.append(place)
                        continue
                    files, total = files + 1, total + int(entry.get("file_size") or 0)
                    if files > FILES_MAX or total > BYTES_MAX:
                        raise ManifestError("the registry's version has too many or large files")
                    await self._file(session, place, into / PurePosixPath(place).relative_to(root))

    async def _file(self, session: aiohttp.ClientSession, place: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            url = f"{self._url}/api/2.0/mlflow-artifacts/artifacts/{quote(place)}"
            async with session.get(url) as response:
                response.raise_for_status()
                with target.open("wb") as file:
                    async for chunk in response.content.iter_chunked(_CHUNK):
                        file.write(chunk)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnavailableError("The model registry broke off a download.") from error

    async def _json(self, path: str, *, missing_ok: bool = False) -> dict[str, Any] | None:
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.get(self._url + path) as response,
            ):
                # MLflow answers 400 for an alias and 404 for a model that do not exist.
                if missing_ok and response.status in {400, 404}:
                    return None
                response.raise_for_status()
                document: dict[str, Any] = await response.json()
                return document
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise UnavailableError("The model registry does not answer.") from error


def _artifact_path(uri: str) -> str:
    """Take the path out of `mlflow-artifacts:/...`, the only place that is read.

    Raises:
        ManifestError: the artefacts lie elsewhere (the server must serve them).
    """
    parts = urlsplit(uri)
    if parts.scheme != "mlflow-artifacts":
        raise ManifestError("the registry's artefacts must be served by the tracking server")
    return _safe(parts.path.lstrip("/"))


def _safe(path: str) -> str:
    if not path or ".." in PurePosixPath(path).parts or path.startswith("/"):
        raise ManifestError("the registry names a path outside of its version")
    return path
