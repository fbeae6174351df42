"""Train the entity model (`python -m training.text.entities`).

One tag per token: begin and inside of person, location, organization and address. Rows are
generated (entity_rows.py) or come from WNUT17's training part; its development part and
presidio-research are held out and only scored.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn import functional

from services.inference.domain.entities import (
    SHAPES,
    Marks,
    Span,
    joined,
    shapes_of,
    spans_of,
)
from training.text.encoder import Tagger, load_tokenizer
from training.text.entity_names import load_names
from training.text.entity_rows import LABELS, Marked, cased, generated, wnut
from training.text.evaluation import span_scores
from training.text.finetune import Plan, fit
from training.text.sources import DATA

MAX_TOKENS = 128
OVERLAP = 32
TAGS = 1 + 2 * len(LABELS)
_IGNORED = -100
# Labels of presidio-research that the model knows.
_PRESIDIO = {"PERSON": 0, "LOCATION": 1, "ORGANIZATION": 2, "ADDRESS": 3}


def marks_of(encoded: object) -> Marks:
    """Read offsets and word numbers of one encoded window."""
    words = [-1 if word is None else word for word in encoded.word_ids]  # type: ignore[attr-defined]
    offsets = np.asarray(encoded.offsets, dtype=np.int64)  # type: ignore[attr-defined]
    return Marks(offsets.reshape(-1, 2), np.asarray(words, dtype=np.int64))


def targets_of(row: Marked, marks: Marks) -> list[int]:
    """Give the tag of each token; special tokens are left out of the loss."""
    found, open_span = [], -1
    for (start, end), word in zip(marks.offsets.tolist(), marks.words.tolist(), strict=True):
        if word < 0:
            found.append(_IGNORED)
            continue
        inside = next(
            (number for number, span in enumerate(row.spans) if span[0] < end and start < span[1]),
            -1,
        )
        if inside < 0:
            found.append(0)
        else:
            kind = row.spans[inside][2]
            found.append(1 + 2 * kind + (inside == open_span))
        open_span = inside
    return found


class Rows:
    """Encoded rows: ids, shapes, targets."""

    def __init__(self, tokenizer: Tokenizer, rows: Sequence[Marked]) -> None:
        self.ids, self.shapes, self.targets = [], [], []
        for row in rows:
            encoded = tokenizer.encode(row.text)
            marks = marks_of(encoded)
            self.ids.append(encoded.ids)
            self.shapes.append(shapes_of(row.text, marks).tolist())
            self.targets.append(targets_of(row, marks))

    def batch(self, chosen: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Pad rows to ids, mask, shapes and targets, each (rows, longest)."""
        longest = max(len(self.ids[index]) for index in chosen)

        def padded(lists: list[list[int]], fill: int) -> torch.Tensor:
            return torch.tensor(
                [lists[index] + [fill] * (longest - len(lists[index])) for index in chosen]
            )

        ids = padded(self.ids, 0)
        mask = padded([[1] * len(row) for row in self.ids], 0)
        return ids, mask, padded(self.shapes, 0), padded(self.targets, _IGNORED)


def tag_probabilities(
    model: Tagger, tokenizer: Tokenizer, texts: Sequence[str]
) -> list[tuple[np.ndarray, Marks]]:
    """Give, per text, the tags' probabilities and the tokens' marks, windows joined."""
    tokenizer.enable_truncation(MAX_TOKENS, stride=OVERLAP)
    found = []
    with torch.inference_mode():
        for text in texts:
            encoded = tokenizer.encode(text)
            parts, marks = [], []
            for window in (encoded, *encoded.overflowing):
                own = marks_of(window)
                ids = torch.tensor([window.ids])
                shapes = torch.tensor(shapes_of(text, own)[None])
                logits = model(ids, torch.ones_like(ids), shapes)[0]
                parts.append(torch.softmax(logits.double(), -1).numpy())
                marks.append(own)
            found.append(joined(parts, marks, OVERLAP))
    return found


