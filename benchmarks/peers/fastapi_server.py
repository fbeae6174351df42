"""The least that serves a model: one FastAPI route with ONNX Runtime inline.

    fastapi_server.py MODEL DIR PORT WORKERS BATCH WAIT_S

Runs in our own environment. MODEL is fraud; BATCH and WAIT_S are for the other peers. What it
leaves out - identity, the tensor protocol, metrics, the event log, deadlines - a service adds.
"""

import os
import sys

import uvicorn
from fastapi import FastAPI
from onnx_models import Fraud  # type: ignore[import-not-found] # beside it
from pydantic import BaseModel


class Row(BaseModel):
    """One row of features."""

    features: list[float]


class Answer(BaseModel):
    """Both probabilities."""

    probabilities: list[float]


app = FastAPI()
_model = Fraud(os.environ.get("PEER_DIR", "") or sys.argv[2])


@app.post("/predict")
async def predict(row: Row) -> Answer:
    """Run the model on one row."""
    return Answer(probabilities=_model([row.features])[0].tolist())


if __name__ == "__main__":
    _, _, folder, port, workers, _, _ = sys.argv
    os.environ["PEER_DIR"] = folder  # the workers read it
    uvicorn.run(
        "fastapi_server:app",
        host="127.0.0.1",
        port=int(port),
        workers=int(workers),
        log_level="error",
        access_log=False,
    )
