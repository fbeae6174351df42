"""A LitServe server over a released model.

    litserve_server.py MODEL DIR PORT WORKERS BATCH WAIT_S

Runs in the peer's environment. MODEL is sentiment or fraud. Without batching each request runs by
itself; with it LitServe gathers up to BATCH requests for at most WAIT_S seconds.
"""

import sys
from typing import Any

import litserve  # type: ignore[import-not-found] # lives in the peer's environment
from onnx_models import LABELS, Fraud, Sentiment  # type: ignore[import-not-found] # beside it


class SentimentApi(litserve.LitAPI):  # type: ignore[misc] # as above
    """One text per request."""

    directory = ""

    def setup(self, device: str) -> None:
        """Load."""
        self._model = Sentiment(self.directory)
        self._is_batched = self.max_batch_size > 1

    def decode_request(self, request: dict[str, Any]) -> Any:
        """Take the text."""
        return request["text"]

    def predict(self, x: Any) -> Any:
        """Run the model on one text, or on a batch of them."""
        return self._model(x) if self._is_batched else self._model([x])[0]

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Name the best label."""
        best = int(output.argmax())
        return {"sentiment": LABELS[best], "confidence": float(output[best])}


class FraudApi(SentimentApi):
    """One row per request."""

    def setup(self, device: str) -> None:
        """Load."""
        self._model = Fraud(self.directory)
        self._is_batched = self.max_batch_size > 1

    def decode_request(self, request: dict[str, Any]) -> Any:
        """Take the row."""
        return request["features"]

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Give both probabilities."""
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    model, folder, port, workers, batch, wait_s = sys.argv[1:]
    chosen = SentimentApi if model == "sentiment" else FraudApi
    api = chosen(max_batch_size=int(batch), batch_timeout=float(wait_s))
    api.directory = folder  # of this one: workers get a copy
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(workers))
    server.run(
        host="127.0.0.1",
        port=int(port),
        log_level="error",
        generate_client_file=False,
        num_api_servers=1,
        access_log=False,
    )
