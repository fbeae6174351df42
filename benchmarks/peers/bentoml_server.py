"""A BentoML server over a released model.

    bentoml_server.py MODEL DIR PORT WORKERS BATCH WAIT_S

Runs in the peer's environment. MODEL is sentiment or fraud. With BATCH above 1 the endpoint is
batchable: BentoML gathers up to BATCH inputs and sheds what it expects to take longer than WAIT_S.
"""

import os
import sys
from pathlib import Path
from typing import Any

import bentoml  # type: ignore[import-not-found] # lives in the peer's environment
from onnx_models import LABELS, Fraud, Sentiment  # type: ignore[import-not-found] # beside it

_DIR = os.environ.get("PEER_DIR", "")
_WORKERS = int(os.environ.get("PEER_WORKERS", "1"))
_BATCH = int(os.environ.get("PEER_BATCH", "1"))
_WAIT_MS = int(float(os.environ.get("PEER_WAIT_S", "0")) * 1e3)
_API: dict[str, Any] = (
    {"batchable": True, "max_batch_size": _BATCH, "max_latency_ms": _WAIT_MS} if _BATCH > 1 else {}
)


def _named(output: Any) -> dict[str, Any]:
    best = int(output.argmax())
    return {"sentiment": LABELS[best], "confidence": float(output[best])}


@bentoml.service(workers=_WORKERS)
class SentimentService:
    """Texts, one per request; a batchable endpoint takes and gives lists."""

    def __init__(self) -> None:
        self._model = Sentiment(_DIR)

    if _BATCH > 1:

        @bentoml.api(**_API)  # type: ignore[untyped-decorator] # as above
        def predict(self, texts: list[str]) -> list[dict[str, Any]]:
            """Run the model on a batch."""
            return [_named(output) for output in self._model(texts)]

    else:

        @bentoml.api(**_API)  # type: ignore[untyped-decorator] # as above
        def predict(self, text: str) -> dict[str, Any]:
            """Run the model on one text."""
            return _named(self._model([text])[0])


@bentoml.service(workers=_WORKERS)
class FraudService:
    """Rows, one per request; a batchable endpoint takes and gives lists."""

    def __init__(self) -> None:
        self._model = Fraud(_DIR)

    if _BATCH > 1:

        @bentoml.api(**_API)  # type: ignore[untyped-decorator] # as above
        def predict(self, rows: list[list[float]]) -> list[list[float]]:
            """Run the model on a batch."""
            found: list[list[float]] = self._model(rows).tolist()
            return found

    else:

        @bentoml.api(**_API)  # type: ignore[untyped-decorator] # as above
        def predict(self, features: list[float]) -> dict[str, Any]:
            """Run the model on one row."""
            return {"probabilities": self._model([features])[0].tolist()}


if __name__ == "__main__":
    model, folder, port, workers, batch, wait_s = sys.argv[1:]
    os.environ |= {
        "PEER_DIR": folder,
        "PEER_WORKERS": workers,
        "PEER_BATCH": batch,
        "PEER_WAIT_S": wait_s,
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_HOME": os.environ.get("TMPDIR", "/tmp"),
    }
    service = "SentimentService" if model == "sentiment" else "FraudService"
    here = str(Path(__file__).parent)
    program = str(Path(sys.executable).with_name("bentoml"))
    os.execv(
        program,
        [program, "serve", f"bentoml_server:{service}", "--working-dir", here,
         "--host", "127.0.0.1", "--port", port],
    )  # fmt: skip
