"""Rows for the entity model: templates filled with made-up names, noise, and WNUT17.

A row is a text with spans in code points. Forms of address stand outside a person's span; a postal
address is one span with all its lines.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.text import entity_templates as texts
from training.text.entity_names import Names, load_names
from training.text.sources import DATA

LABELS = ("person", "location", "organization", "address")
_GAP = re.compile(r"\{(\w)\}")
_KINDS = {"P": 0, "F": 0, "L": 0, "N": 0, "C": 1, "K": 1, "S": 1, "G": 1, "O": 2, "A": 3}


@dataclass(slots=True)
class Marked:
    """A text with spans (start, end, number of the label), in order, apart from each other."""

    text: str
    spans: list[tuple[int, int, int]]
    source: str
    extra: dict[str, str] = field(default_factory=dict)


def _unescaped(part: str) -> str:
    return part.replace("{{", "{").replace("}}", "}")


class Filler:
    """Fills templates."""

    def __init__(self, names: Names, rng: random.Random) -> None:
        self.names = names
        self.rng = rng

    def fill(self, template: str) -> Marked:
        """Fill one template."""
        out, spans, last = "", [], 0
        for gap in _GAP.finditer(template):
            out += _unescaped(template[last : gap.start()])
            last = gap.end()
            value = self._value(gap[1])
            if gap[1] in _KINDS:
                spans.append((len(out), len(out) + len(value), _KINDS[gap[1]]))
            out += value
        return Marked(out + _unescaped(template[last:]), spans, "generated")

    def _value(self, gap: str) -> str:
        names, rng = self.names, self.rng
        makers = {
            "P": names.person,
            "F": names.first,
            "L": names.last,
            "N": rng.choice((names.person, names.person, names.first)),
            "C": names.town,
            "K": names.country,
            "S": names.state,
            "G": names.place,
            "O": names.organisation,
            "A": names.address,
        }
        if gap in makers:
            return makers[gap]().strip(" ,\n")
        plain = {
            "t": texts.TITLES,
            "r": texts.PRODUCTS,
            "x": texts.NATIONS,
            "m": texts.MONTHS,
            "w": texts.DAYS,
        }
        if gap in plain:
            return rng.choice(plain[gap])
        if gap == "j":
            return rng.choice(names.jobs) if rng.random() < 0.6 else rng.choice(names.jobs).lower()
        digits = "".join(rng.choice("0123456789") for _ in range(10))
        return {
            "n": str(rng.randint(1, 400)),
            "y": str(rng.randint(1890, 2026)),
            "d": rng.choice(
                (
                    f"{digits[0:1]}/{digits[1:2]}/20{digits[2:4]}",
                    f"{rng.choice(texts.MONTHS)} {rng.randint(1, 28)}",
                    f"{rng.randint(1, 28)} {rng.choice(texts.MONTHS)[:3]} 19{digits[:2]}",
                )
            ),
            "e": f"{names.first().lower()}{digits[:2]}@example.com".replace(" ", ""),
            "p": rng.choice((f"+1 {digits[:3]} {digits[3:]}", f"({digits[:3]}) {digits[3:]}")),
            "h": rng.choice((f"#{digits[:6]}", f"AB-{digits[:5]}", f"{digits[:3]}-{digits[3:7]}")),
        }[gap]


def _joined(parts: Sequence[Marked], joint: str) -> Marked:
    text, spans = "", []
    for part in parts:
        if text:
            text += joint
        spans += [(start + len(text), end + len(text), kind) for start, end, kind in part.spans]
        text += part.text
    return Marked(text, spans, "generated")


def _shifted(row: Marked, prefix: str, suffix: str) -> Marked:
    by = len(prefix)
    spans = [(start + by, end + by, kind) for start, end, kind in row.spans]
    return Marked(prefix + row.text + suffix, spans, row.source)


def cased(row: Marked, rng: random.Random, *, share: float = 0.25) -> Marked:
    """Change the case of some texts; only changes that keep every character are made."""
    pick = rng.random() / share
    if pick >= 1:
        return row
    changed = row.text.lower() if pick < 0.65 else row.text.upper() if pick < 0.85 else ""
    if pick >= 0.85:
        changed = row.text.title()
    return Marked(changed, row.spans, row.source) if len(changed) == len(row.text) else row


def _blocks() -> Iterator[tuple[list[str], float]]:
    """Give groups of templates with their share; lines without a full stop may stand as a block."""
    for group, share in (
        (texts.WORK, 0.2),
        (texts.LIFE, 0.27),
        (texts.NEWS, 0.2),
        (texts.SERVICE, 0.2),
        (texts.NOTHING, 0.13),
    ):
        yield [line for line in group.strip().splitlines() if line], share


def generated(count: int, seed: int, names: Names | None = None) -> list[Marked]:
    """Generate rows of one to four sentences."""
    rng = random.Random(seed)
    filler = Filler(names or load_names(seed), rng)
    groups, shares = zip(*_blocks(), strict=True)
    rows = []
    for _ in range(count):
        sentences = rng.choices((1, 2, 3, 4), weights=(0.6, 0.25, 0.1, 0.05))[0]
        group = rng.choices(groups, weights=shares)[0]
        at = rng.randrange(len(group))
        lines = [group[at]]
        while len(lines) < sentences:
            # Neighbours in the list often belong together (a letter's end, a table).
            if rng.random() < 0.4 and at + 1 < len(group):
                at += 1
                lines.append(group[at])
            else:
                lines.append(rng.choice(rng.choices(groups, weights=shares)[0]))
        parts = [filler.fill(line) for line in lines]
        row = _joined(parts, rng.choice((" ", " ", " ", "\n", "\n\n")))
        if rng.random() < 0.12:
            row = _shifted(row, rng.choice(texts.OPENERS), "")
        if rng.random() < 0.12:
            row = _shifted(row, "", rng.choice(texts.CLOSERS))
        rows.append(cased(row, rng))
    return rows


_WNUT = {"person": 0, "location": 1, "corporation": 2, "group": 2}
_NO_BLANK_BEFORE = frozenset(".,!?;:)]}%'\u2019\u2026")
_NO_BLANK_AFTER = frozenset("([{$#@'\u2019")


def wnut(name: str, rng: random.Random, root: Path = DATA) -> list[Marked]:
    """Read WNUT17 (`wnut17train.conll`, `emerging.dev.conll`), its tokens joined to a text."""
    lines = (root / "pii/wnut17" / name).read_text(encoding="utf8").splitlines()
    sentences: list[list[list[str]]] = [[]]
    for line in lines:
        pair = line.split("\t")
        if pair[0].strip() and len(pair) > 1:
            sentences[-1].append([pair[0].strip(), pair[1].strip()])
        elif sentences[-1]:
            sentences.append([])
    rows = []
    for pairs in sentences:
        text = ""
        spans: list[tuple[int, int, int]] = []
        is_tight = rng.random() < 0.8
        for token, tag in pairs:
            follows = is_tight and (
                token[0] in _NO_BLANK_BEFORE or (text and text[-1] in _NO_BLANK_AFTER)
            )
            if text and not follows:
                text += " "
            kind = _WNUT.get(tag[2:])
            if kind is not None and tag[0] == "I" and spans and spans[-1][2] == kind:
                spans[-1] = (spans[-1][0], len(text) + len(token), kind)
            elif kind is not None:
                spans.append((len(text), len(text) + len(token), kind))
            text += token
        if text:
            rows.append(Marked(text, spans, "wnut17"))
    return rows
