"""Tokenization with the `tokenizers` library, one tokenizer per thread, set up once.

A tokenizer whose truncation is changed while another thread encodes raises "Already borrowed"
(tokenizers#537); here nothing is changed after it was made.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from services.inference.domain.entities import Marks, packed, shapes_of
from services.inference.domain.text import WINDOWS_MAX, Encoding, TextTooLongError, Truncation


class FileTextEncoder:
    """Encodes with a `tokenizer.json`, cutting or windowing as the manifest says."""

    def __init__(self, path: Path, truncation: Truncation, *, with_marks: bool = False) -> None:
        """Read the file.

        Args:
            path: the verified `tokenizer.json`.
            truncation: of the manifest.
            with_marks: also say where tokens stand and how their words are written.
        """
        self._with_marks = with_marks
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
        return [self._one(text, tokenizer.encode(text)) for text in texts]

    def _one(self, text: str, encoded: Any) -> Encoding | TextTooLongError:
        rest = encoded.overflowing
        if not rest:
            return self._encoding(text, [encoded])
        policy = self._truncation.policy
        if policy == "truncate":
            return self._encoding(text, [encoded], is_truncated=True)
        if policy == "refuse":
            return TextTooLongError(
                f"the text has more than {self._truncation.max_tokens} tokens, "
                "which this model refuses"
            )
        if len(rest) + 1 > WINDOWS_MAX:
            return TextTooLongError(
                f"the text needs {len(rest) + 1} windows; at most {WINDOWS_MAX} are read"
            )
        return self._encoding(text, [encoded, *rest])

    def _encoding(self, text: str, parts: Sequence[Any], *, is_truncated: bool = False) -> Encoding:
        windows = [np.asarray(part.ids, dtype=np.int64) for part in parts]
        if not self._with_marks:
            return Encoding(tuple(windows), is_truncated)
        marks = [_marks(part) for part in parts]
        shaped = (
            packed(window, shapes_of(text, mark))
            for window, mark in zip(windows, marks, strict=True)
        )
        return Encoding(tuple(shaped), is_truncated, tuple(marks))


def _marks(part: Any) -> Marks:
    words = [-1 if word is None else word for word in part.word_ids]
    offsets = np.asarray(part.offsets, dtype=np.int64).reshape(-1, 2)
    return Marks(offsets, np.asarray(words, dtype=np.int64))
