"""Builds a text model from one verified version folder, proves it, and measures what it costs."""

import time
from pathlib import Path

import numpy as np

from libs.common.manifest import Manifest, ManifestError
from services.inference.adapters.onnx_text_engine import OnnxTextEngine
from services.inference.adapters.reference_engine import ReferenceTextEngine, WordEncoder
from services.inference.adapters.tokenization import FileTextEncoder
from services.inference.domain.cost import CostModel, Sample
from services.inference.domain.ports import TextEngine
from services.inference.domain.span_head import SpanHead
from services.inference.domain.text import (
    TextEncoder,
    TextHead,
    TextModel,
    TextTooLongError,
    Truncation,
)

ENTITIES = "entities"
TEXT_TASKS = frozenset({"sentiment", "guard", "text-classification", ENTITIES})
TOKENIZER_FILE = "tokenizer.json"
# Timed at warm-up, best of two calls each; together 4,960 tokens, 0.3 s for the sentiment model.
_WARM_ITEMS = (1, 2, 4, 8, 16)
_WARM_LENGTHS = (16, 64)


def load_text(directory: Path, manifest: Manifest, *, executors: int = 0) -> TextModel:
    """Build one version; its files have been verified against the manifest.

    Args:
        directory: the version's folder.
        manifest: its manifest.
        executors: concurrent forwards on the CPU; 0 takes what the cgroup grants.

    Raises:
        ManifestError: the parts do not fit together; the text says which.
    """
    try:
        truncation = Truncation.from_manifest(manifest.truncation)
        is_tagger = manifest.task == ENTITIES
        head = (SpanHead if is_tagger else TextHead).from_manifest(manifest)
        engine, encoder = _parts(directory, manifest, truncation, head, executors)
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{manifest.name}: {error}") from None
    return TextModel(manifest, engine, manifest.engine, encoder, head, CostModel(0.001, 1e-5))


def _parts(
    directory: Path, manifest: Manifest, truncation: Truncation, head: TextHead, executors: int
) -> tuple[TextEngine, TextEncoder]:
    if manifest.task == ENTITIES and manifest.engine != "onnx":
        raise ManifestError(f"{manifest.name}: only the onnx engine runs entity models")
    if manifest.engine == "reference":
        labels = len(manifest.labels)
        return ReferenceTextEngine(labels, executors=executors or 1), WordEncoder(truncation)
    if manifest.engine == "torch":
        from services.inference.adapters.torch_engine import TorchTextEngine

        torch_engine = TorchTextEngine(directory, manifest)
        return torch_engine, _encoder(directory, manifest, truncation)
    if manifest.engine != "onnx":
        raise ManifestError(f"{manifest.name}: no text engine is called {manifest.engine}")
    graph = next((entry.path for entry in manifest.files if entry.path.endswith(".onnx")), None)
    if graph is None:
        raise ManifestError(f"{manifest.name}: the manifest names no .onnx file")
    engine = OnnxTextEngine(directory / graph, head.outputs, executors=executors)
    return engine, _encoder(directory, manifest, truncation)


def _encoder(directory: Path, manifest: Manifest, truncation: Truncation) -> TextEncoder:
    if TOKENIZER_FILE not in {entry.path for entry in manifest.files}:
        raise ManifestError(f"{manifest.name}: the manifest does not name {TOKENIZER_FILE}")
    try:
        path = directory / TOKENIZER_FILE
        return FileTextEncoder(path, truncation, with_marks=manifest.task == ENTITIES)
    except Exception:  # the library raises plain Exception for a broken file
        raise ManifestError(f"{manifest.name}: {TOKENIZER_FILE} cannot be read") from None


def prove_text(model: TextModel) -> None:
    """Compare the model's logits with those the manifest pins, then fit its cost.

    Raises:
        ManifestError: an answer differs by more than its tolerance, or there is no case at all.
    """
    if not model.manifest.golden_cases:
        raise ManifestError(f"{model.name}: the manifest has no golden case")
    for number, case in enumerate(model.manifest.golden_cases):
        expected = np.asarray(case.outputs.get("logits", ()), dtype=np.float64)
        encoding = model.encoder.encode([str(case.inputs.get("text", ""))])[0]
        if isinstance(encoding, TextTooLongError):
            raise ManifestError(f"{model.name}: golden case {number} is longer than it reads")
        window = encoding.windows[0]
        engine = model.engine
        logits = engine.finish(engine.forward(engine.collate([window], len(window))))[0]
        if logits.shape != expected.shape or not np.all(
            np.abs(logits - expected) <= case.tolerance
        ):
            raise ManifestError(f"{model.name}: golden case {number} gives another answer")
    model.cost.refit(warm_up(model))


def warm_up(model: TextModel) -> list[Sample]:
    """Time batches of several sizes and lengths, best of two each.

    An engine that computes on the calling thread is timed by that thread's CPU time: while a whole
    suite starts, wall time says more about the neighbours than about batch sizes.
    """
    engine, samples = model.engine, []
    is_own_thread = model.engine_name in {"onnx", "reference"}
    clock = time.thread_time if is_own_thread else time.perf_counter
    longest = int(model.manifest.truncation.get("max_tokens", 512))
    for length in sorted({min(length, longest) for length in _WARM_LENGTHS}):
        window = np.full(length, 1, dtype=np.int64)
        for items in _WARM_ITEMS:
            batch = engine.collate([window] * items, length)
            taken = []
            for _ in range(2):
                started = clock()
                engine.finish(engine.forward(batch))
                taken.append(clock() - started)
            samples.append(Sample(items, length, min(taken)))
    return samples
