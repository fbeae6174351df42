"""Export a fine-tuned classifier as an int8 ONNX version with manifest and card.

    python -m training.text.export sentiment --work DIR --out models/sentiment/1

Dynamic int8 quantization of the matrix products and the embedding table brings the encoder from
90 MB to about 23 MB. The gap to the float model is measured on the development texts and written
into the manifest; golden cases are answers of the int8 model itself.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from libs.common.manifest import GoldenCase, Manifest, TensorSpec, describe_file
from training.text.encoder import Classifier, Heads, Tagger, Trainable
from training.text.finetune import pad
from training.text.sources import Row


def to_onnx(model: Trainable, path: Path) -> None:
    """Write the float32 graph with dynamic batch and length."""
    inputs = dict(
        zip(
            ("input_ids", "attention_mask"),
            pad([[101, 7592, 102], [101, 2088, 2003, 102]]),
            strict=True,
        )
    )
    is_tagger = isinstance(model, Tagger)
    if is_tagger:
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    axes = {name: {0: "batch", 1: "tokens"} for name in inputs}
    axes["logits"] = {0: "batch", 1: "tokens"} if is_tagger else {0: "batch"}
    torch.onnx.export(
        model.eval().cpu(),
        tuple(inputs.values()),
        str(path),
        input_names=list(inputs),
        output_names=["logits"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )


def quantize(source: Path, target: Path) -> None:
    """Quantize weights to int8, per channel, embeddings included."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(
            str(prepared),
            str(target),
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gather", "Gemm", "Attention"],
        )


def run(path: Path, ids: list[list[int]], batch: int = 32) -> np.ndarray:
    """Run an ONNX graph over token ids; gives logits in order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = []
    for start in range(0, len(ids), batch):
        tokens, mask = pad(ids[start : start + batch])
        found.append(
            session.run(["logits"], {"input_ids": tokens.numpy(), "attention_mask": mask.numpy()})[
                0
            ]
        )
    return np.concatenate(found)


def export(
    work: Path, out: Path, heads: Heads, fields: dict[str, Any], probes: list[str]
) -> Manifest:
    """Build the version folder from a finished training run.

    Args:
        work: folder with model.safetensors and tokenizer.json.
        out: `models/<name>/<version>`.
        heads: of the model.
        fields: manifest fields besides files, tensors and golden cases, and `card_text`.
        probes: texts for golden cases and for the comparison of int8 with float32.
    """
    model = Classifier(heads)
    model.load_state_dict(load_file(work / "model.safetensors"))
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "model.onnx"
        to_onnx(model, plain)
        quantize(plain, out / "model.onnx")
        ids = [encoding.ids for encoding in tokenizer.encode_batch(probes)]
        float_logits = run(plain, ids, batch=1)
        int8_logits = run(out / "model.onnx", ids, batch=1)
    shutil.copyfile(work / "tokenizer.json", out / "tokenizer.json")
    gap = np.abs(float_logits - int8_logits)
    (out / "card.md").write_text(fields.pop("card_text"))
    metrics = dict(fields.pop("metrics"))
    metrics["int8_against_float32"] = {
        "texts": len(probes),
        "mean_abs_logit_difference": round(float(gap.mean()), 4),
        "same_argmax": round(float((float_logits.argmax(1) == int8_logits.argmax(1)).mean()), 4),
    }
    golden = [
        GoldenCase(
            inputs={"text": text},
            outputs={"logits": [round(float(v), 5) for v in row]},
            tolerance=0.05,
        )
        for text, row in zip(probes[:5], int8_logits[:5], strict=True)
    ]
    manifest = Manifest(
        engine="onnx",
        files=[
            describe_file(out, name)
            for name in ("model.onnx", "tokenizer.json", "card.md")
            if (out / name).exists()
        ],
        inputs=[
            TensorSpec(name="input_ids", datatype="INT64", shape=[-1, -1]),
            TensorSpec(name="attention_mask", datatype="INT64", shape=[-1, -1]),
        ],
        outputs=[TensorSpec(name="logits", datatype="FP32", shape=[-1, sum(heads.values())])],
        golden_cases=golden,
        metrics=metrics,
        card="card.md",
        **fields,
    )
    (out / "manifest.json").write_text(
        json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n"
    )
    return manifest


def main() -> None:
    """Export one of the known models."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=["sentiment", "guard"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--before", type=Path, help="guard: earlier version to compare with")
    parser.add_argument("--validate", action="store_true", help="sentiment: score the int8 graph")
    arguments = parser.parse_args()
    result = json.loads((arguments.work / "result.json").read_text())
    if arguments.model == "sentiment":
        from training.text.card import sentiment_card as write_card
        from training.text.sentiment import HEADS, manifest_fields
    else:
        from training.text.card import guard_card as write_card
        from training.text.guard import HEADS, manifest_fields

        result |= score_guard(arguments.work, arguments.before)
    fields, probes = manifest_fields(result)
    fields["card_text"] = write_card(result)
    export(arguments.work, arguments.out, HEADS, fields, probes)
    if arguments.validate and arguments.model == "sentiment":
        # The shipped int8 graph is what is judged, on the split that no choice was made on.
        result = {**result, **validate(arguments.out, result)}
        fields, probes = manifest_fields(result)
        fields["card_text"] = write_card(result)
        export(arguments.work, arguments.out, HEADS, fields, probes)
    print((arguments.out / "manifest.json").read_text()[:3000])


