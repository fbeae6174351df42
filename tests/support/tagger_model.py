"""A tiny entity model for tests: known words are parts of names when they are written as such.

The graph adds a row of tag logits by token and one by the shape of its word: "Anna" begins a
person, "Smith" goes on with one, in lower case both are nothing.
"""

import json
from pathlib import Path

import numpy as np

from libs.common.manifest import GoldenCase, Manifest, TensorSpec, describe_file

LABELS = ("person", "location")
_TAGS = 1 + 2 * len(LABELS)
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "anna", "smith", "porto", "north", "river"]
# Word -> tag: none, begin and inside of person, begin and inside of location.
_NAMES = {"anna": 1, "smith": 2, "porto": 3, "north": 3, "river": 4}


def build_tagger_version(root: Path, version: int = 1, *, tags: int = _TAGS) -> Path:
    """Package `root/entities/version`; gives its folder."""
    directory = root / "entities" / str(version)
    directory.mkdir(parents=True)
    _write_graph(directory / "model.onnx", tags)
    _write_tokenizer(directory / "tokenizer.json")
    words, shapes = _tables(tags)
    expected = words[[2, 4, 5, 3]] + shapes[[0, 1, 1, 0]]
    names = ("input_ids", "attention_mask", "token_type_ids")
    manifest = Manifest(
        name="entities",
        version=version,
        release=f"{version}.0.0",
        task="entities",
        engine="onnx",
        files=[describe_file(directory, file) for file in ("model.onnx", "tokenizer.json")],
        inputs=[TensorSpec(name=name, datatype="INT64", shape=[-1, -1]) for name in names],
        outputs=[TensorSpec(name="logits", datatype="FP32", shape=[-1, -1, tags])],
        labels=list(LABELS),
        activation="softmax",
        calibration={"method": "temperature", "temperature": 2.0},
        thresholds=dict.fromkeys(LABELS, 0.5),
        truncation={"max_tokens": 12, "policy": "window", "overlap_tokens": 4},
        golden_cases=[
            GoldenCase(
                inputs={"text": "Anna Smith"},
                outputs={"logits": expected.tolist()},
                tolerance=1e-4,
            )
        ],
        parameters={"floors": dict.fromkeys(LABELS, 0.3)},
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=1)
    (directory / "manifest.json").write_text(text)
    return directory


def _tables(tags: int) -> tuple[np.ndarray, np.ndarray]:
    words = np.zeros((len(_WORDS), tags), dtype=np.float32)
    words[:, 0] = 2.0
    for word, tag in _NAMES.items():
        words[_WORDS.index(word), tag] = 16.0
    shapes = np.zeros((6, tags), dtype=np.float32)
    shapes[0, 0] = 32.0
    return words, shapes


def _write_graph(path: Path, tags: int) -> None:
    from onnx import TensorProto, helper, numpy_helper

    words, shapes = _tables(tags)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["words", "input_ids"], ["by_word"]),
            helper.make_node("Gather", ["shapes", "token_type_ids"], ["by_shape"]),
            helper.make_node("Add", ["by_word", "by_shape"], ["logits"]),
        ],
        "tagger",
        inputs,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "t", tags])],
        [numpy_helper.from_array(words, "words"), numpy_helper.from_array(shapes, "shapes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def _write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(_WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(path))
