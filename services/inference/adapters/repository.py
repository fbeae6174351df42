"""The model repository: folders of versions, verified, loaded, proven, then swapped in.

`<root>/<name>/<version>/manifest.json`; the first root that has a version wins. A version serves
only after its hashes, its parts and its golden cases were checked; a failed load records why and
leaves the version that serves untouched. Loads run off the event loop; readers see one reference
that is swapped at the end. What is replaced drains: calls that hold it finish on it.
"""

import threading
import time
from collections.abc import Callable, Container, Mapping
from datetime import UTC, datetime
from pathlib import Path

from libs.common.logging import get_logger
from libs.common.manifest import Manifest, ManifestError, load_manifest, verify_file
from libs.common.manifest_signing import verify_manifest
from services.inference.adapters.draining import Draining
from services.inference.adapters.ensembles import load_ensemble
from services.inference.adapters.loading import LoadOptions, load_model, prove
from services.inference.adapters.process import SHORT_TURNS
from services.inference.adapters.text_loading import ENTITIES
from services.inference.adapters.version_folders import VersionFolders, digest
from services.inference.domain.control import NONE_SERVES
from services.inference.domain.lifecycle import Resident, VersionState, VersionStatus, victims
from services.inference.domain.model import LoadedModel
from services.inference.domain.repository import RepositoryPolicy
from services.inference.errors import ModelNotLoadedError, UnknownModelError

log = get_logger()

