"""`python -m training.retrain`: one command from labelled feedback to a registered challenger.

Exit codes: 0 a challenger was written (and registered, unless asked not to), 1 it was not good
enough or there was too little data, 2 wrong usage or no database.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import Progress

from libs.cli.connection import Gateway, NotRunningError
from libs.common.errors import UnavailableError
from libs.common.features.contract import FeatureService
from libs.common.features.fraud import FRAUD_V1, FRAUD_V2
from libs.common.manifest import Manifest, ManifestError, load_manifest
from libs.common.postgres import Postgres
from services.inference.domain.calibration import Calibration
from training.packaging import Matrix, onnx_scores, parity, release
from training.quality import Floats
from training.retrain import card, evaluate, register, report
from training.retrain.fit import Challenger, Recipe, Split, describe, fit, split
from training.retrain.source import Dataset, NoDataError, Window, load

MODEL = "fraud"
SERVICES: dict[str, FeatureService] = {service.name: service for service in (FRAUD_V1, FRAUD_V2)}
_QUERY_S = 600.0


@dataclass(frozen=True)
class Asked:
    """What the command line asks for.

    Attributes:
        roots: folders of versions, the released ones first; the last takes challengers.
        out: folder of the report.
        champion: version folder to compare with, None without one.
    """

    postgres_url: str
    window: Window
    roots: list[Path]
    out: Path
    champion: Path | None
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Champion:
    """What serves: manifest, scores, thresholds."""

    manifest: Manifest
    directory: Path

    def scores(self, rows: Matrix) -> Floats:
        """Calibrated probabilities, shape (n,)."""
        calibration = Calibration.from_manifest(self.manifest.calibration)
        return calibration.apply(onnx_scores(self.directory / "model.onnx", rows))

    @property
    def text(self) -> str:
        """Name and release."""
        return f"{self.manifest.name} {self.manifest.version} (v{self.manifest.release})"


@dataclass(frozen=True)
class Outcome:
    """What a run left behind: the version's folder (not in any root yet) and its findings."""

    version: Path
    findings: report.Findings
    markdown: Path
    page: Path


