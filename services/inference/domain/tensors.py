"""Models that take and give named tensors as they are (task `generic`), for the V2 protocol."""

from collections.abc import Mapping
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
