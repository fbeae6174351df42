"""Delegates a generic model to any Open Inference Protocol server: Triton, KServe, another of ours.

Nothing is batched here; the remote does that. A gate bounds concurrent calls, the remaining
deadline travels as `timeout`, a breaker answers in the remote's place after repeated failures. One
retry, on a connection that could not be made: then nothing has been run.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
import orjson

from libs.common.context import current
from libs.common.errors import DeadlineExceededError, ServiceError, UnavailableError
from libs.common.manifest import Manifest, TensorSpec
from services.inference.domain.tensors import (
    DATATYPES,
    Tensor,
    Tensors,
    bytes_array,
    decode_tensor,
    encode_tensor,
)

HEADER_LENGTH = "Inference-Header-Content-Length"
_DEADLINE_S = 30.0
# After this many failures in a row nobody calls for so long; then one call tries again.
BREAKER_FAILURES, BREAKER_S = 5, 2.0
_ANSWER_BYTES_MAX = 64 << 20


class RemoteFaultError(ServiceError):
    """The remote refused or garbled what we sent: a defect between the two of us."""

    status, code, title = 502, "remote_fault", "The remote model server failed"


class RemoteMismatchError(ValueError):
    """The remote's metadata differs from the manifest."""


@dataclass(slots=True)
class Breaker:
    """Counts failures in a row; pure, clock passed in."""

    failures: int = 0
    open_until: float = 0.0

    def refuses(self, now: float) -> bool:
        """Whether calls are answered in the remote's place."""
        return now < self.open_until

    def note(self, now: float, *, ok: bool) -> None:
        """Learn how a call went."""
        self.failures = 0 if ok else self.failures + 1
        if self.failures >= BREAKER_FAILURES:
            self.open_until = now + BREAKER_S


