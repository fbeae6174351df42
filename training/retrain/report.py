"""The report of one retraining, in Markdown with pictures beside it, and as one HTML file."""

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.benchmarks.report import machine, table
from training.retrain import plots
from training.retrain.evaluate import Comparison, Interval, Scored, Slice, Verdict, lower_is_better

_NAMES = {
    "auc_roc": "AUC ROC",
    "average_precision": "average precision",
    "log_loss": "log loss",
    "brier": "Brier score",
    "ece": "calibration error (ten bins)",
    "recall_at_review": "recall at the review threshold",
    "precision_at_review": "precision at the review threshold",
    "flagged_share": "share at or above the review threshold",
}
# The usual reading of the index: below .1 steady, .1 to .25 watch, above act.
_PSI_WATCH, _PSI_ACT = 0.1, 0.25
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#1c2733}table{border-collapse:collapse;margin:1rem 0}th,td{border:1px solid #d5dce3;"
    "padding:.3rem .6rem;text-align:left;font-variant-numeric:tabular-nums}th{background:#f2f5f8}"
    "img{max-width:100%}code{background:#f2f5f8;padding:0 .2rem}"
)


@dataclass(frozen=True)
class Findings:
    """All that the report says.

    Attributes:
        model: name of the model.
        version: of the challenger.
        champion: what serves, as text; None without one.
        training: the manifest's `training`.
        counts: payments taken and left out, by reason.
        scored: test rows and scores.
        comparison: measures with intervals, and differences.
        by_mcc / by_country: slices of the challenger.
        input_drift / score_drift: against the champion's training; empty and None without one.
        calibration: held-out log loss by method, and what was chosen.
        thresholds: of the challenger.
        verdict: whether it may be registered.
        parity: largest difference between library and ONNX on the test rows.
    """

    model: str
    version: int
    champion: str | None
    training: Mapping[str, Any]
    counts: Mapping[str, int]
    scored: Scored
    comparison: Comparison
    by_mcc: Sequence[Slice]
    by_country: Sequence[Slice]
    input_drift: Mapping[str, float]
    score_drift: float | None
    calibration: Mapping[str, float]
    method: str
    thresholds: Mapping[str, float]
    verdict: Verdict
    parity: float


Block = tuple[str, Any]


