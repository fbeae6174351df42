"""A report as one HTML page that needs nothing else: prose, facts, charts inside it."""

from base64 import b64encode
from collections.abc import Mapping
from html import escape

from services.analytics.domain.facts import shown
from services.analytics.schemas import FactView, Report

# The page runs nothing and loads nothing, whatever a model is called.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
)
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%;font-size:13px}
td,th{text-align:left;padding:.25rem .5rem;border-bottom:1px solid #d8dde2}
td.number{text-align:right;font-variant-numeric:tabular-nums}
img{width:100%;height:auto} .breached{background:#fdecea} .meta{color:#5b6570;font-size:13px}
.severity{padding:.1rem .5rem;border-radius:.3rem;background:#e7ebef}
.high,.critical{background:#f8d0cc} .medium{background:#fbe7c2}
"""


def render(report: Report, charts: Mapping[str, bytes]) -> str:
    """Write the page.

    Args:
        report: the analysis.
        charts: SVG documents by title, in the order in which they appear.
    """
    writer = "Gemini" if report.generated_by == "gemini" else "rules"
    reason = f", because {escape(report.fallback_reason)}" if report.fallback_reason else ""
    window = f"{report.window.start:%Y-%m-%d %H:%M} to {report.window.end:%Y-%m-%d %H:%M} UTC"
    pictures = "".join(
        f'<figure><img alt="{escape(title)}" src="data:image/svg+xml;base64,'
        f'{b64encode(svg).decode()}"></figure>'
        for title, svg in charts.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Performance report, {window}</title><style>{_STYLE}</style></head><body>"
        f'<h1>Performance report <span class="severity {report.severity}">{report.severity}</span>'
        f'</h1><p class="meta">{window}. Written by {writer}{reason}. '
        f"Confidence {report.confidence_score:.2f}. "
        f"Generated {report.generated_at:%Y-%m-%d %H:%M:%S} UTC, "
        f"prompt {escape(report.prompt_version)}, thresholds "
        f"{escape(report.thresholds_version)}.</p>"
        f"<p>{escape(report.summary)}</p><h2>Issues</h2>{_issues(report)}"
        f"<h2>Likely cause</h2><p>{escape(report.root_cause_hypothesis or 'None named.')}</p>"
        f"<h2>Recommendations</h2>{_list(report.recommendations)}"
        f"<h2>Charts</h2>{pictures}<h2>Facts</h2>{_facts(report.facts)}</body></html>"
    )


def _issues(report: Report) -> str:
    if not report.identified_issues:
        return "<p>No limit was broken.</p>"
    rows = "".join(
        f'<li><span class="severity {issue.severity}">{issue.severity}</span> '
        f"{escape(issue.title)} <span class=meta>({escape(', '.join(issue.evidence))})</span></li>"
        for issue in report.identified_issues
    )
    return f"<ul>{rows}</ul>"


def _list(texts: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def _facts(facts: list[FactView]) -> str:
    head = "".join(
        f"<th>{name}</th>"
        for name in ("id", "metric", "model", "value", "before", "limit", "n", "status")
    )
    return f"<table><tr>{head}</tr>{''.join(_fact(fact) for fact in facts)}</table>"


def _fact(fact: FactView) -> str:
    limit = "" if fact.limit is None else shown(fact.limit, fact.unit)
    figures = (shown(fact.value, fact.unit), shown(fact.previous, fact.unit), limit, str(fact.n))
    names = "".join(f"<td>{escape(name or '')}</td>" for name in (fact.id, fact.metric, fact.model))
    numbers = "".join(f'<td class="number">{escape(figure)}</td>' for figure in figures)
    return f'<tr class="{fact.status}">{names}{numbers}<td>{fact.status}</td></tr>'
