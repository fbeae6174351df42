"""Train the sentiment model: negative, neutral, positive (`python -m training.text.sentiment`).

Tweets with three classes, movie reviews (positive or negative only) as an auxiliary: for those
the loss looks at the two polar outputs alone, so they never teach what neutral is. A tenth of the
tweets is the development split on which choices are made; the published validation split is read
once.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from training.text import sources
from training.text.encoder import Classifier, Heads, add_emoji, frequent_emoji, load_tokenizer
from training.text.evaluation import fit_balanced, macro_recall
from training.text.finetune import Plan, predict, train
from training.text.sources import Row

LABELS = ("negative", "neutral", "positive")
HEADS: Heads = {"sentiment": 3}
MAX_TOKENS = 96
# Film reviews help a little and drown the tweets when there are too many of them.
REVIEWS = 2_000


def sentiment_loss(
    logits: torch.Tensor, rows: Sequence[Row], slices: dict[str, slice]
) -> torch.Tensor:
    """Cross-entropy over three classes, or over the two polar ones where only those are known."""
    logits = logits[:, slices["sentiment"]]
    total = logits.new_zeros(())
    three = [index for index, row in enumerate(rows) if "sentiment" in row.labels]
    two = [index for index, row in enumerate(rows) if "polarity" in row.labels]
    if three:
        targets = torch.tensor(
            [int(rows[i].labels["sentiment"]) for i in three], device=logits.device
        )
        total = total + functional.cross_entropy(
            logits[three], targets, reduction="sum", label_smoothing=0.05
        )
    if two:
        targets = torch.tensor([int(rows[i].labels["polarity"]) for i in two], device=logits.device)
        total = total + 0.3 * functional.cross_entropy(
            logits[two][:, [0, 2]], targets, reduction="sum", label_smoothing=0.05
        )
    return total / len(rows)


def report(logits: np.ndarray, truth: np.ndarray) -> dict[str, object]:
    """Recall per class, macro-recall, accuracy, expected calibration error."""
    predicted = logits.argmax(1)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    confidence = (shifted / shifted.sum(1, keepdims=True)).max(1)
    correct = predicted == truth
    edges = np.linspace(0, 1, 11)
    bins = np.clip(np.digitize(confidence, edges) - 1, 0, 9)
    ece = sum(
        abs(confidence[bins == b].mean() - correct[bins == b].mean()) * (bins == b).mean()
        for b in range(10)
        if (bins == b).any()
    )
    return {
        "n": len(truth),
        "macro_recall": round(macro_recall(predicted, truth), 4),
        "accuracy": round(float(correct.mean()), 4),
        "recall": {
            LABELS[k]: round(float((predicted[truth == k] == k).mean()), 4) for k in range(3)
        },
        "precision": {
            LABELS[k]: round(float((truth[predicted == k] == k).mean()), 4) for k in range(3)
        },
        "ece": round(float(ece), 4),
    }


def development() -> list[Row]:
    """Give the tenth of the tweets that no run is trained on."""
    return _shuffled()[0]


def _shuffled() -> tuple[list[Row], list[Row]]:
    tweets = sources.tweeteval("train")
    random.Random(3).shuffle(tweets)
    held = len(tweets) // 10
    return tweets[:held], tweets[held:]


def manifest_fields(result: dict[str, object]) -> tuple[dict[str, object], list[str]]:
    """Give the manifest's fields and the probe texts."""
    probes = [
        "I love this phone, best purchase of the year!",
        "The meeting is at ten on Tuesday.",
        "Terrible service, I will never come back.",
        "It was okay, nothing special.",
        "@user thank you so much, you made my day",
        "Why does this train never arrive on time?",
        "The report covers the third quarter.",
    ]
    # Golden cases are made of the first ones; the rest compares int8 with float32.
    probes += [row.text for row in development()]
    metrics: dict[str, object] = {"development": result["development"]}
    for key in ("development_int8", "validation", "validation_plain"):
        if key in result:
            metrics[key] = result[key]
    fields: dict[str, object] = {
        "name": "sentiment",
        "version": 1,
        "release": "1.1.0",
        "task": "sentiment",
        "labels": list(LABELS),
        "activation": "softmax",
        "calibration": {
            "method": "temperature",
            "temperature": result["temperature"],
            "bias": result["bias"],
        },
        "truncation": {"max_tokens": MAX_TOKENS, "policy": "truncate"},
        "memory_limit_mib": 256,
        "training": {
            "base": "all-MiniLM-L6-v2 (Apache-2.0)",
            "rows": result["rows"],
            "sources": ["TweetEval sentiment", "SST-2 (auxiliary, two classes)"],
        },
        "metrics": metrics,
    }
    return fields, probes


def main() -> None:
    """Train, calibrate, evaluate, and leave everything in the work directory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=Path(".gatehouse/training/sentiment"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    held, tweets = _shuffled()
    training = tweets + sources.sst2("train")[:REVIEWS]
    plan = Plan(epochs=arguments.epochs, max_tokens=MAX_TOKENS, learning_rate=4e-5)
    torch.manual_seed(plan.seed)
    model = Classifier(HEADS)
    tokenizer = load_tokenizer(plan.max_tokens)
    emoji = frequent_emoji(row.text for row in [*held, *tweets])
    tokenizer = add_emoji(tokenizer, model, emoji)
    tokenizer.enable_truncation(plan.max_tokens)
    arguments.work.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(arguments.work / "tokenizer.json"))
    train(
        model,
        tokenizer,
        training,
        sentiment_loss,
        plan,
        arguments.work,
        resume=arguments.resume,
        minutes_max=arguments.minutes,
    )
    truth = np.array([int(row.labels["sentiment"]) for row in held])
    logits = predict(model, tokenizer, [row.text for row in held])
    temperature, bias = fit_balanced(logits, truth)
    result = {
        "temperature": temperature,
        "bias": bias,
        "development": report((logits + bias) / temperature, truth),
        "development_plain": report(logits, truth),
        "rows": {"tweeteval": len(tweets), "sst2": REVIEWS, "development": len(held)},
    }
    (arguments.work / "result.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
