"""The entity model beside the PII rules: a stand-in for inference answers as its contract says."""

import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.guardrails.adapters.builtin_policies import BuiltinPolicies
from services.guardrails.adapters.entities_v2 import EntityModel, PiiWithNames
from services.guardrails.adapters.local import LocalValidator
from services.guardrails.adapters.redis_cache import NoCache
from services.guardrails.domain.decide import decide, judge
from services.guardrails.domain.document import Document
from services.guardrails.domain.guard import Guard
from services.guardrails.domain.operators import TenantKeys
from services.guardrails.domain.params import ParamsError
from services.guardrails.domain.pii import PiiValidator
from services.guardrails.domain.policy import Policy, PolicyBody, ValidatorRule
from services.guardrails.domain.streaming import Holdback, Release
from services.guardrails.domain.verdict import Action, Status
from services.guardrails.stream_judge import StreamJudge
from services.guardrails.stream_models import ModelGate

pytestmark = pytest.mark.anyio
NAMES = {"Jane Doe": "person", "Oslo": "location", "Acme": "organization"}
POOL = ThreadPoolExecutor(1)


def named(text: str) -> list[dict[str, Any]]:
    found = [
        {"start": m.start(), "end": m.end(), "label": label, "score": 0.6}
        for name, label in NAMES.items()
        for m in re.finditer(name, text)
    ]
    return sorted(found, key=lambda span: span["start"])


class FakeInference:
    """Answers as inference does; keeps the texts of each call."""

    def __init__(self, find=named, status=200, version="1") -> None:
        self.find, self.status, self.version = find, status, version
        self.calls: list[list[str]] = []

    async def request(self, method, path, *, json=None, scopes=()):
        assert scopes == ("predict:model",)
        return Reply(self.status, self._answer(path, json))

    def _answer(self, path: str, body: Any) -> Any:
        if path.endswith("/config"):
            labels = ["person", "location", "organization", "address"]
            thresholds = {"person": 0.5, "location": 0.7, "organization": 0.3, "address": 0.5}
            return {"parameters": {"labels": labels, "thresholds": thresholds}}
        if path.endswith("/ready"):
            return {}
        texts = body["inputs"][0]["data"]
        assert body["outputs"] == [{"name": "spans"}]
        self.calls.append(texts)
        data = [json.dumps(self.find(text)) for text in texts]
        return {"model_version": self.version, "outputs": [{"name": "spans", "data": data}]}


class Reply:
    def __init__(self, status, document) -> None:
        self.status, self._document = status, document

    def json(self):
        return self._document


def validator(inference) -> PiiWithNames:
    rules = LocalValidator(PiiValidator(), POOL)
    return PiiWithNames(rules, EntityModel("entities", inference))


def rule(**params) -> ValidatorRule:
    return ValidatorRule(name="pii", action=Action.MASK, params=params)


async def found(inference, text: str, chosen: ValidatorRule):
    (detection,) = await validator(inference).check([Document(text)], chosen)
    verdict = judge(text, chosen, detection, "")
    return [(text[s.start : s.end], s.label) for s in verdict.spans], verdict


async def test_names_come_from_the_model_at_its_thresholds_and_numbers_from_the_rules():
    text = "ü Jane Doe of Acme in Oslo, jane.doe@mail.example.com"
    spans, verdict = await found(FakeInference(), text, rule(model=True))
    # Oslo scores .6, below the model's own .7; Acme's .6 counts against .3.
    assert spans == [
        ("Jane Doe", "PERSON"), ("Acme", "ORGANIZATION"),
        ("jane.doe@mail.example.com", "EMAIL_ADDRESS"),
    ]  # fmt: skip
    assert verdict.version.endswith("+model.1")
    lax = rule(model=True).model_copy(update={"thresholds": {"LOCATION": 0.5}})
    assert ("Oslo", "LOCATION") in (await found(FakeInference(), text, lax))[0]


async def test_a_policy_may_ask_for_some_entities_or_for_the_model_alone():
    text = "Jane Doe of Acme, a@b.co"
    spans, _ = await found(FakeInference(), text, rule(model=True, entities=["PERSON"]))
    assert spans == [("Jane Doe", "PERSON")]
    spans, _ = await found(FakeInference(), text, rule(model="only"))
    assert spans == [("Jane Doe", "PERSON"), ("Acme", "ORGANIZATION")]


