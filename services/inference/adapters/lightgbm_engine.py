"""LightGBM's own text format, evaluated by the library, for USE_ONNX=false.

The library is imported when such a model is loaded; it belongs to the training extra, and a service
without it says what to install.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from services.inference.adapters.onnx_engine import split_by_item
from services.inference.domain.ports import Rows, Scores


class LightGbmEngine:
    """Engine over one `model.txt`."""

    def __init__(self, path: Path) -> None:
        """Load.

        Raises:
            ValueError: the library is missing, or the file is none of its models.
        """
        try:
            import lightgbm
        except ImportError:
            raise ValueError("LightGBM is not installed: pip install lightgbm") from None
        try:
            self._booster = lightgbm.Booster(model_file=str(path))
        except lightgbm.basic.LightGBMError:
            raise ValueError(f"{path.name} is no LightGBM model") from None
        self._bytes = path.stat().st_size

    @property
    def memory_bytes(self) -> int:
        """Size of the file; the library does not say what it holds."""
        return self._bytes

    def prepare(self, item: Rows) -> Rows:
        """Check the width."""
        if item.ndim != 2 or item.shape[1] != self._booster.num_feature():
            raise ValueError(f"expected rows of {self._booster.num_feature()} features")
        return np.ascontiguousarray(item, dtype=np.float32)

    def forward(self, batch: Sequence[Rows]) -> Scores:
        """Score all rows of the batch; thresholds are doubles, so the rows are widened exactly."""
        rows = batch[0] if len(batch) == 1 else np.concatenate(batch)
        scores = self._booster.predict(rows.astype(np.float64), num_threads=1)
        return np.asarray(scores, dtype=np.float64)

    def finish(self, raw: Scores, batch: Sequence[Rows]) -> list[Scores]:
        """Give each item its own scores."""
        return split_by_item(raw, batch)
