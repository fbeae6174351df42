"""The model repository: a directory of versions, verified, loaded, proven, then swapped in.

`<root>/<name>/<version>/manifest.json`. A version serves only after its hashes, its parts and its
golden cases were checked; a failed load records why and leaves the version that serves untouched.
Loads run off the event loop; readers see one reference that is swapped at the end.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from libs.common.logging import get_logger
from libs.common.manifest import Manifest, ManifestError, load_manifest
from services.inference.adapters.tabular import TABULAR_TASKS, load_tabular, run_golden_cases
from services.inference.domain.lifecycle import VersionState, VersionStatus
from services.inference.domain.model import TabularModel
from services.inference.errors import ModelNotLoadedError, UnknownModelError

log = get_logger()

Loader = Callable[[Path, Manifest], TabularModel]


class ModelRepository:
    """Versions on disk, their states, and the one version of each model that serves."""

    def __init__(
        self,
        root: Path,
        *,
        use_onnx: bool = True,
        onnx_path: Path | None = None,
        feature_names: tuple[str, ...] | None = None,
    ) -> None:
        self._root = root
        self._use_onnx = use_onnx
        self._onnx_path = onnx_path
        self._feature_names = feature_names
        self._serving: dict[str, TabularModel] = {}
        self._manifests: dict[tuple[str, int], Manifest] = {}
        self._status: dict[str, dict[int, VersionStatus]] = {}
        self._lock = threading.Lock()

    def serving(self, name: str) -> TabularModel:
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

    def load_all(self) -> None:
        """Find all versions and load the newest of each model that passes its checks."""
        for name, versions in self._scan().items():
            for version in sorted(versions, reverse=True):
                if self.load(name, version):
                    break

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

    def _build(self, name: str, version: int, status: VersionStatus) -> TabularModel:
        directory = self._root / name / str(version)
        manifest = load_manifest(directory)
        if (manifest.name, manifest.version) != (name, version):
            raise ManifestError(f"{name}/{version}: the manifest names another model or version")
        self._manifests[name, version] = manifest
        status.release = manifest.release
        hashes = "".join(entry.sha256 for entry in manifest.files)
        status.digest = hashlib.sha256(hashes.encode()).hexdigest()[:16]
        if manifest.task not in TABULAR_TASKS:
            raise ManifestError(f"models of task {manifest.task} are not served yet")
        is_fraud = manifest.task == "fraud"
        model = load_tabular(
            directory,
            manifest,
            use_onnx=self._use_onnx,
            onnx_path=self._onnx_path if is_fraud else None,
            feature_names=self._feature_names if is_fraud else None,
        )
        status.engine = model.engine_name
        status.memory_bytes = model.engine.memory_bytes + (
            model.explainer.table_bytes if model.explainer else 0
        )
        if status.memory_bytes > manifest.memory_limit_mib << 20:
            raise ManifestError(f"{name}: larger than its limit of {manifest.memory_limit_mib} MiB")
        status.move(VersionState.WARMING)
        run_golden_cases(model)
        return model

    def _swap(self, model: TabularModel, status: VersionStatus) -> None:
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