async def test_without_the_parameter_no_model_is_asked():
    inference = FakeInference()
    spans, _ = await found(inference, "Jane Doe, a@b.co", rule())
    assert spans == [("a@b.co", "EMAIL_ADDRESS")]
    assert inference.calls == []
    with pytest.raises(ParamsError):
        validator(inference).parse({"model": "yes"})


async def test_all_sentences_of_all_texts_are_one_call():
    inference = FakeInference()
    texts = ["A first sentence with Jane Doe in it. A second one with Acme in it.", "Oslo only"]
    documents = [Document(text) for text in texts]
    first, second = await validator(inference).check(documents, rule(model=True))
    assert len(inference.calls) == 1
    assert len(inference.calls[0]) == 3
    assert [texts[0][s.start : s.end] for s in first.spans] == ["Jane Doe", "Acme"]
    assert [texts[1][s.start : s.end] for s in second.spans] == ["Oslo"]


async def test_zero_width_padding_hides_no_name_and_offsets_are_of_the_original():
    text = "mail J\u200ban\u200be D\u200boe now"
    spans, _ = await found(FakeInference(), text, rule(model=True))
    assert spans == [("J\u200ban\u200be D\u200boe", "PERSON")]


@pytest.mark.parametrize(
    "inference",
    [
        FakeInference(status=503),
        FakeInference(lambda text: [{"start": 0, "end": 999, "label": "person", "score": 0.9}]),
        FakeInference(lambda text: [{"start": 0, "end": 1, "label": "alien", "score": 0.9}]),
        FakeInference(lambda text: [{"start": 0, "end": 1, "label": "person", "score": 7}]),
        FakeInference(lambda text: "nonsense"),
    ],
)
async def test_a_model_that_does_not_answer_well_is_an_error_and_the_rules_still_count(inference):
    chosen = rule(model=True)
    spans, verdict = await found(inference, "Jane Doe, a@b.co", chosen)
    assert spans == [("a@b.co", "EMAIL_ADDRESS")]
    assert (verdict.status, verdict.action) == (Status.ERROR, Action.BLOCK)
    is_open = chosen.model_copy(update={"on_error": "open"})
    assert (await found(inference, "Jane Doe, a@b.co", is_open))[1].action is Action.MASK


async def test_presidio_gets_names_above_the_models_thresholds_or_none_at_all():
    text = "Jane Doe in Oslo"
    found_names = await validator(FakeInference()).names([Document(text)])
    assert found_names is not None
    ((span,),) = found_names
    assert (span.start, span.end, span.label) == (0, 8, "PERSON")
    assert await validator(FakeInference(status=503)).names([Document(text)]) is None


PIECES = [
    "Jane Doe",
    "Oslo.",
    "Acme",
    "a@b.co",
    "4111 1111 1111 1111",
    "word",
    "Then.",
    "go!",
    "\n",
]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=120), st.integers(0, 2**32))
async def test_a_stream_masks_the_names_that_one_check_masks_for_any_chunking(pieces, seed):
    text = " ".join(pieces)
    draw, inference = random.Random(seed), FakeInference()
    own = validator(inference)
    policy = Policy(id="p", version="1", body=PolicyBody(validators=(rule(model=True),)))
    guard = Guard({"pii": own}, NoCache(), BuiltinPolicies(), b"s" * 32)
    keys = TenantKeys.derive(b"s" * 32, "t")
    ((verdict,),) = await guard.verdicts([text], policy=policy, rules=policy.body.validators)
    once = decide(text, policy.body, [verdict], keys).text
    only = rule(model="only")
    judge_ = StreamJudge(policy, {"pii": PiiValidator()}, keys)
    gate = ModelGate(partial(guard.verdicts, policy=policy, rules=(only,)))
    buffer, out, at = Holdback(judge_, judge_.edit, hold=judge_.hold), "", 0
    while True:
        size = draw.randrange(1, 200)
        chunk, at = text[at : at + size], at + size
        passed = await gate.push(chunk, ended=at >= len(text))
        judge_.remember(passed.verdicts)
        steps = [buffer.push(passed.text)] if passed.text else []
        if at >= len(text):
            steps.append(buffer.finish())
        out += "".join(step.text for step in steps if isinstance(step, Release))
        if at >= len(text):
            break
    assert out == once
    assert not any(name in out for name in ("Jane Doe", "Acme", "a@b.co"))
