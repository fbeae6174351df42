"""What identifies a cached prediction, how it is written, and which texts are asked for most; pure.

A key covers everything that could change the answer: tenant, model, version, the digest of the
version's files, parameters, requested outputs and the input itself, each length-prefixed, so that
no two different tuples share their bytes (one peer answers with another model's body: MLServer
1.7.1, reproduced).
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import orjson

from services.inference.domain.entities import Span
from services.inference.domain.text import TextAnswer, TextModel

# Written into each value; a change of the layout makes old values unreadable.
_LAYOUT = 2


def prediction_key(
    tenant: str,
    model: TextModel,
    text: str,
    *,
    parameters: Mapping[str, object] | None = None,
    outputs: Sequence[str] = (),
) -> str:
    """Give the key, 32 hex digits.

    Args:
        tenant: whose call it is.
        model: the resolved version.
        text: the input, exactly as the model gets it.
        parameters: of the request, where they change the answer.
        outputs: names of what was asked for; empty means all.
    """
    parts = (
        tenant.encode(),
        model.name.encode(),
        model.version.encode(),
        "".join(entry.sha256 for entry in model.manifest.files).encode(),
        orjson.dumps(model.manifest.calibration, option=orjson.OPT_SORT_KEYS),
        orjson.dumps(model.manifest.thresholds, option=orjson.OPT_SORT_KEYS),
        orjson.dumps(dict(parameters or {}), option=orjson.OPT_SORT_KEYS),
        orjson.dumps(sorted(outputs)),
        b"BYTES",
        text.encode("utf-8", "surrogatepass"),
    )
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:32]


def encode_answer(answer: TextAnswer, epoch: int) -> bytes:
    """Write an answer; times of the run are left out, they belong to the call that ran."""
    return orjson.dumps(
        {
            "layout": _LAYOUT,
            "epoch": epoch,
            "label": answer.label,
            "confidence": answer.confidence,
            "scores": answer.scores.tolist(),
            "windows": answer.windows,
            "tokens": answer.tokens,
            "truncated": answer.is_truncated,
            "spans": [[one.start, one.end, one.label, one.score] for one in answer.spans],
        }
    )


def decode_answer(value: bytes | None, epoch: int, labels: int) -> TextAnswer | None:
    """Read an answer back; None for nothing, another epoch, or what does not fit the model."""
    if value is None:
        return None
    try:
        found = orjson.loads(value)
        if found["layout"] != _LAYOUT or found["epoch"] != epoch or len(found["scores"]) != labels:
            return None
        return TextAnswer(
            label=str(found["label"]),
            confidence=float(found["confidence"]),
            scores=np.array(found["scores"], dtype=np.float64),
            windows=int(found["windows"]),
            tokens=int(found["tokens"]),
            is_truncated=bool(found["truncated"]),
            spans=tuple(Span(*one) for one in found["spans"]),
            cached=True,
        )
    except (ValueError, KeyError, TypeError):
        return None


class HotTexts:
    """Texts asked for most, by the space-saving algorithm: bounded, never misses a frequent one.

    Source: Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements".
    """

    def __init__(self, size: int, characters_max: int) -> None:
        self._size = size
        self._characters_max = characters_max
        self._counts: dict[tuple[str, str], int] = {}

    def saw(self, tenant: str, text: str) -> None:
        """Count one call."""
        if len(text) > self._characters_max:
            return
        key = (tenant, text)
        count = self._counts.pop(key, None)
        if count is None:
            count = 0
            if len(self._counts) >= self._size:
                # The least frequent makes room and hands its count on; oldest first among equals.
                victim = min(self._counts, key=self._counts.__getitem__)
                count = self._counts.pop(victim)
        self._counts[key] = count + 1

    def top(self, count: int) -> list[tuple[str, str]]:
        """Give up to `count` pairs of tenant and text seen at least twice, most frequent first."""
        ordered = sorted(self._counts.items(), key=lambda item: -item[1])
        return [key for key, seen in ordered[:count] if seen > 1]
