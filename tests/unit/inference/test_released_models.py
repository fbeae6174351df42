"""The models that lie in `models/` pass the checks that the service makes at load."""

from pathlib import Path

import numpy as np
import pytest

from services.inference.adapters.repository import ModelRepository
from services.inference.domain.model import TabularModel
from tests.support.tabular_models import random_rows

RELEASED = Path(__file__).resolve().parents[3] / "models"
TABULAR = ("fraud", "relevance", "conversion")


@pytest.mark.parametrize("use_onnx", [True, False])
def test_released_tabular_models_load_prove_themselves_and_explain(use_onnx: bool):
    repository = ModelRepository(RELEASED, use_onnx=use_onnx)
    repository.load_all()
    for name in TABULAR:
        model = repository.serving(name)
        assert isinstance(model, TabularModel)
        assert model.explainer is not None
        rows = random_rows(model.service, 50)
        scores = model.engine.finish(model.engine.forward([model.engine.prepare(rows)]), [rows])[0]
        margins = np.array(
            [model.explainer.base_value + model.explainer.contributions(row).sum() for row in rows]
        )
        assert np.abs(1 / (1 + np.exp(-margins)) - scores).max() <= 1e-5