def read_spans(
    texts: Sequence[str],
    read: Sequence[tuple[np.ndarray, Marks]],
    floors: dict[str, float],
    thresholds: dict[str, float] | None = None,
) -> list[list[Span]]:
    """Read the spans of all texts that reach their threshold."""
    return [
        [
            span
            for span in spans_of(text, tags, marks, LABELS, floors)
            if span.score >= (thresholds or {}).get(span.label, 0.0)
        ]
        for text, (tags, marks) in zip(texts, read, strict=True)
    ]


def scored(rows: Sequence[Marked], found: Sequence[Sequence[Span]]) -> dict[str, Any]:
    """Score found spans against the rows' own."""
    return span_scores(
        [[(start, end, LABELS[kind]) for start, end, kind in row.spans] for row in rows],
        [[(span.start, span.end, span.label) for span in spans] for spans in found],
        LABELS,
    )


def presidio(root: Path = DATA) -> list[Marked]:
    """Read presidio-research, held out; forms of address are no names here."""
    path = root / "pii/presidio-research/generated_large_no_synth_v2_templates.json"
    rows = []
    for item in json.loads(path.read_text(encoding="utf8")):
        spans = sorted(
            (span["start_position"], span["end_position"], _PRESIDIO[span["entity_type"]])
            for span in item["spans"]
            if span["entity_type"] in _PRESIDIO
        )
        rows.append(Marked(item["full_text"], spans, "presidio-research"))
    return rows


def held_out() -> dict[str, list[Marked]]:
    """Give what is scored and never trained on."""
    rng = random.Random(2)
    return {
        "generated": generated(800, 99, load_names(99)),
        "wnut17 development": wnut("emerging.dev.conll", rng),
        "presidio-research": presidio(),
    }


def evaluate(model: Tagger, tokenizer: Tokenizer, floor: float = 0.5) -> dict[str, object]:
    """Score all held-out sets."""
    report: dict[str, object] = {}
    floors = dict.fromkeys(LABELS, floor)
    for name, rows in held_out().items():
        texts = [row.text for row in rows]
        read = tag_probabilities(model, tokenizer, texts)
        report[name] = scored(rows, read_spans(texts, read, floors))
    return report


def main() -> None:
    """Train, score, and leave everything in the work directory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=Path(".gatehouse/training/entities"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--rows", type=int, default=16_000, help="generated rows")
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    rng = random.Random(5)
    real = wnut("wnut17train.conll", rng)
    rows = [*generated(arguments.rows, 17), *(cased(row, rng) for row in real), *real]
    plan = Plan(
        epochs=arguments.epochs,
        max_tokens=MAX_TOKENS,
        batch=64,
        learning_rate=3e-4,
        head_rate=2e-3,
        average=True,
        train_words=False,
    )
    torch.manual_seed(plan.seed)
    model, tokenizer = Tagger(TAGS, SHAPES), load_tokenizer(MAX_TOKENS)
    arguments.work.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(arguments.work / "tokenizer.json"))
    encoded = Rows(tokenizer, rows)
    print(f"{len(rows)} rows, {sum(map(len, encoded.ids))} tokens", flush=True)

    def step_loss(chosen: Sequence[int]) -> torch.Tensor:
        ids, mask, shapes, targets = encoded.batch(chosen)
        logits = model(ids, mask, shapes).float()
        return functional.cross_entropy(
            logits.view(-1, TAGS),
            targets.view(-1),
            ignore_index=_IGNORED,
            label_smoothing=0.02,
        )

    fit(
        model,
        [len(row) for row in encoded.ids],
        step_loss,
        plan,
        arguments.work,
        resume=arguments.resume,
        minutes_max=arguments.minutes,
    )
    result = {
        "rows": {"generated": arguments.rows, "wnut17": len(real)},
        "held_out": evaluate(model, tokenizer),
    }
    (arguments.work / "result.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


def load(work: Path) -> tuple[Tagger, Tokenizer]:
    """Load what `main` left."""
    model = Tagger(TAGS, SHAPES)
    model.load_state_dict(load_file(work / "model.safetensors"))
    return model.eval(), Tokenizer.from_file(str(work / "tokenizer.json"))


if __name__ == "__main__":
    main()
