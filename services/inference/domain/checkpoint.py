"""What a Hugging Face checkpoint becomes as a version: which files, which engine, which manifest.

Pure. Only ONNX, safetensors and JSON are taken; a checkpoint that has nothing but pickles is
refused with the way out.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from libs.common.manifest import PICKLE_SUFFIXES, ManifestError

_DECLARED = re.compile(r"([A-Za-z0-9._-]{1,64})/([1-9][0-9]{0,8})=(\S+)")
_HUB = re.compile(r"hf:([A-Za-z0-9._-]+/[A-Za-z0-9._-]+)(?:@([A-Za-z0-9._/-]+))?")
# Where exporters put the graph, the likeliest first.
_GRAPHS = ("onnx/model.onnx", "model.onnx")
_WEIGHTS = "model.safetensors"
_SENTIMENTS = {"negative", "neutral", "positive"}
_TOKENS_MAX = 512
# A text whose answer the manifest pins, so that a changed file or engine is noticed.
PROBE = "The parcel came two days late, but the people on the phone were kind."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A declared checkpoint: the version it becomes, and where it lies.

    Attributes:
        repository / revision: on the hub; empty for a folder.
        folder: on this machine; empty for the hub.
    """

    name: str
    version: int
    repository: str = ""
    revision: str = ""
    folder: str = ""

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Read `name/version=/folder` or `name/version=hf:owner/repository@revision`.

        Raises:
            ValueError: it is neither.
        """
        found = _DECLARED.fullmatch(text.strip())
        if found is None:
            raise ValueError("a checkpoint is declared as name/version=place")
        name, version, place = found[1], int(found[2]), found[3]
        if not place.startswith("hf:"):
            return cls(name, version, folder=place)
        hub = _HUB.fullmatch(place)
        if hub is None:
            raise ValueError("a checkpoint of the hub is hf:owner/repository@revision")
        return cls(name, version, hub[1], hub[2] or "main")

    @property
    def place(self) -> str:
        """Where it comes from, for the manifest."""
        return f"hf:{self.repository}@{self.revision}" if self.repository else self.folder


def chosen_files(names: Collection[str]) -> dict[str, str]:
    """Choose what is taken, as target name -> name in the checkpoint.

    Raises:
        ManifestError: a part is missing, or the weights are a pickle.
    """
    for needed in ("config.json", "tokenizer.json"):
        if needed not in names:
            raise ManifestError(f"the checkpoint has no {needed}")
    small = {"config.json": "config.json", "tokenizer.json": "tokenizer.json"}
    graph = next((name for name in _GRAPHS if name in names), None)
    if graph is not None:
        return {**small, "model.onnx": graph}
    if _WEIGHTS in names:
        return {**small, _WEIGHTS: _WEIGHTS}
    pickles = sorted(name for name in names if PurePosixPath(name).suffix in PICKLE_SUFFIXES)
    if pickles:
        raise ManifestError(
            f"the weights are in {pickles[0]}, which may hold a pickle and is never loaded; "
            "convert them to safetensors or ONNX"
        )
    raise ManifestError("the checkpoint has neither model.onnx nor model.safetensors")


def manifest_document(
    checkpoint: Checkpoint, config: Mapping[str, Any], files: list[dict[str, Any]], revision: str
) -> dict[str, Any]:
    """Write the manifest, still without golden cases.

    Args:
        checkpoint: as declared.
        config: its config.json.
        files: entries of the files taken.
        revision: the exact revision, empty for a folder.

    Raises:
        ManifestError: it is no sequence classifier, or its labels do not fit the name.
    """
    by_number = config.get("id2label")
    if not isinstance(by_number, Mapping) or not by_number:
        raise ManifestError("config.json names no labels (id2label): this is no classifier")
    try:
        labels = [str(by_number[key]).lower() for key in sorted(by_number, key=int)]
    except ValueError:
        raise ManifestError("config.json: id2label is not numbered") from None
    is_sentiment = checkpoint.name == "sentiment"
    if is_sentiment and not set(labels) <= _SENTIMENTS:
        raise ManifestError("the model sentiment has the labels negative, neutral and positive")
    is_onnx = any(entry["path"] == "model.onnx" for entry in files)
    is_many = config.get("problem_type") == "multi_label_classification"
    positions = int(config.get("max_position_embeddings") or _TOKENS_MAX)
    # RoBERTa counts positions from its padding token on.
    longest = positions - 2 if config.get("model_type") == "roberta" else positions
    return {
        "name": checkpoint.name,
        "version": checkpoint.version,
        "release": f"{checkpoint.version}.0.0",
        "task": "sentiment" if is_sentiment else "text-classification",
        "engine": "onnx" if is_onnx else "torch",
        "files": files,
        "labels": labels,
        "activation": "sigmoid" if is_many else "softmax",
        "truncation": {"max_tokens": min(_TOKENS_MAX, longest), "policy": "truncate"},
        "memory_limit_mib": 4_096,
        "training": {"source": checkpoint.place, "revision": revision},
    }
