"""A loaded tabular model: engine, feature service, calibration, thresholds, explainer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from libs.common.features.contract import FeatureService
from libs.common.manifest import Manifest
from services.inference.domain.explain import TreeExplainer
from services.inference.domain.ports import Scores, TabularEngine
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
class Calibration:
    """Platt scaling of the model's own margin: `sigmoid(slope * margin + intercept)`.

    Slope 1 and intercept 0 leave the probability as it is.
    """

    slope: float = 1.0
    intercept: float = 0.0

    @classmethod
    def from_manifest(cls, document: Mapping[str, object]) -> "Calibration":
        """Read the manifest's `calibration`: absent, `{"method": "none"}` or
        `{"method": "platt", "slope", "intercept"}`.

        Raises:
            ValueError: another method, or numbers that are none.
        """
        method = document.get("method", "none")
        if method == "none":
            return cls()
        if method != "platt":
            raise ValueError(f"calibration method {method} is not known")
        return cls(float(str(document["slope"])), float(str(document["intercept"])))

    def apply(self, probabilities: Scores) -> Scores:
        """Calibrate probabilities, shape kept."""
        if self.slope == 1.0 and self.intercept == 0.0:
            return probabilities
        clipped = np.clip(probabilities, 1e-12, 1 - 1e-12)
        margins = np.log(clipped / (1 - clipped))
        return np.asarray(1.0 / (1.0 + np.exp(-(self.slope * margins + self.intercept))))


@dataclass(frozen=True)
class TabularModel:
    """One version, ready to serve; everything that changes its answer belongs to it.

    Attributes:
        explainer: None without native trees, or when its tables would be too large.
        importance: share of the total gain by feature; empty without native trees.
        bands: risk bands, of fraud models only.
        grouping: explanation groups of the service's features.
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

    @property
    def name(self) -> str:
        """Name in the repository."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Integer version as text, for labels."""
        return str(self.manifest.version)

    @property
    def model_version(self) -> str:
        """What score answers show, for example `v1.0.0`."""
        return f"v{self.manifest.release}"

    @property
    def memory_bytes(self) -> int:
        """Engine and explanation tables."""
        return self.engine.memory_bytes + (self.explainer.table_bytes if self.explainer else 0)

    def close(self) -> None:
        """Hold nothing that reference counting does not free."""
