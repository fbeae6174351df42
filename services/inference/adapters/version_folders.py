"""Where versions lie: `<root>/<name>/<version>/manifest.json`, the first root that has one wins."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from libs.common.manifest import Manifest, ManifestError, load_manifest


class VersionFolders:
    """Roots by source, in order of precedence; a source without a root is left out."""

    def __init__(self, roots: Mapping[str, Path | None]) -> None:
        self._roots = {source: root for source, root in roots.items() if root is not None}

    def find(self, serves: Callable[[str], bool]) -> dict[str, dict[int, str]]:
        """Find the versions of models for which `serves` holds; gives their sources."""
        found: dict[str, dict[int, str]] = {}
        for source, root in self._roots.items():
            for path in sorted(root.glob("*/*/manifest.json")):
                name, version = path.parent.parent.name, path.parent.name
                if version.isdigit() and serves(name):
                    found.setdefault(name, {}).setdefault(int(version), source)
        return found

    def directory(self, name: str, version: int) -> Path:
        """Give the folder of a version, or where it would lie."""
        places = [root / name / str(version) for root in self._roots.values()]
        return next((place for place in places if place.is_dir()), places[0])

    def manifest(self, name: str, version: int) -> Manifest | None:
        """Read a manifest; None when it cannot be read, which loading says in its own words."""
        try:
            return load_manifest(self.directory(name, version), verify=False)
        except ManifestError:
            return None

    def task_of(self, name: str, version: int) -> str | None:
        """Give a version's task."""
        manifest = self.manifest(name, version)
        return manifest.task if manifest else None

    def is_ensemble(self, name: str, version: int) -> bool:
        """Whether a version is made of others."""
        manifest = self.manifest(name, version)
        return manifest is not None and manifest.ensemble is not None


def digest(manifest: Manifest) -> str:
    """Give 16 hex digits over all that the version is: its files, or its ensemble."""
    text = "".join(entry.sha256 for entry in manifest.files)
    if manifest.ensemble is not None:
        text = manifest.ensemble.model_dump_json()
    return hashlib.sha256(text.encode()).hexdigest()[:16]
