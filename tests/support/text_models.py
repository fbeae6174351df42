"""Tiny text models for tests: a bag-of-words ONNX graph, a generic one, and reference versions.

The graph averages one fixed row of logits per token, so that its answers are known: "good" makes a
text positive, "bad" negative, "fine" neutral, "evil" is an attack for the guard.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libs.common.manifest import GoldenCase, Manifest, TensorSpec, describe_file

_WORD_LIST = """
[PAD] [UNK] [CLS] [SEP] good bad fine evil the a service was very and not phone day text one two
"""
WORDS = _WORD_LIST.split()
SENTIMENT_LABELS = ("negative", "neutral", "positive")
GUARD_LABELS = ("toxic", "hate", "sexist", "injection")


def table(labels: int) -> np.ndarray[Any, Any]:
    """Logits by word, shape (words, labels), float32."""
    rows = np.random.default_rng(3).normal(0, 0.3, (len(WORDS), labels)).astype(np.float32)
    rows[0] = 0.0
    if labels == 3:
        rows[WORDS.index("good")] = [-6, -2, 12]
        rows[WORDS.index("bad")] = [12, -2, -6]
        rows[WORDS.index("fine")] = [-6, 12, -6]
    else:
        rows -= 4.0
        rows[WORDS.index("evil"), -1] = 60.0
    return rows


def write_tokenizer(path: Path) -> None:
    """Words, lower-cased, between [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(path))


def write_graph(path: Path, labels: int, *, width: int = 0) -> None:
    """Mean of the tokens' rows under the mask; `width` adds a hidden product that costs time."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = [numpy_helper.from_array(table(labels), "table")]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["rows", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "one"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask3", "one"], ["count"], keepdims=0),
    ]
    weights.append(numpy_helper.from_array(np.array([2], dtype=np.int64), "last"))
    weights.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "one"))
    mean = "logits"
    if width:
        # Two products that cancel out: work in proportion to tokens, the same answer.
        generator = np.random.default_rng(5)
        up = generator.normal(0, 0.05, (labels, width)).astype(np.float32)
        weights.append(numpy_helper.from_array(up, "up"))
        weights.append(numpy_helper.from_array(np.zeros((width, labels), np.float32), "down"))
        square = generator.normal(0, 0.05, (width, width)).astype(np.float32)
        weights.append(numpy_helper.from_array(square, "square"))
        nodes += [
            helper.make_node("MatMul", ["masked", "up"], ["h0"]),
            helper.make_node("MatMul", ["h0", "square"], ["h1"]),
            helper.make_node("MatMul", ["h1", "square"], ["h2"]),
            helper.make_node("MatMul", ["h2", "down"], ["h3"]),
            helper.make_node("ReduceSum", ["h3", "one"], ["nothing"], keepdims=0),
            helper.make_node("Add", ["total", "nothing"], ["sum"]),
            helper.make_node("Div", ["sum", "count"], [mean]),
        ]
    else:
        nodes.append(helper.make_node("Div", ["total", "count"], [mean]))
    graph = helper.make_graph(
        nodes,
        "bag",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "t"]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["b", "t"]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", labels])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def logits_of(text: str, labels: int, max_tokens: int = 10_000) -> list[float]:
    """What the graph gives for a text of known words, in plain Python."""
    words = ["[CLS]", *text.lower().split()[: max_tokens - 2], "[SEP]"]
    ids = [WORDS.index(word) if word in WORDS else 1 for word in words]
    return [float(value) for value in table(labels)[ids].mean(axis=0)]


def build_text_version(
    root: Path,
    name: str = "sentiment",
    version: int = 1,
    *,
    task: str = "sentiment",
    labels: Sequence[str] = SENTIMENT_LABELS,
    engine: str = "onnx",
    truncation: dict[str, Any] | None = None,
    width: int = 0,
    **fields: Any,
) -> Path:
    """Package `root/name/version`; gives its folder."""
    directory = root / name / str(version)
    directory.mkdir(parents=True)
    probe = "the service was good"
    files, golden = [], [0.0] * len(labels)
    if engine == "onnx":
        write_graph(directory / "model.onnx", len(labels), width=width)
        write_tokenizer(directory / "tokenizer.json")
        files = ["model.onnx", "tokenizer.json"]
        golden = logits_of(probe, len(labels))
    elif engine == "reference":
        from services.inference.adapters.reference_engine import ReferenceTextEngine, WordEncoder
        from services.inference.domain.text import Encoding, Truncation

        reference = ReferenceTextEngine(len(labels))
        encoding = WordEncoder(Truncation(64)).encode([probe])[0]
        assert isinstance(encoding, Encoding)
        window = encoding.windows[0]
        golden = reference.forward(reference.collate([window], len(window)))[0].tolist()
    document = {
        "name": name,
        "version": version,
        "release": f"{version}.0.0",
        "task": task,
        "engine": engine,
        "files": [describe_file(directory, file) for file in files],
        "inputs": [
            TensorSpec(name="input_ids", datatype="INT64", shape=[-1, -1]),
            TensorSpec(name="attention_mask", datatype="INT64", shape=[-1, -1]),
        ],
        "outputs": [TensorSpec(name="logits", datatype="FP32", shape=[-1, len(labels)])],
        "labels": list(labels),
        "activation": "softmax",
        "calibration": {"method": "none"},
        "truncation": truncation or {"max_tokens": 64, "policy": "truncate"},
        "golden_cases": [
            GoldenCase(inputs={"text": probe}, outputs={"logits": golden}, tolerance=1e-4)
        ],
        **fields,
    }
    manifest = Manifest.model_validate(document)
    text = json.dumps(manifest.model_dump(mode="json"), indent=1)
    (directory / "manifest.json").write_text(text)
    return directory


def build_guard_version(root: Path, version: int = 1) -> Path:
    """A guard of four independent labels that reads long texts in windows."""
    return build_text_version(
        root,
        "guard",
        version,
        task="guard",
        labels=GUARD_LABELS,
        activation="sigmoid",
        calibration={
            "method": "platt",
            "by_label": {label: [1.0, 0.0] for label in GUARD_LABELS},
        },
        thresholds=dict.fromkeys(GUARD_LABELS, 0.5),
        truncation={"max_tokens": 16, "policy": "window", "overlap_tokens": 4},
    )


def build_simple_version(root: Path, version: int = 1) -> Path:
    """NVIDIA's example `simple`: OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1."""
    import onnx
    from onnx import TensorProto, helper

    directory = root / "simple" / str(version)
    directory.mkdir(parents=True)
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.INT32, ["n", 16])
        for name in ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")
    }
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
            helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
        ],
        "simple",
        [values["INPUT0"], values["INPUT1"]],
        [values["OUTPUT0"], values["OUTPUT1"]],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    tensor = {"datatype": "INT32", "shape": [-1, 16]}
    rows = [list(range(16))]
    manifest = Manifest.model_validate(
        {
            "name": "simple",
            "version": version,
            "release": f"{version}.0.0",
            "task": "generic",
            "engine": "onnx",
            "files": [describe_file(directory, "model.onnx")],
            "inputs": [{"name": name, **tensor} for name in ("INPUT0", "INPUT1")],
            "outputs": [{"name": name, **tensor} for name in ("OUTPUT0", "OUTPUT1")],
            "golden_cases": [
                GoldenCase(
                    inputs={"INPUT0": rows, "INPUT1": rows},
                    outputs={"OUTPUT0": [[2 * n for n in range(16)]], "OUTPUT1": [[0] * 16]},
                )
            ],
        }
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=1)
    (directory / "manifest.json").write_text(text)
    return directory
