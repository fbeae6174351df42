"""NVIDIA's Triton over a released model, by PyTriton: its server with an ONNX Runtime callable.

    triton_server.py MODEL DIR PORT WORKERS BATCH WAIT_S

Runs in the peer's environment (the package brings the binary). MODEL is sentiment or fraud.
Triton's own ONNX backend is not in the package; its Python backend hands batches of up to BATCH to
the callables, one per worker.
"""

import socket
import sys
from typing import Any

import numpy as np
from onnx_models import Fraud, Sentiment  # type: ignore[import-not-found] # beside it
from pytriton.decorators import batch  # type: ignore[import-not-found] # in the peer's environment
from pytriton.model_config import (  # type: ignore[import-not-found] # as above
    DynamicBatcher,
    ModelConfig,
    Tensor,
)
from pytriton.triton import Triton, TritonConfig  # type: ignore[import-not-found] # as above


def _sentiment(folder: str) -> Any:
    model = Sentiment(folder)

    @batch  # type: ignore[untyped-decorator] # as above
    def infer(text: Any) -> dict[str, Any]:
        return {"probabilities": model([one.decode("utf-8") for one in text[:, 0]])}

    return infer


def _fraud(folder: str) -> Any:
    model = Fraud(folder)

    @batch  # type: ignore[untyped-decorator] # as above
    def infer(features: Any) -> dict[str, Any]:
        return {"probabilities": model(features)}

    return infer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    name, folder, port, workers, items, wait_s = sys.argv[1:]
    make = _sentiment if name == "sentiment" else _fraud
    takes = (
        Tensor(name="text", dtype=bytes, shape=(1,))
        if name == "sentiment"
        else Tensor(name="features", dtype=np.float32, shape=(-1,))
    )
    batcher = DynamicBatcher(max_queue_delay_microseconds=int(float(wait_s) * 1e6))
    server = TritonConfig(
        http_address="127.0.0.1", http_port=int(port), allow_grpc=False, allow_metrics=False
    )
    with Triton(config=server) as triton:
        triton.bind(
            model_name=name,
            infer_func=[make(folder) for _ in range(int(workers))],
            inputs=[takes],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=int(items), batcher=batcher),
            strict=False,
        )
        triton.serve()