def write(findings: Findings, directory: Path) -> tuple[Path, Path]:
    """Write `report.md` with its pictures, `report.html` and `report.json`.

    Returns:
        paths of the Markdown and the HTML file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    blocks = _blocks(findings)
    for kind, content in blocks:
        if kind == "picture":
            (directory / f"{content[0]}.png").write_bytes(content[2])
    markdown, page = directory / "report.md", directory / "report.html"
    markdown.write_text(_markdown(blocks), encoding="utf-8")
    title = f"Retraining of {findings.model}, version {findings.version}"
    page.write_text(_html(blocks, title), encoding="utf-8")
    document = json.dumps(figures(findings), indent=1, allow_nan=False)
    (directory / "report.json").write_text(document + "\n", encoding="utf-8")
    return markdown, page


def figures(findings: Findings) -> dict[str, Any]:
    """The same as data; what could not be measured is null."""
    return {
        "model": findings.model,
        "version": findings.version,
        "champion": findings.champion,
        "verdict": findings.verdict.word,
        "reasons": findings.verdict.reasons,
        "measures": {
            name: {measure: _plain(value) for measure, value in measures.items()}
            for name, measures in findings.comparison.measures.items()
        },
        "difference": {
            measure: _plain(value) for measure, value in findings.comparison.difference.items()
        },
        "input_drift": dict(findings.input_drift),
        "score_drift": findings.score_drift,
        "thresholds": dict(findings.thresholds),
        "calibration": findings.method,
        "onnx_parity_max": findings.parity,
    }


def _plain(value: Interval) -> dict[str, float | None]:
    listed = {"value": value.value, "low": value.low, "high": value.high}
    return {name: None if math.isnan(number) else number for name, number in listed.items()}


def _blocks(findings: Findings) -> list[Block]:
    """The report as headings, texts, tables and pictures; both formats show the same."""
    scored = findings.scored
    blocks: list[Block] = [
        ("h1", f"Retraining of {findings.model}: version {findings.version}"),
        ("text", f"Verdict: {findings.verdict.word}. {_sentence(findings.verdict.reasons)}"),
        ("text", f"Run: {machine(('xgboost-cpu', 'scikit-learn', 'numpy'))}."),
        ("text", f"Champion: {findings.champion or 'none'}."),
        ("h2", "Data"),
        ("table", (("payments", "rows"), [[k, str(v)] for k, v in findings.counts.items()])),
        ("text", _split_text(findings)),
        ("h2", "Champion and challenger on the same test payments"),
        ("table", _measures_table(findings)),
        (
            "text",
            "Intervals are 95 %, 200 resamples of cards; differences are paired. A measure that "
            "one class is missing for says so.",
        ),
        ("picture", ("precision_recall", "Precision and recall", _pr(findings))),
        ("h2", "Calibration and thresholds"),
        ("text", _calibration_text(findings)),
        (
            "picture",
            ("reliability", "Reliability", plots.reliability(scored.is_fraud, scored.scores)),
        ),
        ("picture", ("scores", "Scores and thresholds", _histogram(findings))),
        ("table", (("decision from", "score"), _threshold_rows(findings))),
    ]
    for name, title, found in (
        ("mcc", "By category (mcc)", findings.by_mcc),
        ("country", "By country", findings.by_country),
    ):
        blocks += [("h2", title), ("table", _slice_table(found))]
        shown = [
            (item.name, item.recall.value, item.recall.low, item.recall.high)
            for item in found
            if item.frauds
        ]
        if shown:
            picture = plots.recall_bars(title, shown)
            blocks.append(("picture", (f"recall_by_{name}", f"Recall {title.lower()}", picture)))
    return [*blocks, *_drift_blocks(findings), *_recipe_blocks(findings)]


def _sentence(reasons: Sequence[str]) -> str:
    return " ".join(f"{reason[0].upper()}{reason[1:]}." for reason in reasons if reason)


def _split_text(findings: Findings) -> str:
    training = findings.training
    spans = ", ".join(
        f"{name} {' to '.join(training[f'{name}_days'])}"
        for name in ("train", "validation", "test")
    )
    scored = findings.scored
    return (
        f"Split by time: {spans}. Train {training['train_rows']} payments with "
        f"{training['train_frauds_known']} frauds; test {len(scored.is_fraud)} payments with "
        f"{int(scored.is_fraud.sum())} frauds. Each row's features are those that serving would "
        "have read at its own moment."
    )


def _measures_table(findings: Findings) -> tuple[tuple[str, ...], list[list[str]]]:
    models = list(findings.comparison.measures)
    header = ("measure", *models)
    has_difference = bool(findings.comparison.difference)
    if has_difference:
        header = (*header, "challenger minus champion")
    rows = []
    for measure, name in _NAMES.items():
        better = ", lower is better" if lower_is_better(measure) else ""
        row = [f"{name}{better}"]
        row += [findings.comparison.measures[model][measure].text() for model in models]
        if has_difference:
            row.append(findings.comparison.difference[measure].text())
        rows.append(row)
    return header, rows


def _pr(findings: Findings) -> bytes:
    return plots.precision_recall(findings.scored.is_fraud, findings.scored.scores)


def _histogram(findings: Findings) -> bytes:
    scored = findings.scored
    return plots.score_histogram(scored.is_fraud, scored.scores["challenger"], findings.thresholds)


def _calibration_text(findings: Findings) -> str:
    losses = ", ".join(f"{name} {loss:.5f}" for name, loss in findings.calibration.items())
    return (
        f"Chosen on validation: {findings.method}. Held-out log loss by method: {losses}. "
        f"ONNX and library differ by at most {findings.parity:.1e} on the test payments."
    )


def _threshold_rows(findings: Findings) -> list[list[str]]:
    return [[name, f"{value:.4f}"] for name, value in findings.thresholds.items()]


def _slice_table(found: Sequence[Slice]) -> tuple[tuple[str, ...], list[list[str]]]:
    header = (
        "value", "payments", "frauds", "recall at review", "flagged", "average precision",
        "mean score",
    )  # fmt: skip
    rows = [
        [
            item.name,
            str(item.rows),
            str(item.frauds),
            item.recall.text(3),
            f"{item.flagged:.4f}",
            "not measurable" if math.isnan(item.average_precision)
            else f"{item.average_precision:.3f}",
            f"{item.mean_score:.4f}",
        ]
        for item in found
    ]  # fmt: skip
    return header, rows


def _drift_blocks(findings: Findings) -> list[Block]:
    if findings.score_drift is None and not findings.input_drift:
        return [
            ("h2", "Drift"),
            ("text", "Not measured: no champion with reference figures, or too few rows."),
        ]
    score = "not measured" if findings.score_drift is None else f"{findings.score_drift:.3f}"
    rows = [
        [name, f"{value:.3f}", _reading(value)]
        for name, value in sorted(findings.input_drift.items(), key=lambda item: -item[1])
    ]
    picture = plots.bars(
        "Drift of the inputs", "population stability index", findings.input_drift, _PSI_ACT
    )
    return [
        ("h2", "Drift"),
        (
            "text",
            "The newest payments against those that the champion was trained on: population "
            f"stability index, chance taken off. Score: {score}. Up to {_PSI_WATCH} is steady, up "
            f"to {_PSI_ACT} worth watching.",
        ),
        ("table", (("input", "index", "reading"), rows)),
        ("picture", ("drift", "Drift of the inputs", picture)),
    ]


def _reading(value: float) -> str:
    if value <= _PSI_WATCH:
        return "steady"
    return "watch" if value <= _PSI_ACT else "moved"


def _recipe_blocks(findings: Findings) -> list[Block]:
    rows = [
        [name, str(value)]
        for name, value in findings.training.items()
        if not isinstance(value, dict)
    ]
    return [("h2", "Recipe"), ("table", (("setting", "value"), rows))]


def _markdown(blocks: Sequence[Block]) -> str:
    parts = []
    for kind, content in blocks:
        if kind in {"h1", "h2"}:
            parts.append(f"{'#' * int(kind[1])} {content}")
        elif kind == "text":
            parts.append(content)
        elif kind == "table":
            parts.append(table(*content))
        else:
            parts.append(f"![{content[1]}]({content[0]}.png)")
    return "\n\n".join(parts) + "\n"


def _html(blocks: Sequence[Block], title: str) -> str:
    """One file without anything from outside; pictures are inside it."""
    parts = []
    for kind, content in blocks:
        if kind in {"h1", "h2"}:
            parts.append(f"<{kind}>{html.escape(content)}</{kind}>")
        elif kind == "text":
            parts.append(f"<p>{html.escape(content)}</p>")
        elif kind == "table":
            header, rows = content
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
            body = "".join(
                "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
                for row in rows
            )
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        else:
            data = base64.b64encode(content[2]).decode()
            alt = html.escape(content[1])
            parts.append(f'<p><img alt="{alt}" src="data:image/png;base64,{data}"></p>')
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        + "".join(parts)
        + "</body></html>\n"
    )
