"""The challenger's model card, from the figures of its run."""

from training.benchmarks.report import table
from training.retrain.report import Findings

_SHOWN = ("auc_roc", "average_precision", "log_loss", "brier", "ece", "recall_at_review")


def render(findings: Findings) -> str:
    """Write the card in Markdown."""
    training = findings.training
    measures = findings.comparison.measures["challenger"]
    rows = [[name.replace("_", " "), measures[name].text()] for name in _SHOWN]
    decisions = [[name, f"{value:.4f}"] for name, value in findings.thresholds.items()]
    return f"""# Model card: {findings.model}, version {findings.version}

Probability that a card payment is reported as fraud. XGBoost, {training["trees"]} trees of depth
{training["depth"]}, exact splits, no class weighting; calibration: {findings.method}.

**Use.** A challenger, trained on this installation's own labelled payments. It is registered when
it is at least not worse than the champion; a rollout decides whether it serves.

**Data.** {training["train_rows"]} payments with {training["train_frauds_known"]} known frauds,
train {" to ".join(training["train_days"])}, choices {" to ".join(training["validation_days"])},
test {" to ".join(training["test_days"])}. Features as of each payment's own moment.

**Verdict.** {findings.verdict.word}; champion {findings.champion or "none"}.

{table(("measure on the test payments", "value (95 % interval)"), rows)}

{table(("decision from", "threshold"), decisions)}

**Limits.** What was never disputed counts as genuine. Payments that a decision stopped have no
outcome of their own: their labels are what analysts said. Slices, drift and pictures stand in the
report of the run.
"""
