"""Builds an ensemble from its manifest and its loaded members; proves it on its golden cases."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from libs.common.manifest import EnsembleSpec, Manifest, ManifestError
from services.inference.adapters.tabular import TABULAR_TASKS, run_golden_cases
from services.inference.adapters.text_loading import ENTITIES, TEXT_TASKS
from services.inference.domain.calibration import Calibration
from services.inference.domain.ensemble import TextEnsemble, TextVote, aligned, vote_on_rows
from services.inference.domain.ensemble import vote_on_text as vote
from services.inference.domain.model import LoadedModel, TabularModel
from services.inference.domain.ports import Rows, Scores
from services.inference.domain.scoring import RiskBands
from services.inference.domain.span_head import SpanHead
from services.inference.domain.text import TextHead, TextModel, TextTooLongError

Members = Mapping[tuple[str, int], LoadedModel]


class EnsembleEngine:
    """The members of a tabular ensemble, one after the other; calls with deadlines are the data
    plane's.
    """

    def __init__(self, spec: EnsembleSpec, voters: Sequence[TabularModel]) -> None:
        self._spec = spec
        self._voters = voters
        # The members count for themselves.
        self.memory_bytes = 0

    def prepare(self, item: Rows) -> Rows:
        """Take rows as they are; each member checks them."""
        return item

    def forward(self, batch: Sequence[Rows]) -> Scores:
        """Score all rows of the batch by every member and combine."""
        rows = np.concatenate(batch)
        scored = []
        for member, model in zip(self._spec.members, self._voters, strict=True):
            prepared = [model.engine.prepare(rows)]
            scores = model.engine.finish(model.engine.forward(prepared), prepared)[0]
            scored.append((member.weight, model.calibration.apply(scores)))
        return vote_on_rows(self._spec, scored)[0]

    def finish(self, raw: Scores, batch: Sequence[Rows]) -> Sequence[Scores]:
        """Split the scores by item."""
        ends = np.cumsum([len(rows) for rows in batch])[:-1]
        return [np.asarray(part) for part in np.split(raw, ends)]


def load_ensemble(manifest: Manifest, members: Members) -> TextEnsemble | TabularModel:
    """Build one version over members that are loaded already.

    Raises:
        ManifestError: the members do not fit together; the text says which and why.
    """
    spec = manifest.ensemble
    assert spec is not None, "the manifest demands it of the engine"
    if manifest.files:
        raise ManifestError(f"{manifest.name}: an ensemble has no files of its own")
    for (name, version), model in members.items():
        if model.manifest.engine == "ensemble":
            raise ManifestError(f"{manifest.name}: the member {name}/{version} is an ensemble")
    if manifest.task in TEXT_TASKS - {ENTITIES}:
        return _texts(manifest, spec, members)
    if manifest.task in TABULAR_TASKS:
        return _rows(manifest, spec, members)
    raise ManifestError(f"{manifest.name}: ensembles of task {manifest.task} are not served")


def _texts(manifest: Manifest, spec: EnsembleSpec, members: Members) -> TextEnsemble:
    if manifest.task == ENTITIES:
        raise ManifestError(f"{manifest.name}: spans of several models are not voted on")
    try:
        head = TextHead.from_manifest(manifest.model_copy(update={"calibration": {}}))
    except ValueError as error:
        raise ManifestError(f"{manifest.name}: {error}") from None
    for (name, version), model in members.items():
        where = f"{manifest.name}: the member {name}/{version}"
        if not isinstance(model, TextModel):
            raise ManifestError(f"{where} takes no texts")
        if isinstance(model.head, SpanHead):
            raise ManifestError(f"{where} gives spans, not labels")
        if set(model.head.labels) != set(head.labels):
            raise ManifestError(f"{where} has other labels")
        if model.head.activation != head.activation:
            raise ManifestError(f"{where} has another activation")
    built = TextEnsemble(manifest, spec, head)
    _prove_texts(built, members)
    return built


def _prove_texts(ensemble: TextEnsemble, members: Members) -> None:
    """Hold an ensemble to the golden cases it declares, if any: texts and their probabilities."""
    labels = ensemble.head.labels
    for number, case in enumerate(ensemble.manifest.golden_cases):
        votes = []
        for member in ensemble.spec.members:
            model = members[member.model, member.version]
            assert isinstance(model, TextModel), "checked before"
            scores = _direct(model, str(case.inputs.get("text", "")))
            label = model.head.decide(scores)[0]
            votes.append(TextVote(member.weight, label, aligned(labels, model.head, scores)))
        found = vote(ensemble.spec.method, ensemble.head, votes)[2]
        expected = np.asarray(case.outputs.get("probabilities", ()), dtype=np.float64)
        if found.shape != expected.shape or not np.all(np.abs(found - expected) <= case.tolerance):
            raise ManifestError(f"{ensemble.name}: golden case {number} gives another answer")


def _direct(model: TextModel, text: str) -> Scores:
    """Ask a member's engine without its queue, which needs a running loop."""
    encoding = model.encoder.encode([text])[0]
    if isinstance(encoding, TextTooLongError):
        raise ManifestError(f"{model.name}: a golden text is longer than it reads")
    engine = model.engine
    logits = [
        engine.finish(engine.forward(engine.collate([window], len(window))))[0]
        for window in encoding.windows
    ]
    return model.head.read(text, encoding, logits).scores


def _rows(manifest: Manifest, spec: EnsembleSpec, members: Members) -> TabularModel:
    models: dict[tuple[str, int], TabularModel] = {}
    for (name, version), model in members.items():
        if not isinstance(model, TabularModel):
            raise ManifestError(f"{manifest.name}: the member {name}/{version} scores no rows")
        models[name, version] = model
    services = {model.service.name for model in models.values()}
    if len(services) > 1 or manifest.feature_service not in {None, *services}:
        raise ManifestError(f"{manifest.name}: the members read different feature services")
    voters = [models[item.model, item.version] for item in spec.members]
    heavy = _heaviest(spec, voters)
    try:
        bands = RiskBands.from_manifest(manifest.thresholds) if manifest.task == "fraud" else None
    except (ValueError, KeyError) as error:
        raise ManifestError(f"{manifest.name}: {error}") from None
    built = replace(
        heavy,
        manifest=manifest,
        engine=EnsembleEngine(spec, voters),
        engine_name="ensemble",
        calibration=Calibration(),
        bands=bands,
        ensemble=spec,
        explained_by=f"{heavy.name}/{heavy.version}",
    )
    if manifest.golden_cases:
        run_golden_cases(built)
    return built


def _heaviest(spec: EnsembleSpec, voters: Sequence[TabularModel]) -> TabularModel:
    """Give the member whose trees explain the ensemble: the heaviest that has an explainer."""
    pairs = zip(spec.members, voters, strict=True)
    return max(pairs, key=lambda pair: (pair[1].explainer is not None, pair[0].weight))[1]
