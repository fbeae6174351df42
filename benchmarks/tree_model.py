"""A throwaway model of 300 trees, packaged as the released ones are; seeded, never committed."""

from pathlib import Path

import numpy as np

from libs.common.features.fraud import FRAUD_V1
from training.packaging import release


def train_trees(root: Path) -> Path:
    """Train and package 300 trees of depth 6 on made-up rows; gives the version's folder."""
    import xgboost

    generator = np.random.default_rng(7)
    rows = generator.gamma(1.0, 20.0, (8_000, len(FRAUD_V1.names))).astype(np.float32)
    signal = rows[:, 0] + rows[:, 2] * rows[:, 3] / 20 + rows[:, 5]
    labels = (signal + generator.normal(0, 20, len(rows)) > np.quantile(signal, 0.8)).astype(int)
    model = xgboost.XGBClassifier(
        n_estimators=300, max_depth=6, tree_method="hist", base_score=0.5, n_jobs=2, seed=7
    )
    directory = root / "fraud" / "1"
    release(
        directory,
        model.fit(rows, labels),
        FRAUD_V1,
        task="fraud",
        labels=("no", "yes"),
        test_rows=rows[:500],
        reference_rows=rows[:500],
        golden_rows=rows[:20],
        thresholds={"review": 0.3, "challenge": 0.6, "decline": 0.9},
        training={"seed": 7},
        metrics={"rows": len(rows)},
        card="Made up, for a benchmark.\n",
    )
    return directory
