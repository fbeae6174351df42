"""A deterministic text engine for tests and examples: no library, no file but the manifest.

The logits of a window are sums of fixed pseudo-random numbers per token, so that answers depend on
every token and on nothing else: padding, batch size and order cannot change them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.inference.domain.ports import Scores
from services.inference.domain.text import WINDOWS_MAX, Encoding, TextTooLongError, Truncation

_VOCABULARY = 4096


class ReferenceTextEngine:
    """Adds up one row of a fixed table per token."""

    device = "cpu"
    pad_multiple = 8

    def __init__(self, labels: int, *, executors: int = 1) -> None:
        self.executors = executors
        self._table = np.random.default_rng(20).normal(0, 0.5, (_VOCABULARY, labels))
        self._table[0] = 0.0

    @property
    def memory_bytes(self) -> int:
        """Bytes of the table."""
        return self._table.nbytes

    def collate(self, windows: Sequence[NDArray[np.int64]], length: int) -> NDArray[np.int64]:
        """Pad with token 0, whose row is zero."""
        ids = np.zeros((len(windows), length), dtype=np.int64)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = window
        return ids

    def forward(self, batch: NDArray[np.int64]) -> Scores:
        """Sum the rows of all tokens."""
        return np.asarray(self._table[batch].sum(axis=1))

    def finish(self, raw: Scores) -> Scores:
        """Give the logits."""
        return raw

    def close(self) -> None:
        """Hold nothing."""


class WordEncoder:
    """Splits at white space; a word's token is a hash of its bytes."""

    def __init__(self, truncation: Truncation) -> None:
        self._truncation = truncation

    def encode(self, texts: Sequence[str]) -> list[Encoding | TextTooLongError]:
        """Tokenize as `FileTextEncoder` does, words instead of word pieces."""
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> Encoding | TextTooLongError:
        words = text.split() or [""]
        ids = np.array([_token(word) for word in words], dtype=np.int64)
        size, policy = self._truncation.max_tokens, self._truncation.policy
        if len(ids) <= size:
            return Encoding((ids,))
        if policy == "truncate":
            return Encoding((ids[:size],), is_truncated=True)
        step = size - self._truncation.overlap_tokens
        windows = tuple(ids[at : at + size] for at in range(0, len(ids) - size + step, step))
        if policy == "refuse" or len(windows) > WINDOWS_MAX:
            return TextTooLongError("the text is longer than this model reads")
        return Encoding(windows)


def _token(word: str) -> int:
    total = 7
    for byte in word.encode("utf-8"):
        total = (total * 31 + byte) % (_VOCABULARY - 1)
    return total + 1
