"""Fine-tuning loop: length-bucketed batches, masked multi-head loss, progress bar, resume.

Runs on a GPU when torch sees one, else on the CPU. A checkpoint (safetensors and JSON, never a
pickle) is written every few minutes; `--resume` goes on from it.
"""

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from training.text.encoder import Classifier, Trainable
from training.text.sources import Row

Loss = Callable[[torch.Tensor, Sequence[Row], dict[str, slice]], torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        epochs, batch, learning_rate, head_rate, decay: the usual meanings; `decay` is the factor of
            the learning rate from one encoder layer to the next lower one.
        warmup: share of the steps.
        max_tokens: longer texts are cut.
        average: whether the result is a running mean of the weights.
        train_words: whether the table of word pieces, half of all weights, learns too.
    """

    epochs: int = 3
    batch: int = 32
    learning_rate: float = 8e-5
    head_rate: float = 1e-3
    decay: float = 0.9
    weight_decay: float = 0.01
    warmup: float = 0.1
    max_tokens: int = 128
    seed: int = 7
    average: bool = False
    train_words: bool = True


def device() -> torch.device:
    """Pick the GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Turn texts into token ids."""
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]


def pad(ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad a batch to its longest row; gives ids and mask, both (n, longest)."""
    longest = max(len(row) for row in ids)
    tokens = torch.zeros((len(ids), longest), dtype=torch.long)
    mask = torch.zeros((len(ids), longest), dtype=torch.long)
    for index, row in enumerate(ids):
        tokens[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return tokens, mask


def batches(lengths: Sequence[int], size: int, rng: random.Random) -> list[list[int]]:
    """Make batches of similar length, in random order (chunks of 50 batches are sorted)."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    found = []
    for start in range(0, len(order), size * 50):
        chunk = sorted(order[start : start + size * 50], key=lambda index: lengths[index])
        found += [chunk[at : at + size] for at in range(0, len(chunk), size)]
    rng.shuffle(found)
    return found


def _groups(model: Trainable, plan: Plan) -> list[dict[str, object]]:
    layers = list(model.encoder.encoder.layer)
    groups: list[dict[str, object]] = [
        {"params": list(model.fresh_parameters()), "lr": plan.head_rate}
    ]
    for depth, layer in enumerate(reversed(layers)):
        groups.append(
            {"params": list(layer.parameters()), "lr": plan.learning_rate * plan.decay**depth}
        )
    fresh = {id(value) for value in model.fresh_parameters()}
    embeddings = model.encoder.embeddings.parameters()
    groups.append(
        {
            "params": [
                value for value in embeddings if value.requires_grad and id(value) not in fresh
            ],
            "lr": plan.learning_rate * plan.decay ** len(layers),
        }
    )
    return groups


def train(
    model: Classifier,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    loss: Loss,
    plan: Plan,
    checkpoint: Path,
    *,
    resume: bool = False,
    minutes_max: float | None = None,
) -> None:
    """Train in place.

    Args:
        model, tokenizer: what to train.
        rows: training rows.
        loss: scalar loss of one batch from logits and its rows.
        plan: hyperparameters.
        checkpoint: directory for the state.
        resume: go on from the checkpoint.
        minutes_max: the schedule is shortened so that training ends in about this time.
    """
    where = device()
    ids = encode(tokenizer, [row.text for row in rows])
    slices = model.slices()

    def step_loss(chosen: Sequence[int]) -> torch.Tensor:
        tokens, mask = pad([ids[index] for index in chosen])
        logits = model(tokens.to(where), mask.to(where))
        return loss(logits.float(), [rows[index] for index in chosen], slices)

    fit(
        model,
        [len(row) for row in ids],
        step_loss,
        plan,
        checkpoint,
        resume=resume,
        minutes_max=minutes_max,
    )


def fit(
    model: Trainable,
    lengths: Sequence[int],
    step_loss: Callable[[Sequence[int]], torch.Tensor],
    plan: Plan,
    checkpoint: Path,
    *,
    resume: bool = False,
    minutes_max: float | None = None,
) -> None:
    """Train any model with an encoder in place.

    Args:
        model: what is trained.
        lengths: tokens of each row, for batches of similar length.
        step_loss: runs the model on the rows of a batch and gives the scalar loss.
        plan, checkpoint, resume, minutes_max: see `train`.
    """
    torch.manual_seed(plan.seed)
    where = device()
    model.to(where).train()
    model.encoder.embeddings.word_embeddings.weight.requires_grad_(plan.train_words)
    rng = random.Random(plan.seed)
    schedule = [batch for _ in range(plan.epochs) for batch in batches(lengths, plan.batch, rng)]
    optimizer = torch.optim.AdamW(_groups(model, plan), weight_decay=plan.weight_decay, fused=True)
    base_rates = [float(group["lr"]) for group in optimizer.param_groups]
    start = _resume(model, checkpoint) if resume else 0
    average = Average(model) if plan.average else None
    began, saved = time.time(), time.time()
    running = math.nan
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("fine-tuning", total=len(schedule), completed=start, loss=running)
        for step in range(start, len(schedule)):
            done = step / len(schedule)
            if minutes_max is not None:
                done = max(done, (time.time() - began) / 60 / minutes_max)
                if done >= 1:
                    break
            rate = min((step + 1) / (plan.warmup * len(schedule)), max(0.02, 1 - done))
            for group, base in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = base * min(1.0, rate)
            chosen = schedule[step]
            # bfloat16 products are several times as fast where the processor has them.
            with torch.autocast(where.type, torch.bfloat16):
                value = step_loss(chosen)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None and done > 0.3 and step % 4 == 0:
                average.update(model)
            running = value.item() if math.isnan(running) else 0.98 * running + 0.02 * value.item()
            bar.update(task, completed=step + 1, loss=running)
            if step % 50 == 0:
                print(
                    f"step {step}/{len(schedule)} loss {running:.4f} "
                    f"{(time.time() - began) / 60:.1f} min",
                    flush=True,
                )
            if time.time() - saved > 240:
                _save(model, checkpoint, step + 1)
                saved = time.time()
    if average is not None:
        average.copy_to(model)
    _save(model, checkpoint, len(schedule))
    model.eval()


class Average:
    """A running mean of the weights, which generalises better than the last ones."""

    def __init__(self, model: nn.Module, decay: float = 0.97) -> None:
        self._decay = decay
        self._steps = 0
        self._shadow = {
            name: value.detach().clone()
            for name, value in model.named_parameters()
            if value.requires_grad
        }

    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step; the first ones count fully."""
        self._steps += 1
        keep = min(self._decay, self._steps / (self._steps + 10))
        weights = dict(model.named_parameters())
        for name, mean in self._shadow.items():
            mean.lerp_(weights[name].detach(), 1 - keep)

    def copy_to(self, model: nn.Module) -> None:
        """Put the mean into the model."""
        if self._steps:
            weights = dict(model.named_parameters())
            for name, mean in self._shadow.items():
                weights[name].data.copy_(mean)


def _save(model: Trainable, checkpoint: Path, step: int) -> None:
    checkpoint.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    save_file(state, checkpoint / "model.safetensors")
    (checkpoint / "state.json").write_text(json.dumps({"step": step}))


def _resume(model: Trainable, checkpoint: Path) -> int:
    if not (checkpoint / "state.json").exists():
        return 0
    model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    return int(json.loads((checkpoint / "state.json").read_text())["step"])


def predict(
    model: Classifier, tokenizer: Tokenizer, texts: Sequence[str], batch: int = 64
) -> np.ndarray:
    """Give the logits of texts, shape (n, outputs), in their order."""
    model.eval()
    where = device()
    ids = encode(tokenizer, texts)
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    result = np.zeros((len(ids), sum(model.heads.values())), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            tokens, mask = pad([ids[index] for index in chosen])
            result[chosen] = model(tokens.to(where), mask.to(where)).float().cpu().numpy()
    return result
