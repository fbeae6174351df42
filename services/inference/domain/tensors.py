"""Models that take and give named tensors as they are (task `generic`), for the V2 protocol."""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from libs.common.manifest import Manifest

Tensor = NDArray[Any]
Tensors = Mapping[str, Tensor]

# V2 datatype -> numpy; BYTES elements are Python bytes in an object array.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(np.object_),
}


def encode_tensor(datatype: str, value: Tensor) -> bytes:
    """Write raw little-endian bytes, row-major; a BYTES element is its length as u32 and itself."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(element)) + element for element in value.ravel())
    return np.ascontiguousarray(value, dtype=DATATYPES[datatype]).tobytes()


def decode_tensor(datatype: str, shape: Sequence[int], raw: memoryview) -> Tensor:
    """Read raw bytes.

    Raises:
        ValueError: the size is not elements times width, or a BYTES length is wrong.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return bytes_array(_split_bytes(raw, count), shape)
    dtype = DATATYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        raise ValueError(
            f"{len(raw)} bytes, shape {list(shape)} of {datatype} needs {count * dtype.itemsize}"
        )
    if datatype == "BOOL":
        return np.frombuffer(raw, dtype=np.uint8).astype(np.bool_).reshape(shape)
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def bytes_array(parts: Sequence[bytes], shape: Sequence[int]) -> Tensor:
    """Make an object array of bytes."""
    array = np.empty(len(parts), dtype=np.object_)
    array[:] = parts
    return array.reshape(shape)


def _split_bytes(raw: memoryview, count: int) -> list[bytes]:
    parts: list[bytes] = []
    at, size = 0, len(raw)
    while len(parts) < count:
        if at + 4 > size:
            raise ValueError("fewer BYTES elements than its shape says")
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4
        if at + length > size:
            raise ValueError("a BYTES element is longer than the tensor")
        parts.append(bytes(raw[at : at + length]))
        at += length
    if at != size:
        raise ValueError("more bytes than its shape says")
    return parts


class TensorEngine(Protocol):
    """Runs named tensors through a model; called by several threads at once."""

    @property
    def memory_bytes(self) -> int:
        """What the loaded model holds, as far as the engine can tell."""
        ...

    def run(self, inputs: Tensors) -> dict[str, Tensor]:
        """Give all outputs; raises ValueError for inputs that do not fit."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


@dataclass(frozen=True)
class TensorModel:
    """One version of a generic model."""

    manifest: Manifest
    engine: TensorEngine
    engine_name: str

    @property
    def name(self) -> str:
        """Name in the repository."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Integer version as text, for labels."""
        return str(self.manifest.version)

    @property
    def model_version(self) -> str:
        """What answers show, for example `1.0.0`."""
        return self.manifest.release

    @property
    def memory_bytes(self) -> int:
        """What the version holds, as far as its engine can tell."""
        return self.engine.memory_bytes

    def close(self) -> None:
        """Free the engine, after the last answer."""
        self.engine.close()


class RemoteEngine(Protocol):
    """Runs named tensors on another server."""

    async def infer(self, inputs: Tensors) -> dict[str, Tensor]:
        """Give all outputs within the request's deadline; raises service errors."""
        ...

    def close(self) -> None:
        """Close the connections; callable from any thread."""
        ...


@dataclass(frozen=True)
class RemoteModel:
    """One version of a generic model that another server runs."""

    manifest: Manifest
    engine: RemoteEngine
    engine_name: str = "remote"

    @property
    def name(self) -> str:
        """Name in the repository."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Integer version as text, for labels."""
        return str(self.manifest.version)

    @property
    def model_version(self) -> str:
        """What answers show, for example `1.0.0`."""
        return self.manifest.release

    @property
    def memory_bytes(self) -> int:
        """Nothing is held here."""
        return 0

    def close(self) -> None:
        """Close the connections."""
        self.engine.close()
