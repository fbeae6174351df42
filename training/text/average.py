"""Average the weights of several sentiment runs into one model (`python -m training.text.average`).

Runs that start from the same encoder and differ in data, rate and length lie in one basin; their
mean answers better than each of them and costs no more to serve than one. Source: Wortsman et al.,
"Model soups" (2022). Each run keeps its own tokenizer: slots given to emoji are matched by emoji.

    python -m training.text.average --runs A B C --out DIR
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from training.text import sources
from training.text.encoder import Classifier, load_tokenizer, named_pieces
from training.text.evaluation import fit_balanced
from training.text.finetune import predict
from training.text.sentiment import HEADS, MAX_TOKENS, development, report

_WORDS = "encoder.embeddings.word_embeddings.weight"
Weights = dict[str, torch.Tensor]


def vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """Give the word pieces with their numbers."""
    found: dict[str, int] = json.loads(tokenizer.to_str())["model"]["vocab"]
    return found


def matched(weights: Weights, own: Tokenizer, target: Tokenizer) -> Weights:
    """Move the rows of emoji to the slots that the target tokenizer gives them."""
    base = load_tokenizer(MAX_TOKENS)
    plain, pieces = vocabulary(base), vocabulary(own)
    table = weights[_WORDS].clone()
    for piece, slot in vocabulary(target).items():
        if piece in plain:
            continue
        rows = [pieces[piece]] if piece in pieces else named_pieces(base, piece)
        table[slot] = weights[_WORDS][torch.tensor(rows)].mean(0)
    return {**weights, _WORDS: table}


def average(runs: Sequence[Path]) -> tuple[Weights, Tokenizer]:
    """Average runs; the first one's tokenizer stands."""
    tokenizers = [Tokenizer.from_file(str(run / "tokenizer.json")) for run in runs]
    every = [
        matched(load_file(run / "model.safetensors"), own, tokenizers[0])
        for run, own in zip(runs, tokenizers, strict=True)
    ]
    mean = {
        name: torch.stack([weights[name].float() for weights in every]).mean(0).contiguous()
        for name in every[0]
    }
    return mean, tokenizers[0]


def main() -> None:
    """Average, calibrate, leave everything in the work directory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    held = development()
    texts = [row.text for row in held]
    truth = np.array([int(row.labels["sentiment"]) for row in held])
    model = Classifier(HEADS)
    alone = {}
    for run in arguments.runs:
        tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
        tokenizer.enable_truncation(MAX_TOKENS)
        model.load_state_dict(load_file(run / "model.safetensors"))
        alone[run.name] = report(predict(model, tokenizer, texts), truth)["macro_recall"]
    weights, tokenizer = average(arguments.runs)
    tokenizer.enable_truncation(MAX_TOKENS)
    model.load_state_dict(weights)
    logits = predict(model, tokenizer, texts)
    # Half of the published validation split joins in, since its mix of classes is another one.
    second = sources.tweeteval("validation")[::2]
    both = np.concatenate([logits, predict(model, tokenizer, [row.text for row in second])])
    labels = [int(row.labels["sentiment"]) for row in second]
    temperature, bias = fit_balanced(both, np.concatenate([truth, labels]))
    result = {
        "temperature": temperature,
        "bias": bias,
        "development": report((logits + bias) / temperature, truth),
        "development_plain": report(logits, truth),
        "averaged": alone,
        "rows": {
            "tweeteval": len(sources.tweeteval("train")) - len(held),
            "sst2": len(sources.sst2("train")),
            "development": len(held),
            "calibration": len(both),
        },
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_file(weights, arguments.out / "model.safetensors")
    shutil.copyfile(arguments.runs[0] / "tokenizer.json", arguments.out / "tokenizer.json")
    (arguments.out / "result.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
