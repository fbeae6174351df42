"""The compliance report as a document and as a page to read or print."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import orjson

from libs.common.transparency.report import FORMAT

PROVES = (
    "Every event that is counted here was in the log, in this order, when the named checkpoint was "
    "signed, and has not changed since.",
    "With the evidence file of the same index range a reader can check offline that no event of "
    "the range was left out, and that each payload is the committed one.",
    "The log at the named checkpoint extends the log at the previous checkpoint: nothing that was "
    "signed then was changed or removed. `gatehouse audit verify REPORT --against CHECKPOINT` "
    "checks it offline.",
    "A cosigned checkpoint shows that a second party saw the same log: who holds database and key "
    "cannot rewrite what lies below it.",
)
DOES_NOT_PROVE = (
    "That a decision was right, or that the system conforms to any law. It is evidence for logging "
    "and record-keeping duties, no more.",
    "That everything that happened was emitted: it shows what the services put on record.",
    "Anything about events after the newest cosigned checkpoint, except that the log's own "
    "signature covers them.",
    "The content of erased personal fields; their events remain and still verify.",
)


def document(
    tenant: str,
    period: tuple[str, str],
    facts: Mapping[str, Any],
    integrity: Mapping[str, Any],
    retention: Mapping[str, Any],
) -> dict[str, Any]:
    """Put the report together."""
    return {
        "report": FORMAT,
        "tenant": tenant,
        "from": period[0],
        "to": period[1],
        "events": sum(row["events"] for row in facts["by_type"]),
        **facts,
        "integrity": integrity,
        "retention": retention,
        "proves": list(PROVES),
        "does_not_prove": list(DOES_NOT_PROVE),
    }


_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; color: #111; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; break-after: avoid; }
table { border-collapse: collapse; width: 100%; } tr { break-inside: avoid; }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .5rem; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
th { background: #f3f3f3; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
.ok { color: #055d20; } .bad { color: #8a0f0f; font-weight: 600; }
code { font-size: .85em; overflow-wrap: anywhere; }
@page { size: A4; margin: 18mm; }
@media print { body { max-width: none; margin: 0; font-size: 10.5pt; } thead { display:
  table-header-group; } }
"""


def page(report: Mapping[str, Any]) -> str:
    """Give the report as HTML that prints well; no script, nothing from elsewhere."""
    integrity = report["integrity"]
    is_sound = integrity["consistent"]
    verdict = "consistent with its signed checkpoints" if is_sound else "NOT CONSISTENT"
    previous = integrity["previous"]
    extends = (
        f"It is proven to extend the log of {previous['size']} entries that was signed before."
        if previous
        else "No checkpoint was signed before the period; there is nothing to extend."
    )
    gaps = report["gaps"]["count"]
    parts = [
        f"<h1>Compliance report: {escape(report['tenant'])}</h1>",
        f"<p>Period {escape(report['from'])} to {escape(report['to'])}, entries "
        f"{report['from_index']} to {report['to_index']} of the log.</p>",
        f'<p class="{"ok" if is_sound else "bad"}">The log is {verdict}. {extends}</p>',
        f'<p class="{"bad" if gaps else "ok"}">Reported gaps: {gaps or "none"}.</p>',
        _section("Integrity", _facts(integrity)),
        _section("Events by class", _facts(report["by_class"])),
        _section("Events by type", _table(report["by_type"], ("type", "source", "events"))),
        _section("Decisions", _table(report["decisions"], ("model", "decision", "events"))),
    ]
    for name, title in (
        ("overrides", "Changes of models, rollouts, policies and thresholds"),
        ("access", "Access: failures, keys"),
        ("alerts", "Security alerts"),
        ("erasures", "Erasures"),
        ("gaps", "Gaps"),
        ("prunings", "Removals under the retention policy"),
    ):
        parts.append(_section(f"{title}: {report[name]['count']}", _events(report[name]["newest"])))
    spans = report["unwitnessed"]
    columns = ("from_size", "to_size", "since", "until")
    parts += [
        _section(f"Unwitnessed spans: {len(spans)}", _table(spans, columns)),
        _section(
            "Retention",
            _table(report["retention"]["policies"], ("tenant", "event_class", "keep_days")),
        ),
        _section("What this report proves", _list(report["proves"])),
        _section("What it does not prove", _list(report["does_not_prove"])),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Compliance report</title><style>{_STYLE}</style></head><body>"
        + "".join(parts)
        + "</body></html>"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _cell(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class="number">{value}</td>'
    if isinstance(value, Mapping | list):
        return f"<td><code>{escape(orjson.dumps(value).decode())}</code></td>"
    return f"<td>{escape(str('' if value is None else value))}</td>"


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    if not rows:
        return "<p>None.</p>"
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(_cell(row.get(name)) for name in columns) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _events(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(rows, ("index", "ingested_at", "type", "data"))


def _facts(facts: Mapping[str, Any]) -> str:
    rows = [{"what": name, "value": value} for name, value in facts.items()]
    return _table(rows, ("what", "value"))


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