# Why a version is not loaded although nobody asked for that: the next call loads it again.
EVICTED = "evicted: least recently used"
Key = tuple[str, int]


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
        staged: Path | None = None,
        checkpoints: Path | None = None,
        policy: RepositoryPolicy | None = None,
    ) -> None:
        places = {"directory": root, "mlflow": staged, "checkpoint": checkpoints}
        self._folders = VersionFolders(places)
        self._options = LoadOptions(use_onnx, onnx_path, feature_names, text_executors)
        self._policy = policy or RepositoryPolicy()
        self._serving: dict[str, LoadedModel] = {}
        self._loaded: dict[Key, LoadedModel] = {}
        self._used: dict[Key, float] = {}
        self._manifests: dict[Key, Manifest] = {}
        self._status: dict[str, dict[int, VersionStatus]] = {}
        self._draining = Draining()
        self._locks: dict[str, threading.RLock] = {}
        self._for_ensembles: set[Key] = set()
        self.held: Container[Key] = frozenset()
        self.wanted: Mapping[str, int] = {}

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
        self._used[name, model.manifest.version] = time.monotonic()
        return model

    def loaded(self, name: str, version: int) -> LoadedModel:
        """Give one loaded version, serving or standing by.

        Raises:
            ModelNotLoadedError: it is not loaded.
        """
        model = self._loaded.get((name, version))
        if model is None:
            raise ModelNotLoadedError(f"Version {version} of the model {name} is not loaded.")
        self._used[name, version] = time.monotonic()
        return model

    @property
    def ready_names(self) -> list[str]:
        """Models with a serving version."""
        return sorted(self._serving)

    @property
    def is_withdrawn(self) -> bool:
        """Whether every model known was asked out of service, so that none can be awaited."""
        return bool(self._status) and all(
            self.wanted.get(name) == NONE_SERVES for name in self._status
        )

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

    def status(self, name: str, version: int) -> VersionStatus:
        """Give the state of one version.

        Raises:
            UnknownModelError: the repository has no such version.
        """
        found = self._status.get(name, {}).get(version)
        if found is None:
            raise UnknownModelError("The repository has no such version.")
        return found

    def serving_version(self, name: str) -> int | None:
        """Give the number of the version that serves, None when none does."""
        model = self._serving.get(name)
        return model.manifest.version if model else None

    def loaded_versions(self, name: str) -> list[int]:
        """List the loaded versions, serving or standing by."""
        return sorted(version for known, version in list(self._loaded) if known == name)

    def manifest(self, name: str, version: int) -> Manifest | None:
        """Give the manifest of a version, None when it could not be read."""
        return self._manifests.get((name, version))

    def is_pinned(self, name: str) -> bool:
        """Whether the model is never evicted."""
        return name in self._policy.pinned

    def is_held(self, key: Key) -> bool:
        """Whether a rollout or a loaded ensemble needs this version in memory."""
        return key in self.held or any(
            key in model.manifest.ensemble.needed
            for model in list(self._loaded.values())
            if model.manifest.ensemble is not None
        )

    def on_leaving(self, hook: Callable[[LoadedModel], None]) -> None:
        """Have `hook` called, in the loader's thread, when a version begins to drain."""
        self._draining.hooks.append(hook)

    def load_all(self, *, except_tasks: Container[str] = ()) -> list[str]:
        """Find all versions and load of each model the wanted one, else the newest that passes.

        Ensembles come after single models, so that each member is loaded by its own model first.

        Returns:
            Models left for later, because the task of their newest version is in `except_tasks`.
        """
        newest = {name: max(versions) for name, versions in self.scan().items()}
        order = sorted(newest, key=lambda name: self._folders.is_ensemble(name, newest[name]))
        tasks = {name: self._folders.task_of(name, newest[name]) for name in order}
        for name in order:
            if tasks[name] not in except_tasks:
                self.load_newest(name)
        later = [name for name in order if tasks[name] in except_tasks]
        # Nobody waits for names in texts at the start; sentiment and guard come first.
        return sorted(later, key=lambda name: tasks[name] == ENTITIES)

    def load_newest(self, name: str) -> None:
        """Load the wanted version, else the newest that passes its checks; blocking."""
        wanted = self.wanted.get(name)
        if wanted == NONE_SERVES:
            return
        if wanted in self._status[name] and self.load(name, wanted):
            return
        for version in sorted(self._status[name], reverse=True):
            if self.load(name, version):
                break

    def load(self, name: str, version: int, *, serve: bool = True) -> bool:
        """Verify, build and prove one version, and let it serve; blocking, one load per model.

        Args:
            name: model.
            version: integer version.
            serve: swap it in; False lets it stand by.

        Returns:
            Whether it is ready now; the reason is in its status when not.
        """
        with self._lock_of(name):
            status = self._status_of(name, version)
            if status.state is not VersionState.READY and not self._load(name, version, status):
                return False
            if serve:
                self._swap(self._loaded[name, version])
        self.sweep()
        return True

    def unload(self, name: str, version: int, reason: str = "unloaded") -> None:
        """Take a version out of memory; the last calls that hold it finish."""
        with self._lock_of(name):
            model = self._loaded.pop((name, version), None)
            if model is None:
                return
            if self._serving.get(name) is model:
                del self._serving[name]
            self._leave(model, reason)
        self._release_members(model)

    def reprove(self, name: str, version: int) -> bool:
        """Run the golden cases of a loaded version again; a failure takes it out of service.

        Another loaded version takes over; else the newest other version that passes its checks.

        Returns:
            Whether they hold.
        """
        model = self._loaded.get((name, version))
        if model is None:
            return True
        status = self._status_of(name, version)
        if model.manifest.ensemble is not None:
            # Its members are proven one by one; the one that fails takes part no longer.
            status.proven_at = time.monotonic()
            return True
        try:
            prove(model)
        except Exception as error:  # whatever an engine raises: it cannot be trusted any more
            told = str(error) if isinstance(error, ManifestError) else type(error).__name__
            log.error("model failed its golden cases", model=name, version=version, reason=told)
            with self._lock_of(name):
                self._loaded.pop((name, version), None)
                was_serving = self._serving.get(name) is model
                if was_serving:
                    del self._serving[name]
                self._draining.announce(model)
                status.move(VersionState.FAILED, f"in service: {told}")
                if was_serving:
                    self._take_over(name, version)
            return False
        status.proven_at = time.monotonic()
        return True

    def sweep(self) -> None:
        """Close what has drained: no call holds it any more, or its time is over."""
        self._draining.sweep()

    def scan(self) -> dict[str, list[int]]:
        """Find versions on disk that this replica may serve; new ones become known."""
        found = self._folders.find(self._policy.serves)
        for name, versions in found.items():
            for version, source in versions.items():
                self._status_of(name, version).source = source
        return {name: list(versions) for name, versions in found.items()}

    def residents(self) -> list[Resident]:
        """List what is loaded, as eviction sees it."""
        return [
            Resident(
                name=name,
                version=version,
                memory_bytes=model.memory_bytes,
                used_at=self._used.get((name, version), 0.0),
                is_serving=self._serving.get(name) is model,
                is_held=self.is_pinned(name)
                or model.manifest.ensemble is not None
                or self.is_held((name, version)),
            )
            for (name, version), model in list(self._loaded.items())
        ]

    def _load(self, name: str, version: int, status: VersionStatus) -> bool:
        status.move(VersionState.LOADING)
        started = time.perf_counter()
        try:
            with SHORT_TURNS:
                model = self._build(name, version, status)
        except ManifestError as error:
            return self._failed(name, status, str(error))
        except Exception as error:  # a broken file must not take the service down
            log.exception("model failed to load", model=name, version=version)
            return self._failed(name, status, f"{type(error).__name__} while loading")
        status.load_s = time.perf_counter() - started
        status.loaded_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        status.proven_at = time.monotonic()
        status.move(VersionState.READY)
        self._loaded[name, version] = model
        self._used[name, version] = time.monotonic()
        log.info("model loaded", model=name, version=version, load_s=round(status.load_s, 3))
        return True

    @staticmethod
    def _failed(name: str, status: VersionStatus, reason: str) -> bool:
        status.move(VersionState.FAILED, reason)
        log.error("model failed to load", model=name, version=status.version, reason=reason)
        return False

    def _build(self, name: str, version: int, status: VersionStatus) -> LoadedModel:
        directory = self._folders.directory(name, version)
        manifest = load_manifest(directory, verify=False)
        if (manifest.name, manifest.version) != (name, version):
            raise ManifestError(f"{name}/{version}: the manifest names another model or version")
        if self._policy.public_key is not None:
            verify_manifest(
                directory, self._policy.public_key, is_required=self._policy.needs_signature
            )
        self._manifests[name, version] = manifest
        status.release = manifest.release
        status.bytes_total = sum(entry.bytes for entry in manifest.files)
        self._make_room(name, version, status.bytes_total)
        for entry in manifest.files:
            verify_file(directory, entry)
            status.bytes_done += entry.bytes
        status.digest = digest(manifest)
        if manifest.ensemble is not None:
            model: LoadedModel = load_ensemble(manifest, self._members(manifest))
            status.engine = model.engine_name
            status.move(VersionState.WARMING)
            return model
        model = load_model(directory, manifest, self._options)
        status.engine = model.engine_name
        status.memory_bytes = model.memory_bytes
        if status.memory_bytes > manifest.memory_limit_mib << 20:
            raise ManifestError(f"{name}: larger than its limit of {manifest.memory_limit_mib} MiB")
        status.move(VersionState.WARMING)
        prove(model)
        return model

    def _members(self, manifest: Manifest) -> dict[Key, LoadedModel]:
        """Load what an ensemble needs; it stands by until it is asked for by its own name.

        Raises:
            ManifestError: a member is not there or does not pass its checks.
        """
        assert manifest.ensemble is not None
        found: dict[Key, LoadedModel] = {}
        for name, version in sorted(manifest.ensemble.needed):
            where = f"{manifest.name}: the member {name}/{version}"
            if name == manifest.name:
                raise ManifestError(f"{where} is a version of the ensemble itself")
            if version not in self._status.get(name, {}):
                self.scan()
            if version not in self._status.get(name, {}):
                raise ManifestError(f"{where} does not exist in this replica's repository")
            declared = self._folders.manifest(name, version)
            if declared is not None and declared.ensemble is not None:
                raise ManifestError(f"{where} is an ensemble")
            was_loaded = (name, version) in self._loaded
            if not self.load(name, version, serve=False):
                raise ManifestError(f"{where} cannot serve: {self.status(name, version).reason}")
            found[name, version] = self._loaded[name, version]
            if not was_loaded:
                self._for_ensembles.add((name, version))
        if any(key not in self._loaded for key in found):
            raise ManifestError(f"{manifest.name}: the memory budget is too small for all members")
        return found

    def _release_members(self, model: LoadedModel) -> None:
        """Unload what was loaded for an ensemble alone, once nothing needs it."""
        if model.manifest.ensemble is None:
            return
        for key in sorted(model.manifest.ensemble.needed & self._for_ensembles):
            if not self.is_held(key) and self.serving_version(key[0]) != key[1]:
                self._for_ensembles.discard(key)
                self.unload(*key, reason="its ensemble was unloaded")

    def _make_room(self, name: str, version: int, needed_bytes: int) -> None:
        """Evict until the new version fits, judged by its files before they are read.

        Raises:
            ManifestError: it cannot fit.
        """
        try:
            leaving = victims(self.residents(), needed_bytes, self._policy.budget_bytes)
        except MemoryError as error:
            raise ManifestError(f"{name}/{version}: {error}") from None
        for item in leaving:
            # Without the other model's lock: two loads that evict each other must not wait.
            model = self._loaded.pop((item.name, item.version), None)
            if model is not None:
                if item.is_serving:
                    self._serving.pop(item.name, None)
                self._leave(model, EVICTED)
                log.info("model evicted", model=item.name, version=item.version)

    def _swap(self, model: LoadedModel) -> None:
        """Let a version serve; the one before drains, unless something holds it."""
        old = self._serving.get(model.name)
        self._serving[model.name] = model
        if old is None or old is model:
            return
        key = (old.name, old.manifest.version)
        if not self.is_held(key):
            self._loaded.pop(key, None)
            self._leave(old, f"replaced by version {model.version}")
            self._release_members(old)

    def _take_over(self, name: str, failed: int) -> None:
        """Find another version to serve after one failed in service."""
        others = [version for version in self._status.get(name, {}) if version != failed]
        for version in sorted(others, key=lambda v: ((name, v) in self._loaded, v), reverse=True):
            if self.load(name, version):
                return

    def _leave(self, model: LoadedModel, reason: str) -> None:
        self._draining.add(model, self._status_of(model.name, model.manifest.version), reason)

    def _lock_of(self, name: str) -> threading.RLock:
        return self._locks.setdefault(name, threading.RLock())

    def _status_of(self, name: str, version: int) -> VersionStatus:
        return self._status.setdefault(name, {}).setdefault(version, VersionStatus(version))