def score_guard(work: Path, before: Path | None) -> dict[str, Any]:
    """Score int8 and float32 graphs of the guard on its held-out clusters.

    Args:
        work: folder of the finished run.
        before: folder of an earlier version, scored on the same rows.
    """
    from training.text import guard

    held = guard.held_out()
    texts = [row.text for row in held]
    model = Classifier(guard.HEADS)
    model.load_state_dict(load_file(work / "model.safetensors"))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        graphs = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        to_onnx(model, graphs[0])
        quantize(*graphs)
        for graph in graphs:
            logits = _in_order(graph, work / "tokenizer.json", texts, guard.MAX_TOKENS)
            found.append(guard.evaluate(logits, held))
    plain = {head: figures["average_precision"] for head, figures in found[0].items()}
    result: dict[str, Any] = {
        "validation": found[1],
        "average_precision_float32": plain,
        "allowed": guard.ALLOWED,
    }
    if before is not None:
        manifest = json.loads((before / "manifest.json").read_text())
        logits = _in_order(
            before / "model.onnx", before / "tokenizer.json", texts, guard.MAX_TOKENS
        )
        judged = guard.judged_before(logits, held, manifest)
        result["before"] = {"release": manifest["release"], "validation": judged}
    return result


def _in_order(graph: Path, words: Path, texts: Sequence[str], most: int) -> np.ndarray:
    """Give the logits of texts, run by length."""
    tokenizer = Tokenizer.from_file(str(words))
    tokenizer.enable_truncation(most)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    answers = run(graph, [ids[index] for index in order], batch=8)
    logits = np.zeros_like(answers)
    logits[order] = answers
    return logits


def validate(out: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Score the exported sentiment model on the half of the published validation split kept."""
    from training.text import sources
    from training.text.sentiment import development, report

    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))

    def scored(rows: Sequence[Row]) -> tuple[dict[str, object], dict[str, object]]:
        ids = [encoding.ids for encoding in tokenizer.encode_batch([row.text for row in rows])]
        truth = np.array([int(row.labels["sentiment"]) for row in rows])
        logits = run(out / "model.onnx", ids, batch=1)
        adjusted = (logits + np.array(result["bias"])) / result["temperature"]
        return report(adjusted, truth), report(logits, truth)

    # The other half may have set the offsets.
    shipped, plain = scored(sources.tweeteval("validation")[1::2])
    return {
        "development_int8": scored(development())[0],
        "validation": shipped,
        "validation_plain": plain,
    }


if __name__ == "__main__":
    main()
