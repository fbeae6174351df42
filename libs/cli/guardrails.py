"""`gatehouse guardrails`: measures a running suite's detectors on labelled data.

Data is CSV with the columns `text` and `label` (0 or 1), JSONL with the same members, or for spans
JSONL with `text` and `spans` [{start, end, label}]. The JSON arrays of presidio-research are read
as they are.
"""

import asyncio
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import orjson
import typer
from rich.console import Console
from rich.table import Table

from libs.cli import quality
from libs.cli.connection import Gateway, NotRunningError
from libs.cli.evasion import DISGUISES
from libs.cli.quality import Marked, Measure

app = typer.Typer(no_args_is_help=True, help="Guardrails: quality on labelled data.")
# One call: so many texts, and so many characters that models judge them within a policy's budget.
_BATCH = 100
_BATCH_CHARS = 6_000
_TEXT_CHARS_MAX = 100_000


class Task(StrEnum):
    """What is measured, and thereby which validator."""

    PII = "pii"
    SECRETS = "secrets"
    INJECTION = "injection"
    TOXICITY = "toxicity"
    EVASION = "evasion"


class DataError(Exception):
    """The file cannot be read as labelled data; the text says where."""


class ServiceRefusedError(Exception):
    """The suite answered something else than 200."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text."""

    text: str
    label: bool = False
    spans: tuple[Marked, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What the suite said about one text."""

    flagged: bool
    score: float
    spans: tuple[Marked, ...] = ()
    failed: bool = False


@dataclass
class Report:
    """Measures by group (a label, a disguise, or `texts`)."""

    task: str
    rows: int
    failed: int
    groups: dict[str, list[Measure]] = field(default_factory=dict)


def read_rows(path: Path, *, with_spans: bool) -> list[Row]:
    """Read labelled texts.

    Raises:
        DataError: a row lacks a member, or the file is none of the forms.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if path.suffix == ".csv":
        items: list[Any] = list(csv.DictReader(raw.decode("utf-8").splitlines(keepends=True)))
    else:
        try:
            items = (
                orjson.loads(raw)
                if raw.lstrip().startswith(b"[")
                else [orjson.loads(line) for line in raw.splitlines() if line.strip()]
            )
        except orjson.JSONDecodeError:
            raise DataError(f"{path}: not CSV, JSON or JSONL") from None
    rows = []
    for number, item in enumerate(items, 1):
        try:
            rows.append(_row(item, with_spans))
        except (KeyError, TypeError, ValueError):
            wanted = "text and spans" if with_spans else "text and label (0 or 1)"
            raise DataError(f"{path}: row {number} has no {wanted}") from None
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def _row(item: dict[str, Any], with_spans: bool) -> Row:
    text = item["full_text"] if "full_text" in item else item["text"]
    if not isinstance(text, str):
        raise TypeError
    if not with_spans:
        label = str(item["label"]).strip().lower()
        if label not in {"0", "1", "true", "false"}:
            raise ValueError
        return Row(text[:_TEXT_CHARS_MAX], label in {"1", "true"})
    marked = tuple(
        Marked(
            int(span["start_position"] if "start_position" in span else span["start"]),
            int(span["end_position"] if "end_position" in span else span["end"]),
            str(span["entity_type"] if "entity_type" in span else span["label"]),
        )
        for span in item["spans"]
    )
    return Row(text, bool(marked), marked)


def batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Cut into calls, in order; a text longer than a call's share goes alone."""
    part: list[str] = []
    for text in texts:
        if part and (len(part) == _BATCH or sum(map(len, part)) + len(text) > _BATCH_CHARS):
            yield part
            part = []
        part.append(text)
    if part:
        yield part


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks the suite about texts.

    Attributes:
        session: to the gateway.
        validator, policy: what judges.
        label: the only label that counts; empty for all.
    """

    session: aiohttp.ClientSession
    validator: str
    policy: str
    label: str = ""

    async def ask(self, texts: Sequence[str]) -> list[Found]:
        """Check texts in batches, without the cache; who was late in a batch is asked again alone.

        Raises:
            ServiceRefusedError: an answer other than 200.
        """
        found: list[Found] = []
        for part in batches(texts):
            found += await self._call(part)
        for index, item in enumerate(found):
            if item.failed:
                found[index] = (await self._call([texts[index]]))[0]
        return found

    async def _call(self, texts: Sequence[str]) -> list[Found]:
        body = {
            "texts": texts,
            "policy": self.policy,
            "validators": [self.validator],
            "cache_ttl": 0,
        }
        async with self.session.post("/v1/guardrails/validate/batch", json=body) as reply:
            document = await reply.json(content_type=None)
            if reply.status != 200:
                raise ServiceRefusedError(f"{reply.status}: {document.get('detail', '')}")
        return [self._found(result["validators"][0]) for result in document["results"]]

    def _found(self, verdict: dict[str, Any]) -> Found:
        spans = tuple(Marked(s["start"], s["end"], s["label"]) for s in verdict["spans"])
        is_ok = verdict["status"] == "ok"
        labels, score = verdict["labels"], verdict["score"]
        if self.label:
            labels = {self.label} & set(labels)
            score = verdict["measured"].get(self.label, 0.0)
        return Found(is_ok and bool(labels), score, spans, not is_ok)


async def measure(
    session: aiohttp.ClientSession, task: Task, rows: list[Row], policy: str, label: str = ""
) -> Report:
    """Ask the suite about all rows and measure its answers."""
    validator = "injection" if task is Task.EVASION else task.value
    asker = Asker(session, validator, policy, label)
    found = await asker.ask([row.text for row in rows])
    report = Report(task.value, len(rows), sum(item.failed for item in found))
    if task in {Task.PII, Task.SECRETS}:
        wanted = {span.label for row in rows for span in row.spans}
        kept = [[s for s in item.spans if s.label in wanted] for item in found]
        report.groups = quality.spans([row.spans for row in rows], kept)
    elif task is Task.EVASION:
        detected = [row.text for row, item in zip(rows, found, strict=True) if item.flagged]
        for name, disguise in DISGUISES.items():
            report.groups[name] = await _disguised(asker, [disguise(text) for text in detected])
    else:
        labels = [row.label for row in rows]
        flagged = [item.flagged for item in found]
        scores = [item.score for item in found]
        report.groups["texts"] = quality.classification(labels, flagged, scores)
        for rate in (0.01, 0.05):
            best = quality.recall_at_fpr(labels, scores, rate)
            report.groups["texts"].append(
                Measure(f"recall at {rate:.0%} false positives", best, count=sum(labels))
            )
    return report


async def _disguised(asker: Asker, hidden: list[str]) -> list[Measure]:
    """Measure what is still found; a text judged too late is blocked in use, but not found."""
    again = await asker.ask(hidden)
    late = sum(item.failed for item in again)
    inside = [
        all(0 <= span.start < span.end <= len(text) for span in item.spans)
        for text, item in zip(hidden, again, strict=True)
    ]
    return [
        quality.share("still detected", sum(item.flagged for item in again), len(hidden)),
        quality.share("missed", sum(not (i.flagged or i.failed) for i in again), len(hidden)),
        quality.share("not judged in time", late, len(hidden)),
        quality.share("offsets within the text", sum(inside), len(inside)),
    ]


def show(report: Report) -> None:
    """Print the report as a table."""
    title = f"{report.task}: {report.rows} texts, {report.failed} not judged"
    table = Table("", "measure", "value", "95 % interval", "of", title=title)
    for group, measures in report.groups.items():
        for number, item in enumerate(measures):
            interval = "" if item.low is None else f"{item.low:.3f} to {item.high:.3f}"
            value = "none" if item.value is None else f"{item.value:.3f}"
            table.add_row(group if not number else "", item.name, value, interval, str(item.count))
    Console().print(table)


@app.command()
def evaluate(
    task: Annotated[Task, typer.Option(help="What to measure.")],
    data: Annotated[Path, typer.Option(help="Labelled CSV or JSONL file.")],
    policy: Annotated[
        str, typer.Option(help="Policy whose thresholds apply; it must have the validator.")
    ] = "",
    label: Annotated[
        str, typer.Option(help="Only this label counts, such as hate or sexist.")
    ] = "",
    state_dir: Annotated[Path, typer.Option(help="State directory of the suite.")] = Path(
        ".gatehouse"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure a validator on labelled data: both classes, with confidence intervals."""
    chosen = policy or ("strict" if task is Task.TOXICITY else "default")
    try:
        rows = read_rows(data, with_spans=task in {Task.PII, Task.SECRETS})
        report = asyncio.run(_evaluate(Gateway.find(state_dir), task, rows, chosen, label))
    except (NotRunningError, DataError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    except (ServiceRefusedError, aiohttp.ClientError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        sys.stdout.write(orjson.dumps(report).decode() + "\n")
    else:
        show(report)
    if report.failed:
        print(f"evaluate: {report.failed} texts were not judged", file=sys.stderr)
        raise typer.Exit(1)


async def _evaluate(
    gateway: Gateway, task: Task, rows: list[Row], policy: str, label: str
) -> Report:
    async with gateway.session() as session:
        return await measure(session, task, rows, policy, label)
