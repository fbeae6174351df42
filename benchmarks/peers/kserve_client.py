"""KServe's own REST client against a running service; runs in .venv/peers/kserve.

    .venv/peers/kserve/bin/python benchmarks/peers/kserve_client.py http://127.0.0.1:8080 [API-KEY]

Reads health, readiness and metadata, and infers with JSON and with binary tensors on the sentiment
model. Exits 0 when every answer is what the protocol says.
"""

import asyncio
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

TEXTS = ["what a lovely day", "this is terrible, never again"]


async def check(url: str, headers: dict[str, str]) -> None:
    """Ask everything that the client can ask of a V2 server."""
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=20, retries=1))
    assert await client.is_server_live(url, headers=headers)
    assert await client.is_server_ready(url, headers=headers)
    assert await client.is_model_ready(url, "sentiment", headers=headers)
    for binary in (False, True):
        tensor = InferInput("text", [len(TEXTS)], "BYTES")
        tensor.set_data_from_numpy(np.array(TEXTS, dtype=np.object_), binary_data=binary)
        request = InferRequest("sentiment", [tensor])
        answer = await client.infer(url, request, headers=headers, model_name="sentiment")
        outputs = {output.name: output for output in answer.outputs}
        labels = [
            label.decode() if isinstance(label, bytes) else label
            for label in outputs["label"].as_numpy().tolist()
        ]
        assert labels == ["positive", "negative"], labels
        assert outputs["probabilities"].as_numpy().shape == (2, 3)
    await client.close()


if __name__ == "__main__":
    key = {"X-API-Key": sys.argv[2]} if len(sys.argv) > 2 else {}
    asyncio.run(check(sys.argv[1].rstrip("/"), key))
    print("kserve client: all answers as the protocol says")
