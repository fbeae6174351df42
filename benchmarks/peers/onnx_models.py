"""The released models for a peer's server: the same files, tokenizer, threads and arithmetic.

Runs in the peers' environments; knows only onnxruntime, tokenizers and numpy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ("negative", "neutral", "positive")
_TOKENS_MAX = 96


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Sentiment:
    """Texts to probabilities, padded to the longest of the call."""

    def __init__(self, directory: str) -> None:
        from tokenizers import Tokenizer

        self._session = _session(Path(directory) / "model.onnx")
        self._tokenizer = Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))
        self._tokenizer.enable_truncation(_TOKENS_MAX)
        self._tokenizer.enable_padding()

    def __call__(self, texts: Sequence[str]) -> Any:
        """Give probabilities of shape (texts, 3)."""
        encoded = self._tokenizer.encode_batch(list(texts))
        batch = {
            "input_ids": np.array([one.ids for one in encoded], dtype=np.int64),
            "attention_mask": np.array([one.attention_mask for one in encoded], dtype=np.int64),
        }
        raised = np.exp(self._session.run(["logits"], batch)[0])
        return raised / raised.sum(axis=1, keepdims=True)


class Fraud:
    """Rows of features to probabilities."""

    def __init__(self, directory: str) -> None:
        self._session = _session(Path(directory) / "model.onnx")

    def __call__(self, rows: Sequence[Sequence[float]]) -> Any:
        """Give probabilities of shape (rows, 2)."""
        return self._session.run(None, {"features": np.array(rows, dtype=np.float32)})[0]
