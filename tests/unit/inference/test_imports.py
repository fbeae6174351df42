"""Importing the service is cheap: heavy libraries wait until a model needs them."""

import subprocess
import sys


def test_importing_the_service_loads_no_model_runtime():
    code = (
        "import sys, services.inference.app, libs.client; "
        "print([name for name in ('onnxruntime', 'torch', 'transformers', 'xgboost', 'mlflow') "
        "if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert result.stdout.decode().strip() == "[]"
