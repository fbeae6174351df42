"""An MLServer server over the released text model.

    mlserver_sentiment.py DIR FOLDER PORT WORKERS BATCH WAIT_S

Runs in the peer's environment. Writes MLServer's two settings files into FOLDER and serves it; with
BATCH above 1 its adaptive batching gathers requests for at most WAIT_S seconds.
"""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from mlserver import MLModel  # type: ignore[import-not-found] # lives in the peer's environment
from mlserver.codecs import NumpyCodec, StringCodec  # type: ignore[import-not-found] # as above
from mlserver.types import InferenceResponse  # type: ignore[import-not-found] # as above
from onnx_models import Sentiment  # type: ignore[import-not-found] # beside it


class SentimentModel(MLModel):  # type: ignore[misc] # as above
    """Texts in a BYTES tensor, probabilities out."""

    async def load(self) -> bool:
        """Load."""
        self._model = Sentiment(self._settings.parameters.extra["directory"])
        return True

    async def predict(self, payload: Any) -> Any:
        """Run the model on all texts of the call or of the batch."""
        texts = StringCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("probabilities", self._model(texts))
        return InferenceResponse(model_name=self.name, outputs=[output])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write(folder: Path, directory: str, port: int, workers: int, batch: int, wait: float) -> None:
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": _free_port(),
        "metrics_port": _free_port(),
        "metrics_dir": str(folder),
        "parallel_workers": workers,
        "debug": False,
        "cache_enabled": False,
    }
    model = {
        "name": "sentiment",
        "implementation": "mlserver_sentiment.SentimentModel",
        "max_batch_size": batch if batch > 1 else 0,
        "max_batch_time": wait,
        "parameters": {"extra": {"directory": directory}},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))


if __name__ == "__main__":
    model_dir, place, port_text, workers_text, batch_text, wait_text = sys.argv[1:]
    _write(
        Path(place), model_dir, int(port_text), int(workers_text), int(batch_text), float(wait_text)
    )
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    # The child below reads the module by its name.
    program = str(Path(sys.executable).with_name("mlserver"))
    os.execv(program, [program, "start", place])
