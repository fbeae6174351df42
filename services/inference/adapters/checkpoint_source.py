"""Hugging Face checkpoints, from the hub over plain HTTP or from a folder, as verified versions.

Each file's size and, where the hub gives one, its SHA-256 are checked while it is read. The version
is built in a staging folder, its engine answers a probe once, and only then it is renamed into
place. No code of the checkpoint runs and no pickle is read.
"""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from libs.common.errors import UnavailableError
from libs.common.ids import uuid7
from libs.common.manifest import GoldenCase, Manifest, ManifestError, describe_file
from services.inference.adapters.text_loading import load_text
from services.inference.domain.checkpoint import (
    PROBE,
    Checkpoint,
    chosen_files,
    manifest_document,
)
from services.inference.domain.text import TextTooLongError

_TIMEOUT = aiohttp.ClientTimeout(total=1_800, connect=5, sock_read=60)
_CHUNK = 1 << 20
BYTES_MAX = 8 << 30
_TOLERANCE = 1e-3


class CheckpointSource:
    """Fetches declared checkpoints. Failure policy: UnavailableError; the caller tries again."""

    def __init__(self, staging: Path, *, endpoint: str, token: str = "") -> None:
        self._staging = staging
        self._endpoint = endpoint.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def has(self, checkpoint: Checkpoint) -> bool:
        """Whether the version is in place already."""
        return (self._target(checkpoint) / "manifest.json").exists()

    async def fetch(self, checkpoint: Checkpoint) -> Manifest:
        """Take a checkpoint's files, verify them and put the version among the staged ones.

        Raises:
            UnavailableError: the hub does not answer.
            ManifestError: what lies there is no sound classifier.
        """
        part = self._staging / f".{uuid7()}"
        part.mkdir(parents=True)
        try:
            if checkpoint.repository:
                revision = await self._download(checkpoint, part)
            else:
                revision = ""
                await asyncio.to_thread(_copy, Path(checkpoint.folder), part)
            manifest = await asyncio.to_thread(_finish, checkpoint, part, revision)
            await asyncio.to_thread(self._put, checkpoint, part)
            return manifest
        finally:
            await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)

    def _target(self, checkpoint: Checkpoint) -> Path:
        return self._staging / checkpoint.name / str(checkpoint.version)

    def _put(self, checkpoint: Checkpoint, part: Path) -> None:
        target = self._target(checkpoint)
        target.parent.mkdir(parents=True, exist_ok=True)
        part.rename(target)

    async def _download(self, checkpoint: Checkpoint, part: Path) -> str:
        """Fetch the chosen files of one exact revision; gives that revision."""
        where = f"{self._endpoint}/api/models/{checkpoint.repository}"
        try:
            async with aiohttp.ClientSession(timeout=_TIMEOUT, headers=self._headers) as session:
                url = f"{where}/revision/{quote(checkpoint.revision, safe='')}"
                revision = str((await _json(session, url))["sha"])
                tree = await _json(session, f"{where}/tree/{revision}?recursive=true")
                listed = {str(one["path"]): one for one in tree if one.get("type") == "file"}
                chosen = chosen_files(listed.keys())
                if sum(int(listed[name]["size"]) for name in chosen.values()) > BYTES_MAX:
                    raise ManifestError("the checkpoint is too large")
                for target, name in chosen.items():
                    place = f"{checkpoint.repository}/resolve/{revision}/{quote(name)}"
                    url = f"{self._endpoint}/{place}"
                    await _fetch_file(session, url, part / target, listed[name])
                return revision
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnavailableError("The checkpoint's hub does not answer.") from error
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestError("the hub's answer cannot be read") from error


async def _json(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        if response.status in {401, 403, 404}:
            raise ManifestError("the hub has no such repository or revision for this caller")
        response.raise_for_status()
        return await response.json()


async def _fetch_file(
    session: aiohttp.ClientSession, url: str, target: Path, listed: Mapping[str, Any]
) -> None:
    """Read one file; its size and the hub's SHA-256 of large files must be as listed."""
    digest, size, limit = hashlib.sha256(), 0, int(listed["size"])
    async with session.get(url) as response:
        response.raise_for_status()
        with target.open("wb") as file:
            async for chunk in response.content.iter_chunked(_CHUNK):
                size += len(chunk)
                if size > limit:
                    break
                digest.update(chunk)
                file.write(chunk)
    if size != limit:
        raise ManifestError(f"{target.name}: its size is not the one that the hub lists")
    wanted = (listed.get("lfs") or {}).get("oid")
    if wanted is not None and digest.hexdigest() != str(wanted).removeprefix("sha256:"):
        raise ManifestError(f"{target.name}: its sha256 is not the one that the hub lists")


def _copy(folder: Path, part: Path) -> None:
    """Take the chosen files of a folder."""
    if not folder.is_dir():
        raise ManifestError("the checkpoint's folder does not exist")
    names = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    ]
    for target, name in chosen_files(names).items():
        shutil.copyfile(folder / name, part / target)


def _finish(checkpoint: Checkpoint, part: Path, revision: str) -> Manifest:
    """Write the manifest, with the answer to the probe as its golden case."""
    try:
        config = json.loads((part / "config.json").read_bytes())
    except ValueError:
        raise ManifestError("config.json cannot be read") from None
    files = [
        describe_file(part, path.name).model_dump()
        for path in sorted(part.iterdir())
        if path.is_file()
    ]
    try:
        document = manifest_document(checkpoint, config, files, revision)
        manifest = Manifest.model_validate(document)
        case = _probe(part, manifest)
    except ManifestError:
        raise
    except Exception as error:  # whatever an engine raises on a broken file
        raise ManifestError(f"the checkpoint does not load ({type(error).__name__})") from None
    manifest = manifest.model_copy(update={"golden_cases": [case]})
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, allow_nan=False)
    (part / "manifest.json").write_text(text + "\n", encoding="utf-8")
    return manifest


def _probe(part: Path, manifest: Manifest) -> GoldenCase:
    """Let the engine answer once."""
    model = load_text(part, manifest, executors=1)
    try:
        encoding = model.encoder.encode([PROBE])[0]
        if isinstance(encoding, TextTooLongError):
            raise ManifestError("the checkpoint does not read a sentence")
        window = encoding.windows[0]
        engine = model.engine
        logits = engine.finish(engine.forward(engine.collate([window], len(window))))[0]
    finally:
        model.engine.close()
    return GoldenCase(
        inputs={"text": PROBE}, outputs={"logits": logits.tolist()}, tolerance=_TOLERANCE
    )
