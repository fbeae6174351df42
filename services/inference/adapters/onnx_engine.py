"""ONNX Runtime for tabular models: one thread, sequential, called inline.

A thread hop costs more than the call (7 us for 50 trees of depth 3), so the session gets no pool.
Spinning is off: an idle session must not burn a core.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from services.inference.domain.ports import Rows, Scores


class OnnxTabularEngine:
    """Engine over one ONNX file with one float32 input of shape (n, features)."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            raise ValueError("a tabular model takes one float32 tensor")
        self._input = inputs[0].name
        width = inputs[0].shape[-1]
        self._width = width if isinstance(width, int) else None
        floats = [out.name for out in self._session.get_outputs() if out.type == "tensor(float)"]
        if len(floats) != 1:
            raise ValueError("a tabular model gives one float32 tensor (zipmap off)")
        self._outputs = floats
        self._bytes = path.stat().st_size

    @property
    def memory_bytes(self) -> int:
        """Size of the file; ONNX Runtime does not say what a session holds."""
        return self._bytes

    def prepare(self, item: Rows) -> Rows:
        """Check the width and make the rows contiguous float32."""
        if item.ndim != 2 or (self._width is not None and item.shape[1] != self._width):
            raise ValueError(f"expected rows of {self._width} features")
        return np.ascontiguousarray(item, dtype=np.float32)

    def forward(self, batch: Sequence[Rows]) -> Scores:
        """Run all rows of the batch in one call; the last output column is the score."""
        rows = batch[0] if len(batch) == 1 else np.concatenate(batch)
        output = self._session.run(self._outputs, {self._input: rows})[0]
        return np.asarray(output.reshape(len(rows), -1)[:, -1], dtype=np.float64)

    def finish(self, raw: Scores, batch: Sequence[Rows]) -> list[Scores]:
        """Give each item its own scores."""
        return split_by_item(raw, batch)


def split_by_item(raw: Scores, batch: Sequence[Rows]) -> list[Scores]:
    """Cut scores of joined items apart again; the counts must agree."""
    if len(batch) == 1:
        return [raw]
    ends = np.cumsum([len(item) for item in batch])
    assert ends[-1] == len(raw), "the engine must answer every row"
    return list(np.split(raw, ends[:-1]))