async def retrain(asked: Asked, progress: Progress) -> Outcome:
    """Read, fit, compare, write version and report; registers nothing.

    Raises:
        NoDataError: too few payments or labels.
        UnavailableError: the database does not answer.
    """
    champion = _champion(asked.champion)
    name = champion.manifest.feature_service if champion else None
    service = SERVICES[name or FRAUD_V2.name]
    task = progress.add_task("point-in-time features", total=None)
    postgres = Postgres(asked.postgres_url, "features", pool_max=2, command_timeout_s=_QUERY_S)
    try:
        data = await load(
            postgres,
            service,
            asked.window,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    finally:
        await postgres.close()
    progress.update(task, description="fit, calibrate, compare")
    parts = split(data)
    challenger = fit(data, parts, asked.recipe or _recipe(champion))
    number = register.next_version(asked.roots, MODEL)
    return _judge(asked, champion, data, parts, challenger, number)


def _judge(
    asked: Asked,
    champion: Champion | None,
    data: Dataset,
    parts: Split,
    challenger: Challenger,
    number: int,
) -> Outcome:
    """Compare on the test rows, write the version and the report."""
    test = data.select(parts.test)
    scores = {"challenger": challenger.scores(test.rows)}
    review = {"challenger": challenger.thresholds["review"]}
    if champion is not None:
        scores = {"champion": champion.scores(test.rows), **scores}
        review["champion"] = champion.manifest.thresholds["review"]
    scored = evaluate.Scored(test.is_fraud, test.card, scores, review)
    comparison = evaluate.compare(
        scored,
        champion="champion" if champion else None,
        challenger="challenger",
        seed=challenger.recipe.seed,
    )
    training = describe(data, parts, challenger.recipe)
    reference = champion.manifest.reference_statistics if champion else {}
    drift, score_drift = evaluate.drift(
        data.service.names, reference, test.rows, scores.get("champion", scores["challenger"])
    )
    frauds = int(test.is_fraud.sum())
    version = asked.out / MODEL / str(number)
    findings = report.Findings(
        model=MODEL,
        version=number,
        champion=champion.text if champion else None,
        training=training,
        counts=data.counts,
        scored=scored,
        comparison=comparison,
        by_mcc=evaluate.slices(test.mcc, test.is_fraud, scores["challenger"], review["challenger"]),
        by_country=evaluate.slices(
            test.country, test.is_fraud, scores["challenger"], review["challenger"]
        ),
        input_drift=drift,
        score_drift=score_drift,
        calibration=challenger.choice.log_loss,
        method=str(challenger.choice.document["method"]),
        thresholds=challenger.thresholds,
        verdict=evaluate.judge(comparison, "challenger", frauds),
        parity=_write(version, data, parts, challenger, training, comparison),
    )
    (version / "card.md").write_text(card.render(findings), encoding="utf-8")
    _seal(version)
    markdown, page = report.write(findings, asked.out)
    return Outcome(version, findings, markdown, page)


def _write(
    version: Path,
    data: Dataset,
    parts: Split,
    challenger: Challenger,
    training: dict[str, Any],
    comparison: evaluate.Comparison,
) -> float:
    """Write the version's files; gives the largest difference of ONNX and library."""
    test_rows = data.rows[parts.test]
    scores = challenger.scores(test_rows)
    order = scores.argsort(kind="stable")
    places = sorted({int(share * (len(order) - 1)) for share in (0.0, 0.5, 0.9, 0.99, 1.0)})
    measures = {
        name: value.value
        for name, value in comparison.measures["challenger"].items()
        if value.value == value.value
    }
    release(
        version,
        challenger.model,
        data.service,
        task="fraud",
        labels=("genuine", "fraud"),
        test_rows=test_rows,
        reference_rows=data.rows[parts.train],
        golden_rows=test_rows[order[places]],
        thresholds=challenger.thresholds,
        training=training,
        metrics={
            "rows": len(test_rows),
            "frauds": int(data.is_fraud[parts.test].sum()),
            **measures,
        },
        card="",
        calibration=challenger.choice.document,
    )
    return parity(challenger.model, version / "model.onnx", test_rows)


def _seal(version: Path) -> None:
    """Write the manifest's hashes again, after the card was written from the whole run."""
    from libs.common.manifest import describe_file

    path = version / "manifest.json"
    document = orjson.loads(path.read_bytes())
    files = [describe_file(version, entry["path"]) for entry in document["files"]]
    document["files"] = [entry.model_dump() for entry in files]
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    load_manifest(version)


def _champion(directory: Path | None) -> Champion | None:
    if directory is None:
        return None
    return Champion(load_manifest(directory), directory)


def _recipe(champion: Champion | None) -> Recipe:
    """Take the champion's booster settings, where its manifest names them."""
    if champion is None:
        return Recipe()
    known = {
        name: champion.manifest.training[name]
        for name in ("seed", "trees", "depth", "rate")
        if name in champion.manifest.training
    }
    return Recipe(**known)


def _newest(roots: Sequence[Path]) -> Path | None:
    found = [
        path.parent
        for root in roots
        for path in (root / MODEL).glob("*/manifest.json")
        if path.parent.name.isdigit()
    ]
    return max(found, key=lambda path: int(path.name), default=None)


def _postgres_url(state_dir: Path) -> str | None:
    given = os.environ.get("POSTGRES_URL") or os.environ.get("DATABASE_URL")
    if given:
        return given
    try:
        suite = orjson.loads((state_dir / "run" / "suite.json").read_bytes())
        return str(suite["postgres_url"])
    except (OSError, KeyError, ValueError):
        return None


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    found = argparse.ArgumentParser(
        prog="python -m training.retrain",
        description="Train a fraud challenger on labelled feedback and register it.",
    )
    found.add_argument("--state-dir", type=Path, default=Path(".gatehouse"))
    found.add_argument("--models", type=Path, default=Path(os.environ.get("MODEL_PATH", "models")))
    found.add_argument("--out", type=Path, help="folder of report and version; default a new one")
    found.add_argument("--champion", type=Path, help="version folder, or none; default what serves")
    found.add_argument("--tenant", default="default")
    found.add_argument("--days", type=int, default=365, help="of payments, at most")
    found.add_argument("--warm-up-days", type=float, default=7.0, help="left out: windows fill")
    found.add_argument(
        "--maturity-days",
        type=float,
        default=30.0,
        help="age from which an undisputed payment counts as genuine",
    )
    found.add_argument(
        "--register",
        choices=("auto", "suite", "mlflow", "none"),
        default="auto",
        help="auto: MLflow where MLFLOW_TRACKING_URI is set, and the suite if one runs",
    )
    found.add_argument("--trees", type=int)
    found.add_argument("--seed", type=int)
    return found


async def _serving_folder(state_dir: Path, roots: Sequence[Path]) -> Path | None:
    """Find the folder of the version that answers, else the newest released one."""
    try:
        number = await register.serving(Gateway.find(state_dir), MODEL)
    except (NotRunningError, register.RegisterError, OSError):
        return _newest(roots[:1])
    places = [root / MODEL / str(number) for root in roots]
    return next((place for place in places if place.is_dir()), None)


async def run(options: argparse.Namespace, console: Console) -> int:
    """Carry out the command; gives the exit code."""
    url = _postgres_url(options.state_dir)
    if url is None:
        console.print(f"No suite runs over {options.state_dir}; start one or set POSTGRES_URL.")
        return 2
    staged = options.state_dir / "inference" / "models"
    roots = [options.models, staged]
    out = options.out or options.state_dir / "retraining" / time.strftime("%Y%m%d-%H%M%S")
    champion = options.champion or await _serving_folder(options.state_dir, roots)
    if str(champion) == "none":
        champion = None
    try:
        recipe = _recipe(_champion(champion))
    except ManifestError as error:
        console.print(f"The champion cannot be read: {error}")
        return 2
    if options.trees or options.seed:
        changed = {"trees": options.trees or recipe.trees, "seed": options.seed or recipe.seed}
        recipe = Recipe(depth=recipe.depth, rate=recipe.rate, **changed)
    known_by_ms = time.time_ns() // 1_000_000
    window = Window(
        options.tenant, options.days, options.warm_up_days, options.maturity_days, known_by_ms
    )
    with Progress(console=console, transient=True) as progress:
        try:
            outcome = await retrain(Asked(url, window, roots, out, champion, recipe), progress)
        except NoDataError as error:
            console.print(f"Nothing to train on: {error}.")
            return 1
        except UnavailableError as error:
            console.print(f"{error.detail} {error.hint or ''}")
            return 2
    findings = outcome.findings
    console.print(f"{findings.verdict.word}: {'; '.join(findings.verdict.reasons)}")
    console.print(f"report: {outcome.markdown} and {outcome.page}")
    if not findings.verdict.is_registrable:
        console.print("Not registered.")
        return 1
    await _register(options, outcome.version, staged, console)
    return 0


async def _register(
    options: argparse.Namespace, version: Path, staged: Path, console: Console
) -> None:
    where = options.register
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if where == "mlflow" or (where == "auto" and uri):
        number = register.to_mlflow(version, uri or "")
        console.print(f"MLflow: version {number}, alias {register.ALIAS}")
    if where in {"suite", "auto"}:
        try:
            await register.to_suite(Gateway.find(options.state_dir), version, staged)
            console.print(f"suite: fraud {version.name}, alias {register.ALIAS}, standing by")
        except NotRunningError as error:
            if where == "suite":
                raise
            console.print(f"{error} The version lies in {version}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = parser().parse_args(arguments)
    return asyncio.run(run(options, Console()))


if __name__ == "__main__":
    sys.exit(main())
