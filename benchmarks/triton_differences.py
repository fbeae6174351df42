"""`python -m benchmarks.triton_differences`: the same requests to a real Triton and to ours.

Triton runs in its own environment (`make peers`), over the released fraud model as ours does.
Statuses and the number of values are compared (ours are calibrated); a difference that
docs/v2-deviations.md does not name ends with 1. PyTriton closes some paths of its server (403).
"""

import struct
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx2
import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.feature_feast import _redis
from benchmarks.inference_peers import ROWS, Side, Subject, bodies, up

_MODEL, _HEADER = "/v2/models/fraud", "Inference-Header-Content-Length"
_INFER = f"{_MODEL}/infer"
_SUBJECT = Subject("fraud", ROWS, "fraud", 1)
_OURS, _TRITON = Side("Gatehouse"), Side("Triton", "triton_server.py", 1, 8)


@dataclass(frozen=True)
class Case:
    """A request, and why the answers may differ; empty where they must not."""

    name: str
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    differs: str = ""


def cases(request: dict[str, Any]) -> list[Case]:
    """Make the requests out of one good infer request."""
    tensor = request["inputs"][0]
    row = np.array(tensor["data"], np.float32)

    def infer(name: str, differs: str = "", /, **changes: Any) -> Case:
        body = orjson.dumps({"inputs": [{**tensor, **changes}]})
        return Case(name, "POST", _INFER, body, differs=differs)

    def binary(name: str, raw: bytes, claimed: int, length: int | None = None) -> Case:
        head = {key: tensor[key] for key in ("name", "shape", "datatype")}
        head["parameters"] = {"binary_data_size": claimed}
        document = {"inputs": [head], "parameters": {"binary_data_output": True}}
        text = orjson.dumps(document)
        headers = {_HEADER: str(len(text) if length is None else length)}
        return Case(name, "POST", _INFER, text + raw, headers)

    raw = row.tobytes()
    listed = orjson.dumps({**request, "outputs": [{"name": "none"}]})
    return [
        Case("live", "GET", "/v2/health/live"),
        Case("ready", "GET", "/v2/health/ready"),
        Case("server metadata", "GET", "/v2"),
        Case("model metadata", "GET", _MODEL),
        Case("model readiness", "GET", f"{_MODEL}/ready"),
        Case("model configuration", "GET", f"{_MODEL}/config"),
        Case("model statistics", "GET", f"{_MODEL}/stats"),
        Case("index", "POST", "/v2/repository/index"),
        Case("metadata of an unknown model", "GET", "/v2/models/none"),
        Case("readiness of an unknown model", "GET", "/v2/models/none/ready"),
        Case("infer on an unknown model", "POST", "/v2/models/none/infer", orjson.dumps(request)),
        Case("infer on an unknown version", "POST", f"{_MODEL}/versions/99/infer",
             orjson.dumps(request)),
        infer("a row as JSON"),
        binary("a row as binary, binary output", raw, len(raw)),
        infer("another input name", name="none"),
        infer("another datatype", datatype="FP64"),
        infer("fewer values than the shape", "data that does not fit its shape",
              data=tensor["data"][:-1]),
        infer("a text among the values", "data that does not fit its shape",
              data=["x", *tensor["data"][1:]]),
        Case("an unknown output", "POST", _INFER, listed),
        Case("malformed JSON", "POST", _INFER, b'{"inputs": [', differs="malformed JSON"),
        binary("a body shorter than its tensor", raw[:-4], len(raw)),
        binary("a size that is not the shape's", raw + struct.pack("<f", 1.0), len(raw) + 4),
        binary("a header length beyond the body", raw, len(raw), 1 << 20),
        Case("load of an unknown model", "POST", "/v2/repository/models/none/load",
             differs="load of an unknown model"),
        Case("unload of an unknown model", "POST", "/v2/repository/models/none/unload",
             differs="unload of an unknown model"),
        Case("shared memory", "GET", "/v2/systemsharedmemory/status",
             differs="shared memory, trace and log settings"),
    ]  # fmt: skip


def ask(port: int, case: Case) -> tuple[int, str, list[float]]:
    """Give status, kind of body, and the probabilities if there are any."""
    url = f"http://127.0.0.1:{port}{case.path}"
    answer = httpx2.request(
        case.method, url, content=case.body or None, headers=case.headers, timeout=10
    )
    size = answer.headers.get(_HEADER)
    if size is not None:
        values = np.frombuffer(answer.content[int(size) :], np.float32)
        return answer.status_code, "binary tensors", [float(value) for value in values]
    try:
        document = orjson.loads(answer.content) if answer.content else {}
    except orjson.JSONDecodeError:
        return answer.status_code, "text", []
    if isinstance(document, dict) and "error" in document:
        return answer.status_code, "error", []
    found = document.get("outputs", [{}])[0].get("data", []) if isinstance(document, dict) else []
    return answer.status_code, "JSON" if document else "empty", found


def verdict(case: Case, ours: tuple[int, str, list[float]], theirs: Any) -> str:
    """Compare two answers; readiness differs in its body, which clients do not read."""
    if theirs[0] == HTTPStatus.FORBIDDEN:
        return "closed by PyTriton"
    if ours[0] == theirs[0] and len(ours[2]) == len(theirs[2]):
        return "same"
    return f"deliberate: {case.differs}" if case.differs else "NOT NAMED"


def main() -> None:
    """Ask both, print, and fail on what is not named."""
    path, body = bodies(_SUBJECT, _OURS)[0]
    assert path == _INFER, "ours speaks the protocol"
    table = Table(title="the same request")
    for column in ("request", "Triton", "ours", ""):
        table.add_column(column)
    unnamed = 0
    with ExitStack() as stack:
        redis_url = stack.enter_context(_redis(stack.enter_context(tempfile.TemporaryDirectory())))
        ports = [stack.enter_context(up(_SUBJECT, side, redis_url)) for side in (_TRITON, _OURS)]
        for case in cases(orjson.loads(body)):
            theirs, ours = (ask(port, case) for port in ports)
            found = verdict(case, ours, theirs)
            unnamed += found == "NOT NAMED"
            table.add_row(case.name, f"{theirs[0]} {theirs[1]}", f"{ours[0]} {ours[1]}", found)
    Console(width=140).print(table)
    sys.exit(1 if unnamed else 0)


if __name__ == "__main__":
    main()
