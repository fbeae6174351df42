"""ONNX Runtime for text models on the CPU: one shared session, one thread per concurrent forward.

`executors x intra_op <= CPUs of the cgroup` (onnxruntime#29510 oversubscribes containers); each
forward runs on the thread that calls it. Spinning is off: an idle session must not burn a core.
Lengths are not rounded up: with dynamic shapes every padded token costs what a real one does.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.inference.domain.entities import SHAPE_BITS
from services.inference.domain.ports import DeviceMemoryError, Scores

Inputs = dict[str, NDArray[np.int64]]
_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_OUTPUT = "logits"
_ID_MASK = (1 << SHAPE_BITS) - 1


class OnnxTextEngine:
    """Engine over one ONNX graph: input_ids and attention_mask INT64 in, logits FP32 out."""

    device = "cpu"
    pad_multiple = 1

    def __init__(self, path: Path, width: int, *, executors: int = 0) -> None:
        """Load.

        Args:
            path: the verified file.
            width: how many logits a window, or a token of one, must have.
            executors: concurrent forwards; 0 takes what the cgroup grants.

        Raises:
            ValueError: the graph has other inputs or outputs.
        """
        import onnxruntime

        self.executors = executors or cpu_quota()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        names = {item.name for item in self._session.get_inputs()}
        if not {"input_ids", "attention_mask"} <= names <= _INPUTS:
            raise ValueError("a text model reads input_ids and attention_mask")
        outputs = self._session.get_outputs()
        if [out.name for out in outputs] != [_OUTPUT] or outputs[0].type != "tensor(float)":
            raise ValueError("a text model gives one float32 tensor named logits")
        found = outputs[0].shape[-1]
        if isinstance(found, int) and found != width:
            raise ValueError(f"the graph gives {found} logits, the manifest's labels need {width}")
        self._has_types = "token_type_ids" in names
        self._bytes = path.stat().st_size

    @property
    def memory_bytes(self) -> int:
        """Size of the file; ONNX Runtime does not say what a session holds."""
        return self._bytes

    def collate(self, windows: Sequence[NDArray[np.int64]], length: int) -> Inputs:
        """Pad with zeros, which the mask hides; shapes of words become token types."""
        ids, mask = pad(windows, length)
        if not self._has_types:
            return {"input_ids": ids, "attention_mask": mask}
        return {
            "input_ids": ids & _ID_MASK,
            "attention_mask": mask,
            "token_type_ids": ids >> SHAPE_BITS,
        }

    def forward(self, batch: Inputs) -> NDArray[np.float32]:
        """Run the graph."""
        try:
            return np.asarray(self._session.run([_OUTPUT], batch)[0])
        except Exception as error:
            if "allocate" in str(error).lower():
                raise DeviceMemoryError("ONNX Runtime could not allocate memory") from error
            raise

    def finish(self, raw: NDArray[np.float32]) -> Scores:
        """Give the logits."""
        return raw.astype(np.float64)

    def close(self) -> None:
        """Free the session."""
        del self._session


def pad(
    windows: Sequence[NDArray[np.int64]], length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give ids and mask, both of shape (windows, length)."""
    ids = np.zeros((len(windows), length), dtype=np.int64)
    mask = np.zeros((len(windows), length), dtype=np.int64)
    for row, window in enumerate(windows):
        ids[row, : len(window)] = window
        mask[row, : len(window)] = 1
    return ids, mask


def cpu_quota() -> int:
    """CPUs that this process may use: the cgroup's quota, else the affinity mask; at least 1."""
    available = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            available = min(available, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2: the affinity mask stands
    return max(1, available)
