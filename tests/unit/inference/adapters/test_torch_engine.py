"""The torch engine on small, randomly initialised checkpoints (`make test-torch`)."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from libs.common.manifest import Manifest, ManifestError, describe_file
from services.inference.adapters.checkpoint_source import CheckpointSource
from services.inference.adapters.text_loading import load_text, prove_text
from services.inference.adapters.torch_engine import TorchTextEngine
from services.inference.domain.batching import DEFAULT, Limits
from services.inference.domain.checkpoint import Checkpoint
from services.inference.domain.text import TextAnswer
from services.inference.execution.runner import TextRunner
from services.inference.execution.scheduler import Scheduler, SchedulerOptions
from services.inference.metrics import InferenceMetrics
from tests.support.text_models import WORDS, write_tokenizer

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `torch` is not installed")

LABELS = ["negative", "neutral", "positive"]
SMALL = {
    "vocab_size": len(WORDS) + 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 80,
    "num_labels": 3,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SMALL),
    "distilbert": (
        "DistilBert",
        {
            "vocab_size": len(WORDS) + 4,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 48,
            "num_labels": 3,
        },
    ),
    "roberta": ("Roberta", {**SMALL, "pad_token_id": 1}),
    "deberta": ("DebertaV2", {**SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
}


def _checkpoint(root: Path, family: str, **changes: Any) -> Path:
    """Write a randomly initialised checkpoint with a manifest; gives its folder."""
    directory = root / "small" / "1"
    directory.mkdir(parents=True)
    prefix, fields = FAMILIES[family]
    config = getattr(transformers, f"{prefix}Config")(**fields)
    torch.manual_seed(5)
    model = getattr(transformers, f"{prefix}ForSequenceClassification")(config).eval()
    model.save_pretrained(directory, safe_serialization=True)
    write_tokenizer(directory / "tokenizer.json")
    ids = torch.tensor([[2, 4, 8, 3]])
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].tolist()
    files = ["config.json", "model.safetensors", "tokenizer.json"]
    document = {
        "name": "small",
        "version": 1,
        "release": "1.0.0",
        "task": "text-classification",
        "engine": "torch",
        "files": [describe_file(directory, name) for name in files],
        "labels": LABELS,
        "activation": "softmax",
        "truncation": {"max_tokens": 64, "policy": "truncate"},
        "golden_cases": [
            {"inputs": {"text": "good the"}, "outputs": {"logits": logits}, "tolerance": 1e-3}
        ],
        **changes,
    }
    (directory / "manifest.json").write_text(json.dumps(document, default=lambda o: o.model_dump()))
    return directory


def _manifest(directory: Path) -> Manifest:
    return Manifest.model_validate_json((directory / "manifest.json").read_bytes())


def _engine(directory: Path, parameters: dict[str, Any], device: str = "cpu") -> TorchTextEngine:
    manifest = _manifest(directory).model_copy(update={"parameters": parameters})
    return TorchTextEngine(directory, manifest, device=device)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_checkpoint_proves_itself_and_batches_equal_single_calls(tmp_path: Path, family: str):
    directory = _checkpoint(tmp_path, family)
    model = load_text(directory, _manifest(directory))
    prove_text(model)
    engine = model.engine
    generator = np.random.default_rng(3)
    windows = [generator.integers(2, len(WORDS), size) for size in (3, 9, 17, 40)]
    together = engine.finish(engine.forward(engine.collate(windows, 40)))
    for row, window in zip(together, windows, strict=True):
        alone = engine.finish(engine.forward(engine.collate([window], len(window))))[0]
        assert row == pytest.approx(alone, abs=1e-4)
        assert row.argmax() == alone.argmax()
    assert engine.memory_bytes > 10_000
    model.close()


def test_a_checkpoint_with_other_labels_is_refused(tmp_path: Path):
    directory = _checkpoint(tmp_path, "bert", labels=["a", "b"])
    with pytest.raises(ManifestError, match="3 labels, the manifest 2"):
        load_text(directory, _manifest(directory))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_bf16_on_the_cpu_stays_near_float32_and_decides_alike(tmp_path: Path, family: str):
    directory = _checkpoint(tmp_path, family)
    windows = [np.array([2, 4, 5, 3]), np.array([2, 7, 3])]
    logits = {}
    for precision in ("", "bf16"):
        engine = _engine(directory, {"precision": precision})
        logits[precision] = engine.finish(engine.forward(engine.collate(windows, 4)))
    assert np.abs(logits["bf16"] - logits[""]).max() > 0, "bf16 is another arithmetic"
    assert logits["bf16"] == pytest.approx(logits[""], abs=5e-2)


class _SmallDevice:
    """A model on a device that holds no more than some tokens at once."""

    def __init__(self, model: Any, tokens: int) -> None:
        self._model = model
        self.config = model.config
        self.tokens = tokens
        self.refused = 0

    def __call__(self, *, input_ids: Any, attention_mask: Any) -> Any:
        if input_ids.numel() > self.tokens:
            self.refused += 1
            raise torch.OutOfMemoryError("no memory")
        return self._model(input_ids=input_ids, attention_mask=attention_mask)


@pytest.mark.anyio
async def test_out_of_memory_halves_the_budget_and_everybody_is_answered(tmp_path: Path):
    directory = _checkpoint(tmp_path, "bert")
    model = load_text(directory, _manifest(directory))
    engine = model.engine
    assert isinstance(engine, TorchTextEngine)
    device, real = engine._models[0]
    small = _SmallDevice(real, tokens=24)
    engine._models[0] = (device, small)
    metrics = InferenceMetrics(CollectorRegistry())
    limits = Limits(batch_items=16, batch_tokens=128, waste=4.0)
    scheduler = Scheduler(model, SchedulerOptions(limits), metrics)
    windows = [np.array([2, 4 + number, 5, 3]) for number in range(16)]
    deadline = time.monotonic() + 20
    futures = scheduler.submit(windows, deadline_s=deadline, priority=DEFAULT)
    results = await asyncio.gather(*futures)
    assert small.refused > 0
    assert scheduler._queue.budget_tokens < limits.batch_tokens
    ids = torch.tensor(np.array(windows))
    with torch.inference_mode():
        expected = real(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.numpy()
    assert np.array([one.logits for one in results]) == pytest.approx(expected, abs=1e-4)
    await scheduler.close(1.0)


@pytest.mark.anyio
@pytest.mark.parametrize("family", sorted(FAMILIES))
async def test_a_folder_of_safetensors_becomes_a_version_that_answers(tmp_path: Path, family: str):
    folder = _checkpoint(tmp_path, family)
    (folder / "manifest.json").unlink()
    config = json.loads((folder / "config.json").read_bytes())
    config["id2label"] = {str(number): label for number, label in enumerate(LABELS)}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    source = CheckpointSource(tmp_path / "staged", endpoint="http://127.0.0.1:9")
    manifest = await source.fetch(Checkpoint.parse(f"mood/1={folder}"))
    assert (manifest.engine, manifest.task) == ("torch", "text-classification")
    staged = tmp_path / "staged/mood/1"
    assert not (staged / "pytorch_model.bin").exists()
    model = load_text(staged, manifest)
    prove_text(model)
    metrics = InferenceMetrics(CollectorRegistry())
    with ThreadPoolExecutor(1) as pool:
        runner = TextRunner(model, SchedulerOptions(), pool, metrics)
        texts = ["good the", "bad day one two", "fine"]
        deadline = time.monotonic() + 20
        answers = await runner.run(texts, deadline_s=deadline, priority=DEFAULT)
        assert all(isinstance(one, TextAnswer) and one.label in LABELS for one in answers)
        await runner.close(1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_cuda_answers_as_the_cpu_does(tmp_path: Path, precision: str):
    directory = _checkpoint(tmp_path, "bert")
    windows = [np.array([2, 4, 5, 3]), np.array([2, 7, 3])]
    logits = []
    for device in ("cpu", "cuda"):
        chosen = precision if device == "cuda" else "fp32"
        engine = _engine(directory, {"precision": chosen}, device)
        logits.append(engine.finish(engine.forward(engine.collate(windows, 8))))
    tolerance = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2}[precision]
    assert logits[0] == pytest.approx(logits[1], abs=tolerance)
