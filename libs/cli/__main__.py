"""`python -m libs.cli`: commands against a running suite.

Results go to stdout, progress to stderr. Exit codes: 0 done, 1 the suite refused or failed, 2 wrong
usage or no suite running.
"""

import asyncio
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from libs.cli import analytics, audit, features, guardrails
from libs.cli.connection import Gateway, NotRunningError
from libs.cli.demo import (
    Decision,
    DemoError,
    audit_ids,
    by_action,
    load_history,
    percentile,
    precision_over_time,
    replay,
)
from libs.cli.payments import DataError, Payment, generated_day, recorded_day

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Talk to a running Gatehouse.",
)
app.add_typer(guardrails.app, name="guardrails")
app.add_typer(audit.app, name="audit")
app.add_typer(analytics.app, name="analytics")
app.add_typer(features.app, name="features")


@app.callback()
def commands() -> None:
    """Talk to a running Gatehouse."""


@app.command()
def demo(
    state_dir: Annotated[Path, typer.Option(help="State directory of the suite.")] = Path(
        ".gatehouse"
    ),
    data: Annotated[
        Path | None, typer.Option(help="Parquet file, or its folder, of recorded payments.")
    ] = None,
    day: Annotated[int, typer.Option(help="Which day of the recorded payments.", min=0)] = 130,
    limit: Annotated[int, typer.Option(help="Payments at most.", min=1)] = 500,
    k: Annotated[int, typer.Option(help="Highest scores that precision@k looks at.", min=1)] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Replay a day of payments and show the decisions."""
    now_ms = int(time.time() * 1000)
    try:
        gateway = Gateway.find(state_dir)
        history, payments = (
            recorded_day(data, day, now_ms, limit) if data else generated_day(now_ms, limit)
        )
        decisions, records = asyncio.run(_replay(gateway, history, payments))
    except (NotRunningError, DataError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    except (DemoError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        sys.stdout.write(orjson.dumps(_as_json(decisions, records, k)).decode() + "\n")
    else:
        _print_tables(decisions, records, k)


async def _replay(
    gateway: Gateway, history: list[Payment], payments: list[Payment]
) -> tuple[list[Decision], dict[str, str]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    async with gateway.session() as session:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("history", total=len(history))
            await load_history(session, history, partial(progress.advance, task))
            task = progress.add_task("payments", total=len(payments))
            decisions = await replay(session, payments, partial(progress.advance, task))
        return decisions, await audit_ids(session, {d.request_id for d in _stopped(decisions)})


def _stopped(decisions: list[Decision]) -> list[Decision]:
    """Give the declined payments, the highest score first."""
    stopped = [decision for decision in decisions if decision.action == "decline"]
    return sorted(stopped, key=lambda decision: -decision.answer["fraud_score"])


def _freshness(decisions: list[Decision]) -> list[float]:
    return [
        float(decision.answer["feature_freshness_sec"])
        for decision in decisions
        if decision.answer["feature_freshness_sec"] is not None
    ]


def _print_tables(decisions: list[Decision], records: dict[str, str], k: int) -> None:
    console = Console()
    table = Table("decision", "payments", "mean score", "fraud among them", title="Decisions")
    for action, group in by_action(decisions).items():
        mean = sum(decision.answer["fraud_score"] for decision in group) / len(group)
        frauds = sum(decision.payment.is_fraud for decision in group)
        table.add_row(action, str(len(group)), f"{mean:.3f}", str(frauds))
    console.print(table)
    table = Table("", "p50", "p95", "p99", title="Latency and freshness")
    trips = [decision.round_trip_ms for decision in decisions]
    inside = [float(decision.answer["latency_ms"]) for decision in decisions]
    for label, values, unit in (
        ("round trip", trips, "ms"),
        ("in inference", inside, "ms"),
        ("newest feature, age", _freshness(decisions), "s"),
    ):
        if values:
            shares = (percentile(values, share) for share in (0.5, 0.95, 0.99))
            table.add_row(label, *(f"{value:.1f} {unit}" for value in shares))
    console.print(table)
    console.print(_precision_table(decisions, k))
    stopped = _stopped(decisions)
    if stopped:
        table = Table("score", "amount", "reasons", "audit record", title="Declined payments")
        for decision in stopped:
            table.add_row(
                f"{decision.answer['fraud_score']:.3f}",
                f"{decision.payment.amount_minor / 100:.2f}",
                ", ".join(decision.answer["top_risk_factors"]),
                records.get(decision.request_id, "not there yet"),
            )
        console.print(table)
    else:
        console.print("No payment was declined.")


def _precision_table(decisions: list[Decision], k: int) -> Table:
    """Precision@k part by part; the truth is the replay's, no service is told it."""
    table = Table(
        "until", "payments", "fraud", f"p@{k}", f"p@{k} so far", "best", "caught",
        title=f"Precision of the {k} highest scores (UTC)",
    )  # fmt: skip
    for span in precision_over_time(decisions, k=k):
        moment = datetime.fromtimestamp(span.until_ms / 1000, UTC)
        table.add_row(
            moment.strftime("%H:%M"),
            str(span.payments),
            str(span.frauds),
            f"{span.precision:.2f}",
            f"{span.precision_so_far:.2f}",
            f"{span.possible_so_far:.2f}",
            f"{span.stopped} of {span.frauds_so_far}",
        )
    return table


def _as_json(decisions: list[Decision], records: dict[str, str], k: int) -> dict[str, object]:
    trips = [decision.round_trip_ms for decision in decisions]
    return {
        "payments": len(decisions),
        "decisions": {action: len(group) for action, group in by_action(decisions).items()},
        "round_trip_ms": {
            name: round(percentile(trips, share), 2)
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
            if trips
        },
        "precision_over_time": [
            {"k": k, **asdict(span)} for span in precision_over_time(decisions, k=k)
        ],
        "declined": [
            {
                "score": decision.answer["fraud_score"],
                "request_id": decision.request_id,
                "audit_id": records.get(decision.request_id),
            }
            for decision in _stopped(decisions)
        ],
    }


if __name__ == "__main__":
    app()
