"""The torch engine on small, randomly initialised checkpoints; skipped where torch is not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.common.manifest import Manifest, ManifestError, describe_file
from services.inference.adapters.text_loading import load_text, prove_text
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


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_checkpoint_proves_itself_and_batches_equal_single_calls(tmp_path: Path, family: str):
    directory = _checkpoint(tmp_path, family)
    manifest = Manifest.model_validate_json((directory / "manifest.json").read_bytes())
    model = load_text(directory, manifest)
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
    manifest = Manifest.model_validate_json((directory / "manifest.json").read_bytes())
    with pytest.raises(ManifestError, match="3 labels, the manifest 2"):
        load_text(directory, manifest)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_cuda_answers_as_the_cpu_does(tmp_path: Path, precision: str):
    from services.inference.adapters.torch_engine import TorchTextEngine

    directory = _checkpoint(tmp_path, "bert", parameters={"precision": precision})
    manifest = Manifest.model_validate_json((directory / "manifest.json").read_bytes())
    windows = [np.array([2, 4, 5, 3]), np.array([2, 7, 3])]
    logits = []
    for device in ("cpu", "cuda"):
        engine = TorchTextEngine(directory, manifest, device=device)
        logits.append(engine.finish(engine.forward(engine.collate(windows, 8))))
    tolerance = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2}[precision]
    assert logits[0] == pytest.approx(logits[1], abs=tolerance)
