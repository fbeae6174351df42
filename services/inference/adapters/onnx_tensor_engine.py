"""ONNX Runtime for generic models: named tensors in, named tensors out, called by any thread."""

from pathlib import Path

import numpy as np

from services.inference.domain.tensors import Tensor, Tensors


class OnnxTensorEngine:
    """Engine over one ONNX file whose tensors the manifest names."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.input_names = [item.name for item in self._session.get_inputs()]
        self.output_names = [item.name for item in self._session.get_outputs()]
        self._bytes = path.stat().st_size

    @property
    def memory_bytes(self) -> int:
        """Size of the file; ONNX Runtime does not say what a session holds."""
        return self._bytes

    def run(self, inputs: Tensors) -> dict[str, Tensor]:
        """Run the graph; texts travel as Python strings and come back as bytes.

        Raises:
            ValueError: a BYTES element is no UTF-8, or the graph refuses the shapes.
        """
        feed = {name: _to_runtime(value) for name, value in inputs.items()}
        try:
            outputs = self._session.run(self.output_names, feed)
        except Exception as error:
            if type(error).__name__ in {"InvalidArgument", "Fail", "RuntimeException"}:
                raise ValueError("the model refuses inputs of these shapes") from error
            raise
        return {
            name: _from_runtime(np.asarray(value))
            for name, value in zip(self.output_names, outputs, strict=True)
        }

    def close(self) -> None:
        """Free the session."""
        del self._session


def _to_runtime(value: Tensor) -> Tensor:
    if value.dtype != np.object_:
        return np.ascontiguousarray(value)
    texts = np.empty(value.shape, dtype=np.object_)
    texts.ravel()[:] = [element.decode("utf-8") for element in value.ravel()]
    return texts


def _from_runtime(value: Tensor) -> Tensor:
    if value.dtype != np.object_:
        return value
    encoded = np.empty(value.shape, dtype=np.object_)
    encoded.ravel()[:] = [str(element).encode("utf-8") for element in value.ravel()]
    return encoded
