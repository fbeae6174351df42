"""The model repository: a directory of versions, verified, loaded, proven, then swapped in.

`<root>/<name>/<version>/manifest.json`. A version serves only after its hashes, its parts and its
golden cases were checked; a failed load records why and leaves the version that serves untouched.
Loads run off the event loop; readers see one reference that is swapped at the end.
"""

import hashlib
import threading
import time
from collections.abc import Container
from datetime import UTC, datetime
from pathlib import Path

from libs.common.logging import get_logger
from libs.common.manifest import Manifest, ManifestError, load_manifest
from services.inference.adapters.loading import LoadOptions, load_model, prove
from services.inference.domain.lifecycle import VersionState, VersionStatus
from services.inference.domain.model import LoadedModel
from services.inference.errors import ModelNotLoadedError, UnknownModelError

log = get_logger()


class ModelRepository:
    """Versions on disk, their states, and the one version of each model that serves."""

    def __init__(
        self,
        root: Path,
        *,
        use_onnx: bool = True,
        onnx_path: Path | None = None,
        feature_names: tuple[str, ...] | None = None,
        text_executors: int = 0,
    ) -> None:
        self._root = root
        self._options = LoadOptions(use_onnx, onnx_path, feature_names, text_executors)
        self._serving: dict[str, LoadedModel] = {}
        self._manifests: dict[tuple[str, int], Manifest] = {}
        self._status: dict[str, dict[int, VersionStatus]] = {}
        self._lock = threading.Lock()

    def serving(self, name: str) -> LoadedModel:
        """Give the version of `name` that serves.

        Raises:
            ModelNotLoadedError: none is ready.
        """
        model = self._serving.get(name)
        if model is None:
            raise ModelNotLoadedError(
                f"No version of the model {name} is ready.", hint="GET /models says why."
            )
        return model

    @property
    def ready_names(self) -> list[str]:
        """Models with a serving version."""
        return sorted(self._serving)

    def names(self) -> list[str]:
        """Models known, loaded or not."""
        return sorted(self._status)

    def versions(self, name: str) -> list[VersionStatus]:
        """States of all versions of one model, newest first.

        Raises:
            UnknownModelError: the repository has no such model.
        """
        if name not in self._status:
            raise UnknownModelError("The repository has no model of this name.")
        return [self._status[name][version] for version in sorted(self._status[name], reverse=True)]

    def manifest(self, name: str, version: int) -> Manifest | None:
        """Give the manifest of a version, None when it could not be read."""
        return self._manifests.get((name, version))

    def load_all(self, *, except_tasks: Container[str] = ()) -> list[str]:
        """Find all versions and load the newest of each model that passes its checks.

        Returns:
            Models left for later, because the task of their newest version is in `except_tasks`.
        """
        later = []
        for name, versions in self._scan().items():
            if self._task_of(name, max(versions)) in except_tasks:
                later.append(name)
            else:
                self.load_newest(name)
        return later

    def load_newest(self, name: str) -> None:
        """Load the newest version of one model that passes its checks; blocking."""
        for version in sorted(self._status[name], reverse=True):
            if self.load(name, version):
                break

    def _task_of(self, name: str, version: int) -> str | None:
        try:
            return load_manifest(self._root / name / str(version), verify=False).task
        except ManifestError:
            return None  # loading says why

    def load(self, name: str, version: int) -> bool:
        """Verify, build, prove and swap in one version; blocking, one load at a time.

        Returns:
            Whether it serves now; the reason is in its status when not.
        """
        with self._lock:
            status = self._status_of(name, version)
            if status.state is VersionState.READY:
                return True
            status.move(VersionState.LOADING)
            started = time.perf_counter()
            try:
                model = self._build(name, version, status)
            except ManifestError as error:
                status.move(VersionState.FAILED, str(error))
                log.error("model failed to load", model=name, version=version, reason=str(error))
                return False
            except Exception as error:  # a broken file must not take the service down
                status.move(VersionState.FAILED, f"{type(error).__name__} while loading")
                log.exception("model failed to load", model=name, version=version)
                return False
            status.load_s = time.perf_counter() - started
            status.loaded_at = (
                datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            )
            self._swap(model, status)
            log.info("model loaded", model=name, version=version, load_s=round(status.load_s, 3))
            return True

    def _build(self, name: str, version: int, status: VersionStatus) -> LoadedModel:
        directory = self._root / name / str(version)
        manifest = load_manifest(directory)
        if (manifest.name, manifest.version) != (name, version):
            raise ManifestError(f"{name}/{version}: the manifest names another model or version")
        self._manifests[name, version] = manifest
        status.release = manifest.release
        hashes = "".join(entry.sha256 for entry in manifest.files)
        status.digest = hashlib.sha256(hashes.encode()).hexdigest()[:16]
        model = load_model(directory, manifest, self._options)
        status.engine = model.engine_name
        status.memory_bytes = model.memory_bytes
        if status.memory_bytes > manifest.memory_limit_mib << 20:
            raise ManifestError(f"{name}: larger than its limit of {manifest.memory_limit_mib} MiB")
        status.move(VersionState.WARMING)
        prove(model)
        return model

    def _swap(self, model: LoadedModel, status: VersionStatus) -> None:
        """Let the new version serve; calls that hold the old one finish on it."""
        old = self._serving.get(model.name)
        status.move(VersionState.READY)
        self._serving[model.name] = model
        if old is not None:
            previous = self._status_of(model.name, old.manifest.version)
            previous.move(VersionState.DRAINING)
            previous.move(VersionState.UNLOADED, f"replaced by version {model.version}")

    def _scan(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for path in sorted(self._root.glob("*/*/manifest.json")):
            version = path.parent.name
            if version.isdigit():
                found.setdefault(path.parent.parent.name, []).append(int(version))
        for name, numbers in found.items():
            for number in numbers:
                self._status_of(name, number)
        return found

    def _status_of(self, name: str, version: int) -> VersionStatus:
        return self._status.setdefault(name, {}).setdefault(version, VersionStatus(version))
