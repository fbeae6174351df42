"""A loaded tabular model: engine, feature service, calibration, thresholds, explainer."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from libs.common.features.contract import FeatureService
from libs.common.manifest import EnsembleSpec, Manifest
from services.inference.domain.calibration import Calibration
from services.inference.domain.explain import TreeExplainer
from services.inference.domain.ports import TabularEngine
from services.inference.domain.scoring import Grouping, RiskBands


class LoadedModel(Protocol):
    """What the repository knows of a loaded version, whatever it computes."""

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""
        ...

    @property
    def name(self) -> str:
        """Name in the repository."""
        ...

    @property
    def version(self) -> str:
        """Integer version as text, for labels."""
        ...

    @property
    def model_version(self) -> str:
        """What answers show."""
        ...

    @property
    def engine_name(self) -> str:
        """Which engine runs it."""
        ...

    @property
    def memory_bytes(self) -> int:
        """What it holds, as far as its engine can tell."""
        ...

    def close(self) -> None:
        """Free what it holds; called once, after the last answer."""
        ...


@dataclass(frozen=True)
class TabularModel:
    """One version, ready to serve; everything that changes its answer belongs to it.

    Attributes:
        explainer: None without native trees, or when its tables would be too large.
        importance: share of the total gain by feature; empty without native trees.
        bands: risk bands, of fraud models only.
        grouping: explanation groups of the service's features.
        ensemble: how its members answer together; None for a single model.
        explained_by: the member whose trees explain an ensemble, as `name/version`.
    """

    manifest: Manifest
    engine: TabularEngine
    engine_name: str
    service: FeatureService
    calibration: Calibration
    explainer: TreeExplainer | None
    importance: dict[str, float]
    bands: RiskBands | None
    grouping: Grouping
    ensemble: EnsembleSpec | None = None
    explained_by: str = ""

    @cached_property
    def name(self) -> str:
        """Name in the repository."""
        return self.manifest.name

    @cached_property
    def version(self) -> str:
        """Integer version as text, for labels."""
        return str(self.manifest.version)

    @cached_property
    def model_version(self) -> str:
        """What score answers show, for example `v1.0.0`."""
        return f"v{self.manifest.release}"

    @property
    def memory_bytes(self) -> int:
        """Engine and explanation tables."""
        return self.engine.memory_bytes + (self.explainer.table_bytes if self.explainer else 0)

    def close(self) -> None:
        """Hold nothing that reference counting does not free."""