class RemoteTensorEngine:
    """Calls one model of one remote; lives on the event loop that first uses it."""

    def __init__(self, manifest: Manifest, *, concurrency: int = 32) -> None:
        """Set up; nothing connects before the first call.

        Args:
            manifest: `parameters.url` names the server, `parameters.model` and `.version` the
                model there (default: the manifest's name and the remote's own choice).
            concurrency: calls at the same time; further ones wait within their deadline.

        Raises:
            ValueError: no usable URL.
        """
        url = str(manifest.parameters.get("url", ""))
        if not url.startswith(("http://", "https://")):
            raise ValueError("a remote model needs parameters.url")
        model = str(manifest.parameters.get("model", manifest.name))
        version = manifest.parameters.get("version")
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "")
        self._base = url.rstrip("/") + path
        self._manifest = manifest
        self._gate = asyncio.Semaphore(concurrency)
        self._session: aiohttp.ClientSession | None = None
        self._breaker = Breaker()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def check(self) -> None:
        """Compare the remote's metadata with the manifest.

        Raises:
            RemoteMismatchError: other tensors.
            ServiceError: the remote does not answer.
        """
        document = orjson.loads((await self._call("GET", "", b"", {}))[0])
        for kind, ours in (("inputs", self._manifest.inputs), ("outputs", self._manifest.outputs)):
            theirs = {item["name"]: item["datatype"] for item in document.get(kind, ())}
            if theirs != {item.name: item.datatype for item in ours}:
                raise RemoteMismatchError(f"the remote's {kind} differ from the manifest's")

    async def infer(self, inputs: Tensors) -> dict[str, Tensor]:
        """Run the remote model, binary both ways, within the request's deadline.

        Raises:
            DeadlineExceededError: 504, no time left or the remote too slow.
            UnavailableError: 503, not reachable, shedding, or the breaker is open.
            RemoteFaultError: 502, the remote called our request wrong or its answer cannot be read.
        """
        types = {item.name: item.datatype for item in self._manifest.inputs}
        left_s = current().remaining_s(_DEADLINE_S)
        if left_s <= 0:
            raise DeadlineExceededError("No time left to ask the remote model.")
        listed, parts = [], []
        for name, value in inputs.items():
            raw = encode_tensor(types[name], value)
            parts.append(raw)
            listed.append(
                {
                    "name": name,
                    "datatype": types[name],
                    "shape": list(value.shape),
                    "parameters": {"binary_data_size": len(raw)},
                }
            )
        header = orjson.dumps(
            {
                "inputs": listed,
                "parameters": {"binary_data_output": True, "timeout": int(left_s * 1e6)},
            }
        )
        body, json_size = await self._call(
            "POST", "/infer", header + b"".join(parts), {HEADER_LENGTH: str(len(header))}
        )
        try:
            return self._read(body, json_size)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise RemoteFaultError("The remote's answer cannot be read.") from error

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def close(self) -> None:
        """Close the connections from any thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(lambda: loop.create_task(self.aclose()))

    async def _call(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, int | None]:
        now = time.monotonic()
        if self._breaker.refuses(now):
            raise UnavailableError("The remote model failed repeatedly.", code="breaker_open")
        left_s = current().remaining_s(_DEADLINE_S)
        try:
            async with asyncio.timeout(left_s), self._gate:
                try:
                    answer = await self._send(method, path, body, headers)
                except aiohttp.ClientConnectorError:
                    answer = await self._send(method, path, body, headers)
        except TimeoutError:
            self._breaker.note(time.monotonic(), ok=False)
            raise DeadlineExceededError("The remote model was too slow.") from None
        except (aiohttp.ClientError, OSError):
            self._breaker.note(time.monotonic(), ok=False)
            raise UnavailableError("The remote model cannot be reached.") from None
        status, headers_in, content = answer
        self._breaker.note(time.monotonic(), ok=status < 500)
        if status == 503:
            wait = headers_in.get("Retry-After", "1")
            raise UnavailableError(
                "The remote model is overloaded.",
                retry_after_s=int(wait) if wait.isdigit() else 1,
            )
        if status == 504:
            raise DeadlineExceededError("The remote model missed the deadline.")
        if status != 200:
            raise RemoteFaultError(f"The remote model server answered {status}.")
        size = headers_in.get(HEADER_LENGTH)
        return content, int(size) if size is not None and size.isdigit() else None

    async def _send(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        if self._session is None:
            self._loop = asyncio.get_running_loop()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=1),
            )
        async with self._session.request(
            method, self._base + path, data=body or None, headers=headers, allow_redirects=False
        ) as response:
            content = await response.content.read(_ANSWER_BYTES_MAX)
            while not response.content.at_eof():
                if len(content) >= _ANSWER_BYTES_MAX:
                    raise aiohttp.ClientPayloadError("too large")
                content += await response.content.read(_ANSWER_BYTES_MAX)
            return response.status, response.headers, content

    def _read(self, body: bytes, json_size: int | None) -> dict[str, Tensor]:
        view = memoryview(body)
        size = len(body) if json_size is None else json_size
        document = orjson.loads(view[:size])
        specs = {item.name: item for item in self._manifest.outputs}
        found: dict[str, Tensor] = {}
        at = size
        for entry in document["outputs"]:
            spec = specs[entry["name"]]
            length = entry.get("parameters", {}).get("binary_data_size")
            if length is None:
                found[spec.name] = _from_data(spec, entry["data"]).reshape(entry["shape"])
                continue
            part = view[at : at + length]
            at += length
            found[spec.name] = decode_tensor(spec.datatype, entry["shape"], part)
        if set(found) != set(specs):
            raise ValueError("the remote left an output out")
        return found


def _from_data(spec: TensorSpec, data: Any) -> Tensor:
    if spec.datatype != "BYTES":
        return np.array(data, dtype=DATATYPES[spec.datatype])
    return bytes_array([str(one).encode() for one in data], [len(data)])


def prove_remote(manifest: Manifest) -> None:
    """Hold a remote model to its manifest: same tensors, same golden answers; blocking.

    Raises:
        RemoteMismatchError: other tensors, or another answer.
        ServiceError: the remote does not answer.
    """
    asyncio.run(_prove(manifest))


async def _prove(manifest: Manifest) -> None:
    engine = RemoteTensorEngine(manifest)
    types = {item.name: DATATYPES[item.datatype] for item in manifest.inputs}
    try:
        await engine.check()
        for number, case in enumerate(manifest.golden_cases):
            inputs = {
                name: np.asarray(value, dtype=types[name]) for name, value in case.inputs.items()
            }
            outputs = await engine.infer(inputs)
            for name, expected in case.outputs.items():
                wanted, found = np.asarray(expected, dtype=np.float64), outputs[name]
                if found.shape != wanted.shape or not np.all(
                    np.abs(found.astype(np.float64) - wanted) <= case.tolerance
                ):
                    raise RemoteMismatchError(f"golden case {number} gives another answer")
    finally:
        await engine.aclose()
