"""The fraud model's card: what it is for, how it was tested, what failed."""

from collections.abc import Mapping
from typing import Any


def render_card(
    training: Mapping[str, Any], metrics: Mapping[str, Any], thresholds: Mapping[str, float]
) -> str:
    """Write the card in Markdown from the figures of this very run."""
    at = metrics["at_thresholds"]
    decisions = "\n".join(
        f"| {name} | {value:.4f} | {at[name]['recall']:.3f} | "
        f"{at[name]['false_positive_rate']:.5f} | {at[name]['precision']:.3f} | "
        f"{at[name]['flagged_share']:.4f} |"
        for name, value in thresholds.items()
    )
    scenarios = "\n".join(
        f"| {name} | {recall:.3f} |"
        for name, recall in metrics["recall_by_scenario_at_half_percent"].items()
    )
    without = metrics["average_precision_without"]
    calibrated = metrics["calibration"]
    before = calibrated["test_uncalibrated"]
    losses = ", ".join(
        f"{name} {loss:.5f}" for name, loss in calibrated["validation_log_loss"].items()
    )
    curve = "\n".join(
        f"| {b['rows']} | {b['mean_score']:.4f} | {b['positive_share']:.4f} |"
        for b in metrics["reliability"]
    )
    raw_curve = "\n".join(
        f"| {b['rows']} | {b['mean_score']:.4f} | {b['positive_share']:.4f} |"
        for b in calibrated["reliability_uncalibrated"]
    )
    return f"""# Model card: fraud, version 2

Probability that a card payment is reported as fraud. XGBoost, {training["trees"]} trees of depth
{training["depth"]}, exact splits, no class weighting; calibration: {calibrated["method"]}.

**Use.** Scoring of single card payments with the features of `fraud_v2`. Not for decisions about
people, and not for real traffic without retraining: it has only seen generated payments.

**Data.** Our own generator (`training/generators`, version {training["generator_version"]}, seed
{training["seed"]}): {training["cards"]} cards, {training["merchants"]} merchants. Trained on
{training["train_rows"]} payments with {training["train_frauds_known"]} frauds known on the day of
the fit ({training["train_frauds_never_reported"]} more were never reported and count as genuine).
About one report in fifty is wrong. Optional request fields were blanked in 12 % of requests each,
all stored features in 2 %, so that a missing value means unknown.

**Split.** By time: train days {training["train"][0]}-{training["train"][1] - 1}, labels as known on
day {training["fitted_on"]}, thresholds from days
{training["validation"][0]}-{training["validation"][1] - 1}, test days
{training["test"][0]}-{training["test"][1] - 1}.

## Test set: {metrics["rows"]} payments, {metrics["frauds"]} frauds

| AUC ROC | average precision | card precision@100 | ECE | log loss | Brier |
|---|---|---|---|---|---|
| {metrics["auc_roc"]:.4f} | {metrics["average_precision"]:.4f} | \
{metrics["card_precision_100"]:.3f} | {metrics["ece"]:.5f} | {metrics["log_loss"]:.5f} | \
{metrics["brier"]:.5f} |

| decision from | threshold | recall (fraud) | false-positive rate (genuine) | precision | flagged |
|---|---|---|---|---|---|
{decisions}

Recall by true scenario when 0.5 % of payments are flagged:

| scenario | recall |
|---|---|
{scenarios}

**Calibration**, chosen on the validation days by held-out log loss ({losses}); a method replaces
"none" only if it gains more than one standard error. Before it, the test days had ECE
{before["ece"]:.5f}, log loss {before["log_loss"]:.5f}, Brier {before["brier"]:.5f}.
Reliability in ten equal bins of the score, calibrated:

| payments | mean score | share of fraud |
|---|---|---|
{curve}

and as the trees give it:

| payments | mean score | share of fraud |
|---|---|---|
{raw_curve}

## Missing features

Average precision on the same payments without the card's features {without["card_view"]:.3f},
without everything about the merchant {without["merchant_view"]:.3f}, without the merchant's
reported frauds {without["merchant_fraud_history"]:.3f}, without the device
{without["device"]:.3f}, without merchant, category, country and device
{without["optional_request_fields"]:.3f}. Each circumstance by itself, stale history, cold cards
and wrong currency rates: `docs/benchmarks/fraud_production.md`.

## Limits and what failed

- The first payment of a fraud episode looks like any other; most misses are first payments, and
  scenarios with few payments per card (compromised merchant, stolen card) are found least.
- The shop's fraud rate knows reports only, and ends a week before the payment: a shop that turns
  bad today is not seen by it.
- A thief who uses the owner's device looks like the owner there.
- Merchant counts depend on how many cards the installation sees; a small installation should
  retrain, because its merchants look quieter than those of the training data.
- Hours are UTC; night in the card's own country is not known to the model.
"""
