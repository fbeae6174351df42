"""What a plug-in version says about itself, and what its answers must look like. Pure.

A version is a folder `<name>/<semver>/` with `manifest.json` and the code, or an installed package
with an entry point in the group `gatehouse.validators`. Its hash covers every file.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from services.guardrails.domain.verdict import Detection, Span

NAME_PATTERN = "^[a-z][a-z0-9_]{0,63}$"
VERSION_PATTERN = r"^[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}$"
SPANS_MAX = 10_000


class PluginManifest(BaseModel):
    """`manifest.json` of a version.

    `max_span` bounds its findings in characters; longer ones make the answer an error. Positives
    and negatives are texts that the version must find, and must leave alone, before it may serve.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=VERSION_PATTERN)
    entry_point: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")
    labels: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)]
    max_span: int = Field(default=0, ge=0, le=1_024)
    positives: Annotated[tuple[str, ...], Field(min_length=1, max_length=1_000)]
    negatives: Annotated[tuple[str, ...], Field(min_length=1, max_length=1_000)]


class BadAnswerError(ValueError):
    """A plug-in's answer is not one: wrong shape, offsets out of range, unknown labels."""


def digest_of(files: Mapping[PurePath, bytes]) -> str:
    """Hash a version's files with their names."""
    digest = hashlib.sha256()
    for path in sorted(files):
        name = path.as_posix().encode()
        digest.update(len(name).to_bytes(4, "big") + name)
        digest.update(len(files[path]).to_bytes(8, "big") + files[path])
    return digest.hexdigest()


def read_answer(
    answer: Any, texts: Sequence[str], manifest: PluginManifest, version: str
) -> list[Detection]:
    """Turn an answer into detections, one per text.

    Raises:
        BadAnswerError: it is no answer to these texts.
    """
    if not isinstance(answer, list) or len(answer) != len(texts):
        raise BadAnswerError("not one verdict per text")
    return [
        _detection(item, len(text), manifest, version)
        for item, text in zip(answer, texts, strict=True)
    ]


def _detection(item: Any, size: int, manifest: PluginManifest, version: str) -> Detection:
    if isinstance(item, dict):
        scores = item.get("scores")
        if set(item) != {"scores"} or not isinstance(scores, dict):
            raise BadAnswerError("a verdict is a list of spans or an object of scores")
        for label, score in scores.items():
            _check_finding(label, score, manifest)
        return Detection(scores=dict(scores), version=version)
    if not isinstance(item, list) or len(item) > SPANS_MAX:
        raise BadAnswerError("a verdict is a list of spans or an object of scores")
    return Detection(spans=tuple(_span(row, size, manifest) for row in item), version=version)


def _span(row: Any, size: int, manifest: PluginManifest) -> Span:
    if not isinstance(row, list) or len(row) != 4:
        raise BadAnswerError("a span is [start, end, label, score]")
    start, end, label, score = row
    is_whole = type(start) is int and type(end) is int
    if not is_whole or not 0 <= start < end <= size or end - start > manifest.max_span:
        raise BadAnswerError("a span lies outside its text or is longer than max_span")
    _check_finding(label, score, manifest)
    return Span(start, end, label, float(score), manifest.name)


def _check_finding(label: Any, score: Any, manifest: PluginManifest) -> None:
    is_number = isinstance(score, int | float) and not isinstance(score, bool)
    if label not in manifest.labels or not is_number or not 0 <= score <= 1:
        raise BadAnswerError("an unknown label, or a score outside 0 to 1")
