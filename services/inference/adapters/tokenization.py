"""Tokenization with the `tokenizers` library, one tokenizer per thread, set up once.

A tokenizer whose truncation is changed while another thread encodes raises "Already borrowed"
(tokenizers#537); here nothing is changed after it was made.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from services.inference.domain.text import WINDOWS_MAX, Encoding, TextTooLongError, Truncation


class FileTextEncoder:
    """Encodes with a `tokenizer.json`, cutting or windowing as the manifest says."""

    def __init__(self, path: Path, truncation: Truncation) -> None:
        self._document = path.read_text(encoding="utf-8")
        self._truncation = truncation
        self._local = threading.local()
        self._mine()  # a broken file is found at load, not at the first request

    def _mine(self) -> Any:
        """Give this thread's tokenizer."""
        found = getattr(self._local, "tokenizer", None)
        if found is None:
            from tokenizers import Tokenizer

            found = Tokenizer.from_str(self._document)
            found.no_padding()
            overlap = self._truncation.overlap_tokens
            stride = overlap if self._truncation.policy == "window" else 0
            found.enable_truncation(self._truncation.max_tokens, stride=stride)
            self._local.tokenizer = found
        return found

    def encode(self, texts: Sequence[str]) -> list[Encoding | TextTooLongError]:
        """Tokenize; special tokens stand around every window."""
        tokenizer = self._mine()
        return [self._one(tokenizer.encode(text)) for text in texts]

    def _one(self, encoded: Any) -> Encoding | TextTooLongError:
        rest = encoded.overflowing
        first = np.asarray(encoded.ids, dtype=np.int64)
        if not rest:
            return Encoding((first,))
        policy = self._truncation.policy
        if policy == "truncate":
            return Encoding((first,), is_truncated=True)
        if policy == "refuse":
            return TextTooLongError(
                f"the text has more than {self._truncation.max_tokens} tokens, "
                "which this model refuses"
            )
        if len(rest) + 1 > WINDOWS_MAX:
            return TextTooLongError(
                f"the text needs {len(rest) + 1} windows; at most {WINDOWS_MAX} are read"
            )
        return Encoding((first, *(np.asarray(part.ids, dtype=np.int64) for part in rest)))
